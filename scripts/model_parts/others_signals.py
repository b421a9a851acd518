"""Networks of signals, small, as their papers describe them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations


class Inception(nn.Module):
    """InceptionTime's block (Fawaz et al., arXiv:1909.04939): kernels of three lengths and a pooled branch."""

    def __init__(self, inside: int, width: int) -> None:
        super().__init__()
        self.narrow = nn.Conv1d(inside, width, 1, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv1d(width, width, size, padding=size // 2, bias=False) for size in (9, 19, 39)
        )
        self.pool = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(inside, width, 1, bias=False))
        self.norm = nn.BatchNorm1d(4 * width)

    def forward(self, values: Tensor) -> Tensor:
        """``[N, C, L]`` -> ``[N, 4 * width, L]``."""
        narrow = self.narrow(values)
        parts = [branch(narrow) for branch in self.branches]
        return F.relu(self.norm(torch.cat([*parts, self.pool(values)], 1)))


class Chomped(nn.Module):
    """A causal block of a TCN (Bai et al., arXiv:1803.01271): padded on both sides, cut on the right."""

    def __init__(self, inside: int, width: int, dilation: int) -> None:
        super().__init__()
        self.cut = 2 * dilation
        self.first, self.second = (
            parametrizations.weight_norm(nn.Conv1d(before, width, 3, padding=self.cut, dilation=dilation))
            for before in (inside, width)
        )
        self.shortcut = nn.Conv1d(inside, width, 1)

    def forward(self, values: Tensor) -> Tensor:
        """``[N, C, L]`` -> ``[N, width, L]``."""
        inner = F.relu(self.first(values)[:, :, : -self.cut])
        inner = F.relu(self.second(inner)[:, :, : -self.cut])
        return F.relu(inner + self.shortcut(values))


class Gated(nn.Module):
    """WaveNet (van den Oord et al., arXiv:1609.03499): gated dilated convolutions, the skips summed."""

    def __init__(self, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.entry = nn.Conv1d(1, width, 1)
        self.dilated = nn.ModuleList(nn.Conv1d(width, 2 * width, 2, dilation=each) for each in dilations)
        self.mixed = nn.ModuleList(nn.Conv1d(width, 2 * width, 1) for _ in dilations)
        self.end = nn.Sequential(nn.ReLU(), nn.Conv1d(width, width, 1), nn.ReLU(), nn.Conv1d(width, 16, 1))

    def forward(self, values: Tensor) -> Tensor:
        """``[N, 1, L]`` -> ``[N, 16, L]``."""
        values, total = self.entry(values), torch.zeros(())
        for dilated, mixed in zip(self.dilated, self.mixed, strict=True):
            padded = F.pad(values, (dilated.dilation[0], 0))
            content, gate = dilated(padded).chunk(2, 1)
            further, skip = mixed(torch.tanh(content) * torch.sigmoid(gate)).chunk(2, 1)
            values, total = values + further, total + skip
        result: Tensor = self.end(total)
        return result


class Residual(nn.Module):
    """A residual block of an ECG network."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(inside, width, 7, stride, 3, bias=False), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Conv1d(width, width, 7, 1, 3, bias=False), nn.BatchNorm1d(width),
        )  # fmt: skip
        self.shortcut = nn.Conv1d(inside, width, 1, stride)

    def forward(self, values: Tensor) -> Tensor:
        """``[N, C, L]`` -> ``[N, width, L / stride]``."""
        return F.relu(self.body(values) + self.shortcut(values))


class Recurrent(nn.Module):
    """Convolutions, then a recurrence over time, then a layer on its last step."""

    def __init__(self, cell: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(3, 16, 5, 2, 2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2))
        self.cell, self.head = cell(16, 24, batch_first=True), nn.Linear(24, 6)

    def forward(self, values: Tensor) -> Tensor:
        """``[N, 3, L]`` -> ``[N, 6]``."""
        steps, _ = self.cell(self.body(values).transpose(1, 2))
        result: Tensor = self.head(steps[:, -1])
        return result


def separable(inside: int, width: int) -> nn.Sequential:
    """Return a depthwise and a pointwise convolution, as keyword spotters have them (arXiv:1711.07128)."""
    return nn.Sequential(
        nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False), nn.BatchNorm2d(inside), nn.ReLU(),
        nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
    )  # fmt: skip


def pooled(*layers: nn.Module, width: int, classes: int = 5) -> nn.Sequential:
    """Return layers on ``[N, C, L]`` with a classifier on their mean over time."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, classes))


def m5() -> nn.Sequential:
    """Return M5 on raw sound (Dai et al., arXiv:1610.00087)."""
    layers: list[nn.Module] = []
    for inside, width, size, stride in ((1, 16, 79, 4), (16, 16, 3, 1), (16, 32, 3, 1)):
        layers += [nn.Conv1d(inside, width, size, stride), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(4)]
    return pooled(*layers, width=32)


def keywords() -> nn.Sequential:
    """Return a DS-CNN on a spectrogram (Zhang et al., arXiv:1711.07128)."""
    entry = [nn.Conv2d(1, 24, (10, 4), 2, (4, 1), bias=False), nn.BatchNorm2d(24), nn.ReLU()]
    return nn.Sequential(*entry, *(separable(24, 24) for _ in range(3)), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(24, 12))  # fmt: skip

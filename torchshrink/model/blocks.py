"""What small networks are built of, for images (2-D) and signals (1-D): every part has int8 kernels in TFLite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

CONV: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
TRANSPOSE: dict[int, type[nn.ConvTranspose1d] | type[nn.ConvTranspose2d]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
}
NORM: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
POOL: dict[int, type[nn.MaxPool1d] | type[nn.MaxPool2d]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
MEAN: dict[int, type[nn.AdaptiveAvgPool1d] | type[nn.AdaptiveAvgPool2d]] = {
    1: nn.AdaptiveAvgPool1d,
    2: nn.AdaptiveAvgPool2d,
}


def full(inputs: int, width: int, dims: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution of every channel with every other, with BatchNorm and ReLU."""
    return normed(CONV[dims](inputs, width, kernel_size, padding=kernel_size // 2, bias=False))


def separable(inputs: int, width: int, dims: int, kernel_size: int) -> nn.Sequential:
    """Return a convolution of each channel by itself and then one over the channels of each position.

    Source: Howard et al., arXiv:1704.04861, figure 3.
    """
    alone = CONV[dims](inputs, inputs, kernel_size, padding=kernel_size // 2, groups=inputs, bias=False)
    return nn.Sequential(*normed(alone), *normed(CONV[dims](inputs, width, 1, bias=False)))


class Ghost(nn.Module):
    """Half of the channels from a convolution, the other half each from one of those by a small one of its own.

    Source: Han et al., arXiv:1911.11907, section 3.1, with a ratio of 2.
    """

    def __init__(self, inputs: int, width: int, dims: int, kernel_size: int) -> None:
        super().__init__()
        half = width // 2
        self.primary = full(inputs, half, dims, kernel_size)
        self.cheap = normed(CONV[dims](half, half, 3, padding=1, groups=half, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, *size]`` to ``[N, width, *size]``."""
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], dim=1)


BLOCKS: dict[str, Callable[[int, int, int, int], nn.Module]] = {"full": full, "separable": separable, "ghost": Ghost}


def stem(kind: str, inputs: int, width: int, dims: int, kernel_size: int) -> nn.Sequential:
    """Return a first convolution that halves every side.

    Space to depth followed by a convolution is one convolution of twice the kernel with stride 2, with the same
    weights in another order; as such it has a kernel in every runtime.
    """
    size, padding = (kernel_size, kernel_size // 2) if kind == "stride" else (2 * kernel_size, kernel_size - 1)
    return normed(CONV[dims](inputs, width, size, stride=2, padding=padding, bias=False))


def upsample(below: int, width: int, dims: int, up: str) -> nn.Module:
    """Return what doubles every side; before repeating values, a convolution over channels costs a quarter."""
    if up == "transpose":
        return TRANSPOSE[dims](below, width, 2, stride=2)
    return nn.Sequential(CONV[dims](below, width, 1), nn.Upsample(scale_factor=2, mode="nearest"))


def full_size_head(width: int, outputs: int, dims: int, up: str) -> nn.Module:
    """Return what maps a network of half the size to the size of its input."""
    if up == "transpose":
        return TRANSPOSE[dims](width, outputs, 2, stride=2)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), CONV[dims](width, outputs, 3, padding=1))


def normed(layer: nn.Conv1d | nn.Conv2d) -> nn.Sequential:
    """Return a convolution without a bias, its norm and a ReLU."""
    return nn.Sequential(layer, NORM[len(layer.kernel_size)](layer.out_channels), nn.ReLU())

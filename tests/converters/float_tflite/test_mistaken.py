"""What onnx2tf by itself refuses or gets wrong: the float TFLite file computes what PyTorch does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchshrink import bench
from torchshrink.converters import tflite
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import save


class Then(nn.Module):
    """A layer, and a function of what it computes."""

    def __init__(self, layer: nn.Module, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


class Attention(nn.MultiheadAttention):
    """Every token attends to every other one."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        attended: Tensor = super().forward(x, x, x, need_weights=False)[0]
        return attended


class Patches(nn.Module):
    """As many patches as features, a norm, and a layer along the patches."""

    def __init__(self) -> None:
        super().__init__()
        self.cut, self.norm, self.mix = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16), nn.Linear(16, 16)
        self.places = nn.Parameter(torch.randn(1, 16, 16))
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cut(x).flatten(2).transpose(1, 2) + self.places
        return y + self.mix(F.relu(self.norm(y)).transpose(1, 2)).transpose(1, 2)


class Stage(nn.Module):
    """Tokens that become an image of as many channels as rows and columns, on which a layer works."""

    def __init__(self, layer: nn.Module, *, are_channels_last: bool = True) -> None:
        super().__init__()
        self.cut, self.norm, self.layer = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), layer
        self.are_channels_last = are_channels_last

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.cut(x).flatten(2).transpose(1, 2))
        is_last = self.are_channels_last
        image = y.unflatten(1, (8, 8)).permute(0, 3, 1, 2) if is_last else y.transpose(1, 2).unflatten(2, (8, 8))
        result: Tensor = self.layer(image)
        return result


class Pyramid(nn.Module):
    """Adds up a stack of four and five dimensions, one part of it through a norm of groups."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, padding=1), nn.Conv2d(3, 8, 1)
        self.norms = nn.ModuleList(nn.GroupNorm(4, 8) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        wide = F.relu(self.norms[0](self.two(x)))
        small = F.relu(self.norms[1](self.one(x)))
        return torch.stack([F.interpolate(small, scale_factor=2.0), wide, self.two(x)]).sum(0)


class Widened(nn.Module):
    """Copies of something are the channels of an image; with a side of its own each, as stacks have them."""

    def __init__(self, layer: nn.Module, copies: int = 1) -> None:
        super().__init__()
        self.layer, self.copies, self.head = layer, copies, nn.Conv2d(copies, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x).unsqueeze(3)
        result: Tensor = self.head(torch.cat([y * (i + 1) for i in range(self.copies)], 3).permute(0, 3, 1, 2))
        return result


def resized(size: tuple[int, ...], **settings: object) -> nn.Module:
    kind = nn.Conv1d if len(size) == 1 else nn.Conv2d
    return Then(kind(3, 4, 1), lambda x: F.interpolate(x, size, **settings))  # type: ignore[arg-type]


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "corners": (lambda: resized((9, 19), mode="bilinear", align_corners=True), (3, 6, 8)),
    "corners of a signal": (lambda: resized((19,), mode="linear", align_corners=True), (3, 8)),
    "nearest of odd sizes": (lambda: resized((9, 11), mode="nearest"), (3, 6, 8)),
    "signal": (lambda: nn.Sequential(nn.Conv1d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv1d(8, 8, 1)), (8, 8)),
    "tokens": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), (8, 8)),
    "attention": (lambda: Attention(8, 2, batch_first=True), (8, 8)),
    "patches": (Patches, (3, 8, 8)),
    "stage": (lambda: Stage(nn.Conv2d(8, 12, 3, 2, padding=1)), (3, 16, 16)),
    "stage of channels": (lambda: Stage(nn.Conv2d(8, 8, 5, 3, padding=2, groups=8)), (3, 16, 16)),
    "stage of transposed tokens": (lambda: Stage(nn.Conv2d(8, 12, 3, 2, 1), are_channels_last=False), (3, 16, 16)),
    "widened": (lambda: Widened(nn.Identity()), (7, 9)),
    "widened to a stack": (lambda: Widened(nn.Identity(), 2), (7, 9)),
    "widened tokens": (lambda: Widened(nn.Linear(9, 5), 3), (7, 9)),
    "widened signal": (lambda: Widened(nn.Conv1d(7, 5, 3), 3), (7, 9)),
    "dilated": (lambda: nn.ConvTranspose2d(3, 4, 3, 2, 1, dilation=2), (3, 6, 8)),
    "stack": (Pyramid, (3, 6, 8)),
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """How far every file is off, all converted in one start of TensorFlow."""
    folder, models, inputs = tmp_path_factory.mktemp("mistaken"), {}, {}
    for index, (name, (make, shape)) in enumerate(CASES.items()):
        torch.manual_seed(index)
        models[name], inputs[name] = make().eval(), torch.randn(1, *shape)
        save(export(models[name], inputs[name]), folder / f"{name}.onnx")
    with tflite.float_files([folder / f"{name}.onnx" for name in CASES]) as files:
        found = {name: bench.predict(item.fp32, inputs[name].numpy()) for name, item in zip(CASES, files, strict=True)}
    return {
        name: float(np.abs(values - models[name](inputs[name]).detach().numpy()).max())
        for name, values in found.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_file_computes_what_pytorch_does(errors: dict[str, float], name: str) -> None:
    assert errors[name] < 1e-5

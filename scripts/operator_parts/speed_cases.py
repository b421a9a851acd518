"""Every operator that the quantizer annotates, between two convolutions of 1x1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, SIZE = 16, 64


class Call(nn.Module):
    """A function as a module: of what the first convolution gives, and of the model's input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor, entry: Tensor) -> Tensor:
        """Call it."""
        return self.function(values, entry)


class Between(nn.Module):
    """An operator after a convolution; where it gives a map, another convolution follows."""

    def __init__(self, operator: nn.Module) -> None:
        super().__init__()
        self.first, self.operator = nn.Conv2d(CHANNELS, CHANNELS, 1), operator
        found = self._middle(entry())
        self.last = nn.Conv2d(found.shape[1], CHANNELS, 1) if found.dim() == 4 else nn.Identity()

    def forward(self, entry: Tensor) -> Tensor:
        """``[1, 16, 64, 64]`` -> ``[1, 16, *size]`` or ``[1, K]``."""
        result: Tensor = self.last(self._middle(entry))
        return result

    def _middle(self, entry: Tensor) -> Tensor:
        values = self.first(entry)
        found: Tensor = self.operator(values, entry) if isinstance(self.operator, Call) else self.operator(values)
        return found


class Branches(nn.Module):
    """Several models of one input, side by side: converting them together costs little more than converting one."""

    def __init__(self, models: list[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, entry: Tensor) -> tuple[Tensor, ...]:
        """Return what each gives."""
        return tuple(model(entry) for model in self.models)


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        make: Builds what stands between the convolutions.
        targets: Which operators of PyTorch it stands for, by their names without overloads.
    """

    make: Callable[[], nn.Module]
    targets: tuple[str, ...]


def entry() -> Tensor:
    """Return the models' input."""
    return torch.randn(1, CHANNELS, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def build(names: list[str]) -> Branches:
    """Return the models of some cases, with the same weights every time."""
    torch.manual_seed(0)
    return Branches([Between(CASES[name].make()) for name in names]).eval()


def _call(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Call(function)


CASES: dict[str, Case] = {
    "convolution 3x3": Case(
        lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), ("conv1d", "conv2d", "batch_norm")
    ),
    "convolution 3x3, depthwise": Case(lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS), ()),
    "transposed convolution, kernel = stride": Case(
        lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, stride=2), ("conv_transpose1d", "conv_transpose2d")
    ),
    "transposed convolution, kernel > stride": Case(
        lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, stride=2, padding=1, output_padding=1), ()
    ),
    "flatten, linear": Case(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIZE * SIZE, 16)), ("linear", "flatten")
    ),
    "add": Case(_call(lambda a, b: a + b), ("add", "add_")),
    "sub": Case(_call(lambda a, b: a - b), ("sub", "sub_")),
    "mul": Case(_call(lambda a, b: a * b), ("mul", "mul_")),
    "cat": Case(_call(lambda a, b: torch.cat([a, b], 1)), ("cat",)),
    "relu": Case(nn.ReLU, ("relu", "relu_")),
    "relu6": Case(nn.ReLU6, ("relu6", "hardtanh", "hardtanh_")),
    "cat, relu": Case(_call(lambda a, b: F.relu(torch.cat([a, b], 1))), ()),
    "abs": Case(_call(lambda a, _: a.abs()), ("abs",)),
    "elu": Case(nn.ELU, ("elu", "elu_")),
    "gelu": Case(nn.GELU, ("gelu",)),
    "hardswish": Case(nn.Hardswish, ("hardswish", "hardswish_")),
    "hardsigmoid": Case(nn.Hardsigmoid, ()),
    "silu": Case(nn.SiLU, ()),
    "leaky_relu": Case(nn.LeakyReLU, ("leaky_relu", "leaky_relu_")),
    "sigmoid": Case(nn.Sigmoid, ("sigmoid", "sigmoid_")),
    "softmax of channels": Case(lambda: nn.Softmax(1), ("softmax", "_softmax")),
    "tanh": Case(nn.Tanh, ("tanh",)),
    "mean": Case(_call(lambda a, _: a.mean((2, 3), keepdim=True)), ("mean",)),
    "adaptive_avg_pool2d to 1": Case(
        lambda: nn.AdaptiveAvgPool2d(1), ("adaptive_avg_pool1d", "adaptive_avg_pool2d")
    ),
    "avg_pool2d": Case(lambda: nn.AvgPool2d(2), ("avg_pool1d", "avg_pool2d")),
    "amax": Case(_call(lambda a, _: a.amax((2, 3), keepdim=True)), ("amax",)),
    "amin": Case(_call(lambda a, _: a.amin((2, 3), keepdim=True)), ("amin",)),
    "max_pool2d": Case(lambda: nn.MaxPool2d(2), ("max_pool1d", "max_pool2d")),
    "upsample, nearest": Case(lambda: nn.Upsample(scale_factor=2), ("upsample_nearest1d", "upsample_nearest2d")),
    "upsample, bilinear": Case(
        lambda: nn.Upsample(scale_factor=2, mode="bilinear"), ("upsample_bilinear2d", "upsample_linear1d")
    ),
    "pad with zeros": Case(lambda: nn.ZeroPad2d(1), ("pad",)),
    "pad, reflected": Case(lambda: nn.ReflectionPad2d(1), ()),
    "pixel_shuffle": Case(lambda: nn.PixelShuffle(2), ("pixel_shuffle",)),
    "pixel_unshuffle": Case(lambda: nn.PixelUnshuffle(2), ("pixel_unshuffle",)),
    "reshape": Case(
        _call(lambda a, _: a.reshape(-1, CHANNELS, SIZE // 2, SIZE * 2)), ("reshape", "view", "squeeze", "unsqueeze")
    ),
    "transpose": Case(_call(lambda a, _: a.transpose(2, 3)), ("transpose", "permute")),
    "product of matrices": Case(_call(lambda a, b: a @ b.transpose(2, 3)), ("matmul", "bmm")),
    "1 / sqrt": Case(_call(lambda a, _: (a * a + 1).rsqrt()), ("rsqrt",)),
    "expand": Case(
        _call(lambda a, b: a.mean((2, 3), keepdim=True).expand(b.shape) + b), ("expand",)
    ),
    "repeat": Case(_call(lambda a, _: a.repeat(1, 2, 1, 1)), ("repeat", "tile")),
    "flip": Case(_call(lambda a, _: a.flip(3)), ("flip",)),
    "places by constant indices": Case(
        _call(lambda a, _: a[:, [1, 0, *range(2, CHANNELS)]]), ("index", "index_select")
    ),
    "slice": Case(_call(lambda a, _: a[:, :, 8:40, 8:40]), ("slice",)),
}  # fmt: skip
# In no file: BatchNorm is folded in training, these are nothing afterwards.
NOTHING = frozenset({"_native_batch_norm_legit", "contiguous", "clone", "dropout", "feature_dropout"})

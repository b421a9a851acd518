"""Small models of many kinds, with random weights: what users bring.

In several of them channels equal height and width, the shape at which guessing a layout goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchshrink as ts


@dataclass(frozen=True)
class Entry:
    """A model and what it takes.

    Attributes:
        factory: Makes the model.
        shapes: ``[C, *size]`` of each input.
        batch: How many samples its files take at once.
    """

    factory: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    batch: int = 1

    def model(self) -> nn.Module:
        """Return the model, its weights and statistics random but always the same."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.factory().eval()
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
                    nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        return model

    def inputs(self, count: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Return ``[count, C, *size]`` of standard normal numbers for each input."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(torch.randn(count, *shape, generator=generator) for shape in self.shapes)


def block(channels_in: int, channels_out: int, activation: nn.Module, norm: nn.Module | None = None) -> nn.Sequential:
    """Return convolution, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=norm is None),
        norm or nn.Identity(),
        activation,
    )


class Residual(nn.Module):
    """An encoder of residual blocks, the second one with a stride."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(1, 16, nn.ReLU(), nn.BatchNorm2d(16))
        self.first = nn.Sequential(block(16, 16, nn.ReLU(), nn.BatchNorm2d(16)), nn.Conv2d(16, 16, 3, padding=1))
        self.second = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(16, 32, 1, stride=2)
        self.head = nn.Conv2d(32, 4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = F.relu(x + self.first(x))
        x = F.relu(self.second(x) + self.shortcut(x))
        return self.head(x)


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project; as in MobileNetV2."""

    def __init__(self, channels: int, activation: nn.Module, gate: nn.Module | None = None) -> None:
        super().__init__()
        wide = 4 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), activation)
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), activation
        )
        self.gate = gate or nn.Identity()
        self.project = nn.Sequential(nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.gate(self.depthwise(self.expand(x))))


class SqueezeExcite(nn.Module):
    """Scale every channel by what global means say of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 4, 1)
        self.excite = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(scale))))


def mobile(activation: nn.Module, gate: nn.Module | None = None) -> nn.Module:
    """Return two inverted residual blocks and a classifier."""
    return nn.Sequential(
        block(3, 8, activation, nn.BatchNorm2d(8)),
        InvertedResidual(8, activation, gate),
        nn.MaxPool2d(2),
        InvertedResidual(8, activation),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


class Upsampling(nn.Module):
    """A small U-Net that goes up by resizing."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.down = block(1, 16, nn.ReLU(), nn.BatchNorm2d(16))
        self.bottom = block(16, 32, nn.ReLU(), nn.BatchNorm2d(32))
        self.up = block(48, 16, nn.ReLU(), nn.BatchNorm2d(16))
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        skip = self.down(image)
        deep = self.bottom(F.max_pool2d(skip, 2))
        corners = False if self.mode == "bilinear" else None
        deep = F.interpolate(deep, scale_factor=2, mode=self.mode, align_corners=corners)
        return torch.sigmoid(self.head(self.up(torch.cat([skip, deep], 1))))


class Straight(nn.Module):
    """Three blocks at one size, 16 channels on 16 x 16, with any normalisation and activation."""

    def __init__(self, activation: Callable[[], nn.Module], norm: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            block(1, 16, activation(), norm() if norm else None),
            block(16, 16, activation(), norm() if norm else None),
            block(16, 16, activation(), norm() if norm else None),
        )
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(image))


class AttentionGate(nn.Module):
    """Skip connections weighted by the deeper features (Oktay et al., arXiv:1804.03999)."""

    def __init__(self) -> None:
        super().__init__()
        self.skip = block(1, 16, nn.ReLU(), nn.BatchNorm2d(16))
        self.deep = block(16, 16, nn.ReLU(), nn.BatchNorm2d(16))
        self.from_skip, self.from_deep = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 1)
        self.weight = nn.Conv2d(8, 1, 1)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        skip = self.skip(image)
        deep = self.up(self.deep(F.max_pool2d(skip, 2)))
        gate = torch.sigmoid(self.weight(F.relu(self.from_skip(skip) + self.from_deep(deep))))
        return torch.sigmoid(self.head(torch.cat([skip * gate, deep], 1)))


class Pyramid(nn.Module):
    """Parallel dilated convolutions and a global mean (ASPP; Chen et al., arXiv:1706.05587)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(3, 32, nn.ReLU(), nn.BatchNorm2d(32))
        self.branches = nn.ModuleList(nn.Conv2d(32, 8, 3, padding=rate, dilation=rate) for rate in (1, 2, 4))
        self.pooled = nn.Conv2d(32, 8, 1)
        self.head = nn.Conv2d(32, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        whole = F.relu(self.pooled(F.adaptive_avg_pool2d(x, 1)))
        whole = F.interpolate(whole, size=(32, 32), mode="nearest")
        return self.head(torch.cat([*(F.relu(branch(x)) for branch in self.branches), whole], 1))


class SelfAttention(nn.Module):
    """Convolutions, and attention among the positions in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(block(1, 16, nn.ReLU(), nn.BatchNorm2d(16)), nn.MaxPool2d(2))
        self.query, self.key, self.value = (nn.Linear(16, 16) for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Conv2d(16, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        weights = torch.softmax(self.query(tokens) @ self.key(tokens).transpose(1, 2) / 4.0, dim=-1)
        mixed = (weights @ self.value(tokens)).transpose(1, 2).reshape(x.shape)
        return self.head(x + mixed)


class TwoInputs(nn.Module):
    """An image and a depth map."""

    def __init__(self) -> None:
        super().__init__()
        self.from_image = block(3, 8, nn.ReLU(), nn.BatchNorm2d(8))
        self.from_depth = block(1, 8, nn.ReLU(), nn.BatchNorm2d(8))
        self.head = nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        return torch.sigmoid(self.head(torch.cat([self.from_image(image), self.from_depth(depth)], 1)))


class TwoOutputs(nn.Module):
    """A mask, and a class of the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.features = block(1, 16, nn.ReLU(), nn.BatchNorm2d(16))
        self.mask, self.classes = nn.Conv2d(16, 1, 1), nn.Linear(16, 5)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = self.features(image)
        return torch.sigmoid(self.mask(x)), self.classes(x.mean((2, 3)))


class Dictionary(nn.Module):
    """Outputs by name, in an order that is not that of the alphabet."""

    def __init__(self) -> None:
        super().__init__()
        self.features = block(3, 16, nn.ReLU(), nn.BatchNorm2d(16))
        self.mask, self.edge = nn.Conv2d(16, 2, 1), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.features(image)
        return {"mask": torch.sigmoid(self.mask(x)), "edge": self.edge(x)}


def classifier() -> nn.Module:
    """Return convolutions, a global mean and a linear layer."""
    return nn.Sequential(
        block(1, 16, nn.ReLU(), nn.BatchNorm2d(16)),
        nn.MaxPool2d(2),
        block(16, 32, nn.ReLU(), nn.BatchNorm2d(32)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
        nn.Softmax(dim=1),
    )


def shuffled() -> nn.Module:
    """Return a model that doubles the size of an image by rearranging channels."""
    return nn.Sequential(block(1, 16, nn.ReLU(), nn.BatchNorm2d(16)), nn.Conv2d(16, 16, 3, padding=1),
                         nn.PixelShuffle(2), nn.Conv2d(4, 1, 1))  # fmt: skip


GRAY, RGB = (1, 16, 16), (3, 32, 32)

ZOO: dict[str, Entry] = {
    "unet-2d": Entry(lambda: ts.UNet(widths=(8, 16, 32)), ((1, 32, 32),)),
    "unet-1d-k9": Entry(lambda: ts.UNet(widths=(8, 16, 32), dims=1, kernel_size=9, out_channels=3), ((1, 64),)),
    "unet-nearest": Entry(lambda: Upsampling("nearest"), (GRAY,)),
    "unet-bilinear": Entry(lambda: Upsampling("bilinear"), (GRAY,)),
    "residual": Entry(Residual, (GRAY,)),
    "mobilenet-v2": Entry(lambda: mobile(nn.ReLU6()), (RGB,)),
    "mobilenet-v3": Entry(lambda: mobile(nn.Hardswish(), SqueezeExcite(32)), (RGB,)),
    "instance-norm-prelu": Entry(
        lambda: Straight(lambda: nn.PReLU(16), lambda: nn.InstanceNorm2d(16, affine=True)), (GRAY,)
    ),
    "group-norm-silu": Entry(lambda: Straight(nn.SiLU, lambda: nn.GroupNorm(4, 16)), (GRAY,)),
    "leaky-relu": Entry(lambda: Straight(lambda: nn.LeakyReLU(0.1), lambda: nn.BatchNorm2d(16)), (GRAY,)),
    "gelu": Entry(lambda: Straight(nn.GELU, lambda: nn.BatchNorm2d(16)), (GRAY,)),
    "attention-gate": Entry(AttentionGate, (GRAY,)),
    "aspp": Entry(Pyramid, (RGB,)),
    "classifier": Entry(classifier, (GRAY,)),
    "self-attention": Entry(SelfAttention, (GRAY,)),
    "two-inputs": Entry(TwoInputs, ((3, 16, 16), (1, 16, 16))),
    "two-outputs": Entry(TwoOutputs, (GRAY,)),
    "dictionary": Entry(Dictionary, (RGB,)),
    "batch-of-4": Entry(Residual, (GRAY,), batch=4),
    "pixel-shuffle": Entry(shuffled, (GRAY,)),
    "rgb": Entry(lambda: ts.UNet(in_channels=3, widths=(8, 16, 32), up="nearest"), (RGB,)),
    "volume": Entry(lambda: nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU()), ((1, 8, 8, 8),)),
}

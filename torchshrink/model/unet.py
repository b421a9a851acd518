"""The built-in U-Net for images (2-D) and signals (1-D)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from torchshrink.errors import ModelError

Upsampling = Literal["transpose", "nearest"]
Result = Literal["probability", "linear"]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d}
_TRANSPOSE = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d}


class UNet(nn.Module):
    """Encoder-decoder with skip concatenations that returns one probability per channel and position.

    Every level is two convolutions, each followed by BatchNorm and ReLU; levels are joined by 2x max pooling
    on the way down and 2x upsampling on the way up.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; each is an independent (multi-label) probability.
        widths: Channels of each level, top first. The defaults give 0.48 M parameters.
        dims: 2 for images ``[N, C, H, W]``, 1 for signals ``[N, C, L]``.
        up: ``"transpose"`` for transposed convolutions (kernel = stride = 2), ``"nearest"`` for nearest-neighbour
            upsampling followed by a convolution.
        kernel_size: Odd kernel length; by default 3 for images and 9 for signals, the same number of weights.
        result: ``"probability"``, or ``"linear"`` for what the last convolution gives: class scores or images.

    Raises:
        ModelError: When an argument contradicts this description.

    Source: Ronneberger, Fischer and Brox, arXiv:1505.04597, with BatchNorm and padded convolutions, so that the
    output has the size of the input.

    >>> UNet(widths=(4, 8))(torch.zeros(1, 1, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        widths: Sequence[int] = (16, 32, 64, 128),
        dims: int = 2,
        up: Upsampling = "transpose",
        kernel_size: int | None = None,
        result: Result = "probability",
    ) -> None:
        super().__init__()
        kernel_size = kernel_size or {1: 9, 2: 3}.get(dims, 3)
        _check_arguments(in_channels, out_channels, widths, dims, up, kernel_size)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "widths": list(widths),
            "dims": dims,
            "up": up,
            "kernel_size": kernel_size,
        }
        if result not in get_args(Result):
            raise ModelError(f"result={result!r}: a U-Net gives a probability or is linear")
        if result != "probability":
            self.config["result"] = result
        self.is_linear = result == "linear"
        self.divisor = 2 ** (len(widths) - 1)
        self.encoder = nn.ModuleList()
        for channels, width in zip((in_channels, *widths[:-1]), widths, strict=True):
            self.encoder.append(_level(channels, width, dims, kernel_size))
        self.pool = _POOL[dims](2)
        self.ups = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for below, width in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True):
            self.ups.append(_upsample(below, width, dims, up, kernel_size))
            self.decoder.append(_level(2 * width, width, dims, kernel_size))
        self.head = _CONV[dims](widths[0], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, *size]`` to ``[N, out_channels, *size]``.

        Raises:
            ModelError: When a side of the input is not divisible by ``2 ** (len(widths) - 1)``.
        """
        for side in x.shape[2:]:
            if side % self.divisor:
                raise ModelError(
                    f"input sides {tuple(x.shape[2:])} do not divide by {self.divisor}, as this U-Net of "
                    f"{len(self.encoder)} levels needs: crop or pad the data, or use fewer widths"
                )
        skips = []
        for level in self.encoder[:-1]:
            x = level(x)
            skips.append(x)
            x = self.pool(x)
        x = self.encoder[-1](x)
        for up, level, skip in zip(self.ups, self.decoder, reversed(skips), strict=True):
            x = level(torch.cat([skip, up(x)], dim=1))
        return self.head(x) if self.is_linear else torch.sigmoid(self.head(x))


def _level(in_channels: int, width: int, dims: int, kernel_size: int) -> nn.Sequential:
    def block(channels: int) -> list[nn.Module]:
        conv = _CONV[dims](channels, width, kernel_size, padding=kernel_size // 2, bias=False)
        return [conv, _NORM[dims](width), nn.ReLU()]

    return nn.Sequential(*block(in_channels), *block(width))


def _upsample(below: int, width: int, dims: int, up: str, kernel_size: int) -> nn.Module:
    if up == "transpose":
        return _TRANSPOSE[dims](below, width, 2, stride=2)
    conv = _CONV[dims](below, width, kernel_size, padding=kernel_size // 2)
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), conv)


def _check_arguments(
    in_channels: int, out_channels: int, widths: Sequence[int], dims: int, up: str, kernel_size: int
) -> None:
    if dims not in _CONV:
        raise ModelError(f"dims={dims!r}: a U-Net is 1-D (signals) or 2-D (images)")
    if up not in ("transpose", "nearest"):
        raise ModelError(f"up={up!r}: expected 'transpose' or 'nearest'")
    if min(in_channels, out_channels, *widths, len(widths) - 1) < 1:
        raise ModelError(
            f"in_channels={in_channels}, out_channels={out_channels}, widths={list(widths)}: "
            "channels must be positive, and a U-Net has at least two levels"
        )
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise ModelError(f"kernel_size={kernel_size}: only odd, positive kernels keep the size of their input")

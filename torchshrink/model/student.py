"""The built-in student: one small network of many shapes, taught by another model."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from torchshrink.errors import ModelError
from torchshrink.model import blocks
from torchshrink.settings import Convolution, Merge, Stem, Upsampling, check

Answer = Literal["probability", "linear", "scores"]

_MOST = {"convolutions": 8, "levels": 8, "kernel_size": 63}


class Student(nn.Module):
    """Encoder-decoder for images and signals; with ``result="scores"``, the encoder and a linear layer.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels, classes or values of the output.
        widths: Channels of each level, top first: equal for a flat network, growing for a pyramid; their number is the
            depth.
        dims: 2 for images ``[N, C, H, W]``, 1 for signals ``[N, C, L]``.
        convolutions: In each level.
        convolution: ``"full"``, ``"separable"`` (by channel, then over channels) or ``"ghost"`` (half of the channels
            made from the other half; widths must be even). The very first one is full.
        merge: How a level takes what the encoder had there: ``"concat"`` or, at half the cost, ``"add"``.
        stem: ``"stride"`` halves every side in the first convolution, ``"space_to_depth"`` does with twice its kernel;
            the head then doubles them again.
        up: ``"transpose"`` for transposed convolutions (kernel = stride = 2), ``"nearest"`` for repeated values and a
            convolution.
        kernel_size: Odd; by default 3 for images and 9 for signals.
        skips_from: The first level that hands its features over to the decoder, 0 being the top. Those above it go on
            from what lies below alone, so that the largest features need not be kept in memory until the end.
        result: ``"probability"`` for each position, ``"linear"``, or ``"scores"``, ``[N, out_channels]``.

    Raises:
        ModelError: When an argument contradicts this description.

    Source: the shapes of Lean U-Net (arXiv:2512.03834: constant width), Half-UNet (doi:10.3389/fninf.2022.911679:
    addition and ghost convolutions) and UNeXt (arXiv:2203.04967: few channels at full size), as settings of one module.

    >>> Student(widths=(4, 4), convolution="separable", merge="add", stem="stride")(torch.zeros(1, 1, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        widths: Sequence[int] = (8, 12, 16, 24),
        dims: int = 2,
        convolutions: int = 2,
        convolution: Convolution = "full",
        merge: Merge = "concat",
        stem: Stem = "none",
        up: Upsampling = "transpose",
        kernel_size: int | None = None,
        result: Answer = "probability",
        skips_from: int = 0,
    ) -> None:
        super().__init__()
        widths = list(widths)
        kernel_size = kernel_size or {1: 9, 2: 3}.get(dims, 3)
        self.config: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "widths": widths,
            "dims": dims,
            "convolutions": convolutions,
            "convolution": convolution,
            "merge": merge,
            "stem": stem,
            "up": up,
            "kernel_size": kernel_size,
            "result": result,
            "skips_from": skips_from,
        }
        _check(self.config)
        self.result, self.merge, self.skips_from = result, merge, skips_from
        self.divisor = 1 if result == "scores" else 2 ** (len(widths) - 1 + (stem != "none"))
        block = blocks.BLOCKS[convolution]

        def level(inputs: int, width: int, count: int) -> nn.Sequential:
            sizes = [inputs, *[width] * count]
            return nn.Sequential(*(block(one, width, dims, kernel_size) for one in sizes[:-1]))

        make_first = blocks.full if stem == "none" else lambda *sizes: blocks.stem(stem, *sizes)
        first = make_first(in_channels, widths[0], dims, kernel_size)
        self.encoder = nn.ModuleList([nn.Sequential(first, *level(widths[0], widths[0], convolutions - 1))])
        for above, width in itertools.pairwise(widths):
            self.encoder.append(level(above, width, convolutions))
        self.pool = blocks.POOL[dims](2)
        self.head: nn.Module
        if result == "scores":
            self.mean = blocks.MEAN[dims](1)
            self.head = nn.Linear(widths[-1], out_channels)
            return
        self.ups, self.decoder = nn.ModuleList(), nn.ModuleList()
        for place in reversed(range(len(widths) - 1)):
            width = widths[place]
            self.ups.append(blocks.upsample(widths[place + 1], width, dims, up))
            is_wide = merge == "concat" and place >= skips_from
            self.decoder.append(level(2 * width if is_wide else width, width, convolutions))
        self.head = (
            blocks.CONV[dims](widths[0], out_channels, 1)
            if stem == "none"
            else blocks.full_size_head(widths[0], out_channels, dims, up)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, *size]`` to ``[N, out_channels, *size]``, or to ``[N, out_channels]`` scores.

        Raises:
            ModelError: When a side of the input does not divide by what the levels and the stem halve it by.
        """
        for side in x.shape[2:]:
            if side % self.divisor:
                raise ModelError(
                    f"input sides {tuple(x.shape[2:])} do not divide by {self.divisor}, as a student with "
                    f"{len(self.encoder)} widths and stem: {self.config['stem']} needs: use fewer widths, or no stem"
                )
        skips: list[Tensor | None] = []
        for place, level in enumerate(self.encoder[:-1]):
            x = level(x)
            skips.append(x if place >= self.skips_from else None)
            x = self.pool(x)
        x = self.encoder[-1](x)
        if self.result == "scores":
            scores: Tensor = self.head(self.mean(x).flatten(1))
            return scores
        for up, level, skip in zip(self.ups, self.decoder, reversed(skips), strict=True):
            x = up(x)
            if skip is not None:
                x = skip + x if self.merge == "add" else torch.cat([skip, x], dim=1)
            x = level(x)
        return torch.sigmoid(self.head(x)) if self.result == "probability" else self.head(x)

    def __str__(self) -> str:
        """Return the shape in a few words: ``separable 8-8-8, add, stride stem``."""
        values = self.config
        parts = [f"{values['convolution']} {'-'.join(map(str, values['widths']))}"]
        parts += [f"{values['convolutions']} a level"] if values["convolutions"] != 2 else []
        if self.result != "scores":
            parts += [values["merge"], values["up"]]
        parts += [f"{values['stem']} stem"] if values["stem"] != "none" else []
        parts += [f"skips from level {values['skips_from']}"] if values["skips_from"] else []
        return ", ".join([*parts, f"kernel {values['kernel_size']}"])


def _check(values: dict[str, Any]) -> None:
    """Refuse sizes that make no network; a checkpoint may state any."""
    widths, dims, kernel = values["widths"], values["dims"], values["kernel_size"]
    if dims not in blocks.CONV:
        raise ModelError(f"dims={dims!r}: a student is 1-D (signals) or 2-D (images)")
    choices = {"convolution": Convolution, "merge": Merge, "stem": Stem, "up": Upsampling, "result": Answer}
    for name, known in choices.items():
        check(name, values[name], known)
    counts = {"in_channels": values["in_channels"], "out_channels": values["out_channels"]}
    counts |= {"convolutions": values["convolutions"], "levels": len(widths), "kernel_size": kernel}
    for name, count in {**counts, **{f"widths[{place}]": width for place, width in enumerate(widths)}}.items():
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST.get(name, count):
            most = f" and at most {_MOST[name]}" if name in _MOST else ""
            raise ModelError(f"{name}={count!r}: a student needs at least 1{most}")
    skips_from = values["skips_from"]
    if isinstance(skips_from, bool) or not isinstance(skips_from, int) or not 0 <= skips_from < len(widths):
        raise ModelError(
            f"skips_from={skips_from!r}: a student with {len(widths)} widths has levels 0 to {len(widths) - 1}"
        )
    if kernel % 2 == 0:
        raise ModelError(f"kernel_size={kernel}: only odd kernels keep the size of their input")
    if values["convolution"] == "ghost" and any(width % 2 for width in widths):
        raise ModelError(f"widths={widths}: a ghost convolution makes half of the channels, so they must be even")

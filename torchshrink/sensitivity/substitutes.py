"""Other weights and outputs of a layer for a while: pruned, or in int8; the layer is the same afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchshrink.prune.layers import Layer
from torchshrink.quantize.observer import largest
from torchshrink.quantize.scheme import ACTIVATION_EPS, ACTIVATION_MAX, ACTIVATION_MIN, WEIGHT_EPS, WEIGHT_MAX

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
Range = tuple[Tensor, Tensor]


def cutter(weight: Tensor, amounts: Sequence[float]) -> Callable[[float], Tensor]:
    """Return a function that returns ``weight`` without its smallest values: ``round(amount * size)`` of them.

    The values are partitioned and not sorted, once for all amounts: a sort of 100 million takes gigabytes.
    """
    weight = weight.detach()
    counts = {amount: round(amount * weight.numel()) for amount in amounts}
    magnitudes = weight.abs().flatten().cpu()
    if magnitudes.dtype in (torch.float16, torch.bfloat16):
        magnitudes = magnitudes.float()
    array = magnitudes.numpy()
    array.partition(sorted({max(count, 1) - 1 for count in counts.values()}))
    limits = {amount: float(array[max(count, 1) - 1]) for amount, count in counts.items()}

    def without(amount: float) -> Tensor:
        count, limit = counts[amount], limits[amount]
        if count == 0 or limit == 0:  # what would go is zero already
            return weight
        flat = weight.flatten()
        sizes = flat.abs()
        gone, equal = sizes < limit, (sizes == limit).nonzero()[:, 0]  # of equal weights, the first ones go
        gone[equal[: count - int(torch.count_nonzero(gone))]] = True
        return flat.masked_fill(gone, 0).view_as(weight)

    return without


def int8_weight(layer: Layer, portable: bool = True) -> Tensor:
    """Return the weight rounded to one symmetric grid per output channel."""
    weight, is_transposed = layer.weight.detach(), isinstance(layer, TRANSPOSED)
    axis = 1 if is_transposed else 0
    groups = getattr(layer, "groups", 1)
    is_depthwise = groups == len(weight) and weight.shape[1] == 1
    parts = weight.chunk(groups) if is_transposed else [weight]
    return torch.cat([_rounded(part, axis, pairs=portable and not is_depthwise) for part in parts])


def weight_noise_db(layers: Iterable[Layer], portable: bool = True) -> float:
    """Return the signal to noise of int8 weights in dB, of all layers together; infinite where all are on their grids.

    Args:
        layers: Convolutions and linear layers, as they are when they are quantized.
        portable: With the room that `torchshrink.quantize.prepare_qat` leaves by default, or without.
    """
    signal, noise = 0.0, 0.0
    for layer in layers:
        weight = layer.weight.detach()
        signal += float(weight.square().sum())
        noise += float((weight - int8_weight(layer, portable)).square().sum())
    return 10 * math.log10(signal / noise) if noise and signal else math.inf


def _rounded(weight: Tensor, axis: int, pairs: bool) -> Tensor:
    shape = [-1 if each == axis else 1 for each in range(weight.dim())]
    scale = (largest(weight, axis, pairs) / WEIGHT_MAX).clamp_min(WEIGHT_EPS).reshape(shape)
    return (weight / scale).round_().clamp_(-WEIGHT_MAX, WEIGHT_MAX).mul_(scale)


@contextmanager
def int8_output(layer: Layer, limits: Range | None) -> Iterator[None]:
    """Round what a layer returns to an affine grid over ``limits`` and zero; without limits, leave it alone."""
    if limits is None:
        yield
        return
    low, high = min(float(limits[0]), 0.0), max(float(limits[1]), 0.0)
    scale = max((high - low) / (ACTIVATION_MAX - ACTIVATION_MIN), ACTIVATION_EPS)
    zero_point = min(max(ACTIVATION_MIN - round(low / scale), ACTIVATION_MIN), ACTIVATION_MAX)

    def fake(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        rounded = torch.fake_quantize_per_tensor_affine(
            output.float(), scale, zero_point, ACTIVATION_MIN, ACTIVATION_MAX
        )
        return rounded.to(output.dtype)

    handle = layer.register_forward_hook(fake)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def replaced(layer: Layer, weight: Tensor) -> Iterator[None]:
    """Exchange the weight of a layer; the original is the very same object afterwards, never written to."""
    original = layer.weight
    layer.weight = nn.Parameter(weight, requires_grad=False)
    try:
        yield
    finally:
        layer.weight = original


@contextmanager
def replaced_when_called(layer: Layer, make: Callable[[], Tensor]) -> Iterator[None]:
    """Exchange the weight of a layer only while it computes: of many layers, one other weight exists at a time."""
    original = layer.weight

    def enter(*_: Any) -> None:
        layer.weight = nn.Parameter(make(), requires_grad=False)

    def leave(*_: Any) -> None:
        layer.weight = original

    handles = [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        layer.weight = original
        for handle in handles:
            handle.remove()


@contextmanager
def all_pruned(found: Mapping[str, Layer], amounts: Mapping[str, float], called: set[str]) -> Iterator[None]:
    """Prune many layers at once; those whose weight a function of the model uses itself, for the whole time."""
    with ExitStack() as stack:
        for name, amount in amounts.items():
            layer = found[name]
            without = cutter(layer.weight, [amount])
            if name in called:
                stack.enter_context(replaced_when_called(layer, partial(without, amount)))
            else:
                stack.enter_context(replaced(layer, without(amount)))
        yield


@contextmanager
def int8_input(layer: Layer, limits: Range) -> Iterator[None]:
    """Round what a layer is given, as `int8_output` rounds what one returns."""
    entry: Any = nn.Identity()
    hook = layer.register_forward_pre_hook(lambda _, inputs: (entry(inputs[0]), *inputs[1:]))
    try:
        with int8_output(entry, limits):
            yield
    finally:
        hook.remove()


def ranges(
    model: nn.Module, found: Mapping[str, Layer], batches: Sequence[tuple[Tensor, Tensor]], of_inputs: bool = False
) -> dict[str, Range]:
    """Return the least and greatest output (or input) of each layer that the model calls."""
    limits: dict[str, Range] = {}

    def observer(name: str) -> Callable[..., None]:
        def observe(_layer: nn.Module, inputs: Any, output: Tensor) -> None:
            low, high = torch.aminmax(inputs[0] if of_inputs else output)
            before = limits.get(name, (low, high))
            limits[name] = torch.minimum(low, before[0]), torch.maximum(high, before[1])

        return observe

    with ExitStack() as stack:
        for name, layer in found.items():
            stack.callback(layer.register_forward_hook(observer(name)).remove)
        for inputs, _ in batches:
            model(inputs)
    return limits

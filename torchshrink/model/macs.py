"""How much a module computes and how many parameters it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


def count_macs(model: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> int:
    """Return the multiply-accumulates of one sample: convolutions, transposed ones too, and matrix products.

    Counted by `torch.utils.flop_counter` while the model runs once; it counts a multiply-accumulate as two operations.
    Element-wise operations, pooling, resizing, normalisation and biases count nothing, as is usual. Zero weights count
    like any other: a dense kernel multiplies them.

    Three things that the counter leaves out on a CPU are added: attention, LSTMs, and the fused transformer layers.

    Args:
        model: An eager module or an exported graph; its mode is put back afterwards.
        example_input: ``[N, C, *size]``, or a tuple of inputs; their first samples are used.
    """
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    counter = FlopCounterMode(display=False, custom_mapping=_EXTRA)
    with evaluating(model), _no_fused_transformers(), torch.no_grad(), counter:
        model(*(value[:1] for value in inputs))
    return int(counter.get_total_flops()) // 2


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Return how many floating-point parameters ``model`` has, and how many of them are not zero.

    Buffers do not count. A parameter that `torch.nn.utils.prune` masks counts as zero where its mask is.
    """
    seen: set[int] = set()
    total = nonzero = 0
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen or not parameter.is_floating_point():
                continue
            seen.add(id(parameter))
            mask = dict(module.named_buffers(recurse=False)).get(f"{name.removesuffix('_orig')}_mask")
            total += parameter.numel()
            nonzero += int(torch.count_nonzero(parameter if mask is None else parameter * mask))
    return total, nonzero


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Count both products of ``[N, heads, length, features]``."""
    *heads, length, features = query
    return 2 * prod(heads) * length * key[-2] * (features + value[-1])


def _rnn_flops(sequence: Shape, weight_ih: Shape, weight_hh: Shape, *_: Any, **__: Any) -> int:
    """Count one direction of one layer on ``[steps, N, features]``."""
    return 2 * sequence[0] * sequence[1] * (prod(weight_ih) + prod(weight_hh))


_EXTRA = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
    torch.ops.aten.mkldnn_rnn_layer: _rnn_flops,
}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation, and back to the mode that each had; exported graphs refuse and have none."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _no_fused_transformers() -> Iterator[None]:
    """Keep `nn.TransformerEncoderLayer` from calling one operation that hides all of its products."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)

"""Write operations as ones that TFLite has int8 kernels for, before a graph is annotated."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from torchshrink.model.graphs import MODULES
from torchshrink.quantize.writer import Writer, is_float

aten = torch.ops.aten

NAMED_PADDING: dict[Any, Any] = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
}
_CONVOLUTION_DEFAULTS: list[Any] = [None, None, None, [1], "valid", [1], 1]
_POOLS = {
    aten.adaptive_avg_pool1d.default: aten.avg_pool1d.default,
    aten.adaptive_avg_pool2d.default: aten.avg_pool2d.default,
    aten.adaptive_max_pool1d.default: aten.max_pool1d.default,
    aten.adaptive_max_pool2d.default: aten.max_pool2d.default,
}
_SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default}
_SEVERAL = _SPLITS | {aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default}  # results, each an item


def rewrite(graph: GraphModule, kept: AbstractSet[Node], is_qat: bool) -> None:
    """Replace, in place, what has no int8 kernel but is made of operations that have; all compute the same in float.

    Differences, negation, division by a number and ``alpha`` become sums and products with constant tensors, which
    can be quantized; SiLU, hard-swish and hard-sigmoid become their factors; pools, parts and named padding become
    plain forms.

    Args:
        graph: An exported graph.
        kept: Nodes to leave alone, because they stay float.
        is_qat: Whether its parameters will be trained; otherwise they are constants.
    """
    for node in list(graph.graph.nodes):
        is_left_alone = node in kept and node.target not in NAMED_PADDING
        if is_left_alone or node.target not in _REWRITES or not is_float(node):
            continue
        with graph.graph.inserting_before(node):
            replacement = _REWRITES[node.target](Writer(graph, node, is_qat), *node.args)
        if replacement is not None:
            replacement.meta[MODULES] = node.meta.get(MODULES, [])
            node.replace_all_uses_with(replacement)
            graph.graph.erase_node(node)
    for node in reversed(list(graph.graph.nodes)):
        if not node.users and (node.target is operator.getitem or node.target in _SEVERAL):
            graph.graph.erase_node(node)
    graph.recompile()


def _add(write: Writer, left: Node, right: Any, sign: int = 1) -> Node | None:
    alpha: Any = write.node.kwargs.get("alpha", 1)
    known = write.known(right)
    if known is not None and (isinstance(known, float) or sign * alpha != 1):
        return write.call(aten.add.Tensor, left, write.constant(known * sign * alpha))
    if alpha == 1:
        return None  # a plain sum or difference
    return write.call(aten.add.Tensor, left, write.call(aten.mul.Tensor, right, write.constant(sign * alpha)))


def _subtract(write: Writer, left: Node, right: Any) -> Node | None:
    return _add(write, left, right, -1)


def _subtract_from(write: Writer, right: Node, left: float, alpha: float = 1) -> Node:
    return write.call(aten.add.Tensor, write.call(aten.mul.Tensor, right, write.constant(-alpha)), write.constant(left))


def _multiply(write: Writer, left: Node, right: Any) -> Node | None:
    return write.call(aten.mul.Tensor, left, write.constant(right)) if isinstance(right, int | float) else None


def _divide(write: Writer, left: Node, right: Any) -> Node | None:
    known = write.known(right)
    return None if known is None else write.call(aten.mul.Tensor, left, write.constant(1 / known))


def _negate(write: Writer, source: Node) -> Node:
    return write.call(aten.mul.Tensor, source, write.constant(-1))


def _silu(write: Writer, source: Node) -> Node:
    return write.call(aten.mul.Tensor, source, write.call(aten.sigmoid.default, source))


def _hardsigmoid(write: Writer, source: Node) -> Node:
    clipped = write.call(aten.hardtanh.default, write.call(aten.add.Tensor, source, write.constant(3)), 0.0, 6.0)
    return write.call(aten.mul.Tensor, clipped, write.constant(1 / 6))


def _hardswish(write: Writer, source: Node) -> Node:
    """Write its factors: XNNPACK has int8 kernels for those, and none for the whole."""
    return write.call(aten.mul.Tensor, source, _hardsigmoid(write, source))


def _prelu(write: Writer, source: Node, slope: Node) -> Node | None:
    """Write a PReLU with one slope for all channels as a LeakyReLU; the slope is not trained any further."""
    values: Tensor = dict(write.graph.named_parameters())[str(slope.target)]
    return write.call(aten.leaky_relu.default, source, values.item()) if values.numel() == 1 else None


def _clamp(write: Writer, source: Node, low: float | None = None, high: float | None = None) -> Node | None:
    if (low, high) == (0, None):
        return write.call(aten.relu.default, source)
    return None if low is None or high is None else write.call(aten.hardtanh.default, source, float(low), float(high))


def _clamp_min(write: Writer, source: Node, low: float) -> Node | None:
    return _clamp(write, source, low)


def _avg_pool(
    write: Writer,
    source: Node,
    kernel: list[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> Node | None:
    """Write padding that counts as an operation of its own: TFLite's kernel averages over what is inside only."""
    if not any(padding) or not count_include_pad or ceil_mode or divisor is not None:
        return None
    dims = source.meta["val"].dim() - 2
    each = list(padding) * dims if len(padding) == 1 else list(padding)
    edges = [amount for size in reversed(each) for amount in (size, size)]
    return write.call(write.node.target, write.call(aten.pad.default, source, edges), kernel, list(stride) or kernel)


def _adaptive_avg_pool(write: Writer, source: Node, size: list[int]) -> Node | None:
    """Write a pool whose windows are all of one size as a plain one; a mean over everything stays what it is."""
    return None if set(size) == {1} else _even_pool(write, write.node.target, source, size)


def _even_pool(write: Writer, target: Any, source: Node, size: list[int]) -> Node | None:
    shape = list(source.meta["val"].shape[-len(size) :])
    if not all(isinstance(length, int) and length % part == 0 for length, part in zip(shape, size, strict=True)):
        return None
    kernel = [length // part for length, part in zip(shape, size, strict=True)]
    return write.call(_POOLS[target], source, kernel, kernel)


def _item(write: Writer, source: Node, index: int) -> Node | None:
    """Write a part of a tensor as a slice, the values of an adaptive max pool as a plain pool."""
    if source.target in _SPLITS:
        dim: Any = source.args[2] if len(source.args) > 2 else source.kwargs.get("dim", 0)
        sizes = [part.shape[dim] for part in source.meta["val"]]
        if not all(isinstance(size, int) for size in sizes):
            return None  # parts of the batch, whose size is free
        return write.call(aten.slice.Tensor, source.args[0], dim, sum(sizes[:index]), sum(sizes[: index + 1]))
    needs_indices = any(item.args[1] == 1 and item.users for item in source.users)
    if source.target in _POOLS and not needs_indices:
        return _even_pool(write, source.target, *source.args)  # type: ignore[arg-type]
    return None


def _name_padding(write: Writer, *arguments: Any) -> Node | None:
    """Turn named padding into numbers, where both sides get the same: torchao folds BatchNorm into that form only."""
    arguments = (*arguments, *_CONVOLUTION_DEFAULTS[len(arguments) :])
    source, weight, bias, stride, padding, dilation, groups = arguments
    kernel = list(weight.meta["val"].shape[2:])
    dilations = list(dilation) if len(dilation) == len(kernel) else [dilation[0]] * len(kernel)
    totals = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
    if any(total % 2 for total in totals):
        return None
    numbers = [source, weight, bias, stride, [total // 2 for total in totals], dilation, groups]
    while numbers[-1] in (1, [1]):  # as the exporter does, and torchao's pattern expects: no defaults at the end
        numbers.pop()
    return write.call(NAMED_PADDING[write.node.target], *numbers)


_REWRITES: dict[Any, Callable[..., Node | None]] = {
    aten.add.Tensor: _add,
    aten.add_.Tensor: _add,
    aten.sub.Tensor: _subtract,
    aten.sub_.Tensor: _subtract,
    aten.rsub.Scalar: _subtract_from,
    aten.mul.Tensor: _multiply,
    aten.mul_.Tensor: _multiply,
    aten.div.Tensor: _divide,
    aten.div_.Tensor: _divide,
    aten.neg.default: _negate,
    aten.silu.default: _silu,
    aten.silu_.default: _silu,
    aten.hardsigmoid.default: _hardsigmoid,
    aten.hardsigmoid_.default: _hardsigmoid,
    aten.hardswish.default: _hardswish,
    aten.hardswish_.default: _hardswish,
    aten.prelu.default: _prelu,
    aten.clamp.default: _clamp,
    aten.clamp_.default: _clamp,
    aten.clamp_min.default: _clamp_min,
    aten.clamp_min_.default: _clamp_min,
    aten.avg_pool1d.default: _avg_pool,
    aten.avg_pool2d.default: _avg_pool,
    aten.adaptive_avg_pool1d.default: _adaptive_avg_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_avg_pool,
    operator.getitem: _item,
    aten.conv1d.padding: _name_padding,
    aten.conv2d.padding: _name_padding,
}

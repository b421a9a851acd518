"""Write operations as ones that TFLite has int8 kernels for, before a graph is annotated."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from torchshrink.model.graphs import MODULES
from torchshrink.quantize.composites import COMPOSITES
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
_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.bmm.default, aten.mm.default, aten.addmm.default}
_BETWEEN = {
    aten.batch_norm.default, aten.add.Tensor, aten.dropout.default, aten.reshape.default, aten.view.default,
    aten.flatten.using_ints, aten.squeeze.dim, aten.unsqueeze.default,
}  # fmt: skip
_SPLITS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default}
_SEPARATIONS = {aten.unbind.int}
_EXTREMES = {aten.max.dim: aten.amax.default, aten.min.dim: aten.amin.default}
_SEVERAL = (
    _SPLITS | _SEPARATIONS | _EXTREMES.keys() | {aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default}
)  # results, each an item


def rewrite(graph: GraphModule, kept: AbstractSet[Node], is_qat: bool) -> None:
    """Replace, in place, what has no int8 kernel but is made of operations that have; all compute the same in float.

    Differences, negation, division by a number and ``alpha`` become sums and products with constant tensors, which
    can be quantized; SiLU and hard-sigmoid become their factors; pools, parts, sums, stacks, transposed
    convolutions with groups or a dilation, and named padding become plain forms.

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
            known = replacement.meta.get(MODULES, []) if replacement in node.all_input_nodes else []
            replacement.meta[MODULES] = [*known, *node.meta.get(MODULES, [])]
            node.replace_all_uses_with(replacement)
            graph.graph.erase_node(node)
    for node in reversed(list(graph.graph.nodes)):
        if not node.users and (node.target is operator.getitem or node.target in _SEVERAL | {aten.stack.default}):
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


def _hardswish(write: Writer, source: Node) -> Node | None:
    """Write its factors after a matrix product: TensorFlow adds the 3 into a second product, and no whole is left."""
    before = source
    while before.target in _BETWEEN:
        before = before.all_input_nodes[0]
    if before.target not in _PRODUCTS:
        return None
    return write.call(aten.mul.Tensor, source, _hardsigmoid(write, source))


def _prelu(write: Writer, source: Node, slope: Node) -> Node | None:
    """Write a PReLU with one slope for all channels as a LeakyReLU; the slope is not trained any further."""
    values = (dict(write.graph.named_parameters()) | dict(write.graph.named_buffers())).get(str(slope.target))
    if values is None:
        return None
    if values.numel() == 1:
        return write.call(aten.leaky_relu.default, source, values.item())
    return None if write.is_qat else _prelu_of_channels(write, source, values)


def _prelu_of_channels(write: Writer, source: Node, slopes: Tensor) -> Node:
    """Write ``relu(x) - slope * relu(-x)``."""
    below = write.call(aten.relu.default, _negate(write, source))
    slopes = -slopes.reshape(-1, *[1] * (source.meta["val"].dim() - 2))
    scaled = write.call(aten.mul.Tensor, below, write.constant(slopes))
    return write.call(aten.add.Tensor, write.call(aten.relu.default, source), scaled)


def _cast(write: Writer, source: Node, *_: Any) -> Node | None:
    """Leave out what casts to the type that is there: after a softmax, its fixed grid would be another's."""
    return source if source.meta["val"].dtype == write.node.meta["val"].dtype else None


def _channel_shuffle(write: Writer, source: Node, groups: int) -> Node | None:
    """Write the channels as rows and columns, which are swapped."""
    _, channels, *size = source.meta["val"].shape
    if not all(isinstance(side, int) for side in size):
        return None
    rows = write.call(aten.reshape.default, source, [-1, groups, channels // groups, *size])
    return write.call(aten.reshape.default, write.call(aten.transpose.int, rows, 1, 2), [-1, channels, *size])


def _roll(write: Writer, source: Node, shifts: Sequence[int], dims: Sequence[int] = ()) -> Node | None:
    """Write every rotation as two slices that change places."""
    sizes = [source.meta["val"].shape[dim] for dim in dims]
    if not dims or not all(isinstance(size, int) for size in sizes):
        return None
    for shift, dim, size in zip(shifts, dims, sizes, strict=True):
        if cut := -shift % size:
            ends = ((cut, size), (0, cut))
            parts = [write.call(aten.slice.Tensor, source, dim, *each) for each in ends]
            source = write.call(aten.cat.default, parts, dim)
    return source


def _pad(write: Writer, source: Node, edges: list[int], mode: str = "constant", _value: Any = None) -> Node | None:
    """Write padding with what is at the edge, or at the other one, as slices that are joined."""
    if mode not in ("replicate", "circular") or min(edges) < 0:
        return None
    rank = source.meta["val"].dim()
    for place in range(0, len(edges), 2):
        dim, (before, after) = rank - 1 - place // 2, edges[place : place + 2]
        size = source.meta["val"].shape[dim]
        if not isinstance(size, int):
            return None
        first, last = ((0, 1), (size - 1, size)) if mode == "replicate" else ((size - before, size), (0, after))
        repeats = (before, after) if mode == "replicate" else (min(before, 1), min(after, 1))
        parts = [source]
        parts = [*[write.call(aten.slice.Tensor, source, dim, *first)] * repeats[0], *parts] if before else parts
        parts = [*parts, *[write.call(aten.slice.Tensor, source, dim, *last)] * repeats[1]] if after else parts
        source = write.call(aten.cat.default, parts, dim) if len(parts) > 1 else source
    return source


def _select(write: Writer, source: Node, dim: int, index: Any) -> Node | None:
    if not isinstance(index, int) or not isinstance(source.meta["val"].shape[dim], int):
        return None  # a sample of the batch, whose size is free
    index = index % source.meta["val"].shape[dim]
    return write.call(aten.squeeze.dim, write.call(aten.slice.Tensor, source, dim, index, index + 1), dim)


def _stack(write: Writer, parts: Sequence[Node], dim: int = 0) -> Node | None:
    if all(_adds_up(user, write.node) for user in write.node.users):
        return None  # `_sum` takes it apart
    return write.call(aten.cat.default, [write.call(aten.unsqueeze.default, part, dim) for part in parts], dim)


def _adds_up(node: Node, stack: Node) -> bool:
    """Return whether a node is the sum of the tensors of a stack, and of nothing else."""
    dims: Any = node.args[1] if len(node.args) == 2 else []
    rank, dim = stack.meta["val"].dim(), stack.args[1] if len(stack.args) > 1 else 0
    return node.target == aten.sum.dim_IntList and [each % rank for each in dims] == [dim % rank]


def _sum(write: Writer, source: Node, dims: list[int] | None = None, keepdim: bool = False) -> Node | None:
    """Write a sum as the mean, times how many there are; the sum of a stack as a chain of sums."""
    if source.target == aten.stack.default and _adds_up(write.node, source):
        parts: Any = source.args[0]
        total: Node = functools.reduce(lambda left, right: write.call(aten.add.Tensor, left, right), parts)
        return total
    sizes = [source.meta["val"].shape[dim] for dim in dims or []]
    if not sizes or not all(isinstance(size, int) for size in sizes) or write.node.kwargs:
        return None
    mean = write.call(aten.mean.dim, source, dims, keepdim)
    return write.call(aten.mul.Tensor, mean, write.constant(math.prod(sizes)))


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
    """Write padding that counts as an operation of its own: TFLite's kernel averages over what is inside only.

    Where windows end with the values, rounding their number up (``ceil_mode``) is left out. A divisor becomes a factor.
    """
    dims = source.meta["val"].dim() - 2
    sizes, each, steps = kernel * dims, list(padding) * dims, (list(stride) or kernel) * dims
    shape = source.meta["val"].shape[-dims:]
    fits = all(
        isinstance(length, int) and (length + 2 * edge - size) % step == 0
        for length, edge, size, step in zip(shape, each, sizes, steps, strict=False)
    )
    if ceil_mode and not fits:
        return None
    if divisor is not None:
        edges = [amount for size in reversed(each[:dims]) for amount in (size, size)]
        wide = write.call(aten.pad.default, source, edges) if any(padding) else source
        pooled = write.call(write.node.target, wide, kernel, list(stride) or kernel)
        return write.call(aten.mul.Tensor, pooled, write.constant(math.prod(sizes[:dims]) / divisor))
    if not any(padding):
        return write.call(write.node.target, source, kernel, list(stride) or kernel) if ceil_mode else None
    if not count_include_pad:
        settings = (kernel, list(stride) or kernel, list(padding), False, False)
        return write.call(write.node.target, source, *settings) if ceil_mode else None
    edges = [amount for size in reversed(each[:dims]) for amount in (size, size)]
    return write.call(write.node.target, write.call(aten.pad.default, source, edges), kernel, list(stride) or kernel)


def _adaptive_avg_pool(write: Writer, source: Node, size: list[int]) -> Node | None:
    """Write a pool whose windows are all of one size as a plain one; a mean over everything stays what it is.

    Windows of several sizes are a product with a constant matrix for each side.
    """
    if set(size) == {1}:
        return None
    return _even_pool(write, write.node.target, source, size) or _uneven_pool(write, source, size)


def _uneven_pool(write: Writer, source: Node, size: list[int]) -> Node | None:
    shape = source.meta["val"].shape[-len(size) :]
    if not all(isinstance(length, int) for length in shape):
        return None
    for dim, (length, count) in enumerate(zip(shape, size, strict=True), -len(size)):
        if length == count:
            continue
        shares = torch.zeros(count, length)
        for index, (start, stop) in enumerate(windows(length, count)):
            shares[index, start:stop] = 1 / (stop - start)
        swapped = source if dim == -1 else write.call(aten.transpose.int, source, dim, -1)
        made = write.call(aten.linear.default, swapped, write.constant(shares))
        source = made if dim == -1 else write.call(aten.transpose.int, made, dim, -1)
    return source


def windows(length: int, count: int) -> list[tuple[int, int]]:
    """Return where the windows of an adaptive pool begin and end along one dimension."""
    return [(index * length // count, -(-(index + 1) * length // count)) for index in range(count)]


def _uneven_max_pool(write: Writer, source: Node, size: list[int]) -> Node | None:
    """Write an adaptive maximum as the maxima of slices, joined, for each side."""
    shape = source.meta["val"].shape[-len(size) :]
    if not all(isinstance(length, int) for length in shape):
        return None
    for dim, (length, count) in enumerate(zip(shape, size, strict=True), -len(size)):
        if length == count:
            continue
        parts = [write.call(aten.slice.Tensor, source, dim, *ends) for ends in windows(length, count)]
        parts = [write.call(aten.amax.default, part, [dim], True) for part in parts]
        source = write.call(aten.cat.default, parts, dim)
    return source


def _even_pool(write: Writer, target: Any, source: Node, size: list[int]) -> Node | None:
    shape = list(source.meta["val"].shape[-len(size) :])
    if not all(isinstance(length, int) and length % part == 0 for length, part in zip(shape, size, strict=True)):
        return None
    kernel = [length // part for length, part in zip(shape, size, strict=True)]
    return write.call(_POOLS[target], source, kernel, kernel)


def _item(write: Writer, source: Node, index: int) -> Node | None:
    """Write a part of a tensor as a slice, the values of an adaptive max pool or of a maximum without its indices."""
    dim: Any
    whole: Any
    if source.target in _SPLITS:
        dim = source.args[2] if len(source.args) > 2 else source.kwargs.get("dim", 0)
        sizes = [part.shape[dim] for part in source.meta["val"]]
        if not all(isinstance(size, int) for size in sizes):
            return None  # parts of the batch, whose size is free
        return write.call(aten.slice.Tensor, source.args[0], dim, sum(sizes[:index]), sum(sizes[: index + 1]))
    if source.target in _SEPARATIONS:
        whole, dim = (*source.args, 0)[:2]
        return _select(write, whole, dim, index)
    needs_indices = any(item.args[1] == 1 and item.users for item in source.users)
    if source.target in _EXTREMES and not needs_indices:
        dim, keepdim = (*source.args[1:], False)[:2]
        return write.call(_EXTREMES[source.target], source.args[0], [dim], keepdim)
    if source.target in _POOLS and not needs_indices:
        pooled: Any = source.args
        return _even_pool(write, source.target, *pooled) or _uneven_max_pool(write, *pooled)
    return None


def _transposed_convolution(write: Writer, *arguments: Any) -> Node | None:
    """Write one with groups or a dilation as one without: kernels with zeros between them, or around those of a group.

    What is trained stays as it is, for its zeros would be trained too.
    """
    place = dict(enumerate(arguments))
    groups, dilation = place.get(6, 1), place.get(7, [1])
    weight = write.known(arguments[1])
    if write.is_qat or not isinstance(weight, Tensor) or (groups == 1 and set(dilation) == {1}):
        return None
    weight = _without_groups(_spread(weight, dilation), groups)
    settings = [place.get(index, default) for index, default in ((2, None), (3, [1]), (4, [0]), (5, [0]))]
    return write.call(write.node.target, arguments[0], write.constant(weight), *settings)


def _spread(weight: Tensor, dilation: Sequence[int]) -> Tensor:
    """Return kernels with zeros where a dilated one skips a value."""
    steps = list(dilation) if len(dilation) == weight.dim() - 2 else [dilation[0]] * (weight.dim() - 2)
    size = [step * (side - 1) + 1 for step, side in zip(steps, weight.shape[2:], strict=True)]
    spread = weight.new_zeros(*weight.shape[:2], *size)
    places: Any = (..., *(slice(None, None, step) for step in steps))
    spread[places] = weight.detach()
    return spread


def _without_groups(weight: Tensor, groups: int) -> Tensor:
    """Return kernels ``[inputs, outputs, *size]`` that are zero between the channels of two groups."""
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    whole = weight.new_zeros(weight.shape[0], outputs * groups, *weight.shape[2:])
    for group in range(groups):
        rows = slice(group * inputs, (group + 1) * inputs)
        whole[rows, group * outputs : (group + 1) * outputs] = weight[rows].detach()
    return whole


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


_REWRITES: dict[Any, Callable[..., Node | None]] = COMPOSITES | {
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
    aten.to.dtype: _cast,
    aten.to.dtype_layout: _cast,
    aten.to.other: _cast,
    aten.type_as.default: _cast,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.select.int: _select,
    aten.roll.default: _roll,
    aten.pad.default: _pad,
    aten.stack.default: _stack,
    aten.sum.dim_IntList: _sum,
    aten.conv_transpose1d.default: _transposed_convolution,
    aten.conv_transpose2d.input: _transposed_convolution,
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

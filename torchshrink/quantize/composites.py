"""Operations that are several in one, written as parts that have int8 kernels; all compute the same in float."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Node

from torchshrink.quantize.writer import Writer

aten = torch.ops.aten


def _attention(write: Writer, query: Node, key: Node, value: Node, *others: Any) -> Node | None:
    """Write ``softmax(q k^T / sqrt(d)) v``; what is masked, or drops out in training, stays whole."""
    settings = dict(zip(("attn_mask", "dropout_p", "is_causal"), others, strict=False)) | write.node.kwargs
    drops_out = bool(settings.get("dropout_p")) and write.is_qat
    if drops_out or settings.get("attn_mask") is not None or settings.get("is_causal") or settings.get("enable_gqa"):
        return None
    scale: Any = settings.get("scale")
    scale = query.meta["val"].shape[-1] ** -0.5 if scale is None else scale
    query = write.call(aten.mul.Tensor, query, write.constant(scale))
    scores = write.call(aten.matmul.default, query, write.call(aten.transpose.int, key, -2, -1))
    return write.call(aten.matmul.default, write.call(aten.softmax.int, scores, -1), value)


def _product(write: Writer, left: Node, right: Node) -> Node | None:
    """Write a product with a constant matrix as a linear layer, whose weight has a scale for each column."""
    known = write.known(right)
    if not isinstance(known, torch.Tensor) or known.dim() != 2 or left.meta["val"].dim() < 2:
        return None
    return write.call(aten.linear.default, left, write.constant(known.t().contiguous()))


def _einsum(write: Writer, equation: str, operands: Sequence[Node]) -> Node | None:
    """Write what is a matrix product, of each sample and head, as one: axes put in order, then back."""
    terms, _, result = equation.replace(" ", "").partition("->")
    parts = terms.split(",")
    if len(parts) != 2 or not result or not all(_is_plain(term) for term in (*parts, result)):
        return None
    left, right = parts
    both = [axis for axis in left if axis in right]
    batch, summed = [axis for axis in both if axis in result], [axis for axis in both if axis not in result]
    rows, columns = [axis for axis in left if axis not in both], [axis for axis in right if axis not in both]
    if len(summed) != 1 or len(rows) != 1 or len(columns) != 1 or set(result) != {*batch, *rows, *columns}:
        return None
    first = _permuted(write, operands[0], left, [*batch, *rows, *summed])
    second = _permuted(write, operands[1], right, [*batch, *summed, *columns])
    product = write.call(aten.matmul.default, first, second)
    return _permuted(write, product, "".join([*batch, *rows, *columns]), list(result))


def _is_plain(term: str) -> bool:
    return term.isalpha() and len(set(term)) == len(term)


def _permuted(write: Writer, source: Node, axes: str, wanted: list[str]) -> Node:
    order = [axes.index(axis) for axis in wanted]
    if order == sorted(order):
        return source
    if len([place for place, index in enumerate(order) if place != index]) == 2:
        first, second = (place for place, index in enumerate(order) if place != index)
        return write.call(aten.transpose.int, source, first, second)
    return write.call(aten.permute.default, source, order)


def _unflatten(write: Writer, source: Node, dim: int, sizes: list[int]) -> Node | None:
    shape = list(source.meta["val"].shape)
    dim %= len(shape)
    shape[dim : dim + 1] = sizes
    return _reshaped(write, source, shape)


def _reshaped(write: Writer, source: Node, shape: list[Any]) -> Node | None:
    """Write a new shape; the one size that is free, the batch's, is found by itself."""
    free = [place for place, size in enumerate(shape) if not isinstance(size, int)]
    if len(free) > 1 or (free and -1 in shape):
        return None
    return write.call(aten.reshape.default, source, [size if isinstance(size, int) else -1 for size in shape])


def _glu(write: Writer, source: Node, dim: int = -1) -> Node | None:
    size = source.meta["val"].shape[dim]
    if not isinstance(size, int):
        return None
    half, gate = (write.call(aten.slice.Tensor, source, dim, *ends) for ends in ((0, size // 2), (size // 2, size)))
    return write.call(aten.mul.Tensor, half, write.call(aten.sigmoid.default, gate))


def _square(write: Writer, source: Node, exponent: Any) -> Node | None:
    return write.call(aten.mul.Tensor, source, source) if exponent == 2 else None


def _elu(write: Writer, source: Node, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Node | None:
    """Write ``scale * (alpha * elu(x) + (1 - alpha) * relu(x))``: the kernel knows no other alpha than 1."""
    if (alpha, scale) == (1, 1) or input_scale != 1:
        return None
    below = write.call(aten.mul.Tensor, write.call(aten.elu.default, source), write.constant(alpha * scale))
    if alpha == 1:
        return below
    above = write.call(aten.mul.Tensor, write.call(aten.relu.default, source), write.constant((1 - alpha) * scale))
    return write.call(aten.add.Tensor, below, above)


def _selu(write: Writer, source: Node) -> Node | None:
    return _elu(write, source, 1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _celu(write: Writer, source: Node, alpha: float = 1.0) -> Node:
    inner = write.call(aten.mul.Tensor, source, write.constant(1 / alpha)) if alpha != 1 else source
    outer = write.call(aten.elu.default, inner)
    return write.call(aten.mul.Tensor, outer, write.constant(alpha)) if alpha != 1 else outer


def _mish(write: Writer, source: Node) -> Node:
    """Write ``x * tanh(softplus(x))`` as ``x * (2 / (1 + u^2) - 1)`` with ``u = sigmoid(-x)``: all but x is bounded."""
    other = write.call(aten.sigmoid.default, write.call(aten.mul.Tensor, source, write.constant(-1)))
    total = write.call(aten.add.Tensor, write.call(aten.mul.Tensor, other, other), write.constant(1))
    root = write.call(aten.rsqrt.default, total)
    twice = write.call(aten.mul.Tensor, write.call(aten.mul.Tensor, root, root), write.constant(2))
    return write.call(aten.mul.Tensor, source, write.call(aten.add.Tensor, twice, write.constant(-1)))


def _layer_norm(
    write: Writer, source: Node, shape: list[int], weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Node | None:
    dims = list(range(-len(shape), 0))
    return None if write.is_qat else _scaled(write, _normalized(write, source, dims, eps), weight, bias)


def _rms_norm(
    write: Writer, source: Node, shape: list[int], weight: Any = None, eps: float | None = None
) -> Node | None:
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    dims = list(range(-len(shape), 0))
    return None if write.is_qat else _scaled(write, _shrunk(write, source, dims, eps), weight, None)


def _group_norm(
    write: Writer, source: Node, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Node | None:
    channels, *size = source.meta["val"].shape[1:]
    if write.is_qat or not all(isinstance(side, int) for side in size):
        return None
    rows = write.call(aten.reshape.default, source, [-1, groups, channels // groups * math.prod(size)])
    normal = write.call(aten.reshape.default, _normalized(write, rows, [-1], eps), [-1, channels, *size])
    return _scaled(write, normal, *(_of_channels(write, value, len(size)) for value in (weight, bias)))


def _instance_norm(write: Writer, source: Node, weight: Any, bias: Any, *others: Any) -> Node | None:
    _mean, _variance, of_input, _momentum, eps, *_ = others
    dims = list(range(2, source.meta["val"].dim()))
    if write.is_qat or not of_input:
        return None
    normal = _normalized(write, source, dims, eps)
    return _scaled(write, normal, *(_of_channels(write, value, len(dims)) for value in (weight, bias)))


def _of_channels(write: Writer, value: Any, dims: int) -> Node | None:
    """Return a parameter ``[C]`` as a constant ``[C, 1, ...]``."""
    known = None if value is None else write.known(value)
    return write.constant(known.reshape(-1, *[1] * dims)) if isinstance(known, torch.Tensor) else None


def _normalized(write: Writer, source: Node, dims: list[int], eps: float) -> Node:
    """Write ``(x - mean) / sqrt(variance + eps)`` over dimensions."""
    return _shrunk(write, write.call(aten.sub.Tensor, source, write.call(aten.mean.dim, source, dims, True)), dims, eps)


def _shrunk(write: Writer, source: Node, dims: list[int], eps: float) -> Node:
    """Write ``x / sqrt(mean(x^2) + eps)``."""
    square = write.call(aten.mean.dim, write.call(aten.mul.Tensor, source, source), dims, True)
    root = write.call(aten.rsqrt.default, write.call(aten.add.Tensor, square, write.constant(eps)))
    return write.call(aten.mul.Tensor, source, root)


def _scaled(write: Writer, source: Node, weight: Any, bias: Any) -> Node:
    if weight is not None:
        source = write.call(aten.mul.Tensor, source, weight)
    return source if bias is None else write.call(aten.add.Tensor, source, bias)


COMPOSITES: dict[Any, Callable[..., Node | None]] = {
    aten.scaled_dot_product_attention.default: _attention,
    aten.matmul.default: _product,
    aten.einsum.default: _einsum,
    aten.unflatten.int: _unflatten,
    aten.glu.default: _glu,
    aten.pow.Tensor_Scalar: _square,
    aten.elu.default: _elu,
    aten.elu_.default: _elu,
    aten.selu.default: _selu,
    aten.selu_.default: _selu,
    aten.celu.default: _celu,
    aten.celu_.default: _celu,
    aten.mish.default: _mish,
    aten.mish_.default: _mish,
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _rms_norm,
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
}

"""What each operation of PyTorch is in ONNX: torch.onnx's own translations, read once, and some that it lacks."""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from onnx.numpy_helper import from_array
from onnx_ir import DataType

from torchshrink.converters.export import ceil_pools
from torchshrink.quantize.rewriting import windows

_read: dict[tuple[Any, ...], Any] = {}


@contextmanager
def read_once() -> Iterator[None]:
    """Keep torch from doing many times what takes most of an export's time.

    torch.onnx reads the sources of its 500 translations in every export; torch.export lists all composite operations of
    PyTorch for each namespace of operations, 70 times in an export; onnxscript tries 90 patterns on every node, and
    looks for the operation that they end with last.
    """
    from onnxscript.rewriter._basics import MatchResult
    from onnxscript.rewriter._matcher import SimplePatternMatcher
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    before, listing = vars(ONNXRegistry)["from_torchlib"], utils._materialize_cpp_cia_ops
    matching = SimplePatternMatcher.match

    def from_torchlib(*opset: int, **named: int) -> Any:
        # Those of torchvision are known once it is imported.
        key = (*opset, *named.values(), "torchvision" in sys.modules)
        if key not in _read:
            _read[key] = before.__func__(ONNXRegistry, *opset, **named)
        registry = copy.copy(_read[key])
        registry.functions = {target: list(functions) for target, functions in registry.functions.items()}
        return registry

    def match(self: Any, model: Any, graph: Any, node: Any, **settings: Any) -> Any:
        last = self.pattern.output_nodes[0].op_identifier()
        if last is not None and last != node.op_identifier():
            return MatchResult().fail("it ends with another operation")
        return matching(self, model, graph, node, **settings)

    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)  # type: ignore[method-assign]
    SimplePatternMatcher.match = match
    utils._materialize_cpp_cia_ops = functools.cache(listing)
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = before  # type: ignore[method-assign]
        SimplePatternMatcher.match = matching
        utils._materialize_cpp_cia_ops = listing


@contextmanager
def limits_of_one_kind() -> Iterator[None]:
    """Let a clamp have a whole number and a fraction as its limits, of which torch.onnx makes one a tensor."""
    from torch.onnx._internal.exporter import _fx_passes

    promote = _fx_passes.insert_type_promotion_nodes

    def inserted(graph_module: torch.fx.GraphModule) -> None:
        for node in graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.clamp.default):
            if node.meta["val"].is_floating_point():
                node.args = tuple(float(each) if isinstance(each, int) else each for each in node.args)
        promote(graph_module)

    _fx_passes.insert_type_promotion_nodes = inserted
    try:
        yield
    finally:
        _fx_passes.insert_type_promotion_nodes = promote


def own() -> dict[Any, Any]:
    """Say what torch.onnx does not know, or has wrong; per-channel quantization becomes QDQ nodes with an axis."""
    from onnxscript import opset18 as op
    from onnxscript.function_libs.torch_lib.ops.nn import (
        aten_avg_pool2d,
        aten_pad,
        aten_scaled_dot_product_attention,
    )

    # The names and the order are those of the PyTorch operations.
    def dequantize(x, scale, zero_point, axis, *_, **__):  # type: ignore[no-untyped-def]
        return op.DequantizeLinear(x, scale, op.Cast(zero_point, to=TensorProto.INT8), axis=axis)

    def quantize(x, scale, zero_point, axis, *_):  # type: ignore[no-untyped-def]
        return op.QuantizeLinear(x, scale, op.Cast(zero_point, to=TensorProto.INT8), axis=axis)

    # onnxscript 0.6 takes SpaceToDepth for it, whose channels are in another order.
    def pixel_unshuffle(x, factor):  # type: ignore[no-untyped-def]
        _, channels, height, width = x.shape
        height, width = height // factor, width // factor
        parts = op.Reshape(x, op.Constant(value_ints=[0, channels, height, factor, width, factor]))
        moved = op.Transpose(parts, perm=[0, 1, 3, 5, 2, 4])
        return op.Reshape(moved, op.Constant(value_ints=[0, channels * factor * factor, height, width]))

    # onnxscript leaves the divisor out.
    def avg_pool2d(x, size, stride=(), padding=(0,), ceil_mode=False, counts_padding=True, divisor=None):  # type: ignore[no-untyped-def]
        if divisor is None:
            return aten_avg_pool2d(x, size, stride, padding, ceil_mode, counts_padding)
        kernel, strides, edges = ([*each, *each][:2] for each in (size, stride or size, padding))
        limits = zip(x.shape[2:], kernel, strides, edges, strict=True)
        ends = [ceil_pools.count(side, k, s, 1, p, p)[1] if ceil_mode else p for side, k, s, p in limits]
        wide = op.Pad(x, op.Constant(value_ints=[0, 0, *edges, 0, 0, *ends]))
        return op.Mul(
            op.AveragePool(wide, kernel_shape=kernel, strides=strides),
            op.Constant(value_float=kernel[0] * kernel[1] / divisor),
        )

    def adaptive_max_pool(x, size):  # type: ignore[no-untyped-def]
        sides = x.shape[-len(size) :]
        for axis, (side, count) in enumerate(zip(sides, size, strict=True), -len(size)):
            parts = [op.Slice(x, [start], [stop], [axis]) for start, stop in windows(side, count)]
            x = op.Concat(*(op.ReduceMax(part, [axis], keepdims=1) for part in parts), axis=axis)
        return x, op.Constant(value_float=float("nan"))  # no places: what uses them is refused

    # onnxscript writes a slice with a negative step, of which onnx2tf makes another order.
    def flip(x, dims):  # type: ignore[no-untyped-def]
        sides = x.shape
        for axis in dims:
            if isinstance(sides[axis], int):
                x = op.Gather(x, op.Constant(value_ints=list(range(sides[axis]))[::-1]), axis=axis)
            else:  # of the batch
                x = op.Slice(x, [-1], [-sys.maxsize], [axis], [-1])
        return x

    # onnxscript writes a mode of Pad that this opset lacks.
    def pad(x, edges, mode="constant", value=None):  # type: ignore[no-untyped-def]
        if mode != "circular":
            return aten_pad(x, edges, mode, value)
        rank = len(x.shape)
        for place in range(0, len(edges), 2):
            axis, (before, after) = rank - 1 - place // 2, edges[place : place + 2]
            first = [op.Slice(x, [-before], [sys.maxsize], [axis])] if before else []
            last = [op.Slice(x, [0], [after], [axis])] if after else []
            x = op.Concat(*first, x, *last, axis=axis) if first or last else x
        return x

    # onnxscript takes queries, keys and values of several heads only.
    def attention(query, key, value, mask=None, dropout=0.0, is_causal=False, scale=None, enable_gqa=False):  # type: ignore[no-untyped-def]
        rank, (*_, length, width) = len(query.shape), query.shape
        if rank == 4:
            return aten_scaled_dot_product_attention(query, key, value, mask, dropout, is_causal, scale, enable_gqa)
        factor = op.Constant(value_float=width**-0.5 if scale is None else scale)
        turned = op.Transpose(key, perm=[*range(rank - 2), rank - 1, rank - 2])
        scores = op.MatMul(op.Mul(query, factor), turned)
        if is_causal:
            mask = op.Constant(value=from_array(np.tril(np.ones((length, key.shape[-2]), bool))))
        if mask is not None and (is_causal or mask.dtype == DataType.BOOL):
            mask = op.Where(mask, op.Constant(value_float=0.0), op.Constant(value_float=-math.inf))
        return op.MatMul(op.Softmax(scores if mask is None else op.Add(scores, mask), axis=-1), value)

    def rrelu(x, noise, lower=1 / 8, upper=1 / 3, training=False, generator=None):  # type: ignore[no-untyped-def]  # noqa: ARG001
        return op.LeakyRelu(x, alpha=(lower + upper) / 2), noise

    from torch.ao.quantization.fx import _decomposed  # noqa: F401  # registers the operations named below

    operations = torch.ops.quantized_decomposed
    return {
        operations.dequantize_per_channel.default: dequantize,
        operations.quantize_per_channel.default: quantize,
        torch.ops.aten.pixel_unshuffle.default: pixel_unshuffle,
        torch.ops.aten.avg_pool2d.default: avg_pool2d,
        torch.ops.aten.adaptive_max_pool1d.default: adaptive_max_pool,
        torch.ops.aten.adaptive_max_pool2d.default: adaptive_max_pool,
        torch.ops.aten.flip.default: flip,
        torch.ops.aten.pad.default: pad,
        torch.ops.aten.scaled_dot_product_attention.default: attention,
        torch.ops.aten.rrelu_with_noise_functional.default: rrelu,
    }

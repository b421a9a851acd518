"""Bring ONNX files of other tools into the form that the rest of the converters expect.

Files of ONNX Runtime's ``quantize_static``, of NNCF and of Brevitas say the same in different words: constants as
nodes, weights as floats that are quantized in the graph, one scale for a whole weight, a clip on the codes, a
BatchNorm that was not folded. What they say that TFLite's int8 kernels cannot compute is refused.

Source: https://onnx.ai/onnx/operators (QuantizeLinear, DequantizeLinear);
https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html ("ONNX quantization representation
format"); https://xilinx.github.io/brevitas/user_guide/export.html ("QCDQ").
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import NodeProto, helper, shape_inference
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from torchshrink.converters import onnx_file, qdq
from torchshrink.converters.onnx_file import (
    DEQUANTIZE,
    QUANTIZE,
    attribute,
    constants,
    producers,
    rename,
    replace_initializers,
    replace_nodes,
)
from torchshrink.errors import ConversionError

_DYNAMIC = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
            "MatMulInteger", "ConvInteger"}  # fmt: skip
_QOPERATOR = ("QLinear", "QGemm", "QAttention")
# Where the output channels of a weight are; a matrix product's are last.
_WEIGHTED = {"Conv": 0, "ConvTranspose": 1, "Gemm": 1, "MatMul": -1}

_LINEAR = {"Add", "BatchNormalization", "Conv", "ConvTranspose", "Gemm", "MatMul", "Mul", "Sub"}


def normalise(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return an ONNX model of any tool as one of those that `qdq.split` and onnx2tf take.

    Float models are returned with constants stored, a batch of one and kernel shapes written down; quantized ones with
    int8 weights that have a scale for each output channel.

    Args:
        model: Float or QDQ, opset 13 or later.
        name: What errors call it.

    Raises:
        ConversionError: When its form of quantization has no counterpart in TFLite.
    """
    model = _with_stored_constants(model)
    _refuse(model, name)
    _drop_identities(model)
    _fix_shapes(model, name)
    if qdq.is_quantized(model):
        _store_codes(model)
        _unclip(model, name)
        _fold_batch_norms(model)
        _spread_scales(model, name)
        _restore_relus(model)
    onnx_file.add_kernel_shapes(model)
    return model


def check(path: Path, threads: int = 1) -> None:  # noqa: ARG001  # as `torchshrink.runtime.apart` calls
    """Read a file and normalise it, in native code that some files end: let another process do it first.

    Raises:
        ModelError: When it cannot be read.
        ConversionError: As `normalise` does.
    """
    normalise(onnx_file.load(path), path.name)


def _refuse(model: onnx.ModelProto, name: str) -> None:
    """Raise for the forms of quantization that are not QDQ, and for codes that are not of 8 bits."""
    for node in model.graph.node:
        if node.op_type in _DYNAMIC:
            raise ConversionError(
                f"{name} is quantized dynamically ({node.op_type}): its ranges are those of the input at hand, and "
                "TFLite needs stored ones; quantize it statically, with calibration data"
            )
        if node.op_type.startswith(_QOPERATOR):
            raise ConversionError(
                f"{name} holds {node.op_type}, the QOperator format: quantize the model again in the QDQ format "
                "(quant_format=QuantFormat.QDQ)"
            )
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            node.domain = ""
            if attribute(node, "block_size", 0) or attribute(node, "output_dtype", 0) not in (
                0,
                onnx.TensorProto.INT8,
                onnx.TensorProto.UINT8,
            ):
                raise ConversionError(f"{name}: {_called(node)} is not of 8 bits per tensor or channel")
    for item in (*model.graph.input, *model.graph.output):
        if qdq.is_quantized(model) and item.type.tensor_type.elem_type in (onnx.TensorProto.INT8,
                                                                           onnx.TensorProto.UINT8):  # fmt: skip
            raise ConversionError(
                f"{name} takes or gives codes ({item.name!r}): keep its inputs and outputs float, with QuantizeLinear "
                "and DequantizeLinear inside of the graph"
            )


def _with_stored_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy with Constant nodes written as initializers."""
    store = LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
    return onnx_ir.to_proto(store(onnx_ir.from_proto(model)).model)


def _drop_identities(model: onnx.ModelProto) -> None:
    """Let readers of an Identity read what it copies; one that computes an output of the model stays."""
    last = {item.name for item in model.graph.output}
    for node in [each for each in model.graph.node if each.op_type == "Identity" and each.output[0] not in last]:
        model.graph.node.remove(node)
        rename(model, {node.output[0]: node.input[0]})


def _fix_shapes(model: onnx.ModelProto, name: str) -> None:
    """Set a free batch to one, and infer every other shape from that."""
    defaults = set(constants(model))
    is_free = False
    for item in model.graph.input:
        sides = item.type.tensor_type.shape.dim
        if item.name in defaults:
            continue
        if any(side.dim_value < 1 for side in sides[1:]) or not sides:
            shown = [side.dim_value or side.dim_param or "?" for side in sides]
            raise ConversionError(
                f"{name}: input {item.name!r} has the shape {shown}; TFLite needs every size but the batch: export "
                "the model with fixed sizes"
            )
        if sides[0].dim_value < 1:
            sides[0].dim_value, is_free = 1, True
    if is_free:
        for item in model.graph.output:
            sides = item.type.tensor_type.shape.dim
            if sides and sides[0].dim_value < 1:
                sides[0].dim_value = 1
    del model.graph.value_info[:]
    model.CopyFrom(shape_inference.infer_shapes(model))


def _store_codes(model: onnx.ModelProto) -> None:
    """Quantize, here and now, the float constants that the graph quantizes whenever it runs."""
    arrays = constants(model)
    added: dict[str, NDArray[Any]] = {}
    for node in [each for each in model.graph.node if each.op_type == QUANTIZE and each.input[0] in arrays]:
        scale = arrays[node.input[1]]
        zero = arrays[node.input[2]] if len(node.input) > 2 else np.zeros(scale.shape, np.uint8)
        values, limits = arrays[node.input[0]], np.iinfo(zero.dtype)
        shape = _along(values, scale, int(attribute(node, "axis", 1)))
        codes = np.rint(values / scale.reshape(shape)) + zero.astype(np.int32).reshape(shape)
        added[node.output[0]] = np.clip(codes, limits.min, limits.max).astype(zero.dtype)
        model.graph.node.remove(node)
    replace_initializers(model, added)


def _unclip(model: onnx.ModelProto, name: str) -> None:
    """Write a clip on codes as what it means: nothing, where it only leaves out -128, or a ReLU before quantizing."""
    arrays, sources = constants(model), producers(model)
    added: dict[str, NDArray[Any]] = {}
    for node in [each for each in model.graph.node if each.op_type == "Clip"]:
        source = sources.get(node.input[0])
        codes = arrays.get(node.input[0])
        if codes is None and (source is None or source.op_type != QUANTIZE):
            continue
        kind = codes.dtype if codes is not None else _code_type(source, arrays)
        limits = np.iinfo(kind)
        low, high = (_bound(node, place, arrays, end) for place, end in ((1, limits.min), (2, limits.max)))
        if high < limits.max or (low > limits.min + 1 and not _is_relu(source, arrays, low)):
            raise ConversionError(
                f"{name}: {_called(node)} keeps codes in [{low}, {high}], which is less than 8 bits: TFLite's kernels "
                "need 8-bit weights and activations"
            )
        if codes is not None:
            added[node.output[0]] = np.clip(codes, low, high).astype(codes.dtype)
        elif low > limits.min + 1:
            assert source is not None
            relu = helper.make_node("Relu", [source.input[0]], [f"{node.output[0]}_relu"], f"{node.output[0]}_relu")
            model.graph.node.insert(list(model.graph.node).index(source), relu)
            source = helper.make_node(QUANTIZE, [relu.output[0], *source.input[1:]], [node.output[0]], node.name)
            model.graph.node.insert(list(model.graph.node).index(node), source)
        else:
            rename(model, {node.output[0]: node.input[0]})
        model.graph.node.remove(node)
    replace_nodes(model, model.graph.node, added)


def _bound(node: NodeProto, place: int, arrays: dict[str, NDArray[Any]], default: int) -> int:
    name = node.input[place] if len(node.input) > place else ""
    return int(arrays[name]) if name in arrays else int(default)


def _is_relu(source: NodeProto | None, arrays: dict[str, NDArray[Any]], low: int) -> bool:
    """Return whether the lowest code stands for zero."""
    return source is not None and len(source.input) > 2 and int(arrays[source.input[2]]) == low


def _code_type(source: NodeProto | None, arrays: dict[str, NDArray[Any]]) -> np.dtype[Any]:
    assert source is not None
    return arrays[source.input[2]].dtype if len(source.input) > 2 else np.dtype(np.uint8)


def _fold_batch_norms(model: onnx.ModelProto) -> None:
    """Multiply a BatchNorm into the scales of the convolution before it: codes stay, or change their sign."""
    arrays, sources = constants(model), producers(model)
    readers = Counter(each for node in model.graph.node for each in node.input)
    added: dict[str, NDArray[Any]] = {}
    for node in [each for each in model.graph.node if each.op_type == "BatchNormalization"]:
        layer = sources.get(node.input[0])
        weight = sources.get(layer.input[1]) if layer is not None and layer.op_type in _WEIGHTED else None
        if layer is None or weight is None or weight.op_type != DEQUANTIZE or readers[layer.output[0]] > 1:
            continue
        if weight.input[0] not in arrays or readers[weight.output[0]] > 1 or layer.op_type in ("Gemm", "MatMul"):
            continue
        gamma, beta, mean, variance = (arrays[each].astype(np.float64) for each in node.input[1:5])
        factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
        _scale_weight(weight, _WEIGHTED[layer.op_type], factor, arrays, added)
        bias = _real(layer.input[2], arrays, sources) if len(layer.input) > 2 else np.zeros_like(mean)
        added[f"{node.output[0]}_bias"] = ((bias - mean) * factor + beta).astype(np.float32)
        del layer.input[2:]
        layer.input.append(f"{node.output[0]}_bias")
        layer.output[0] = node.output[0]
        model.graph.node.remove(node)
    replace_nodes(model, model.graph.node, added)


def _scale_weight(
    node: NodeProto,
    axis: int,
    factor: NDArray[np.float64],
    arrays: dict[str, NDArray[Any]],
    added: dict[str, NDArray[Any]],
) -> None:
    """Let a weight's DequantizeLinear give out the weight times ``factor``, one number for each output channel."""
    codes, zero = _signed(node, arrays)
    shape = [1] * codes.ndim
    shape[axis] = -1
    sign = np.where(factor < 0, -1, 1).reshape(shape)
    scale = arrays[node.input[1]].astype(np.float64) * np.abs(factor)
    name = node.output[0]
    # A channel that BatchNorm multiplies by zero: its codes say so, for a scale cannot be zero.
    is_zero = scale == 0
    added[f"{name}_folded"] = np.where(is_zero.reshape(shape), 0, (codes - zero) * sign).astype(np.int8)
    added[f"{name}_scale"] = np.where(is_zero, 2.0**-16, scale).astype(np.float32)
    added[f"{name}_zero"] = np.zeros(len(factor), np.int8)
    _replace_codes(node, name, axis)


def _spread_scales(model: onnx.ModelProto, name: str) -> None:
    """Give every weight int8 codes and a scale for each output channel, equal ones where it had one for all.

    Raises:
        ConversionError: When its zero point is not zero, or a code is -128.
    """
    arrays = constants(model)
    sources = {node.output[0]: node for node in model.graph.node if node.op_type == DEQUANTIZE}
    added: dict[str, NDArray[Any]] = {}
    done: set[str] = set()
    for layer in model.graph.node:
        node = sources.get(layer.input[1]) if layer.op_type in _WEIGHTED else None
        if node is None or node.input[0] not in arrays or node.output[0] in done:
            continue
        done.add(node.output[0])
        current = arrays | added
        codes, zero = _signed(node, current)
        _check_weight(codes, zero, f"{name}: the weight of {_called(layer)}")
        axis = 0 if layer.op_type == "Gemm" and attribute(layer, "transB", 0) else _WEIGHTED[layer.op_type]
        axis %= codes.ndim
        scale = current[node.input[1]].ravel()
        given = int(attribute(node, "axis", 1)) % codes.ndim
        if scale.size > 1 and given != axis:
            raise ConversionError(
                f"{name}: the weight of {_called(layer)} has a scale for each slice of dimension {given}, TFLite's "
                "kernel needs one for each output channel: quantize it per tensor or per output channel"
            )
        label = node.output[0]
        added[f"{label}_scale"] = np.broadcast_to(scale, codes.shape[axis]).astype(np.float32)
        added[f"{label}_zero"] = np.zeros(codes.shape[axis], np.int8)
        added[f"{label}_folded"] = codes.astype(np.int8)
        _replace_codes(node, label, axis)
    replace_initializers(model, added)


def _restore_relus(model: onnx.ModelProto) -> None:
    """Write the ReLU that is left out where the quantizer's lowest code stands for zero, which cuts as it does.

    Without it the float graph computes something else, and what is linear would be folded over the gap.
    """
    arrays, readers = constants(model), Counter(each for node in model.graph.node for each in node.input)
    linear = {node.output[0]: node for node in model.graph.node if node.op_type in _LINEAR}
    linear = {name: node for name, node in linear.items() if readers[name] == 1}
    for quantizer in [each for each in model.graph.node if each.op_type == QUANTIZE and each.input[0] in linear]:
        zero = arrays.get(quantizer.input[2]) if len(quantizer.input) > 2 else np.uint8(0)
        if zero is None or zero.size != 1 or int(zero.item()) != np.iinfo(zero.dtype).min:
            continue
        node, name = linear[quantizer.input[0]], quantizer.input[0]
        node.output[0] = f"{name}_uncut"
        relu = helper.make_node("Relu", [node.output[0]], [name], f"{name}_relu")
        model.graph.node.insert(list(model.graph.node).index(node) + 1, relu)


def _signed(node: NodeProto, arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the codes of a weight and their zero point on the signed grid, in shapes that can be subtracted."""
    codes = arrays[node.input[0]]
    zero = arrays[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros((), codes.dtype)
    shift = 128 if codes.dtype == np.uint8 else 0
    shape = _along(codes, zero, int(attribute(node, "axis", 1)))
    return codes.astype(np.int32) - shift, zero.astype(np.int32).reshape(shape) - shift


def _along(values: NDArray[Any], scale: NDArray[Any], axis: int) -> list[int]:
    """Return the shape in which a scale can be multiplied with values."""
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[axis] = -1
    return shape


def _check_weight(codes: NDArray[np.int32], zero: NDArray[np.int32], what: str) -> None:
    if zero.any():
        raise ConversionError(
            f"{what} is asymmetric (zero point {int(zero.ravel()[np.abs(zero).argmax()])} as int8): TFLite's kernels "
            "need zero point 0; quantize it with symmetric int8 weights (weight_type=QuantType.QInt8)"
        )
    if codes.min(initial=0) < -127:
        raise ConversionError(
            f"{what} has the code -128: TFLite's kernels take -127 to 127; quantize it with a narrow, symmetric range"
        )


def _real(name: str, arrays: dict[str, NDArray[Any]], sources: dict[str, NodeProto]) -> NDArray[np.float64]:
    """Return the values of a constant, or of the DequantizeLinear of one."""
    if name in arrays:
        return arrays[name].astype(np.float64)
    node = sources[name]
    codes = arrays[node.input[0]]
    return codes.astype(np.float64) * arrays[node.input[1]].astype(np.float64)


def _replace_codes(node: NodeProto, label: str, axis: int) -> None:
    """Let a DequantizeLinear read the constants that were made for it."""
    del node.input[:], node.attribute[:]
    node.input.extend([f"{label}_folded", f"{label}_scale", f"{label}_zero"])
    node.attribute.append(helper.make_attribute("axis", axis))


def _called(node: NodeProto) -> str:
    return f"{node.op_type} {node.name or node.output[0]!r}"

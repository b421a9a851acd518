"""Hold what onnx2tf made against its source: the same values, and every output channels last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torchshrink.converters import onnx_file, runtimes, tflite_file
from torchshrink.converters.tflite_file import Graph
from torchshrink.errors import ConversionError

_WRONG = 1e-3  # of the range of the expected values; a float file that is right was seen 1e-6 apart


def settle(model: Any, source: onnx.ModelProto, name: str, road: str = "onnx2tf") -> None:
    """Let a TFLite model object give every output as ``[N, *size, C]``; refuse one that computes something else.

    onnx2tf leaves some outputs ``[N, C, *size]``.

    Args:
        model: The float TFLite file.
        source: The ONNX graph that it was made from.
        name: What errors call it.
        road: The tool that made the file.

    Raises:
        ConversionError: When an output is not that of the source on random inputs.
    """
    sample = onnx_file.random_inputs(source)
    outputs = [item.name for item in source.graph.output]
    expected = runtimes.onnx_values(source, set(outputs), sample)
    found = {index: item.values for index, item in runtimes.tflite_values(tflite_file.pack(model), sample).items()}
    rounded = runtimes.rounding(source)
    for position, (output, index) in enumerate(zip(outputs, list(model.subgraphs[0].outputs), strict=True)):
        if int(index) not in found:
            continue  # integers, such as classes
        wanted = np.moveaxis(expected[output], 1, -1) if expected[output].ndim > 2 else expected[output]
        if _is_same(found[int(index)], wanted, rounded[output]):
            continue
        if not _is_same(found[int(index)], expected[output], rounded[output]):
            raise ConversionError(
                f"{road} made a file of {name} that computes something else: output {output!r} differs by "
                f"{_difference(found[int(index)], wanted):.2g} of {np.ptp(wanted):.2g}"
                f"{_first_wrong(source, sample, found)}; write the model with other operations there"
            )
        _move_channels(model, position, int(index), found, wanted)


def _first_wrong(source: onnx.ModelProto, sample: runtimes.Sample, found: Mapping[int, NDArray[Any]]) -> str:
    """Name the first operation whose values no tensor of the file has, nor any that is computed from them."""
    inferred = onnx.shape_inference.infer_shapes(source).graph
    floats = {item.name for item in inferred.value_info if item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    computed = floats & {name for node in source.graph.node for name in node.output}
    expected = runtimes.onnx_values(source, computed, sample)
    known: dict[int, list[NDArray[Any]]] = {}
    for values in found.values():
        known.setdefault(values.size, []).append(np.sort(values, axis=None))
    ordered = {name: np.sort(values, axis=None) for name, values in expected.items()}
    right = {name for name, values in ordered.items() if any(_is_same(e, values) for e in known.get(values.size, ()))}
    for node in reversed(source.graph.node):  # what is inside of a fused operation leads to one that is right
        if right & set(node.output):
            right.update(node.input)
    wrong = next((node for node in source.graph.node if not right & set(node.output)), None)
    return "" if wrong is None else f", from the {wrong.op_type} on that computes {wrong.output[0]!r}"


def _is_same(found: NDArray[Any], wanted: NDArray[Any], rounded: float = 0.0) -> bool:
    return _difference(found, wanted) <= max(_WRONG * runtimes.spread(wanted), rounded)


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    return float(np.abs(found - wanted).max(initial=0.0)) if found.shape == wanted.shape else np.inf


def _move_channels(
    model: Any, position: int, index: int, values: dict[int, NDArray[Any]], wanted: NDArray[Any]
) -> None:
    """Give out the tensor before the last transposition where it is the wanted one, and a transposed one otherwise."""
    graph = model.subgraphs[0]
    producer = next(operator for operator in graph.operators if index in list(operator.outputs))
    before = int(producer.inputs[0])
    if tflite_file.op_name(model, producer) == "TRANSPOSE" and _is_same(values.get(before, np.empty(0)), wanted):
        if not any(index in list(operator.inputs) for operator in graph.operators):
            graph.operators.remove(producer)
        after = before
    else:
        step = Graph(model).transposition(index, [0, *range(2, wanted.ndim), 1])
        graph.operators.append(step)
        after = int(step.outputs[0])
    name = tflite_file.tensor_name(graph.tensors[index])
    graph.tensors[index].name, graph.tensors[after].name = f"{name}_channels_first", name
    graph.outputs = [after if i == position else int(each) for i, each in enumerate(graph.outputs)]
    for signature in model.signatureDefs or []:
        for item in signature.outputs:
            item.tensorIndex = after if item.tensorIndex == index else item.tensorIndex

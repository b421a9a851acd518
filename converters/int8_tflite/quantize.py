"""Quantize a float TFLite file with the scales that PyTorch learned.

The float file came through onnx2tf, which renames and fuses tensors. Its tensors are matched with those of the float
ONNX file by their values on random inputs, the learned ranges are handed to ai-edge-quantizer as if they were its
calibration result, and every scale arrives as it was. Where no range was learned, nothing is guessed: the operation
stays float.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torchshrink.converters import environment, prepared, runtimes, tflite_file
from torchshrink.converters.int8_tflite import (
    _quantizer_worker,
    consistency,
    decomposition,
    ends,
    fast_forms,
    matching,
    mend,
    partition,
)
from torchshrink.converters.int8_tflite.matching import Match
from torchshrink.converters.ranges import Range, Ranges
from torchshrink.converters.targets import Target
from torchshrink.converters.tflite_file import Graph
from torchshrink.errors import ConversionError
from torchshrink.quiet import silent_stderr


def quantize(
    float_tflite: Path,
    float_onnx: Path,
    ranges: Ranges,
    target: Path,
    samples: Sequence[runtimes.Sample] = (),
    device: Target = "litert",
) -> Match:
    """Write the int8 file and return how its tensors were matched.

    What has a range is int8, the model's inputs and outputs too; an operation that reads or computes anything without
    one stays float, between a ``DEQUANTIZE`` and a ``QUANTIZE``.

    Args:
        float_tflite: What onnx2tf made of ``float_onnx``.
        float_onnx: The float half of `qdq.split`.
        ranges: The other half.
        target: Where the int8 file goes.
        samples: Real inputs, for tensors that the converter added inside of a quantized operation; without any, that
            operation stays float.
        device: What runs the file: without floats, nothing is float for being faster so.

    Raises:
        ConversionError: When the ranges are those of another model, or ai-edge-quantizer refuses this one.
    """
    model, source, match = tflite_file.read(float_tflite), onnx.load(str(float_onnx)), Match()
    _check_names(source, ranges, float_onnx)
    graph = Graph(model)
    weights = matching.weights(graph, source, ranges, match)
    grids = matching.activations(graph, float_tflite, source, ranges, match)
    grids |= decomposition.calibrate(graph, float_tflite, source, grids, match, samples)
    floating = partition.floating(graph, weights, grids)
    _note(graph, grids, floating, match)
    if not match.quantized:
        raise ConversionError(f"no operation of {float_onnx.name} could be quantized: none of its tensors has a range")
    left_alone, statistics = _left_alone(graph, grids, floating), _statistics(graph, weights | grids)
    ends.guard(model)
    content = _quantized(tflite_file.pack(model), left_alone, statistics, float_tflite.name)
    quantized = tflite_file.parse(content, target.name)
    learned = {graph.name(index): grid for index, grid in grids.items() if not grid.is_partial}
    ends.unguard(quantized)
    ends.quantize(quantized, learned)
    mend.absorb(quantized, has_floats=device == "litert")
    mend.restore_grids(quantized, learned)
    mend.drop_idle(quantized)
    consistency.check(quantized, model, target.name)
    fast_forms.rewrite(quantized, device)
    tflite_file.write(quantized, target)
    return match


def _check_names(source: onnx.ModelProto, ranges: Ranges, path: Path) -> None:
    """Refuse ranges that were learned for another model."""
    present = {name for node in source.graph.node for name in node.output}
    present |= {item.name for item in (*source.graph.input, *source.graph.initializer)}
    unknown = [name for name in ranges if name not in present]
    if unknown:
        raise ConversionError(
            f"{len(unknown)} of {len(ranges)} ranges name no tensor of {path.name}, first {unknown[0]!r}: use the "
            "ranges that were written with this model"
        )


def _note(graph: Graph, grids: Mapping[int, Range], floating: Sequence[Any], match: Match) -> None:
    """Write down which activations are int8 and which stay float."""
    kept = {id(operator) for operator in floating}
    integer = {i for op in graph.operators if id(op) not in kept for i in (*op.inputs, *op.outputs)}
    for index in sorted(matching.computed(graph)):
        is_quantized = index in grids and (index in integer or index in (*graph.inputs, *graph.outputs))
        (match.quantized if is_quantized else match.floating).append(graph.name(index))


def _left_alone(graph: Graph, grids: Mapping[int, Range], floating: Sequence[Any]) -> list[dict[str, Any]]:
    """Return what ai-edge-quantizer's recipe says of operators, inputs and outputs that stay float."""
    entries = []
    # The graphs of loops, which recurrent layers become, stay float.
    bodies = [Graph(graph.model, position) for position in range(1, len(graph.model.subgraphs))]
    left = [(graph, operator) for operator in floating] + [(body, op) for body in bodies for op in body.operators]
    if left:
        scopes = ("".join(f"{of.name(index)};" for index in op.outputs) for of, op in left)
        entries.append(_entry(f"^(?:{'|'.join(map(re.escape, scopes))})$", "*"))
    # All ends of a model and its loops are quantized, or none; `ends.quantize` then does those that have a range.
    for kind, indices in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs)):
        if bodies or any(index not in grids and graph.is_float(index) for index in indices):
            entries.append(_entry(".*", kind))
    return entries


def _entry(scope: str, operation: str) -> dict[str, Any]:
    return {"regex": scope, "operation": operation, "algorithm_key": "no_quantize", "op_config": {}}


def _quantized(
    content: bytes,
    left_alone: Sequence[Mapping[str, Any]],
    statistics: Mapping[str, Mapping[str, NDArray[Any]]],
    name: str,
) -> bytes:
    """Let ai-edge-quantizer work, here or in the environment that has it."""
    try:
        if environment.is_here():
            with silent_stderr():
                return _quantizer_worker.quantize(content, left_alone, statistics)
        return _elsewhere(content, left_alone, statistics)
    except ValueError as error:
        raise ConversionError(f"ai-edge-quantizer refused {name}: {error}") from error


def _elsewhere(
    content: bytes, left_alone: Sequence[Mapping[str, Any]], statistics: Mapping[str, Mapping[str, NDArray[Any]]]
) -> bytes:
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as name:
        folder, made = Path(name), Path(name, "quantized.tflite")
        (folder / "model.tflite").write_bytes(content)
        (folder / "left.json").write_text(json.dumps(left_alone))
        (folder / "names.json").write_text(json.dumps(list(statistics)))
        arrays = {f"{i}_{end}": value[end] for i, value in enumerate(statistics.values()) for end in ("min", "max")}
        np.savez(folder / "statistics.npz", **arrays)
        _, said = prepared.run(Path(_quantizer_worker.__file__), folder, folder)
        if made.is_file():
            return made.read_bytes()
        refused = folder / "refused"
        raise ValueError(refused.read_text() if refused.is_file() else said.strip()[-200:])


def _statistics(graph: Graph, grids: Mapping[int, Range]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return least and greatest value as ai-edge-quantizer wants them: of as many dimensions as the tensor."""
    found = {}
    for index, range_ in grids.items():
        shape = [1] * len(graph.tensors[index].shape)
        if range_.axis is not None:
            shape[range_.axis] = -1
        low, high = range_.limits
        found[graph.name(index)] = {"min": low.reshape(shape), "max": high.reshape(shape)}
    return found

"""Put every scale that training learned beside the one that a shipped file holds, and what both store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from torchshrink.converters import onnx_file, qdq, runtimes, sparse, tflite_file
from torchshrink.converters.correspondence import distances, origins
from torchshrink.converters.onnx_file import load
from torchshrink.converters.proof import stored
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_file import Graph
from torchshrink.converters.tflite_ops import row

if TYPE_CHECKING:
    from torchshrink.model.signature import Inputs


@dataclass(frozen=True)
class Scale:
    """One quantized tensor of a file.

    Attributes:
        tensor: Its name in the file.
        source: The PyTorch tensor that it is, None when none computes the same values.
        trained: What training learned for that one.
        shipped: What the file holds.
        codes: How many of a weight's codes are others than the source's. A bias, whose scale follows from others, has a
            row only where some are.
    """

    tensor: str
    source: str | None
    trained: Range | None
    shipped: Range
    codes: int = 0

    @property
    def is_equal(self) -> bool:
        """Return whether scales (as float32) and zero points are identical, and what is stored."""
        if self.codes or self.trained is None or len(self.shipped.scale) % len(self.trained.scale):
            return False
        # A transposed convolution rewritten as a 1x1 one has each output channel several times.
        times = len(self.shipped.scale) // len(self.trained.scale)
        scale = np.repeat(np.asarray(self.trained.scale, np.float32), times)
        zero_point = np.repeat(self.trained.zero_point, times)
        return np.array_equal(scale, np.asarray(self.shipped.scale, np.float32)) and np.array_equal(
            zero_point, self.shipped.zero_point
        )


def said_of_wrong(rows: Sequence[Any]) -> str:
    """Return a sentence on the tensors that do not hold what was learned, nothing where all do.

    Args:
        rows: As `compare` returns them, or `range_check.compare`.
    """
    wrong = [row for row in rows if not row.is_equal]
    if not wrong:
        return ""
    what = "codes" if getattr(wrong[0], "codes", 0) else "scale"
    return f"{len(wrong)} of {len(rows)} tensors do not carry the learned {what}, first {wrong[0].tensor}"


@dataclass(frozen=True)
class _Held:
    """A quantized tensor and the real numbers that it holds."""

    name: str
    range_: Range
    values: NDArray[Any]
    is_constant: bool


def compare(path: Path, graph: onnx.ModelProto, sample: Inputs) -> list[Scale]:
    """Return the scale of every weight and activation of an int8 file beside the trained one.

    Tensors are paired by what they hold: weights by their codes, activations by their values on one input. Names and
    scales play no part in it. A tensor that a converter added, to pad or cut another, is paired with that one's.
    Weights and biases are compared code by code as well.

    Args:
        path: An int8 TFLite or ONNX file.
        graph: The generic QDQ export of the quantized PyTorch graph.
        sample: ``[N, C, *size]``, or one for each input; as many of N are used as the graph takes at once.
    """
    from torchshrink.model.signature import first  # which needs torch; the rest of this file does not

    batch = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    entry = [value.numpy() for value in first(sample, batch)]
    trained = _in_onnx(graph, entry)
    file = Graph(tflite_file.read(path)) if path.suffix == ".tflite" else None
    shipped = dict(enumerate(_in_onnx(load(path), entry))) if file is None else _in_tflite(file, path, entry)
    sources = {index: source for index, held in shipped.items() if (source := _nearest(held, trained)) is not None}
    if file is not None:
        sources |= {index: sources[origin] for index, origin in origins(file, sources).items()}
    rows = []
    for index, held in shipped.items():
        source = sources.get(index)
        name, trained_range = (source.name, source.range_) if source is not None else (None, None)
        is_stored = source is not None and held.is_constant and source.is_constant
        codes = stored.differing(held.values, source.values, min(held.range_.scale)) if source and is_stored else 0
        rows.append(Scale(held.name, name, trained_range, held.range_, codes))
    biases = stored.of_onnx(load(path)) if file is None else stored.of_tflite(file)
    wrong = stored.wrong_biases(biases, stored.vectors(qdq.split(graph)[0]))
    return rows + [Scale(bias.name, name, None, bias.range_, codes) for bias, name, codes in wrong]


def _in_tflite(graph: Graph, path: Path, entry: runtimes.Sample) -> dict[int, _Held]:
    """Return the weights and activations of a TFLite file by the index of the tensor."""
    computed = runtimes.tflite_values(path, entry)
    found = {}
    for index, tensor in enumerate(graph.tensors):
        name, range_, codes = graph.name(index), graph.grid(index), graph.constant(index)
        if range_ is None or tensor.type in stored.BIAS_TYPES:
            continue
        if codes is not None and (has_grid_of_result(graph, index) or _is_lone_zero(codes, range_)):
            continue
        if tensor.sparsity is not None:
            codes = sparse.decode(graph.model, tensor)
        if codes is not None:
            found[index] = _Held(name, range_, qdq.dequantize(codes, range_), True)
        elif index in computed and range_.axis is None:
            found[index] = _Held(name, range_, computed[index].values, False)
    return found


def has_grid_of_result(graph: Graph, index: int) -> bool:
    """Return whether a constant is only put into results, such as the value of a PADV2, and is on their grid."""
    return all(row(graph.kind(reader)).grid == "output" for reader in graph.readers(index))


def _is_lone_zero(codes: NDArray[Any], range_: Range) -> bool:
    """Return whether a constant is a single zero, which a clamp that was written as a sum adds (`fast_forms`)."""
    return codes.size == 1 and int(codes.ravel()[0]) == range_.zero_point[0]


def _in_onnx(model: onnx.ModelProto, entry: runtimes.Sample) -> list[_Held]:
    """Return the weights and activations of a QDQ graph; a tensor that is quantized to several grids, once for each."""
    float_graph, ranges = qdq.split(model)
    arrays = onnx_file.constants(float_graph)
    weights = [name for name in ranges if name in arrays and arrays[name].ndim > 1]
    found = grids(model)
    values = runtimes.onnx_values(model, set(found.values()), entry)
    return [_Held(name, ranges[name], arrays[name], True) for name in weights] + [
        _Held(name, range_, values[dequantized], False) for (name, range_), dequantized in found.items()
    ]


def grids(model: onnx.ModelProto) -> dict[tuple[str, Range], str]:
    """Return every activation that is quantized, by name and grid, with the tensor that holds its rounded values."""
    arrays = onnx_file.constants(model)
    last = {item.name for item in model.graph.output}
    codes: dict[str, str] = {}
    reals: dict[str, str] = {}
    found: dict[tuple[str, Range], str] = {}
    for node in model.graph.node:
        source, result = node.input[0], node.output[0]
        if node.op_type == onnx_file.QUANTIZE:
            codes[result] = reals.get(source, source)
        elif node.op_type == "Clip" and source in codes:
            codes[result] = codes[source]
        elif node.op_type == onnx_file.DEQUANTIZE and source in codes:
            reals[result] = codes[source]
            name = result if result in last else codes[source]
            found.setdefault((name, qdq.stored_range(node, arrays)), result)
    return found


def _nearest(held: _Held, candidates: list[_Held]) -> _Held | None:
    """Return the candidate whose sorted values are nearest, when they are no further than a few quantization steps."""
    likely = [
        each for each in candidates if each.is_constant == held.is_constant and each.values.size == held.values.size
    ]
    flat = {place: np.sort(each.values, axis=None) for place, each in enumerate(likely)}
    found = distances(np.sort(held.values, axis=None), flat, np.mean)
    best = min(found, key=found.__getitem__, default=None)
    return likely[best] if best is not None and found[best] <= 2 * max(held.range_.scale) else None

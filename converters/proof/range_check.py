"""Compare what a shipped file holds with a file of ranges, without the model that both were made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torchshrink.converters import onnx_file, qdq, tflite_file
from torchshrink.converters.onnx_file import load
from torchshrink.converters.proof import scales, stored
from torchshrink.converters.proof.scales import Scale
from torchshrink.converters.ranges import Range, Ranges
from torchshrink.converters.tflite_file import Graph


def compare(path: Path, ranges: Ranges) -> list[Scale]:
    """Return every quantized weight and activation of a file beside its entry in the store.

    Names survive in ONNX files; in TFLite files they do not, and a tensor is paired with an entry of its grid. What has
    none there carries a range that nobody learned.

    Args:
        path: An int8 ONNX or TFLite file.
        ranges: The store; `ranges.load` reads it.

    Raises:
        ModelError: When the file cannot be read.
    """
    if path.suffix == ".tflite":
        return [_of_grid(name, range_, ranges) for name, range_ in _in_tflite(path)]
    shipped = list(_in_onnx(path))
    named = [Scale(name, name, ranges[name], range_) for name, range_ in shipped if name in ranges]
    # A tensor that is on its own grid may be rescaled to another one, which is that of another tensor.
    settled = {row.tensor for row in named if row.is_equal}
    others = [item for item in shipped if item[0] not in ranges or (item[0] in settled and item[1] != ranges[item[0]])]
    kept = [row for row in named if row.is_equal or row.tensor not in settled]
    return kept + [_of_grid(name, range_, ranges) for name, range_ in others]


def _of_grid(name: str, range_: Range, ranges: Ranges) -> Scale:
    """Return a tensor beside the first entry that has its grid, or beside nothing."""
    rows = (Scale(name, other, known, range_) for other, known in ranges.items())
    return next((row for row in rows if row.is_equal), Scale(name, None, None, range_))


def _in_onnx(path: Path) -> Iterator[tuple[str, Range]]:
    model = load(path)
    floats, ranges = qdq.split(model)
    constants = onnx_file.constants(floats)
    yield from ((name, range_) for name, range_ in ranges.items() if name in constants)
    yield from scales.grids(model)


def _in_tflite(path: Path) -> Iterator[tuple[str, Range]]:
    graph = Graph(tflite_file.read(path))
    for index, tensor in enumerate(graph.tensors):
        range_, readers, is_output = graph.grid(index), graph.readers(index), index in graph.outputs
        if range_ is None or tensor.type in stored.BIAS_TYPES or not (readers or is_output):
            continue
        # A kernel's own grid, from which a QUANTIZE leads to the learned one, and constants on the grid of a result.
        is_imposed = not is_output and {graph.kind(reader) for reader in readers} == {"QUANTIZE"}
        is_constant = tensor.sparsity is not None or graph.constant(index) is not None
        if not is_imposed and not (is_constant and readers and scales.has_grid_of_result(graph, index)):
            yield graph.name(index), range_

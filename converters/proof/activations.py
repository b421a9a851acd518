"""Read the activations of an int8 file, and those of its PyTorch graph when nothing is rounded to int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from torchshrink.converters.onnx_file import load
from torchshrink.converters.proof import traces
from torchshrink.converters.proof.noise import InFloat
from torchshrink.report.activations import Activation, count_codes, count_floats

MOST = 12  # tensors of a file
SAMPLES = 4
_STEPS_ALLOWED = 1.0  # by which the file's codes may be off on average: its kernels may round otherwise than PyTorch


def read(path: Path, graph: GraphModule, inputs: Tensor) -> list[Activation]:
    """Count how some activations spread: the file's codes, and the values of its graph computed in float.

    A tensor of the file is known by its values: it has the scale, the zero point and (nearly) the histogram of codes
    of the graph's. Where the file has none, as where it computes in float, the tensor is left out.

    Args:
        path: An int8 ONNX or TFLite file.
        graph: The quantized graph it was made from, see `torchshrink.quantize.convert`.
        inputs: ``[N, C, *size]``, of which the first few are run.

    Returns:
        At most `MOST` tensors with ranges of their own, spread over the network from its input to its output.

    Raises:
        ConversionError: When ONNX Runtime refuses the graph.
        ModelError: When the file takes another size.
    """
    nodes = _ranges(graph)
    tensors: dict[str, str] = {}
    floats: dict[str, NDArray[np.int64]] = {}
    codes: dict[str, NDArray[np.int64]] = {}
    for index in range(min(SAMPLES, len(inputs))):
        sample = inputs[index : index + 1]
        stored = _file_values(path, sample)
        if index == 0:
            tensors = _matches(nodes, _Recorder(graph, nodes).values(sample), stored)
            nodes = _spread([node for node in nodes if node.name in tensors])
        in_float = _FloatRecorder(graph, nodes).values(sample)
        for node in nodes:
            grid = _grid(node)
            counted = count_codes(stored[tensors[node.name]], *grid)
            if counted is not None:
                codes[node.name] = codes.get(node.name, 0) + counted
                floats[node.name] = floats.get(node.name, 0) + count_floats(in_float[node.name], *grid)
    found = [node for node in nodes if node.name in codes]
    return [Activation(*_names(node), *_grid(node), floats=floats[node.name], codes=codes[node.name]) for node in found]


def _ranges(graph: GraphModule) -> list[Node]:
    """Return the first node that quantizes an activation to each range, in the graph's order."""
    found: dict[tuple[float, int], Node] = {}
    for node in graph.graph.nodes:
        if _is_quantize(node):
            found.setdefault(_grid(node), node)
    return list(found.values())


def _spread(nodes: Sequence[Node]) -> list[Node]:
    """Return at most `MOST` nodes, the first and the last among them."""
    if len(nodes) <= MOST:
        return list(nodes)
    return [nodes[int(index)] for index in np.linspace(0, len(nodes) - 1, MOST).round()]


def _is_quantize(node: Node) -> bool:
    return node.op == "call_function" and "quantized_decomposed.quantize_per_tensor" in str(node.target)


def _grid(node: Node) -> tuple[float, int]:
    scale, zero_point = node.args[1:3]
    return float(scale), int(zero_point)  # type: ignore[arg-type]


def _names(node: Node) -> tuple[str, str]:
    """Return what the quantized tensor is called, and the layer whose bias was added to it."""
    source = node.args[0]
    assert isinstance(source, Node)
    behind: Any = source
    while isinstance(behind, Node) and behind.op == "call_function" and len(behind.all_input_nodes) == 1:
        behind = behind.args[0]  # a ReLU, a sigmoid
    stored = [each for each in behind.all_input_nodes if each.op == "get_attr" and each.name.endswith("_bias")]
    layer = stored[0].name.removesuffix("_bias").removesuffix("_weight") if stored else ""
    return ("input" if source.op == "placeholder" else source.name), layer


def _file_values(path: Path, sample: Tensor) -> dict[str, NDArray[Any]]:
    """Return the quantized tensors of a file as real numbers, by keys that are the same for every sample."""
    arrays = [sample.numpy()]
    if path.suffix == ".tflite":
        steps = traces.of_tflite(path, arrays)
    else:
        steps = traces.of_onnx(load(path), arrays, is_int8=True)
    return {step.key: step.values for step in steps if step.operation != traces.CONSTANT}


def _matches(nodes: Sequence[Node], values: dict[str, NDArray[Any]], stored: dict[str, NDArray[Any]]) -> dict[str, str]:
    """Return the key of the file's tensor for each node that it has one for."""
    found = {}
    for node in nodes:
        expected = count_codes(values[node.name], *_grid(node))
        assert expected is not None
        distances = {}
        for key, array in stored.items():
            counted = count_codes(array, *_grid(node)) if array.size == values[node.name].size else None
            if counted is not None:
                distances[key] = _distance(counted, expected)
        nearest = min(distances, key=distances.__getitem__, default=None)
        if nearest is not None and distances[nearest] <= _STEPS_ALLOWED:
            found[node.name] = nearest
    return found


def _distance(counts: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    """Return by how many codes values must move on average to turn one histogram of as many values into the other."""
    return float(np.abs(np.cumsum(counts - others)).sum() / max(int(counts.sum()), 1))


class _Recorder(Interpreter):
    """Runs a quantized graph and keeps what the codes of some nodes stand for."""

    def __init__(self, graph: GraphModule, nodes: Sequence[Node]) -> None:
        super().__init__(graph)
        self._wanted = {node.name: node for node in nodes}
        self._values: dict[str, NDArray[Any]] = {}

    def values(self, sample: Tensor) -> dict[str, NDArray[Any]]:
        """Return an array for each of the nodes."""
        with torch.inference_mode():
            self.run(sample)
        return self._values

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if n.name in self._wanted:
            self._values[n.name] = self._real(n, result)
        return result

    def _real(self, node: Node, result: Tensor) -> NDArray[Any]:
        scale, zero_point = _grid(node)
        real: NDArray[Any] = (result.numpy().astype(np.float64) - zero_point) * scale
        return real


class _FloatRecorder(InFloat, _Recorder):
    """Runs it without rounding any activation and keeps the values that would have been."""

    def _real(self, node: Node, result: Tensor) -> NDArray[Any]:  # noqa: ARG002
        return result.numpy()

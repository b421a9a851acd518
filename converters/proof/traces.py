"""What a model computes on the way, tensor by tensor: of a PyTorch graph, an ONNX graph or a TFLite file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto
from torch import Tensor, nn

from torchshrink import quantize
from torchshrink.converters import onnx_file, runtimes, tflite_file
from torchshrink.converters.correspondence import nearest
from torchshrink.converters.tflite_file import Graph
from torchshrink.model.signature import Inputs, as_tuple

# Operations that a converter may fuse into the next one, so that their own output exists nowhere.
_FUSED_AWAY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization", "Mul"}
_STEPS_ALLOWED = 3  # of an int8 grid
_SHARE_ALLOWED = 1e-2  # of the range of a float tensor's values
INPUT, CONSTANT = "input", "constant"


@dataclass(frozen=True)
class Step:
    """A tensor that was computed.

    Attributes:
        key: Names it among the steps of its model.
        operation: The kind of the operation that computed it; of others ``"input"`` or ``"constant"``.
        tensor: What its model calls it.
        values: Of a quantized tensor the real numbers that its codes stand for.
        allowed: How far off a converted file's values may be.
        parents: Keys of the nearest steps that it was computed from; none when it comes from the inputs alone.
    """

    key: str
    operation: str
    tensor: str
    values: NDArray[Any]
    allowed: float
    parents: frozenset[str]


def of_torch(model: nn.Module, sample: Inputs) -> list[Step]:
    """Return the tensors of a PyTorch model that its files hold too, in its order: of a quantized one, those on a grid.

    Args:
        model: A module, or a graph of `torch.export`.
        sample: ``[1, C, *size]`` for each input.
    """
    arguments = as_tuple(sample)
    graph = model if isinstance(model, torch.fx.GraphModule) else torch.export.export(model, arguments).module()
    recorder = _Recorder(graph)
    with torch.inference_mode():
        recorder.run(*arguments)
    return recorder.steps


def of_onnx(model: onnx.ModelProto, sample: Sequence[NDArray[Any]], is_int8: bool) -> list[Step]:
    """Return the tensors of an ONNX graph that are compared, in its order: of a quantized one, those dequantized.

    Args:
        model: The graph.
        sample: ``[1, C, *size]`` for each input.
        is_int8: Whether it is quantized.
    """
    arrays = onnx_file.constants(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    users = {name: node.op_type for node in model.graph.node for name in node.input}

    def is_compared(node: NodeProto) -> bool:
        if is_int8:
            return node.op_type == onnx_file.DEQUANTIZE and node.input[0] not in arrays
        return not (node.op_type in _FUSED_AWAY and users.get(node.output[0]) in ("Relu", "Clip", "Add"))

    wanted = {node.output[0]: node for node in model.graph.node if is_compared(node)}
    values = runtimes.onnx_values(model, set(wanted), sample)
    known = {name: node for name, node in wanted.items() if name in values and values[name].dtype == np.float32}
    steps = []
    for name, node in known.items():
        tensor = _unquantized(name, producers)
        operation = producers[tensor].op_type if tensor in producers else INPUT
        allowed = _STEPS_ALLOWED * float(arrays[node.input[1]].ravel()[0]) if is_int8 else _share(values[name])
        parents = nearest(node.input, known, lambda key: producers[key].input if key in producers else ())
        steps.append(Step(name, operation, tensor, values[name], allowed, frozenset(parents)))
    return steps


def of_tflite(path: Path, sample: Sequence[NDArray[Any]]) -> list[Step]:
    """Return every tensor of a TFLite file, what is computed in its order, in the file's layout.

    Args:
        path: The file.
        sample: ``[1, C, *size]`` for each input.
    """
    graph = Graph(tflite_file.read(path))
    producers = {int(index): operator for operator in graph.operators for index in operator.outputs}
    values = runtimes.tflite_values(path, sample)
    steps = []
    for index in [*(values.keys() - producers.keys()), *(each for each in producers if each in values)]:
        producer = producers.get(index)
        source = INPUT if index in graph.inputs else CONSTANT
        operation, inputs = (source, ()) if producer is None else (graph.kind(producer), producer.inputs)
        parents = {str(each) for each in inputs if each in producers or each in graph.inputs}
        value = values[index]
        steps.append(Step(str(index), operation, value.name, value.values, 0.0, frozenset(parents)))
    return steps


def _unquantized(name: str, producers: dict[str, NodeProto]) -> str:
    """Return the tensor that was quantized and dequantized to become the one called ``name``."""
    while name in producers and producers[name].op_type in (onnx_file.QUANTIZE, onnx_file.DEQUANTIZE):
        name = producers[name].input[0]
    return name


def _share(values: NDArray[Any]) -> float:
    return _SHARE_ALLOWED * (float(np.ptp(values)) or 1.0)


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps the tensors that a file of it must hold too."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.is_int8 = quantize.is_quantized(graph)
        self.steps: list[Step] = []
        self._kept: dict[str, str] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        is_operation = n.op == "call_function" and "batch_norm" not in str(n.target)
        if is_operation and isinstance(result, Tensor) and result.is_floating_point():
            if self.is_int8:
                self._keep_dequantized(n, result.numpy())
            elif not any("relu" in str(user.target) or "batch_norm" in str(user.target) for user in n.users):
                self._keep(n, n, result.numpy(), _share(result.numpy()))
        return result

    def _keep_dequantized(self, node: torch.fx.Node, values: NDArray[Any]) -> None:
        """Keep an activation as its codes stand for it, named after the operation that computes it."""
        codes = node.args[0]
        if "dequantize_per_tensor" in str(node.target) and isinstance(codes, torch.fx.Node) and codes.args:
            source = codes.args[0]
            assert isinstance(source, torch.fx.Node)
            self._keep(node, source, values, _STEPS_ALLOWED * float(node.args[1]))  # type: ignore[arg-type]

    def _keep(self, node: torch.fx.Node, source: torch.fx.Node, values: NDArray[Any], allowed: float) -> None:
        nodes = {each.name: each for each in node.graph.nodes}
        inputs = [each.name for each in node.all_input_nodes]
        parents = nearest(inputs, self._kept, lambda name: [each.name for each in nodes[name].all_input_nodes])
        operation = INPUT if source.op == "placeholder" else str(source.target)
        self._kept[node.name] = source.name
        self.steps.append(Step(node.name, operation, source.name, values, allowed, frozenset(parents)))

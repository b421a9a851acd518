"""Find the first operation at which a converted file stops computing what its source computes."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchshrink.converters import onnx_export, qdq, runtimes

from torchshrink import quantize

Values = dict[str, NDArray[Any]]

# Operations that a converter may fuse into the next one, so that their own output exists nowhere.
_FUSED_AWAY = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "BatchNormalization", "Mul"}


def first(path: Path, source: onnx.ModelProto, sample: Tensor, model: nn.Module | None = None) -> str | None:
    """Name the first operation of ``source`` whose result appears nowhere in the file at ``path``.

    Intermediate tensors are compared by value, in the order of the graph, on one input. Results that a converter may
    have fused away are passed over.

    Args:
        path: The TFLite or ONNX file that failed.
        source: The ONNX graph it was made from; for an ONNX file, of the same export.
        sample: ``[1, C, *size]``.
        model: For an ONNX file: the PyTorch model, whose tensors are then the ones to find.

    Returns:
        The operation and its tensor, with the smallest difference seen; None when every tensor was found.
    """
    entry = sample[:1].numpy()
    is_int8 = qdq.is_quantized(source)
    if path.suffix == ".tflite":
        expected, tolerances = _onnx_values(source, entry, is_int8)
        found = {f"{index}": item.values for index, item in runtimes.tflite_values(path, entry).items()}
    else:
        expected, tolerances = _torch_values(model, sample[:1]) if model is not None else ({}, {})
        found, _ = _onnx_values(onnx_export.load(path), entry, is_int8)
    candidates: dict[int, list[NDArray[Any]]] = {}
    for value in found.values():
        candidates.setdefault(value.size, []).append(value)
    for name, value in expected.items():
        distance = min((_distance(value, other) for other in candidates.get(value.size, [])), default=float("inf"))
        if not distance <= tolerances[name]:
            return f"{name} (nearest tensor in the file differs by {distance:.3g}, allowed {tolerances[name]:.3g})"
    return None


def _distance(value: NDArray[Any], other: NDArray[Any]) -> float:
    """Return how far apart all but a hundredth of the values are, in the best of the layouts that fit.

    A converter may have moved axes, as from channels first to last. Only when no order of the axes gives the other
    shape, because values were also regrouped, are they compared sorted: other tensors can look alike then.
    """
    value, other = value.squeeze(), other.squeeze()
    orders = [order for order in permutations(range(other.ndim)) if other.transpose(order).shape == value.shape]
    layouts = [other.transpose(order) for order in orders]
    if not layouts:
        value, layouts = np.sort(value.ravel()), [np.sort(other.ravel())]
    with np.errstate(invalid="ignore"):  # what is not a number is far from everything
        return min(float(np.nan_to_num(np.quantile(np.abs(each - value), 0.99), nan=np.inf)) for each in layouts)


def _onnx_values(model: onnx.ModelProto, entry: NDArray[Any], is_int8: bool) -> tuple[Values, dict[str, float]]:
    """Return the tensors of an ONNX graph in its order, named by operation, and how far off each may be."""
    wanted: dict[str, str] = {}
    steps: dict[str, float] = {}
    arrays = qdq.constants(model)
    users = {name: node.op_type for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type == qdq.DEQUANTIZE and node.input[0] not in arrays:
            wanted[name] = f"{node.op_type} {name}"
            steps[name] = float(arrays[node.input[1]].ravel()[0])
        elif not is_int8 and not (node.op_type in _FUSED_AWAY and users.get(name) in ("Relu", "Clip", "Add")):
            wanted[name] = f"{node.op_type} {name}"
    values = runtimes.onnx_values(model, set(wanted), entry)
    expected = {wanted[name]: values[name] for name in wanted if name in values and values[name].dtype == np.float32}
    tolerances = {}
    for name, label in wanted.items():
        if label in expected:
            spread = float(np.ptp(expected[label])) or 1.0
            tolerances[label] = 3 * steps[name] if name in steps else 1e-2 * spread
    return expected, tolerances


def _torch_values(model: nn.Module, sample: Tensor) -> tuple[Values, dict[str, float]]:
    """Return the tensors that a PyTorch model computes, in its order; of a quantized graph, those on a grid."""
    graph = model if isinstance(model, torch.fx.GraphModule) else torch.export.export(model, (sample,)).module()
    recorder = _Recorder(graph)
    with torch.inference_mode():
        recorder.run(sample)
    return recorder.values, recorder.tolerances


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps the tensors that a file of it must hold too."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.is_int8 = quantize.is_quantized(graph)
        self.values: Values = {}
        self.tolerances: dict[str, float] = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        is_operation = n.op == "call_function" and "batch_norm" not in str(n.target)
        if is_operation and isinstance(result, Tensor) and result.is_floating_point():
            if self.is_int8:
                self._keep_dequantized(n, result.numpy())
            elif not any("relu" in str(user.target) or "batch_norm" in str(user.target) for user in n.users):
                self._keep(n, result.numpy(), 1e-2 * (float(np.ptp(result.numpy())) or 1.0))
        return result

    def _keep_dequantized(self, node: torch.fx.Node, values: NDArray[Any]) -> None:
        """Keep an activation as its codes stand for it, named after the operation that computes it."""
        codes = node.args[0]
        if "dequantize_per_tensor" in str(node.target) and isinstance(codes, torch.fx.Node) and codes.args:
            source = codes.args[0]
            assert isinstance(source, torch.fx.Node)
            self._keep(source, values, 3 * float(node.args[1]))  # type: ignore[arg-type]

    def _keep(self, node: torch.fx.Node, values: NDArray[Any], tolerance: float) -> None:
        label = f"{node.target} {node.name}"
        self.values[label], self.tolerances[label] = values, tolerance

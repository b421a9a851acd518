"""Find the first operation at which a converted file stops computing what its source computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchshrink.converters import onnx_export, qdq, runtimes

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
        candidates.setdefault(value.size, []).append(np.sort(value.ravel()))
    for name, value in expected.items():
        distance = _distance(np.sort(value.ravel()), candidates.get(value.size, []))
        if not distance <= tolerances[name]:
            return f"{name} (nearest tensor in the file differs by {distance:.3g}, allowed {tolerances[name]:.3g})"
    return None


def _distance(values: NDArray[Any], candidates: list[NDArray[Any]]) -> float:
    distances = [float(np.quantile(np.abs(candidate - values), 0.99)) for candidate in candidates]
    return min(distances, default=float("inf"))


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
    """Return the tensors that a PyTorch model computes, in its order."""
    graph = model if isinstance(model, torch.fx.GraphModule) else torch.export.export(model, (sample,)).module()
    recorder = _Recorder(graph)
    with torch.inference_mode():
        recorder.run(sample)
    tolerances = {name: 1e-2 * (float(np.ptp(value)) or 1.0) for name, value in recorder.values.items()}
    return recorder.values, tolerances


class _Recorder(torch.fx.Interpreter):
    """Runs a graph and keeps every float tensor."""

    def __init__(self, graph: torch.fx.GraphModule) -> None:
        super().__init__(graph)
        self.values: Values = {}

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        is_operation = n.op == "call_function" and "quantize" not in str(n.target) and "batch_norm" not in str(n.target)
        if is_operation and isinstance(result, Tensor) and result.is_floating_point():
            users = [str(user.target) for user in n.users]
            if not any("relu" in user or "batch_norm" in user or "quantize" in user for user in users):
                self.values[f"{n.target} {n.name}"] = result.numpy()
        return result

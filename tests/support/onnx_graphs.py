"""ONNX files made node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

_KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
_IR = {9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 17: 8, 18: 8, 20: 9, 21: 10}


def write(
    path: Path,
    nodes: Sequence[NodeProto],
    shapes: Mapping[str, Sequence[Any]],
    constants: Mapping[str, Any],
    outputs: Sequence[str] = ("y",),
    opset: int = 18,
    kinds: Mapping[str, str] | None = None,
    old: bool = False,
) -> Path:
    """Write a graph; ``old`` lists its weights among the inputs, as files of 2018 do."""
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    entries = [
        helper.make_tensor_value_info(name, _KINDS[(kinds or {}).get(name, "float32")], list(shape))
        for name, shape in shapes.items()
    ]
    if old:
        entries += [helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)) for item in stored]
    ends = [onnx.ValueInfoProto(name=name) for name in outputs]
    for end in ends:
        end.type.tensor_type.elem_type = TensorProto.FLOAT
    graph = helper.make_graph(list(nodes), "g", entries, ends, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR[opset])
    onnx.save(model, str(path))
    return path


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.5, shape).astype(np.float32)

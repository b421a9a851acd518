"""Cut the operation at which a file and its source part out of the model, with what goes in and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, helper

from torchshrink.converters import onnx_file, qdq
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import traces
from torchshrink.converters.proof.divergence import Divergence
from torchshrink.model import signature
from torchshrink.model.signature import Inputs

MODEL, INPUTS, OUTPUTS = "operation.onnx", "inputs.npz", "outputs.npz"


def write(found: Divergence, source: ModelProto, sample: Inputs, folder: Path) -> bool:
    """Write the smallest model that shows a divergence, in ONNX, which any runtime can be asked about.

    The folder receives ``operation.onnx``, ``inputs.npz`` with an array for each of its inputs, and ``outputs.npz``
    with what the ``source`` computed and what the ``converted`` file did, the latter in the file's layout.

    Args:
        found: What `divergence.first` returned.
        source: The ONNX graph that it was given.
        sample: The inputs that it was given.
        folder: An existing folder.

    Returns:
        Whether it could be done; not when the graph has no tensor of that name.
    """
    arrays = [value.numpy() for value in signature.first(sample)]
    steps = {step.key: step for step in traces.of_onnx(source, arrays, qdq.is_quantized(source))}
    wanted = next((step for step in steps.values() if step.tensor == found.tensor), None)
    if wanted is None:
        return False
    entries = dict(zip((item.name for item in onnx_file.inputs(source)), arrays, strict=True))
    known = entries | {key: steps[key].values for key in wanted.parents}
    model = cut(source, wanted.key, known)
    save(model, folder / MODEL)
    used = {item.name for item in onnx_file.inputs(model)}
    kept: dict[str, Any] = {name: value for name, value in known.items() if name in used}
    np.savez(folder / INPUTS, **kept)
    computed: dict[str, Any] = {} if found.computed is None else {"converted": found.computed}
    np.savez(folder / OUTPUTS, source=found.expected, **computed)
    return True


def cut(model: ModelProto, tensor: str, known: Mapping[str, NDArray[Any]]) -> ModelProto:
    """Return the part of a graph that computes ``tensor`` from tensors that are known.

    Args:
        model: The graph; not changed.
        tensor: The only output of the part.
        known: Values of the tensors at which the part may begin; those that it reads become its inputs.
    """
    needed, nodes = {tensor}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output) - set(known):
            nodes.append(node)
            needed |= set(node.input)
    inputs = [_declare(name, known[name]) for name in known if name in needed]
    constants = [item for item in model.graph.initializer if item.name in needed and item.name not in known]
    output = helper.make_empty_tensor_value_info(tensor)
    graph = helper.make_graph(list(reversed(nodes)), "operation", inputs, [output], constants)
    part = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    inferred = onnx.shape_inference.infer_shapes(part)
    kinds = {item.name: item for item in (*inferred.graph.value_info, *inferred.graph.output)}
    part.graph.output[0].CopyFrom(kinds[tensor])
    return part


def _declare(name: str, values: NDArray[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), values.shape)

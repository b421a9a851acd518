"""ONNX files and graphs: read, written, searched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from torchshrink.errors import ModelError
from torchshrink.files import atomic
from torchshrink.runtime import external_data

METADATA_KEY = "torchshrink"

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def save(model: onnx.ModelProto, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Check and write a model, with ``metadata`` as JSON among its properties."""
    if metadata is not None:
        helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    onnx.checker.check_model(model)
    with atomic(path) as temporary:
        onnx.save(model, str(temporary))


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ModelError: When the file is missing or not ONNX.
    """
    if path.is_file():
        external_data.check(path)
    try:
        model = onnx.load(str(path))
        if not model.graph.node:
            raise ValueError("it holds no operation")
        return model
    except Exception as error:
        raise ModelError(f"{path} cannot be read as ONNX: {str(error).splitlines()[0]}") from error


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return a node's attribute by name."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return the graph's initializers as arrays."""
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def replace_initializers(model: onnx.ModelProto, arrays: dict[str, NDArray[Any]]) -> None:
    """Keep the initializers that are still used, with ``arrays`` added or put in place of old ones."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [item for item in model.graph.initializer if item.name in used and item.name not in arrays]
    added = [numpy_helper.from_array(np.array(value, order="C"), name) for name, value in arrays.items()]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept + [item for item in added if item.name in used])


def producers(model: onnx.ModelProto) -> dict[str, NodeProto]:
    """Return the node that makes each tensor."""
    return {name: node for node in model.graph.node for name in node.output}


def replace_nodes(
    model: onnx.ModelProto, nodes: Sequence[NodeProto], arrays: dict[str, NDArray[Any]] | None = None
) -> None:
    """Let a graph consist of those of ``nodes`` whose results are read; ``arrays`` as `replace_initializers`."""
    read = {name for node in nodes for name in node.input} | {item.name for item in model.graph.output}
    kept = [node for node in nodes if read & set(node.output)]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    replace_initializers(model, arrays or {})


def rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Give tensors of a graph new names, wherever they are named; initializers keep theirs."""
    for item in (*model.graph.input, *model.graph.output):
        item.name = names.get(item.name, item.name)
    for node in model.graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]


def fold_casts(model: onnx.ModelProto) -> None:
    """Store constants in the type that they are read in: the exporter leaves the conversion of large ones to do."""
    arrays, cast = constants(model), {}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in arrays:
            kind = helper.tensor_dtype_to_np_dtype(attribute(node, "to"))
            cast[node.output[0]] = arrays[node.input[0]].astype(kind)
    if cast:
        replace_nodes(model, [node for node in model.graph.node if node.output[0] not in cast], cast)


def add_kernel_shapes(model: onnx.ModelProto) -> None:
    """Write down every convolution's kernel shape, which is optional in ONNX and which onnx2tf looks up."""
    shapes = {name: array.shape for name, array in constants(model).items()}
    for node in model.graph.node:
        if node.op_type == DEQUANTIZE and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    for node in model.graph.node:
        is_convolution = node.op_type in ("Conv", "ConvTranspose") and node.input[1] in shapes
        if is_convolution and attribute(node, "kernel_shape") is None:
            node.attribute.append(helper.make_attribute("kernel_shape", list(shapes[node.input[1]][2:])))


def random_inputs(model: onnx.ModelProto, seed: int = 0) -> list[NDArray[Any]]:
    """Return an array for every input of a graph that has no default value: standard normal numbers.

    Integers are indices or sizes, for which only 0 is safe. A free dimension is 1.
    """
    numbers, arrays = np.random.default_rng(seed), []
    for kind in (item.type.tensor_type for item in inputs(model)):
        shape, dtype = [side.dim_value or 1 for side in kind.shape.dim], helper.tensor_dtype_to_np_dtype(kind.elem_type)
        is_float = np.issubdtype(dtype, np.floating)
        arrays.append(numbers.standard_normal(shape).astype(dtype) if is_float else np.zeros(shape, dtype))
    return arrays


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs of a graph that have no default value, in order."""
    defaults = {item.name for item in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in defaults]

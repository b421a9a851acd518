"""ONNX files and graphs: read, written, searched."""

from __future__ import annotations

import json
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


def get_metadata(path: Path) -> dict[str, Any]:
    """Return the JSON that `to_onnx` stored in a file; empty when there is none."""
    properties = {item.key: item.value for item in load(path).metadata_props}
    content: dict[str, Any] = json.loads(properties.get(METADATA_KEY, "{}"))
    return content


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
    """Return an array for every input of a graph that has no default value: standard normal, of integers 0 and 1."""
    numbers = np.random.default_rng(seed)
    found: list[NDArray[Any]] = []
    for item in inputs(model):
        shape = [side.dim_value or 1 for side in item.type.tensor_type.shape.dim]
        kind = helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
        is_float = np.issubdtype(kind, np.floating)
        values = numbers.standard_normal(shape) if is_float else numbers.integers(0, 2, shape)
        found.append(np.asarray(values).astype(kind))
    return found


def inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs of a graph that have no default value, in order."""
    defaults = {item.name for item in model.graph.initializer}
    return [item for item in model.graph.input if item.name not in defaults]

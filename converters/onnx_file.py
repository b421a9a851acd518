"""ONNX files and graphs: read, written, searched."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from torchshrink.errors import ModelError, ShrinkError
from torchshrink.files import atomic
from torchshrink.metadata import KEY
from torchshrink.runtime import external_data

_IR_WITH_DOMAINS = 3
# Types of which two elements share a byte.
_PACKED = {
    kind for name, kind in onnx.TensorProto.DataType.items() if name in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2")
}

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def save(model: onnx.ModelProto, path: Path, metadata: dict[str, Any] | None = None) -> None:
    """Check and write a model, with ``metadata`` as JSON among its properties."""
    if metadata is not None:
        helper.set_model_props(model, {KEY: json.dumps(metadata)})
    onnx.checker.check_model(model)
    with atomic(path) as temporary:
        onnx.save(model, str(temporary))


def load(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ModelError: When the file is missing, not ONNX, or of a graph that nothing can run.
    """
    try:
        if not path.is_file():
            raise ValueError("there is no such file")
        external_data.check(path)
        model = onnx.load(str(path))
        _check(model)
        return model
    except ModelError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be read as ONNX: {reason}") from error


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Where something fails that a valid file does not lead to, say what ONNX's own checker finds wrong with the file.

    Raises:
        ModelError: When the checker refuses the file; else what was raised goes on.
    """
    try:
        yield
    except ShrinkError:
        raise
    except Exception as error:
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except Exception as found:
            reason = next((line for line in str(found).splitlines() if line.strip()), type(found).__name__)
            raise ModelError(f"{path} is no valid ONNX: {reason}; export it again") from error
        raise


def _check(model: onnx.ModelProto) -> None:
    """Refuse a graph that has no ends, or whose operations do not follow from one another or are unknown.

    Raises:
        ValueError: Saying what is wrong.
    """
    if model.ir_version > onnx.IR_VERSION:
        raise ValueError(
            f"it has IR version {model.ir_version}, onnx {onnx.__version__} reads {onnx.IR_VERSION} and older"
        )
    graph = model.graph
    for what, found in (("operation", graph.node), ("input", inputs(model)), ("output", graph.output)):
        if not found:
            raise ValueError(f"it holds no {what}" if what == "operation" else f"it has no {what}")
    for constant in graph.initializer:
        _check_constant(constant)
    known = {item.name for item in (*graph.input, *graph.initializer)}
    known |= {item.values.name for item in graph.sparse_initializer}
    for item in (*graph.input, *graph.output):
        for side in item.type.tensor_type.shape.dim:
            if side.dim_value < 0:  # how some tools write that it is free
                side.ClearField("dim_value")
    functions = {(item.domain, item.name) for item in model.functions}
    domains = {item.domain or "ai.onnx" for item in model.opset_import}
    for node in graph.node:
        if (node.domain or "ai.onnx") not in domains and model.ir_version >= _IR_WITH_DOMAINS:
            raise ValueError(f"{_label(node)} is of {node.domain or 'ai.onnx'}, of which it names no version")
        is_standard = node.domain in ("", "ai.onnx") and (node.domain, node.op_type) not in functions
        if is_standard and not onnx.defs.has(node.op_type):
            raise ValueError(f"{node.op_type} of {_label(node)} is no operation of ONNX")
        for name in node.input:
            if name and name not in known:
                raise ValueError(
                    f"{_label(node)} reads {name}, which nothing before it makes: a cycle, or a damaged file"
                )
        known |= set(node.output)
    for item in graph.output:
        if item.name not in known:
            raise ValueError(f"nothing makes its output {item.name}")


def _check_constant(tensor: onnx.TensorProto) -> None:
    """Refuse a tensor whose data is not of its shape."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.data_type in _PACKED:
        return
    try:
        if tensor.HasField("raw_data"):
            found, size = len(tensor.raw_data), helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
            if found != math.prod(tensor.dims) * size or any(side < 0 for side in tensor.dims):
                raise ValueError(f"{found} bytes for the shape {list(tensor.dims)}")
        else:
            numpy_helper.to_array(tensor)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its constant {tensor.name} cannot be ({error})") from error


def _label(node: NodeProto) -> str:
    return node.name or next(iter(node.output), "") or node.op_type


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

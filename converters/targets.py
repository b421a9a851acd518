"""What a TFLite file may hold for the device that it goes to, checked on the file itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.errors import UnsupportedOpError

Target = Literal["litert", "integer-only", "edgetpu"]
TARGETS: tuple[str, ...] = get_args(Target)

_FLOATS = {schema.TensorType.FLOAT32: "float32", schema.TensorType.FLOAT16: "float16"}
# Source: "TensorFlow models on the Edge TPU", coral.ai/docs/edgetpu/models-intro, table 1.
_EDGE_TPU = {
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS", "FULLY_CONNECTED",
    "L2_NORMALIZATION", "LOGISTIC", "LSTM", "MAX_POOL_2D", "MAXIMUM", "MEAN", "MINIMUM", "MUL", "PACK", "PAD",
    "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR",
    "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUARED_DIFFERENCE", "SQUEEZE",
    "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
}  # fmt: skip


def check(model: Any, target: Target, name: str) -> None:
    """Refuse a file that its target cannot run.

    Args:
        model: A TFLite model.
        target: ``"litert"`` runs everything, ``"integer-only"`` (microcontrollers and accelerators) has no floats at
            all, ``"edgetpu"`` only some integer operators besides; its own compiler has the last word.
        name: What errors call it.

    Raises:
        UnsupportedOpError: Naming the operators that are in the way and what to do.
    """
    if target == "litert":
        return
    if floats := list(_floats(model)):
        raise UnsupportedOpError(
            f"{name} is not integer-only: {_listed(floats)}; quantize the model (--precision int8) and replace "
            "what has no int8 kernel (torchshrink inspect names it)"
        )
    used = {tflite_file.op_name(model, operator) for graph in model.subgraphs for operator in graph.operators}
    foreign = sorted(used - _EDGE_TPU)
    if target == "edgetpu" and foreign:
        hint = "; leave out --sparse" if "DENSIFY" in foreign else ": replace them in the model"
        raise UnsupportedOpError(f"{name}: the Edge TPU has no {_listed(foreign)}{hint}")


def _floats(model: Any) -> Iterator[str]:
    """Yield every operator with a float tensor, and which."""
    for graph in model.subgraphs:
        for operator in graph.operators:
            for index in (*operator.inputs, *operator.outputs):
                kind = _FLOATS.get(graph.tensors[index].type) if index >= 0 else None
                if kind is not None:
                    name = tflite_file.tensor_name(graph.tensors[index])
                    yield f"{tflite_file.op_name(model, operator)} has the {kind} tensor {name!r}"
                    break


def _listed(items: list[str], most: int = 3) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest

"""What a TFLite file may hold for the device that it goes to, checked on the file itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters.tflite_file import Graph, graphs
from torchshrink.converters.tflite_ops import row
from torchshrink.errors import UnsupportedOpError

Target = Literal["litert", "integer-only", "edgetpu"]
TARGETS: tuple[str, ...] = get_args(Target)

_FLOATS = {schema.TensorType.FLOAT32: "float32", schema.TensorType.FLOAT16: "float16"}


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
    if floats := [found for graph in graphs(model) for found in _floats(graph)]:
        raise UnsupportedOpError(
            f"{name} is not integer-only: {_listed(floats)}; quantize the model (--precision int8) and replace "
            "what has no int8 kernel (torchshrink inspect names it)"
        )
    used = {graph.kind(operator) for graph in graphs(model) for operator in graph.operators}
    foreign = sorted(kind for kind in used if not row(kind).edge_tpu)
    if target == "edgetpu" and foreign:
        hint = "; leave out --sparse" if "DENSIFY" in foreign else ": replace them in the model"
        raise UnsupportedOpError(f"{name}: the Edge TPU has no {_listed(foreign)}{hint}")


def _floats(graph: Graph) -> Iterator[str]:
    """Yield every operator with a float tensor, and which."""
    for operator in graph.operators:
        for index in (*operator.inputs, *operator.outputs):
            kind = _FLOATS.get(graph.tensors[index].type) if index >= 0 else None
            if kind is not None:
                yield f"{graph.kind(operator)} has the {kind} tensor {graph.name(index)!r}"
                break


def _listed(items: list[str], most: int = 3) -> str:
    rest = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(items[:most]) + rest

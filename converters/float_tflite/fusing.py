"""Make one operator of what TensorFlow wrote as two, so that both are int8, or no value lies between them."""

from __future__ import annotations

from typing import Any

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.tflite_file import Graph

_NONE = schema.ActivationFunctionType.NONE


def fuse(model: Any) -> None:
    """Give linear layers their biases and activations, and write reciprocal roots as such; in place."""
    graph = Graph(model)
    for operator in list(graph.operators):
        if graph.kind(operator) == "ADD":
            _give_bias(graph, operator)
        elif graph.kind(operator) == "DIV":
            _as_reciprocal_root(graph, operator)


def _give_bias(graph: Graph, added: Any) -> None:
    """Add a vector inside of the linear layer before, as TensorFlow does itself where no ReLU follows."""
    first, second = (int(index) for index in added.inputs)
    vector, source = (first, second) if graph.constant(first) is not None else (second, first)
    linear = _before(graph, source, "FULLY_CONNECTED")
    values = graph.constant(vector)
    if linear is None or values is None or linear.builtinOptions.fusedActivationFunction != _NONE:
        return
    weight, *bias = (int(index) for index in linear.inputs[1:])
    width = int(graph.tensors[weight].shape[0])
    if values.shape[-1:] != (width,) or values.size != width or any(index >= 0 for index in bias):
        return
    if values.ndim > 1:  # with sides of one before, as the sum is of tokens
        vector = graph.add_copy(vector, f"{graph.name(vector)}_vector")
        graph.tensors[vector].shape, graph.tensors[vector].shapeSignature = [width], None
    linear.inputs = [linear.inputs[0], weight, vector]
    linear.outputs = [int(added.outputs[0])]
    linear.builtinOptions.fusedActivationFunction = added.builtinOptions.fusedActivationFunction
    graph.operators.remove(added)


def _as_reciprocal_root(graph: Graph, division: Any) -> None:
    """Write ``1 / sqrt(x)`` as RSQRT: neither of the two has an int8 kernel."""
    one, source = graph.constant(int(division.inputs[0])), int(division.inputs[1])
    moved = _before(graph, source, "RESHAPE")
    root = _before(graph, source if moved is None else int(moved.inputs[0]), "SQRT")
    if root is None or one is None or (one != 1).any() or division.builtinOptions.fusedActivationFunction != _NONE:
        return
    root.opcodeIndex = tflite_file.opcode(graph.model, schema.BuiltinOperator.RSQRT, 2)
    root.builtinOptionsType, root.builtinOptions = schema.BuiltinOptions.NONE, None
    (root if moved is None else moved).outputs = [int(division.outputs[0])]
    graph.operators.remove(division)


def _before(graph: Graph, index: int, kind: str) -> Any | None:
    """Return the operator of a kind that computes a tensor which one operator reads, and no caller."""
    producer = graph.producer(index)
    is_inner = index not in graph.outputs and len(graph.readers(index)) == 1
    return producer if producer is not None and is_inner and graph.kind(producer) == kind else None

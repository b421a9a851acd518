"""Which tensors hold the values of others, on graphs of a few operators."""

from __future__ import annotations

from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters.correspondence import origins
from torchshrink.converters.tflite_file import Graph

FLOAT32 = schema.TensorType.FLOAT32
Op = schema.BuiltinOperator


def _tensors(builder: Any, count: int) -> list[int]:
    return [builder.tensor(f"t{index}", (1, 4), FLOAT32) for index in range(count)]


@pytest.mark.parametrize("known", [0, 1, 2])
def test_both_ways_along_a_chain(tflite_builder: Any, known: int) -> None:
    first, second, third = _tensors(tflite_builder, 3)
    tflite_builder.operator(Op.RESHAPE, [first], [second])
    tflite_builder.operator(Op.TRANSPOSE, [second], [third])
    found = origins(Graph(tflite_builder.finish([first], [third])), [known])
    assert found == {index: known for index in (0, 1, 2) if index != known}


def test_an_average_has_values_of_its_own(tflite_builder: Any) -> None:
    first, second = _tensors(tflite_builder, 2)
    tflite_builder.operator(Op.AVERAGE_POOL_2D, [first], [second])
    graph = Graph(tflite_builder.finish([first], [second]))
    assert origins(graph, [first]) == origins(graph, [second]) == {}


def test_a_tensor_that_others_read_is_not_that_of_its_part(tflite_builder: Any) -> None:
    """Cut to the range of one part, the other would be wrong."""
    whole, part, other = _tensors(tflite_builder, 3)
    tflite_builder.operator(Op.SLICE, [whole], [part])
    tflite_builder.operator(Op.SLICE, [whole], [other])
    graph = Graph(tflite_builder.finish([whole], [part, other]))
    assert origins(graph, [part]) == {}
    assert origins(graph, [whole]) == {part: whole, other: whole}


def test_parts_of_a_concatenation(tflite_builder: Any) -> None:
    """They are rounded to the grid of the whole; the whole is on that of neither."""
    first, second, whole = _tensors(tflite_builder, 3)
    tflite_builder.operator(Op.CONCATENATION, [first, second], [whole])
    graph = Graph(tflite_builder.finish([first, second], [whole]))
    assert origins(graph, [whole]) == {first: whole, second: whole}
    assert origins(graph, [first]) == {}

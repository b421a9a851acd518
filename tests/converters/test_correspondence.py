"""Which tensors hold the values of others, and which are the nearest, on graphs of a few operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters.correspondence import distances, nearest, origins
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


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "RELU_N1_TO_1"])
def test_what_is_cut_has_the_range_that_is_left(tflite_builder: Any, kind: str) -> None:
    """A transposed convolution, what a converter cuts its padding off with, and the ReLU that was fused with it."""
    whole, part, cut = _tensors(tflite_builder, 3)
    tflite_builder.operator(Op.SLICE, [whole], [part])
    tflite_builder.operator(getattr(Op, kind), [part], [cut])
    graph = Graph(tflite_builder.finish([whole], [cut]))
    assert origins(graph, [cut]) == {part: cut, whole: cut}
    assert origins(graph, [whole]) == {part: whole}


def test_what_is_cut_for_one_of_its_readers_is_whole(tflite_builder: Any) -> None:
    whole, cut, other = _tensors(tflite_builder, 3)
    tflite_builder.operator(Op.RELU, [whole], [cut])
    tflite_builder.operator(Op.TANH, [whole], [other])
    assert origins(Graph(tflite_builder.finish([whole], [cut, other])), [cut]) == {}


# --- walking back ---

BEFORE = {"f": ["d", "e"], "d": ["b"], "e": ["b", "c"], "b": ["a"], "c": ["a"]}


@pytest.mark.parametrize(
    ("starts", "known", "expected"),
    [
        (["d", "e"], {"a"}, ["a"]),  # found once, though four ways lead there
        (["d", "e"], {"b", "a"}, ["b", "a"]),  # one way is cut at b, another goes on to a
        (["d", "e"], {"c", "d"}, ["d", "c"]),  # a start counts; the closest first
        (["d", "e"], set(), []),
    ],
)
def test_the_nearest_known_ones(starts: list[str], known: set[str], expected: list[str]) -> None:
    assert nearest(starts, known, lambda name: BEFORE.get(name, [])) == expected


# --- values ---


def test_distances_are_of_candidates_of_the_same_shape() -> None:
    values = np.float32([1, 2, 4])
    candidates = {"near": np.float32([1, 2, 5]), "far": np.float32([4, 2, 4]), "other": np.float32([1, 2])}
    assert distances(values, candidates, np.max) == {"near": 1, "far": 3}
    assert distances(values, candidates, np.mean) == pytest.approx({"near": 1 / 3, "far": 1})

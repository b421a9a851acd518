"""Which tensor is this? Told from what it is computed from, from whose values it holds, and from the values themselves.

Converters rename, fuse, split and reorder tensors; what survives is the graph around them, and their values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from torchshrink.converters import tflite_ops

if TYPE_CHECKING:
    from torchshrink.converters.tflite_file import Graph

T = TypeVar("T")


def nearest(starts: Iterable[T], known: Container[T], before: Callable[[T], Iterable[T]]) -> list[T]:
    """Return the first of ``known`` on every way back from ``starts``, themselves among them, the closest first.

    Args:
        starts: Where to begin.
        known: What ends a way.
        before: What something is computed from.
    """
    found, seen, waiting = list[T](), set[T](), list(starts)
    for each in waiting:
        if each in seen:
            continue
        seen.add(each)
        if each in known:
            found.append(each)
        else:
            waiting += before(each)
    return found


def distances(
    values: NDArray[Any], candidates: Mapping[T, NDArray[Any]], measure: Callable[[NDArray[Any]], Any]
) -> dict[T, float]:
    """Return how far the values of every candidate of the same shape are from these, each from its counterpart.

    Args:
        values: Sorted along the last dimension, so that a layout plays no part.
        candidates: Likewise.
        measure: Makes one number of the absolute differences.
    """
    same = {name: other for name, other in candidates.items() if other.shape == values.shape}
    return {name: float(measure(np.abs(other - values))) for name, other in same.items()}


def origins(graph: Graph, known: Iterable[int]) -> dict[int, int]:
    """Return which tensor of ``known`` every other one takes its values from or gives them to, where there is one.

    Converters add such tensors (a PAD, a RESHAPE), which have no counterpart in the model that was converted. What is
    joined by a concatenation gives its values to the whole; the whole, though, has several origins and none is taken.
    What is cut to a range gives the values that are left: a grid for those cuts as well.
    """
    found = {index: index for index in known}
    links = list(_links(graph))
    is_growing = True
    while is_growing:
        is_growing = False
        for before, after, is_forward, is_backward in links:
            if is_forward and before in found and after not in found:
                found[after], is_growing = found[before], True
            elif is_backward and after in found and before not in found:
                found[before], is_growing = found[after], True
    return {index: origin for index, origin in found.items() if index != origin}


def _links(graph: Graph) -> Iterator[tuple[int, int, bool, bool]]:
    """Yield pairs of tensors of which the second holds values of the first, and which of the two may follow the other.

    The first follows the second only where nothing else reads it, since that would have to follow too.
    """
    readers = Counter(int(index) for operator in graph.operators for index in operator.inputs)
    readers.update(graph.outputs)
    for operator in graph.operators:
        kind = graph.kind(operator)
        row = tflite_ops.row(kind)
        if row.moves:
            before = operator.inputs[row.values]
            for after in operator.outputs:
                yield before, after, True, readers[before] == len(operator.outputs) == 1
        elif kind == "CONCATENATION":
            for before in operator.inputs:
                is_computed = graph.constant(before) is None
                yield before, operator.outputs[0], False, is_computed and readers[before] == 1
        elif kind in tflite_ops.CLAMPS:
            before = operator.inputs[0]
            yield before, operator.outputs[0], False, readers[before] == 1

"""Values that are only moved, selected or made: no arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from torchshrink.converters.rebuild.node import Node


def reshape(node: Node) -> Callable[..., Any]:
    """Reshape; what depends on data keeps any number of samples, which is where it is spread from."""
    wanted, shape = node.setting("shape", 1), list(node.value().shape)
    kept = [] if node.setting("allowzero", default=0) else [at for at, size in enumerate(wanted) if size == 0]
    wanted = [shape[at] if at in kept else size for at, size in enumerate(wanted)]
    made = list(node.value().reshape(wanted).shape)
    if len(kept) > 1 and not node.is_constant:  # as recurrent layers have it, where samples come second
        return lambda values: values.reshape(
            [values.shape[at] if at in kept else size for at, size in enumerate(wanted)]
        )
    free = made if node.is_constant or not made else [-1, *made[1:]]
    return lambda values: values.reshape(free)


def flatten(node: Node) -> Callable[..., Any]:
    """Flatten to a matrix."""
    axis = node.axis(1)
    return lambda values: values.flatten(axis) if axis == 1 else values.reshape(*_matrix(values, axis))


def transpose(node: Node) -> Callable[..., Any]:
    """Transpose."""
    order = node.setting("perm", default=list(range(node.value().dim()))[::-1])
    return lambda values: values.permute(order)


def squeeze(node: Node) -> Callable[..., Any]:
    """Squeeze the given dimensions, or all of size 1."""
    dims = node.value().dim()
    axes = node.axes(1)
    chosen = [axis for axis, size in enumerate(node.value().shape) if size == 1] if axes is None else axes
    return lambda values: values.squeeze([axis % dims for axis in chosen])


def unsqueeze(node: Node) -> Callable[..., Any]:
    """Unsqueeze; the axes are those of the result."""
    axes = node.axes(1) or []
    dims = node.value().dim() + len(axes)

    def compute(values: Tensor) -> Tensor:
        for axis in sorted(axis % dims for axis in axes):
            values = values.unsqueeze(axis)
        return values

    return compute


def concatenate(node: Node) -> Callable[..., Any]:
    """Concat; constants beside what depends on data are repeated for every sample."""
    axis = node.axis(0)
    moving = [place for place, known in enumerate(node.known) if not known]
    if not moving or axis == 0:
        return lambda *parts: torch.cat(parts, axis)

    def compute(*parts: Tensor) -> Tensor:
        count = parts[moving[0]].shape[0]
        whole = [
            part.expand(count, *part.shape[1:]) if place not in moving and part.shape[0] == 1 else part
            for place, part in enumerate(parts)
        ]
        return torch.cat(whole, axis)

    return compute


def split(node: Node) -> Callable[..., Any]:
    """Split into parts of given sizes, or equal ones."""
    axis = node.axis(0)
    size, count = node.value().shape[axis], node.setting("num_outputs", default=len(node.proto.output))
    sizes = node.setting("split", 1)
    part = -(-size // count)
    return lambda values: values.split(sizes or part, axis)


def slices(node: Node) -> Callable[..., Any]:
    """Slice, whose numbers were attributes before opset 10."""
    shape = node.value().shape
    starts, ends = node.setting("starts", 1), node.setting("ends", 2)
    axes, strides = node.setting("axes", 3), node.setting("steps", 4)
    axes = list(range(len(starts))) if axes is None else axes
    cuts = list(zip(axes, starts, ends, strides or [1] * len(starts), strict=True))

    def compute(values: Tensor) -> Tensor:
        for axis, start, end, step in cuts:
            axis = axis % len(shape)
            if step < 0:
                places = torch.tensor(range(shape[axis])[slice(start, None if end < -shape[axis] else end, step)])
                values = values.index_select(axis, places)
            elif start != 0 or end < shape[axis] or step > 1:
                index = [slice(None)] * axis + [slice(start, None if end >= shape[axis] else end, step)]
                values = values[tuple(index)]
        return values

    return compute


def gather(node: Node) -> Callable[..., Any]:
    """Gather: one place, a run of places, a list of them, or rows of a constant table."""
    axis = node.axis(0)
    if node.is_known(0) and not node.is_known(1) and axis == 0:
        return lambda table, places: F.embedding(places, table)
    if not node.is_known(1):
        shape = node.value(1).shape
        return lambda values, places: values.index_select(axis, places.reshape(-1)).unflatten(axis, shape)
    places = node.constant(1) % node.value().shape[axis]
    if places.dim() == 0:
        place = int(places)
        return lambda values: values.select(axis, place)
    first, count = int(places.flatten()[0]), places.numel()
    if torch.equal(places, torch.arange(first, first + count)):
        return lambda values: values.narrow(axis, first, count)
    return lambda values: values.index_select(axis, places.reshape(-1)).unflatten(axis, places.shape)


def gather_elements(node: Node) -> Callable[..., Any]:
    """GatherElements: of the same places in every sample where they are constants."""
    axis, size = node.axis(0), node.value().shape[node.axis(0)]
    is_for_all = node.is_known(1) and axis > 0 and node.value(1).shape[0] == 1

    def pick(values: Tensor, places: Tensor) -> Tensor:
        places = places.long() % size
        return values.gather(axis, places.expand(values.shape[0], *places.shape[1:]) if is_for_all else places)

    return pick


def triangle(node: Node) -> Callable[..., Any]:
    """Trilu: what is above a diagonal, or below."""
    keep = torch.triu if node.setting("upper", default=1) else torch.tril
    diagonal = int(node.constant(1)) if node.has(1) else 0
    return lambda values: keep(values, diagonal)


def expand(node: Node) -> Callable[..., Any]:
    """Expand by the rules of broadcasting."""
    made = np.broadcast_shapes(tuple(node.value().shape), tuple(node.setting("shape", 1)))
    offset = len(made) - node.value().dim()
    old = [*[1] * offset, *node.value().shape]
    free = [-1 if place >= offset and size == old[place] else size for place, size in enumerate(made)]
    return lambda values: values.expand(free)


def tile(node: Node) -> Callable[..., Any]:
    """Tile."""
    counts = node.setting("repeats", 1)
    return lambda values: values.repeat(counts)


def depth_to_space(node: Node) -> Callable[..., Any]:
    """DepthToSpace in either order of channels."""
    block = node.setting("blocksize")
    if node.setting("mode", default="DCR") == "CRD":
        return lambda values: F.pixel_shuffle(values, block)
    _, channels, height, width = node.value().shape
    inner, area = channels // block**2, (height * block, width * block)

    def compute(values: Tensor) -> Tensor:
        parts = values.reshape(-1, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
        return parts.reshape(-1, inner, *area)

    return compute


def space_to_depth(node: Node) -> Callable[..., Any]:
    """SpaceToDepth: the place inside of a block changes slower than the channel."""
    block = node.setting("blocksize")
    _, channels, height, width = node.value().shape
    area = (height // block, width // block)

    def compute(values: Tensor) -> Tensor:
        parts = values.reshape(-1, channels, area[0], block, area[1], block).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(-1, channels * block**2, *area)

    return compute


def shape_of(node: Node) -> Callable[..., Any]:
    """Shape, or a part of it."""
    start, end = node.setting("start", default=0), node.setting("end")
    return lambda values: torch.tensor(list(values.shape)[start:end])


def filled(node: Node) -> Callable[..., Any]:
    """ConstantOfShape."""
    given, shape = node.setting("value"), node.setting("shape", 0)
    value = torch.zeros(1) if given is None else torch.from_numpy(numpy_helper.to_array(given).copy())
    return lambda: value.reshape(()).repeat(shape) if shape else value.reshape(())


def constant(node: Node) -> Callable[..., Any]:
    """Constant: a tensor, or a number or list of them among the attributes."""
    given = node.setting("value")
    if given is not None:
        value = torch.from_numpy(numpy_helper.to_array(given).copy())
    else:
        kinds = ("value_float", "value_floats", "value_int", "value_ints")
        found = next((node.setting(kind) for kind in kinds if node.setting(kind) is not None), None)
        if found is None:
            raise node.refusal("holds a constant that is no number")
        value = torch.tensor(found)
    return lambda: value


def top(node: Node) -> Callable[..., Any]:
    """TopK, with a constant number of values, an attribute before opset 10."""
    wanted, axis = node.setting("k", 1), node.axis(-1)
    count = int(wanted[0] if isinstance(wanted, list) else wanted)
    is_largest, is_sorted = bool(node.setting("largest", default=1)), bool(node.setting("sorted", default=1))
    return lambda values: tuple(values.topk(count, axis, is_largest, is_sorted))


def _matrix(values: Tensor, axis: int) -> tuple[int, int]:
    rows = 1
    for size in values.shape[:axis]:
        rows *= size
    return rows, -1

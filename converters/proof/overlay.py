"""The noise of a quantized graph on the operations of a file made from it, as Model Explorer lays it over the file.

Tensors are paired by their grids, which files carry exactly. Where several have the same one, as before and after a
pool, they are paired in order if the file has as many of them; else the first alone, which is what computed the values.

Source: node data of google-ai-edge/model-explorer (`node_data_builder.py`). It calls the nodes of a TFLite file by
their position (its flatbuffer adapter), and those of an ONNX file by their name (its extension for ONNX).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
from torch.fx import GraphModule, Node

from torchshrink.converters import onnx_file, tflite_file
from torchshrink.converters.proof import scales
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_file import Graph
from torchshrink.errors import ModelError
from torchshrink.files import atomic
from torchshrink.model.graphs import MODULES
from torchshrink.quantize.noise import LIMIT_DB, Noise

# Up to so many dB a node has this colour, from what is too little to what hardly matters; above, none.
_COLOURS = {LIMIT_DB: "#d73027", 25.0: "#fdae61", 35.0: "#fee08b"}
_GRIDS = (onnx_file.QUANTIZE, onnx_file.DEQUANTIZE)

T = TypeVar("T")
_Grid = tuple[float, int]


@dataclass(frozen=True)
class Place:
    """An operation of a file.

    Attributes:
        node: What Model Explorer calls it.
        kind: Such as CONV_2D or Conv.
        calls: The calls of modules that it computes, the last one first.
    """

    node: str
    kind: str
    calls: tuple[str, ...] = ()


def places(path: Path, graph: GraphModule) -> list[Place]:
    """Return the operations of an int8 file that compute what modules of a quantized graph return.

    Args:
        path: An int8 ONNX or TFLite file.
        graph: The quantized graph that it was made from.

    Raises:
        ModelError: When the file cannot be read, or holds nothing on a grid of the graph.
    """
    wanted = _grouped(_in_graph(graph))
    shipped = _grouped(_in_tflite(_graph_of(path)) if path.suffix == ".tflite" else _in_onnx(onnx_file.load(path)))
    if wanted.keys().isdisjoint(shipped):
        raise ModelError(f"{path} holds none of the checkpoint's grids: give the int8 checkpoint that it was made from")
    found = []
    for grid, chains in shipped.items():
        most = None if len(chains) == len(wanted.get(grid, [])) else 1
        for steps, calls in zip(chains[:most], wanted.get(grid, [])[:most], strict=False):
            found += _paired(steps, calls)
    return found


def write(path: Path, found: Sequence[Place], noise: Sequence[Noise], out: Path) -> Path:
    """Write node data of what is accumulated, and beside it of every module alone; return the path of the latter.

    What is exact, such as a module that stayed float, has no value.

    Args:
        path: The file that the data is of.
        found: Its `places`.
        noise: What `torchshrink.quantize.noise` returned.
        out: A ``.json`` file; the other one ends in ``.alone.json``.
    """
    beside = out.with_suffix(".alone.json")
    graph = _graph_name(path)
    own = {item.name: item.alone_db for item in noise}
    for target, values in ((out, _accumulated(found, noise)), (beside, _lowest(found, own))):
        results = {node: {"value": round(value, 2)} for node, value in values.items() if math.isfinite(value)}
        thresholds = [{"value": value, "bgColor": colour} for value, colour in _COLOURS.items()]
        with atomic(target) as temporary:
            content = {graph: {"results": results, "thresholds": thresholds}}
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return beside


def _accumulated(found: Sequence[Place], noise: Sequence[Noise]) -> dict[str, float]:
    """Return by node the figure of its result, which is that of the last module in it."""
    known = {item.name: item.snr_db for item in noise}
    first = {place.node: next((call for call in place.calls if call in known), None) for place in found}
    return {node: known[call] for node, call in first.items() if call is not None}


def _lowest(found: Sequence[Place], own: dict[str, float | None]) -> dict[str, float]:
    """Return by node the lowest figure of the modules in it; blocks, in which there are others, are none of them."""
    values = {}
    for place in found:
        paths = [call.partition("@")[0] for call in place.calls]
        leaves = [
            call
            for call, path in zip(place.calls, paths, strict=True)
            if not any(other.startswith(f"{path}.") for other in paths)
        ]
        values[place.node] = min((value for call in leaves if (value := own.get(call)) is not None), default=math.inf)
    return values


def _grouped(items: Iterable[tuple[_Grid, T]]) -> dict[_Grid, list[T]]:
    found: dict[_Grid, list[T]] = {}
    for grid, item in items:
        found.setdefault(grid, []).append(item)
    return found


def _paired(steps: Sequence[Place], calls: Sequence[tuple[str, ...]]) -> list[Place]:
    """Return the steps that end with one rounding with their calls; where others were fused, all are of the last."""
    if len(steps) != len(calls):
        calls = [tuple(call for each in calls for call in each)]
    return [replace(step, calls=each) for step, each in zip(steps, calls, strict=False) if each]


def _in_graph(graph: GraphModule) -> Iterator[tuple[_Grid, list[tuple[str, ...]]]]:
    """Yield every rounding of an activation: its grid, and the calls that end with what is rounded there."""
    for node in graph.graph.nodes:
        if ".quantize_per_tensor" in str(node.target):
            yield (float(np.float32(node.args[1])), int(node.args[2])), list(_chain(node.args[0]))


def _chain(node: Node) -> Iterator[tuple[str, ...]]:
    """Yield the calls that end with an operation, then with those before it that nothing rounds."""
    while node.op == "call_function" and "quantize_per_" not in str(node.target):
        yield tuple(reversed(node.meta.get(MODULES, [])))
        before = [
            each for each in node.all_input_nodes if each.op != "get_attr" and "quantize_" not in str(each.target)
        ]
        if len(before) != 1 or len(before[0].users) != 1:
            return
        node = before[0]


def _in_onnx(model: onnx.ModelProto) -> Iterator[tuple[_Grid, list[Place]]]:
    """Yield the same of a QDQ graph: the grid, and the operations, the last one first."""
    producers = {name: node for node in model.graph.node for name in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    for name, range_ in scales.grids(model):
        node = producers.get(name)
        while node is not None and node.op_type in (*_GRIDS, "Clip") and _is_of_codes(node, producers):
            node = producers.get(node.input[0])
        steps = []
        while node is not None and node.op_type not in _GRIDS:
            steps.append(Place(node.name, node.op_type))
            before = [producers[each] for each in node.input if each in producers]
            before = [each for each in before if each.op_type not in (*_GRIDS, "Constant")]
            node = before[0] if len(before) == 1 and readers[before[0].output[0]] == 1 else None
        yield _grid(range_), steps


def _is_of_codes(node: onnx.NodeProto, producers: dict[str, onnx.NodeProto]) -> bool:
    """Return whether a node rounds, or limits codes, and computes nothing else."""
    before = producers.get(node.input[0])
    return node.op_type in _GRIDS or (before is not None and before.op_type == onnx_file.QUANTIZE)


def _in_tflite(graph: Graph) -> Iterator[tuple[_Grid, list[Place]]]:
    """Yield the same of a TFLite file, in which an operation has one result; what rescales it is not counted."""
    made = {int(index): place for place, operator in enumerate(graph.operators) for index in operator.outputs}
    for index in [*graph.inputs, *made]:
        range_ = graph.grid(index)
        if range_ is None or range_.axis is not None or not graph.is_int8(index):
            continue
        place = made.get(index)
        while place is not None and graph.kind(graph.operators[place]) == "QUANTIZE":
            place = made.get(int(graph.operators[place].inputs[0]))
        steps = [] if place is None else [Place(str(place), graph.kind(graph.operators[place]))]
        yield _grid(range_), steps


def _grid(range_: Range) -> _Grid:
    return float(np.float32(range_.scale[0])), range_.zero_point[0]


def _graph_of(path: Path) -> Graph:
    return Graph(tflite_file.read(path))


def _graph_name(path: Path) -> str:
    """Return what Model Explorer calls the main graph of a file."""
    if path.suffix == ".onnx":
        return str(onnx_file.load(path).graph.name)
    name = _graph_of(path).content.name
    return (name.decode() if isinstance(name, bytes) else name) or "main"

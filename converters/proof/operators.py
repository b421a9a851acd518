"""Hold every operator of an int8 file against the graph's, computed on the file's own inputs.

The graph is run beside the file. Wherever the file holds the tensor that an operation of the graph computes, both are
compared, and the graph goes on from the file's. So rounding does not add up with depth, and what is left is what one
operator did: for most kernels nothing but a tie.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from torchshrink.converters import onnx_file, qdq, runtimes, tflite_file
from torchshrink.converters.onnx_file import load
from torchshrink.model.signature import first, leaves
from torchshrink.runtime.processors import HERE

# By how many steps beyond the nearest code (half a step) a kernel may be off.
_EXACT = 0.05  # sums of int8 products in int32, and tables
_TWICE = 0.3  # one integer rescaled, rounded before and after its halving: right but for up to a quarter of a step
_STEP = 1.0  # computed in 16 bits, or with rounded factors
_TWICE_KINDS = {"leaky_relu", "prelu", "_prelu_kernel", "mul"}
_PRODUCTS = {"conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear"}
_SUMS = _PRODUCTS | {"add", "mul", "sigmoid", "tanh"}
_KNOWN = _SUMS | _TWICE_KINDS | {
    "relu", "relu6", "hardtanh", "clamp", "cat", "max_pool1d", "max_pool2d", "dropout", "clone", "reshape", "view",
    "flatten", "permute", "transpose", "squeeze", "unsqueeze", "slice", "pad", "upsample_nearest1d",
    "upsample_nearest2d", "pixel_shuffle", "quantize_per_tensor", "dequantize_per_tensor", "dequantize_per_channel",
}  # fmt: skip
_SHARE_ALLOWED = 1e-3  # of an operator's elements that may be off by more
_SHARE_CLEAR = 0.05  # of which no other sample makes a sound operator
_FLOAT_ALLOWED = 1e-2  # of the range of a float output
_MOST_SAMPLES, _MOST_VALUES = 8, 4_000_000  # that are looked at

_Limits = tuple[float, int, int, int]  # scale, zero point, least and greatest code
_Key = tuple[float, int, tuple[int, ...]]
_Unheld = Callable[[Tensor, Tensor, _Limits], Tensor]


@dataclass(frozen=True)
class Wrong:
    """An operation that the file computes otherwise than its source does from the same inputs.

    Attributes:
        operation: Its kind, in the source.
        tensor: What the source calls its result.
        share: The share of its values that are off by more than the kernel's rounding.
        steps: How far the worst is off, in steps of its int8 grid; of a float output in hundredths of its range.
    """

    operation: str
    tensor: str
    share: float
    steps: float

    def __str__(self) -> str:
        return f"{self.operation} {self.tensor} ({self.share:.3%} of its values off by up to {self.steps:.3g} steps)"


@dataclass(frozen=True)
class _Held:
    """A quantized tensor of the file, as real numbers without axes of length one."""

    grid: tuple[float, int]
    values: NDArray[Any]


@dataclass(frozen=True)
class _File:
    """What a file computed for one sample: its quantized tensors, and its outputs in order with their `rounding`."""

    tensors: list[_Held]
    outputs: list[NDArray[Any]]
    rounded: list[float]


@dataclass(frozen=True)
class _Look:
    """One operation's result: the graph's, and the file's where it holds it."""

    real: NDArray[Any]
    found: NDArray[Any] | None
    grid: _Limits | None
    slack: float
    is_there: bool
    rounded: float = 0.0  # how far a float may be off, however small it is


def first_wrong(path: Path, graph: GraphModule, inputs: Sequence[Tensor], processor: str = HERE) -> Wrong | None:
    """Return the first operation of ``graph`` that the file computes otherwise from the same inputs, if there is one.

    Args:
        path: An int8 TFLite or ONNX file.
        graph: The quantized graph that it was made from, see `torchshrink.quantize.convert`.
        inputs: ``[N, C, *size]`` for each argument; a few of N are run, as many at once as the file takes.
        processor: Which kind of processor computes an ONNX file, one of `torchshrink.runtime.processors.KINDS`. A
            TFLite file is looked into here: LiteRT's own kernels are the same code everywhere.

    Raises:
        ConversionError: When the runtime does not run the file.
        MissingExtraError: When an emulator is not installed.
    """
    counts: dict[str, NDArray[np.float64]] = {}
    read, batch = _reader(path, processor)
    counter = _Counter(graph)
    with torch.inference_mode():
        counter.run(*first(inputs, batch))
    values, wrong = 0, None
    for start in range(0, min(_MOST_SAMPLES, len(inputs[0])), batch):
        sample = first([value[start:] for value in inputs], batch)
        file = read([value.numpy() for value in sample])
        for name, found in _look_at(graph, file, counter.found, sample).items():
            counts[name] = counts.get(name, 0) + found
        values += sum(held.values.size for held in file.tensors)
        wrong = _verdict(graph, counts)
        if values > _MOST_VALUES or (wrong is not None and wrong.share > _SHARE_CLEAR):
            break
    return wrong


def _verdict(graph: GraphModule, counts: dict[str, NDArray[np.float64]]) -> Wrong | None:
    """Return the first operation that is wrong in a tensor which the file holds for certain."""
    for name, (off, total, steps, is_proof) in counts.items():
        if is_proof and off > _SHARE_ALLOWED * total:
            operation, tensor = _names(graph, name)
            return Wrong(operation, tensor, float(off / total), float(steps))
    return None


def _names(graph: GraphModule, key: str) -> tuple[str, str]:
    """Return kind and name of the operation whose result is known by the node that dequantizes it, or as an output."""
    node = next((node for node in graph.graph.nodes if node.name == key), None)
    if node is None:
        return "output", key
    source = node.args[0].args[0]
    return str(source.target), source.name


def _look_at(
    graph: GraphModule, file: _File, wanted: Counter[_Key], sample: Sequence[Tensor]
) -> dict[str, NDArray[np.float64]]:
    """Return for every operation how many values are off, of how many, by how much, and whether that is proof."""
    rounded, *others = (_Walk(graph, file, wanted, unheld) for unheld in (_rounded, _clipped, _unlimited))
    first = rounded.looks(sample)
    counts = {name: _count(look, 0.0) for name, look in first.items()}
    is_complete = all(look.found is not None and look.is_there for look in first.values())
    if is_complete or not any(found[0] for found in counts.values()):
        return counts
    # A file may compute in float where the graph rounds: what that alone changes is allowed.
    clipped, unlimited = (walk.looks(sample) for walk in others)
    for name, look in first.items():
        apart = float(np.abs(_within(clipped[name]) - _within(look)).max(initial=0.0))
        with np.errstate(invalid="ignore"):  # without a limit the root of nothing is infinite
            found = [_count(each, apart) for each in (clipped[name], look, unlimited[name])]
        counts[name] = min(found, key=lambda each: float(each[0]))
    return counts


def _count(look: _Look, apart: float) -> NDArray[np.float64]:
    if look.found is None:
        return np.array([0.0, 1.0, 0.0, 0.0])
    if look.grid is None:
        step = max(_FLOAT_ALLOWED * runtimes.spread(look.real), look.rounded)
        off = np.abs(look.found - look.real) / step
        limit = 1.0 + apart / step
    else:
        scale = look.grid[0]
        off = np.abs(look.found - _within(look)) / scale
        limit = 0.5 + look.slack + apart / scale
    is_off = ~(off <= limit)  # NaN is off
    return np.array([is_off.sum(), is_off.size, np.nan_to_num(off, nan=np.inf).max(initial=0.0), look.is_there])


def _within(look: _Look) -> NDArray[Any]:
    """Return a result as far as its grid reaches: the reciprocal root of zero is the grid's largest value."""
    if look.grid is None:
        return look.real
    scale, zero_point, low, high = look.grid
    return np.clip(look.real, (low - zero_point) * scale, (high - zero_point) * scale)


class _Walk(Interpreter):
    """Runs a graph on what the file holds and keeps what both make of every operation."""

    def __init__(self, graph: GraphModule, file: _File, wanted: Counter[_Key], unheld: _Unheld) -> None:
        super().__init__(graph)
        self._file, self._wanted, self._unheld = file, wanted, unheld
        self._held: dict[_Key, list[NDArray[Any]]] = defaultdict(list)
        for held in file.tensors:
            self._held[_key(held.grid, held.values.shape)].append(held.values)
        self._looks: dict[str, _Look] = {}
        self._reals: dict[str, Tensor] = {}
        self._kinds: dict[str, frozenset[str]] = {}  # what was computed since the last tensor of the file
        self._units: dict[str, float] = {}  # what one stands for in the integers that a tensor is computed with

    def looks(self, sample: Sequence[Tensor]) -> dict[str, _Look]:
        """Run the graph; results are keyed by the nodes that dequantize, those of the outputs by number, as ``#0``."""
        with torch.inference_mode():
            self.run(*sample)
        return self._looks

    def run_node(self, n: Node) -> Any:
        own = {str(n.target).split(".")[1].rstrip("_")} if n.op == "call_function" and "." in str(n.target) else set()
        self._units[n.name] = self._unit(n, own)
        self._kinds[n.name] = frozenset(own).union(*(self._kinds[each.name] for each in n.all_input_nodes))
        if _is_quantize(n):
            self._reals[n.name] = self.env[n.args[0]]  # type: ignore[index]
        result = super().run_node(n)
        source = n.args[0] if _is_dequantize(n) else None
        if isinstance(source, Node) and source.name in self._reals:
            return self._compare(n, source, result)
        if n.op == "output":
            self._compare_outputs(n)
        return result

    def _unit(self, node: Node, own: set[str]) -> float:
        """Return the step of what is dequantized, the largest of several channels', and of products theirs."""
        if own & {"dequantize_per_tensor", "dequantize_per_channel"}:
            scale: Any = node.args[1]
            return float(torch.as_tensor(self.env[scale] if isinstance(scale, Node) else scale).max())
        units = [self._units[each.name] for each in node.all_input_nodes]
        return math.prod(units[:2]) if own & _PRODUCTS else max(units, default=0.0)

    def _compare(self, node: Node, source: Node, rounded: Tensor) -> Tensor:
        """Return what the file holds in place of a result, or the graph's own where it holds none."""
        real = self._reals[source.name]
        grid = _grid(source)
        look = self._look(real.numpy(), grid, _slack(self._kinds[node.name], self._units[source.name] / grid[0]))
        self._looks[node.name] = look
        if look.found is not None and (look.is_there or _count(look, 0.0)[0] == 0):
            self._kinds[node.name] = frozenset()
            return torch.from_numpy(np.array(look.found, np.float32, order="C")).reshape(real.shape)  # `x += y` writes
        return self._unheld(rounded, real, grid)

    def _look(self, real: NDArray[Any], grid: _Limits, slack: float) -> _Look:
        key = _key(grid[:2], real.squeeze().shape)
        held = self._held[key]
        # Where several share a grid and a converter added copies, it may be one that the converter fused away.
        is_there = bool(held) and self._wanted[key] in (1, len(held))
        return _Look(real, _nearest(real, held), grid, slack, is_there)

    def _compare_outputs(self, node: Node) -> None:
        outputs = zip(leaves(node.args[0]), self._file.outputs, self._file.rounded, strict=False)
        for index, ((_, each), found, rounded) in enumerate(outputs):
            source = each.args[0] if _is_dequantize(each) and each.args[0].name in self._reals else None
            # Where the file was not found to hold it, what the graph computes before it rounds.
            result = self._reals[source.name] if source is not None and self._kinds[each.name] else self.env[each]
            grid = None if source is None else _grid(source)
            factor = 0.0 if source is None or grid is None else self._units[source.name] / grid[0]
            slack, real = _slack(self._kinds[each.name], factor), result.numpy()
            self._looks[f"#{index}"] = _Look(real, _nearest(real, [found]), grid, slack, True, rounded)


class _Counter(Interpreter):
    """Counts the tensors of every grid and shape that a graph has."""

    def __init__(self, graph: GraphModule) -> None:
        super().__init__(graph)
        self.found: Counter[_Key] = Counter()

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if _is_quantize(n):
            self.found[_key(_grid(n)[:2], result.squeeze().shape)] += 1
        return result


def _is_quantize(node: Node) -> bool:
    return node.op == "call_function" and "quantized_decomposed.quantize_per_tensor" in str(node.target)


def _is_dequantize(node: Node) -> bool:
    return node.op == "call_function" and "quantized_decomposed.dequantize_per_tensor" in str(node.target)


def _grid(node: Node) -> _Limits:
    """Return scale (as float32 holds it), zero point, least and greatest code of a node that quantizes."""
    scale, zero_point, low, high = node.args[1:5]
    return float(np.float32(scale)), int(zero_point), int(low), int(high)  # type: ignore[arg-type]


def _key(grid: tuple[float, int], shape: Sequence[int]) -> _Key:
    """Return what tensors have in common that may be one another: the grid, and the shape whatever the layout."""
    return *grid, tuple(sorted(shape))


def _slack(kinds: frozenset[str], factor: float) -> float:
    """Return how far an operation may be from the nearest code.

    Args:
        kinds: What it consists of.
        factor: What one in a sum of its products is of a step. LiteRT's kernels round sums twice, first to half of the
            power of two above it: little, but where codes are few, of a channel or of weights of four bits.
    """
    if kinds - _KNOWN:
        return _STEP
    if not kinds & _SUMS or kinds & _TWICE_KINDS:
        return _TWICE
    return min(_TWICE, _EXACT + factor) if kinds & _PRODUCTS else _EXACT


def _rounded(rounded: Tensor, _real: Tensor, _grid: _Limits) -> Tensor:
    """Return what a graph goes on from where the file does not hold it: its own codes."""
    return rounded


def _clipped(_rounded: Tensor, real: Tensor, grid: _Limits) -> Tensor:
    """Return what the graph computed before it rounds, as far as the grid reaches."""
    scale, zero_point, low, high = grid
    return real.clip((low - zero_point) * scale, (high - zero_point) * scale)


def _unlimited(_rounded: Tensor, real: Tensor, _grid: _Limits) -> Tensor:
    """Return all of what the graph computed: a float has no largest code."""
    return real


def _nearest(real: NDArray[Any], held: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """Return the nearest of the arrays, in the layout and shape of ``real``; None where none can be laid out so."""
    wanted = real.squeeze()
    layouts = [
        laid
        for values in held
        if values.ndim == wanted.ndim
        for order in permutations(range(values.ndim))
        if (laid := values.transpose(order)).shape == wanted.shape
    ]
    if not layouts:
        return None
    with np.errstate(invalid="ignore"):
        best = min(layouts, key=lambda laid: float(np.nan_to_num(np.abs(laid - wanted).mean(), nan=np.inf)))
    return best.reshape(real.shape)


def _reader(path: Path, processor: str) -> tuple[Callable[[Sequence[NDArray[Any]]], _File], int]:
    """Return what runs a file on one sample after the other, and how many it takes at once (1 for any number)."""
    return _tflite_reader(path) if path.suffix == ".tflite" else _onnx_reader(path, processor)


def _tflite_reader(path: Path) -> tuple[Callable[[Sequence[NDArray[Any]]], _File], int]:
    model = tflite_file.read(path)
    graph = model.subgraphs[0]
    grids, exact = {}, [0.0] * len(graph.outputs)
    for index, tensor in enumerate(graph.tensors):
        range_ = tflite_file.quantization(model, tensor)
        is_constant = tensor.sparsity is not None or tflite_file.constant(model, tensor) is not None
        if range_ is not None and range_.axis is None and not is_constant:
            grids[index] = float(np.float32(range_.scale[0])), range_.zero_point[0]

    def read(sample: Sequence[NDArray[Any]]) -> _File:
        values = {index: item.values.squeeze() for index, item in runtimes.tflite_values(path, sample).items()}
        held = [_Held(grid, values[index]) for index, grid in grids.items() if index in values]
        is_complete = all(index in values for index in graph.outputs)  # not when one is of integers
        return _File(held, [values[index] for index in graph.outputs] if is_complete else [], exact)

    return read, int(graph.tensors[graph.inputs[0]].shape[0])


def _onnx_reader(path: Path, processor: str) -> tuple[Callable[[Sequence[NDArray[Any]]], _File], int]:
    """Run a QDQ file with the integer kernels that it will meet: its codes are asked for, not what they stand for."""
    model = load(path)
    arrays = onnx_file.constants(model)
    known = {*arrays, *(item.name for item in model.graph.input)}
    nodes = [node for node in model.graph.node if node.op_type == onnx_file.DEQUANTIZE and node.input[0] not in known]
    ranges = {node.input[0]: qdq.stored_range(node, arrays) for node in nodes}
    unsigned = {node.input[0] for node in nodes if _is_unsigned(node, arrays)}
    rounded = list(runtimes.rounding(model).values())
    if processor == HERE:
        run = runtimes.onnx_runner(model, set(ranges), is_optimized=True)
    else:
        run = runtimes.onnx_runner_elsewhere(model, set(ranges), processor)

    def read(sample: Sequence[NDArray[Any]]) -> _File:
        values = run(sample)
        held = []
        for name, range_ in ranges.items():
            codes = values[name].astype(np.int64) - (128 if name in unsigned else 0)
            grid = float(np.float32(range_.scale[0])), range_.zero_point[0]
            held.append(_Held(grid, qdq.dequantize(codes, range_).squeeze()))
        return _File(held, [values[item.name].squeeze() for item in model.graph.output], rounded)

    batch = onnx_file.inputs(model)[0].type.tensor_type.shape.dim[0].dim_value
    return read, max(1, int(batch))


def _is_unsigned(node: onnx.NodeProto, arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether a node dequantizes uint8, which it does without a zero point too."""
    return len(node.input) < 3 or not node.input[2] or arrays[node.input[2]].dtype == np.uint8

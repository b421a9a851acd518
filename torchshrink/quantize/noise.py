"""What quantization costs, tensor by tensor: a quantized graph against its module on the same inputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from torchshrink.errors import ModelError
from torchshrink.model.graphs import MODULES
from torchshrink.model.signature import Inputs, as_tuple, leaves
from torchshrink.quantize import alone, exits

aten = torch.ops.aten

# Sound layers measured 25 dB and more, structural faults less than 15. Rounding alone adds up to as little as 8 dB in
# deep networks of random weights, which is why this warns and does not refuse: a graph whose structure is wrong is
# refused when it is prepared, where nothing is rounded and everything must be equal.
LIMIT_DB = 15.0
NOISE = "noise"  # in a graph's meta: what was measured when it was made, as `to_rows` returns it
_LOWEST_DB = -100.0  # stands in files for what is not finite
_FIGURES = ("snr_db", "alone_db")
_FIXED = (1 / 256, 1 / 128)  # steps of a sigmoid, softmax or tanh, below which it may be, whatever the data

_CURES = {
    "values that hardly vary beside the range of the data": "give calibration data like that in use, or keep_float",
    "a few values far larger than all others": "keep_float for this module, or clamp its result in the model",
    "parts of a concatenation whose ranges differ over 100 times": "keep_float for what concatenates, or scale parts",
    "a mask of large negative numbers before a softmax": "keep_float for the attention, or mask with -100 instead",
    "noise that adds up over many layers": "quantization-aware training, or keep_float for the modules with least dB",
}
_DEAD, _OUTLIER, _CAT, _MASK, _DEPTH = _CURES
_FAR = 100  # how many times as large as common values an outlier is, and as one part of a concatenation another


@dataclass(frozen=True)
class Noise:
    """How far a tensor of a quantized graph is from the module's.

    Attributes:
        name: Of the module that returns it, with ``@1`` for its second call; or of an output, as files name it.
        is_output: Whether it is one.
        snr_db: ``10 log10(sum x^2 / sum (x - y)^2)``; inf where nothing differs, nan where a value is not finite. The
            noise of all that was computed before is in it.
        reason: For what falls below `LIMIT_DB`, what its values make likely; else empty.
        cure: What helps.
        alone_db: The same where this module alone computes in int8, on what goes into it in float: the noise that it
            adds itself. None of an output, and where it was not measured.
    """

    name: str
    is_output: bool
    snr_db: float
    reason: str = ""
    cure: str = ""
    alone_db: float | None = None


def noise(graph: GraphModule, module: nn.Module | None = None, inputs: Inputs | None = None) -> list[Noise]:
    """Return the noise of every module's result in the order of computation, then that of every output.

    With the graph alone, what `convert` measured when it made it, on a few samples of the last batch that was seen;
    checkpoints keep it, those of earlier versions have none. With a module and inputs, on these: it warns where an
    output falls below `LIMIT_DB`, naming the first tensor that does. A module whose result the graph does not hold,
    such as a convolution that its BatchNorm was folded into, is left out.

    Args:
        graph: What `convert` returned, or a checkpoint held.
        module: The float module that was prepared; after training, the trained one it should be like.
        inputs: ``[N, C, *size]``, or one for each argument; a batch of real data.

    Raises:
        ModelError: When what a checkpoint says is damaged, or ``graph`` is none.

    Source: Sheng et al., arXiv:1803.08607, section 4, names the layers that lose most in this way.
    """
    if not isinstance(graph, GraphModule):
        raise ModelError(f"noise takes what convert returned, got {type(graph).__name__}")
    if module is None or inputs is None:
        return from_rows(graph.meta.get(NOISE, []))
    values = as_tuple(inputs)
    modes = [(part, part.training) for part in module.modules()]
    try:
        wanted = exits.of_module(module.eval(), values)
    finally:
        for part, is_training in modes:
            part.training = is_training
    found = _compared(graph, *wanted, values)
    _warn(found)
    return found


def measure(graph: GraphModule, reference: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Note in a quantized graph how far it is from what it was made of, and warn as `noise` does.

    Args:
        graph: What was made.
        reference: The same before, with nothing quantized.
        inputs: A few samples of real data.
    """
    found = _compared(graph, *exits.of_graph(reference, inputs), inputs)
    graph.meta[NOISE] = to_rows(found)
    _warn(found)


def to_rows(found: Sequence[Noise]) -> list[dict[str, Any]]:
    """Return what was found as JSON-like data; a figure is None where nothing differs, and absent if not measured."""
    return [
        {key: _stored(value) if key in _FIGURES else value for key, value in asdict(item).items() if value is not None}
        for item in found
    ]


def worst_db(graph: GraphModule) -> float | None:
    """Return what was measured of the worst output when a graph was made; None where nothing was or differs."""
    found = [item.snr_db for item in noise(graph) if item.is_output]
    return _stored(min(found)) if found else None


def from_rows(rows: Any) -> list[Noise]:
    """Return what `to_rows` made JSON-like.

    Raises:
        ModelError: When it is something else.
    """
    try:
        exact = [{key: math.inf for key in _FIGURES if row.get(key, 0) is None} for row in rows]
        return TypeAdapter(list[Noise]).validate_python([row | each for row, each in zip(rows, exact, strict=True)])
    except (AttributeError, TypeError, ValueError) as error:
        raise ModelError("what the checkpoint says of its noise is damaged: quantize the model again") from error


def _stored(value: float) -> float | None:
    return None if value == math.inf else value if math.isfinite(value) else _LOWEST_DB


def _compared(
    graph: GraphModule, wanted: Mapping[str, Tensor], outputs: Mapping[str, Tensor], inputs: Sequence[Tensor]
) -> list[Noise]:
    """Compare every module's result and every output; integers, such as an argmax, have no noise."""
    suspects: dict[Node, str] = {}
    found, made = exits.of_graph(graph, inputs, lambda node, args: _suspect(node, args, suspects))
    steps, last = _steps(graph)
    layers = [
        _noise(name, False, found[name], value, steps.get(name, 0.0)) for name, value in wanted.items() if name in found
    ]
    known = {name: wanted[name].to(value.dtype) for name, value in found.items() if _is_like(value, wanted.get(name))}
    own = alone.results(graph, known, inputs)
    layers = [
        replace(item, alone_db=snr_db(own[item.name], wanted[item.name])) if item.name in own else item
        for item in layers
    ]
    ends = [
        _noise(name, True, made[name], value, last.get(name, 0.0))
        for name, value in outputs.items()
        if name in made and value.is_floating_point()
    ]
    sound = {item.name for item in layers if not item.reason}
    layers = [_explained(item, _before(graph, item.name, sound), suspects) for item in layers]
    ends = [_explained(item, _before(graph, None, sound), suspects) for item in ends]
    return layers + ends


def _is_like(value: Tensor, other: Tensor | None) -> bool:
    return other is not None and other.shape == value.shape


def _steps(graph: GraphModule) -> tuple[dict[str, float], dict[str, float]]:
    """Return by module, and by output, the step of its grid; 0 of what is float."""
    by_module = {name: exits.seen(node) for node in graph.graph.nodes for name in node.meta.get(MODULES, [])}
    by_output = {name or "output": node for name, node in leaves(graph.graph.output_node().args[0])}
    layers, ends = ({name: _step(node) for name, node in nodes.items()} for nodes in (by_module, by_output))
    return layers, ends


def _step(node: Any) -> float:
    is_known = isinstance(node, Node) and "dequantize_per_tensor" in str(node.target)
    return float(node.args[1]) if is_known else 0.0


def snr_db(found: Tensor, wanted: Tensor) -> float:
    """Return signal over noise in dB; nan where a shape differs, or a value is finite in one of both only."""
    if found.shape != wanted.shape:
        return math.nan
    found, wanted = found.detach().double(), wanted.detach().double()
    is_finite = wanted.isfinite()
    if not bool(is_finite.all()) and torch.equal(is_finite, found.isfinite()):
        found, wanted = found[is_finite], wanted[is_finite]
    signal, error = float(wanted.square().sum()), float((found - wanted).square().sum())
    if not (math.isfinite(signal) and math.isfinite(error)):
        return math.nan
    if error == 0:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf


def _noise(name: str, is_output: bool, found: Tensor, wanted: Tensor, step: float) -> Noise:
    value = snr_db(found, wanted)
    is_sound = value >= LIMIT_DB or (step in _FIXED and bool((found - wanted).abs().max() <= step))
    reason = "" if is_sound else _reason(found, wanted)
    return Noise(name, is_output, value, reason, _CURES.get(reason, ""))


def _reason(found: Tensor, wanted: Tensor) -> str:
    if not bool(wanted.any()) or float(found.detach().double().std()) == 0:
        return _DEAD
    return _OUTLIER if _has_outlier(wanted) else _DEPTH


def _has_outlier(values: Tensor) -> bool:
    sizes = values.detach().abs()
    sizes = sizes[sizes > 0]
    return sizes.numel() > 1 and bool(sizes.max() > _FAR * sizes.median())


def _suspect(node: Node, args: Sequence[Any], suspects: dict[Node, str]) -> None:
    """Note operations whose operands int8 cannot hold together."""
    if node.target is aten.cat.default:
        sizes = [float(part.abs().max()) for part in args[0] if part.numel()]
        if max(sizes, default=0) > _FAR * min(sizes, default=0):
            suspects[node] = _CAT
    elif "softmax" in str(node.target) and float(args[0].min()) < -1e3:
        suspects[node] = _MASK
    elif ".quantize_per_tensor" in str(node.target) and args[1] not in _FIXED:
        if _has_outlier(args[0]):
            suspects[node] = _OUTLIER
        elif args[0].numel() > 1 and float(args[0].std()) < args[1]:
            suspects[node] = _DEAD


def _before(graph: GraphModule, name: str | None, sound: AbstractSet[str]) -> set[Node]:
    """Return what a module's result, or with None the outputs, depend on, back to modules that are sound."""
    left = [node for node in graph.graph.nodes if node.op == "output" or name in node.meta.get(MODULES, [])]
    left = [node for node in left if (node.op == "output") == (name is None)]
    seen = {user for node in left for user in exits.seen(node).users}  # with whom it shares a grid
    while left:
        node = left.pop()
        if node not in seen and sound.isdisjoint(node.meta.get(MODULES, [])):
            seen.add(node)
            left += node.all_input_nodes
    return seen


def _explained(item: Noise, before: AbstractSet[Node], suspects: Mapping[Node, str]) -> Noise:
    """Let what an operation before a tensor shows go before what its values make likely."""
    found = {reason for node, reason in suspects.items() if node in before}
    reason = next(
        (reason for reason in (_CAT, _MASK, _OUTLIER, _DEAD) if reason in found), ""
    )  # causes of others first
    return replace(item, reason=reason, cure=_CURES[reason]) if item.reason and reason else item


def _warn(found: Sequence[Noise]) -> None:
    low = [item for item in found if item.reason]
    ends = [item for item in low if item.is_output]
    if ends:
        worst, first = ends[0], low[0]
        warnings.warn(
            f"output {worst.name!r} of the quantized graph has {worst.snr_db:.1f} dB, less than {LIMIT_DB:g}; the "
            f"first tensor below is that of {first.name!r} ({first.snr_db:.1f} dB), likely for {first.reason}: "
            f"{first.cure}",
            stacklevel=4,
        )

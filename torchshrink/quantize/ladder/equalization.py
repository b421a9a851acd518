"""The second step: channels of one tensor made equally large, between two layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from torchshrink.quantize.ladder.walk import walk
from torchshrink.quantize.operators import OPERATORS, role
from torchshrink.quantize.parity import without_quantization

aten = torch.ops.aten

_RELU6 = {aten.relu6.default, aten.hardtanh.default, aten.hardtanh_.default}
# f(s * x) = s * f(x) for s > 0, each channel for itself
_HOMOGENEOUS = {
    aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.leaky_relu_.default, aten.max_pool1d.default,
    aten.max_pool2d.default, aten.avg_pool1d.default, aten.avg_pool2d.default, aten.dropout.default,
}  # fmt: skip
_FURTHEST = 1e3  # how far a channel is moved


class Pair(NamedTuple):
    """Two layers, and the activations with a limit between them, to be replaced by ReLU."""

    first: Node
    second: Node
    limited: tuple[Node, ...]


@torch.no_grad()
def equalize(graph: GraphModule, inputs: Sequence[Tensor]) -> int:
    """Scale channels between two layers of an observed graph, in place, before it is calibrated.

    What one layer gives is divided, and what the next multiplies it with is multiplied, by the same number for each
    channel: ``s = sqrt(a / w)``, where a is the largest activation of the channel and w the largest weight that reads
    it. Both become ``sqrt(a * w)``. A ReLU6 between them becomes a ReLU.

    Nagel et al. take the weights of the first layer for a; here each of its output channels has a scale of its own, so
    that only the activations share a grid, and these are measured. A depthwise layer reads each channel with a scale of
    its own too: then s = a but for a common factor.

    Returns:
        How many pairs of layers were scaled.

    Source: Nagel et al., arXiv:1906.04721, sections 4.1.1 and 4.1.2; Xiao et al., arXiv:2211.10438, equation 4.
    """
    count = 0
    largest = {
        call.node.name: call.args[0].abs().movedim(call.channels, 0).flatten(1).amax(1)
        for call in walk(without_quantization(graph), inputs)
    }
    for pair in list(_pairs(graph)):
        count += _scale(graph, pair, largest[pair.second.name])
    graph.recompile()
    return count


def _pairs(graph: GraphModule) -> Iterator[Pair]:
    readers = Counter(
        str(source.target) for node in graph.graph.nodes if node.op == "call_function" for source in _constants(node)
    )
    for first in graph.graph.nodes:
        if role(first) != "weighted":
            continue
        limited: list[Node] = []
        node = first
        while len(node.users) == 1:
            node = next(iter(node.users))
            if role(node) == "weighted":
                is_alike = _is_linear(first) == _is_linear(node)
                if is_alike and all(_is_own(each, readers) for each in (first, node)):
                    yield Pair(first, node, tuple(limited))
                break
            if node.target in _RELU6 and _is_six(node):
                limited.append(node)
            elif node.target not in _HOMOGENEOUS and node.op != "call_module":
                break


def _scale(graph: GraphModule, pair: Pair, largest: Tensor) -> bool:
    out, read = (attrgetter(str(_unobserved(node.args[1]).target))(graph) for node in (pair.first, pair.second))
    first, second = OPERATORS[pair.first.target].axis, OPERATORS[pair.second.target].axis
    if first == 1 and _groups(pair.first) != 1:
        return False
    is_depthwise = _groups(pair.second) == len(read) == len(largest) and read.shape[1] == 1 and second == 0
    if not is_depthwise and (_groups(pair.second) != 1 or read.shape[1 - second] != out.shape[first]):
        return False
    reads = torch.ones_like(largest) if is_depthwise else read.abs().movedim(1 - second, 0).flatten(1).amax(1)
    is_alive = (largest > 0) & (reads > 0)
    factor = largest / reads if is_depthwise else (largest / reads).sqrt()
    factor = torch.where(is_alive, factor, 1.0)
    factor = factor / factor[is_alive].log().mean().exp() if bool(is_alive.any()) else factor
    factor = torch.where(is_alive, factor.clamp(1 / _FURTHEST, _FURTHEST), 1.0)
    out.div_(_along(factor, out, first))
    bias = pair.first.args[2] if len(pair.first.args) > 2 else None
    if isinstance(bias, Node):
        attrgetter(str(bias.target))(graph).div_(factor)
    read.mul_(_along(factor, read, 0 if is_depthwise else 1 - second))
    for node in pair.limited:
        node.target, node.args = aten.relu.default, node.args[:1]
    return True


def _along(factor: Tensor, weight: nn.Parameter, axis: int) -> Tensor:
    return factor.reshape([-1 if place == axis else 1 for place in range(weight.dim())])


def _unobserved(node: Any) -> Node:
    """Return what an observer looks at, or the node itself."""
    found: Node = node.args[0] if node.op == "call_module" else node
    return found


def _constants(node: Node) -> list[Node]:
    """Return the parameters that an operation reads, past their observers."""
    return [source for source in map(_unobserved, node.all_input_nodes) if source.op == "get_attr"]


def _is_own(node: Node, readers: Mapping[str, int]) -> bool:
    """Return whether a layer's weight and bias are parameters that nothing else reads."""
    parts = [_unobserved(part) for part in node.args[1:3] if isinstance(part, Node)]
    return all(part.op == "get_attr" and readers[str(part.target)] == 1 for part in parts)


def _groups(node: Node) -> Any:
    """Return the groups of a convolution, which stand at the same place in a transposed one."""
    return node.args[6] if len(node.args) > 6 else 1


def _is_linear(node: Node) -> bool:
    return node.target is aten.linear.default


def _is_six(node: Node) -> bool:
    return node.target is aten.relu6.default or tuple(node.args[1:3]) == (0, 6)

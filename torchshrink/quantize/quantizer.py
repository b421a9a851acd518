"""Annotate an exported graph with the TFLite 8-bit scheme, for torchao's PT2E flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpec,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from torchshrink.quantize import keep, scheme
from torchshrink.quantize.batch_norms import can_fold, fold
from torchshrink.quantize.divisors import divisors
from torchshrink.quantize.masks import masked, scores
from torchshrink.quantize.operators import OPERATORS, Role, role, row
from torchshrink.quantize.rewriting import rewrite
from torchshrink.quantize.writer import is_float
from torchshrink.settings import Weights


class TFLiteQuantizer(Quantizer):  # type: ignore[misc]  # torchao ships no types
    """Say for every tensor of a graph how TFLite's int8 kernels want it quantized.

    An operation that has no int8 kernel is not annotated: its inputs stay dequantized, its output is quantized again
    by whoever needs it, and it runs in float as an island.

    Args:
        is_qat: True for fake quantization in training, False for observers that only watch (calibration).
        keep_float: Modules that stay float, as `torchshrink.quantize.prepare_qat` takes them.
        portable: Whether weights leave room, as it says.
        weights: Their grid, as it says.
    """

    def __init__(
        self, is_qat: bool, keep_float: Sequence[str] = (), portable: bool = True, weights: Weights = "int8"
    ) -> None:
        super().__init__()
        self.is_qat, self.keep_float, self.portable, self.weights = is_qat, keep_float, portable, weights
        self.activation = scheme.activation_spec(is_qat)
        self.constant = scheme.activation_spec(is_qat, is_constant=True)
        self.factor = scheme.activation_spec(is_qat, is_symmetric=True)
        self.score = self.activation if is_qat else scheme.score_spec()
        self._factors: set[Node] = set()
        self._scores: set[Node] = set()
        self._annotators: dict[Role, Callable[[Any], None]] = {
            "weighted": self._annotate_weighted,
            "product": self._annotate_product,
            "pair": self._annotate_pair,
            "single": self._annotate_single,
            "joined": self._annotate_joined,
            "moved": self._annotate_moved,
        }

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Write operations as ones that have int8 kernels; see `rewriting.rewrite`."""
        if not self.is_qat:
            fold(model)
        kept = self._kept(model)
        rewrite(model, kept, self.is_qat)
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every supported node, in the order of the graph."""
        kept = self._kept(model) | masked(model) | divisors(model)
        self._factors = {_origin(node.args[1]) for node in model.graph.nodes if _is_product(node)}
        self._scores = scores(model)
        for node in model.graph.nodes:
            if node in kept or _is_annotated(node) or not is_float(node) or _is_of_complex(node):
                continue
            operator = row(node)
            if operator is not None and operator.role in self._annotators:
                self._annotators[operator.role](node)
        return model

    def validate(self, model: GraphModule) -> None:
        """Accept any annotated graph: what has no int8 kernel was left alone."""

    def _kept(self, model: GraphModule) -> set[Node]:
        """Return the nodes that stay float, with what TFLite computes together with them."""
        kept = keep.nodes_in(model.graph, self.keep_float)
        for node in model.graph.nodes:
            chain = _fused(node)
            if not kept.isdisjoint(chain):
                kept.update(chain)
        return kept

    def _annotate_weighted(self, node: Any) -> None:
        source, weight = node.args[:2]
        axis = OPERATORS[node.target].axis
        is_plain = axis == 0 and not _is_depthwise(node)  # what TFLite has kernels for with int4 weights
        weights = self.weights if is_plain else "int8"
        pairs = self.portable and not _is_depthwise(node) and weights == "int8"  # 255 * (7 + 7) fits anyway
        spec = scheme.weight_spec(self.is_qat, axis, pairs=pairs, weights=weights)
        self._mark_fused(node, {source: self._input(source), weight: spec})

    def _annotate_product(self, node: Any) -> None:
        """XNNPACK leaves out the zero point of the second factor, so that has to be 0 from where it is computed on."""
        left, right = node.args[:2]
        is_ready = _resolved(right) is self.factor
        second = SharedQuantizationSpec(right) if is_ready else self.factor
        _mark(node, {left: self._input(left), right: second}, self._spec(node))

    def _annotate_pair(self, node: Any) -> None:
        operands = node.args[:2]
        if not all(isinstance(operand, Node) and is_float(operand) for operand in operands):
            return
        self._mark_fused(node, {operand: self._input(operand) for operand in operands})

    def _mark_fused(self, node: Node, inputs: dict[Node, QuantizationSpecBase]) -> None:
        """Annotate a chain that is one operation: it is quantized where it begins and where it ends."""
        first, *others = _fused(node)
        _mark(first, inputs, None if others else self._spec(first))
        for other in others:
            _mark(other, {}, self._spec(other) if other is others[-1] else None)

    def _annotate_single(self, node: Any) -> None:
        output = OPERATORS[node.target].output or self._spec(node)
        _mark(node, {node.args[0]: self._input(node.args[0])}, output)

    def _input(self, source: Node) -> QuantizationSpecBase:
        """Return the spec of an input: what has fixed parameters keeps them, instead of being quantized twice."""
        known = _resolved(source)
        is_set = known is not None and known is not self.activation
        return SharedQuantizationSpec(source) if is_set else self._spec(source)

    def _spec(self, node: Node) -> QuantizationSpec:
        """Return the spec of what a node computes, by who reads it, or of a constant."""
        if node.op == "get_attr":
            return self.constant
        return self.factor if node in self._factors else self.score if node in self._scores else self.activation

    def _annotate_joined(self, node: Any) -> None:
        parts = [part for part in node.args[0] if isinstance(part, Node)]
        if not _depends_on_inputs(node):
            return  # a constant in parts
        parts.sort(key=lambda part: not _depends_on_inputs(part))  # constants are not observed
        shared = SharedQuantizationSpec((parts[0], node))
        inputs = dict.fromkeys(parts[1:], shared) | {parts[0]: self.activation}
        _mark(node, inputs, shared)

    def _annotate_moved(self, node: Any) -> None:
        source = node.args[0]
        if _output_spec(source) is not None:
            shared: QuantizationSpecBase = SharedQuantizationSpec(source)
            _mark(node, {source: shared}, shared)
        else:
            _mark(node, {source: self._spec(source)}, SharedQuantizationSpec((source, node)))


def _is_product(node: Node) -> bool:
    operator = row(node)
    return operator is not None and operator.role == "product"


def _origin(node: Any) -> Node:
    """Return what computes the values that a node only moves."""
    while (operator := row(node)) is not None and operator.role == "moved":
        node = node.args[0]
    return node  # type: ignore[no-any-return]


def _depends_on_inputs(node: Node) -> bool:
    """Return whether values of an input decide those of a node; the batch size does not count."""
    seen, left = set(), [node]
    while left:
        node = left.pop()
        if node.op == "placeholder":
            return True
        if node not in seen and _is_tensor(node):
            seen.add(node)
            left += [*node.all_input_nodes]
    return False


def _is_tensor(node: Node) -> bool:
    is_made = (
        str(node.target).partition(".")[2].startswith(("new_", "full", "zeros", "ones", "empty", "arange", "sym_"))
    )
    return not is_made and isinstance(node.meta.get("val"), torch.Tensor | list | tuple)


def _is_depthwise(node: Node) -> bool:
    """Return whether every channel is convolved alone: such kernels add in 32 bits on every processor."""
    weight: Any = node.args[1]
    outputs, inputs, *_ = weight.meta["val"].shape
    is_transposed = OPERATORS[node.target].axis == 1
    return not is_transposed and len(node.args) > 6 and node.args[6] == outputs and inputs == 1


def _mark(node: Node, inputs: dict[Node, QuantizationSpecBase], output: QuantizationSpecBase | None) -> None:
    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)


def _is_annotated(node: Node) -> bool:
    return Q_ANNOTATION_KEY in node.meta


def _output_spec(node: Node) -> QuantizationSpecBase | None:
    return node.meta[Q_ANNOTATION_KEY].output_qspec if _is_annotated(node) else None


def _resolved(node: Node) -> QuantizationSpecBase | None:
    """Return the spec of an output itself, where it is shared that of whom it is shared with."""
    spec = _output_spec(node)
    while isinstance(spec, SharedQuantizationSpec):
        shared = spec.edge_or_node
        spec = _output_spec(shared) if isinstance(shared, Node) else _input_spec(*shared)
    return spec


def _input_spec(source: Node, node: Node) -> QuantizationSpecBase | None:
    return node.meta[Q_ANNOTATION_KEY].input_qspec_map[source]


def _is_of_complex(node: Node) -> bool:
    """Return whether complex numbers go in, as after a Fourier transform: they have no grid."""
    values = (source.meta.get("val") for source in node.all_input_nodes)
    return any(isinstance(value, torch.Tensor) and value.is_complex() for value in values)


def _fused(node: Node) -> list[Node]:
    """Return a node and what TFLite computes together with it: BatchNorm after weights, then a ReLU."""
    chain = [node]
    if role(node) == "weighted" and (follower := _only_user(node)) is not None and can_fold(follower):
        chain.append(follower)
    if role(node) in ("weighted", "pair"):
        follower = _only_user(chain[-1])
        if follower is not None and (operator := row(follower)) is not None and operator.is_clamp:
            chain.append(follower)
    return chain


def _only_user(node: Node) -> Node | None:
    """Return the one user of ``node`` when it is the only one."""
    users = list(node.users)
    return users[0] if len(users) == 1 else None

"""Annotate an exported graph with the TFLite 8-bit scheme, for torchao's PT2E flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    FixedQParamsQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from torchshrink.quantize import keep, scheme
from torchshrink.quantize.batch_norms import can_fold, fold
from torchshrink.quantize.rewriting import rewrite

aten = torch.ops.aten

CONVOLUTIONS = {aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding}
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}
BATCH_NORMS = {aten.batch_norm.default, aten._native_batch_norm_legit.default}
WEIGHTED = CONVOLUTIONS | TRANSPOSED | {aten.linear.default}
HARDTANHS = {aten.hardtanh.default, aten.hardtanh_.default}
CLAMPS = {aten.relu.default, aten.relu_.default, aten.relu6.default} | HARDTANHS
AVG_POOLS = {aten.avg_pool1d.default, aten.avg_pool2d.default}
SUMS = {aten.add.Tensor, aten.add_.Tensor}
DIFFERENCES = {aten.sub.Tensor, aten.sub_.Tensor}
PRODUCTS = {aten.mul.Tensor, aten.mul_.Tensor}
CURVES = {
    aten.gelu.default,
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.leaky_relu.default,
    aten.leaky_relu_.default,
}
# Operations whose output takes the parameters of their input, because they only move or select values.
PASS_THROUGH = {
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.pad.default,
    aten.pixel_shuffle.default,
    aten.pixel_unshuffle.default,
    aten.upsample_nearest1d.default,
    aten.upsample_nearest1d.vec,
    aten.upsample_nearest2d.default,
    aten.upsample_nearest2d.vec,
    aten.upsample_bilinear2d.default,
    aten.upsample_bilinear2d.vec,
    aten.reshape.default,
    aten.view.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.slice.Tensor,
    aten.contiguous.default,
    aten.clone.default,
    aten.dropout.default,
    aten.feature_dropout.default,
}
ADAPTIVE_POOLS = {aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default}
MEANS = {aten.mean.dim} | ADAPTIVE_POOLS
FIXED_OUTPUT = {
    aten.sigmoid.default: scheme.SIGMOID,
    aten.sigmoid_.default: scheme.SIGMOID,
    aten.softmax.int: scheme.SOFTMAX,
    aten._softmax.default: scheme.SOFTMAX,
    aten.tanh.default: scheme.TANH,
}


class TFLiteQuantizer(Quantizer):  # type: ignore[misc]  # torchao ships no types
    """Say for every tensor of a graph how TFLite's int8 kernels want it quantized.

    An operation that has no int8 kernel is not annotated: its inputs stay dequantized, its output is quantized again
    by whoever needs it, and it runs in float as an island.

    Args:
        is_qat: True for fake quantization in training, False for observers that only watch (calibration).
        keep_float: Modules that stay float, as `torchshrink.quantize.prepare_qat` takes them.
    """

    def __init__(self, is_qat: bool, keep_float: Sequence[str] = ()) -> None:
        super().__init__()
        self.is_qat, self.keep_float = is_qat, keep_float
        self.activation = scheme.activation_spec(is_qat)
        self._annotators: list[tuple[Set[Any], Callable[[Any], None]]] = [
            (WEIGHTED, self._annotate_weighted),
            (SUMS | DIFFERENCES | PRODUCTS, self._annotate_elementwise),
            (CLAMPS | CURVES | MEANS, self._annotate_unary),
            ({aten.cat.default}, self._annotate_cat),
            (PASS_THROUGH, self._annotate_pass_through),
            (set(FIXED_OUTPUT), self._annotate_fixed),
        ]

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Write operations as ones that have int8 kernels; see `rewriting.rewrite`."""
        if not self.is_qat:
            fold(model)
        kept = self._kept(model)
        rewrite(model, kept, self.is_qat)
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every supported node, in the order of the graph."""
        kept = self._kept(model)
        for node in model.graph.nodes:
            if node in kept or _is_annotated(node) or not _is_float(node):
                continue
            for targets, annotator in self._annotators:
                if node.target in targets:
                    annotator(node)
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
        axis = 1 if node.target in TRANSPOSED else 0
        if node.target in TRANSPOSED and len(node.args) > 6 and node.args[6] != 1:
            return  # output channels of a grouped transposed convolution have no axis of their own
        spec = scheme.weight_spec(self.is_qat, axis, pairs=not _is_depthwise(node))
        self._mark_fused(node, {source: self._input(source), weight: spec})

    def _annotate_elementwise(self, node: Any) -> None:
        operands = node.args[:2]
        if not all(isinstance(operand, Node) and _is_float(operand) for operand in operands):
            return
        # The exporter's float graph has no constant in a difference that is not folded into a convolution beside it.
        if node.target in DIFFERENCES and any(operand.op == "get_attr" for operand in operands):
            return
        self._mark_fused(node, {operand: self._input(operand) for operand in operands})

    def _mark_fused(self, node: Node, inputs: dict[Node, QuantizationSpecBase]) -> None:
        """Annotate a chain that is one operation: it is quantized where it begins and where it ends."""
        first, *others = _fused(node)
        _mark(first, inputs, None if others else self.activation)
        for other in others:
            _mark(other, {}, self.activation if other is others[-1] else None)

    def _annotate_unary(self, node: Any) -> None:
        if node.target in CLAMPS and not _is_fusable(node):
            return
        if node.target in ADAPTIVE_POOLS and set(node.args[1]) != {1}:
            return  # windows that overlap, or of several sizes
        _mark(node, {node.args[0]: self._input(node.args[0])}, self.activation)

    def _input(self, source: Node) -> QuantizationSpecBase:
        """Return the spec of an input: what has fixed parameters keeps them, instead of being quantized twice."""
        is_fixed = isinstance(_resolved(source), FixedQParamsQuantizationSpec)
        return SharedQuantizationSpec(source) if is_fixed else self.activation

    def _annotate_cat(self, node: Any) -> None:
        parts = [part for part in node.args[0] if isinstance(part, Node)]
        if not _depends_on_inputs(node):
            return  # a constant in parts
        parts.sort(key=lambda part: not _depends_on_inputs(part))  # constants are not observed
        shared = SharedQuantizationSpec((parts[0], node))
        inputs = dict.fromkeys(parts[1:], shared) | {parts[0]: self.activation}
        _mark(node, inputs, shared)

    def _annotate_pass_through(self, node: Any) -> None:
        if not _only_moves(node):
            return
        source = node.args[0]
        if _output_spec(source) is not None:
            shared: QuantizationSpecBase = SharedQuantizationSpec(source)
            _mark(node, {source: shared}, shared)
        else:
            _mark(node, {source: self.activation}, SharedQuantizationSpec((source, node)))

    def _annotate_fixed(self, node: Any) -> None:
        _mark(node, {node.args[0]: self._input(node.args[0])}, FIXED_OUTPUT[node.target])


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
    return node.target in CONVOLUTIONS and len(node.args) > 6 and node.args[6] == outputs and inputs == 1


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


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _fused(node: Node) -> list[Node]:
    """Return a node and what TFLite computes together with it: BatchNorm after weights, then a ReLU."""
    chain = [node]
    if node.target in WEIGHTED and (follower := _only_user(node, BATCH_NORMS)) is not None and can_fold(follower):
        chain.append(follower)
    if node.target in WEIGHTED | SUMS | DIFFERENCES | PRODUCTS:
        follower = _only_user(chain[-1], CLAMPS)
        if follower is not None and _is_fusable(follower):
            chain.append(follower)
    return chain


def _only_user(node: Node, targets: Set[Any]) -> Node | None:
    """Return the one user of ``node`` when it is the only one and one of ``targets``."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in targets else None


def _is_fusable(clamp: Node) -> bool:
    """TFLite has clamps to [0, inf), [0, 6] and [-1, 1]; a hardtanh with other limits is none of them."""
    if clamp.target not in HARDTANHS:
        return True
    return (*clamp.args[1:3], *(-1.0, 1.0)[len(clamp.args) - 1 :]) in ((0, 6), (-1, 1))


def _only_moves(node: Node) -> bool:
    """Return whether a pool or a padding is of a form that TFLite's kernels know."""
    settings: dict[int, Any] = dict(enumerate(node.args))
    if node.target in AVG_POOLS:  # windows that reach over an edge average over what is inside, of any number
        counts_padding = any(settings.get(3, [0])) and settings.get(5, True)
        return not settings.get(4) and not counts_padding and settings.get(6) is None
    if node.target is aten.pad.default:
        mode, value = settings.get(2, "constant"), settings.get(3)
        return mode == "reflect" or (mode == "constant" and not value)
    return True

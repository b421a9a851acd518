"""Annotate an exported graph with the TFLite 8-bit scheme, for torchao's PT2E flow."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationSpecBase,
    Quantizer,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from torchshrink.quantize import scheme

aten = torch.ops.aten

CONVOLUTIONS = {aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding}
NAMED_PADDING = {
    aten.conv1d.padding: aten.conv1d.default,
    aten.conv2d.padding: aten.conv2d.default,
}
_CONVOLUTION_DEFAULTS: list[Any] = [None, None, None, [1], "valid", [1], 1]
TRANSPOSED = {aten.conv_transpose1d.default, aten.conv_transpose2d.input}
BATCH_NORMS = {aten.batch_norm.default, aten._native_batch_norm_legit.default}
RELUS = {aten.relu.default, aten.relu_.default}
RELU6S = {aten.relu6.default, aten.hardtanh.default, aten.hardtanh_.default}
ADDITIONS = {aten.add.Tensor, aten.add_.Tensor}
PRODUCTS = {aten.mul.Tensor, aten.mul_.Tensor}
# Operations whose output takes the parameters of their input, because they only move or select values.
PASS_THROUGH = {
    aten.max_pool1d.default,
    aten.max_pool2d.default,
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
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
}
MEANS = {aten.mean.dim, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default}
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
    """

    def __init__(self, is_qat: bool) -> None:
        super().__init__()
        self.is_qat = is_qat
        self.activation = scheme.activation_spec(is_qat)
        self._annotators: list[tuple[Set[Any], Callable[[Any], None]]] = [
            (CONVOLUTIONS | TRANSPOSED | {aten.linear.default}, self._annotate_weighted),
            (ADDITIONS | PRODUCTS, self._annotate_elementwise),
            (RELUS | RELU6S | MEANS, self._annotate_unary),
            ({aten.cat.default}, self._annotate_cat),
            (PASS_THROUGH, self._annotate_pass_through),
            (set(FIXED_OUTPUT), self._annotate_fixed),
        ]

    def transform_for_annotation(self, model: GraphModule) -> GraphModule:
        """Write numbers as tensors and padding as numbers.

        The number in ``x + 2`` becomes a constant tensor, which can be quantized; ``padding="same"`` becomes the
        number it means, because torchao folds BatchNorm into convolutions of that form only.
        """
        for node in list(model.graph.nodes):
            if node.target in NAMED_PADDING:
                _write_padding(node)
            if node.target in ADDITIONS | PRODUCTS and _is_float(node) and isinstance(node.args[1], int | float):
                name = f"_scalar_{node.name}"
                model.register_buffer(name, torch.tensor([float(node.args[1])]))
                with model.graph.inserting_before(node):
                    constant = model.graph.get_attr(name)
                constant.meta["val"] = node.meta["val"].new_empty(1)
                node.args = (node.args[0], constant, *node.args[2:])
        model.recompile()
        return model

    def annotate(self, model: GraphModule) -> GraphModule:
        """Annotate every supported node, in the order of the graph."""
        for node in model.graph.nodes:
            if _is_annotated(node) or not _is_float(node):
                continue
            for targets, annotator in self._annotators:
                if node.target in targets:
                    annotator(node)
        return model

    def validate(self, model: GraphModule) -> None:
        """Accept any annotated graph: what has no int8 kernel was left alone."""

    def _annotate_weighted(self, node: Any) -> None:
        source, weight = node.args[:2]
        axis = 1 if node.target in TRANSPOSED else 0
        if node.target in TRANSPOSED and len(node.args) > 6 and node.args[6] != 1:
            return  # output channels of a grouped transposed convolution have no axis of their own
        inputs = {source: self.activation, weight: scheme.weight_spec(self.is_qat, axis)}
        tail = _fused_tail(node)
        _mark(node, inputs, self.activation if tail is node else None)
        for fused in _between(node, tail):
            _mark(fused, {}, None)
        if tail is not node:
            _mark(tail, {}, self.activation)

    def _annotate_elementwise(self, node: Any) -> None:
        operands = [arg for arg in node.args[:2] if isinstance(arg, Node)]
        if not all(_is_float(operand) for operand in operands):
            return
        tail = _only_user(node, RELUS | RELU6S) or node
        _mark(node, dict.fromkeys(operands, self.activation), self.activation if tail is node else None)
        if tail is not node:
            _mark(tail, {}, self.activation)

    def _annotate_unary(self, node: Any) -> None:
        _mark(node, {node.args[0]: self.activation}, self.activation)

    def _annotate_cat(self, node: Any) -> None:
        parts = [part for part in node.args[0] if isinstance(part, Node)]
        shared = SharedQuantizationSpec((parts[0], node))
        inputs = dict.fromkeys(parts[1:], shared) | {parts[0]: self.activation}
        _mark(node, inputs, shared)

    def _annotate_pass_through(self, node: Any) -> None:
        source = node.args[0]
        if _output_spec(source) is not None:
            shared: QuantizationSpecBase = SharedQuantizationSpec(source)
            _mark(node, {source: shared}, shared)
        else:
            _mark(node, {source: self.activation}, SharedQuantizationSpec((source, node)))

    def _annotate_fixed(self, node: Any) -> None:
        _mark(node, {node.args[0]: self.activation}, FIXED_OUTPUT[node.target])


def _write_padding(node: Any) -> None:
    """Turn named padding into numbers, where both sides get the same."""
    arguments = list(node.args) + _CONVOLUTION_DEFAULTS[len(node.args) :]
    source, weight, bias, stride, padding, dilation, groups = arguments
    kernel = list(weight.meta["val"].shape[2:])
    dilations = list(dilation) if len(dilation) == len(kernel) else [dilation[0]] * len(kernel)
    totals = [d * (k - 1) if padding == "same" else 0 for d, k in zip(dilations, kernel, strict=True)]
    if all(total % 2 == 0 for total in totals):
        node.target = NAMED_PADDING[node.target]
        arguments = [source, weight, bias, stride, [total // 2 for total in totals], dilation, groups]
        while arguments[-1] in (1, [1]):  # as the exporter does, and torchao's pattern expects: no defaults at the end
            arguments.pop()
        node.args = tuple(arguments)


def _mark(node: Node, inputs: dict[Node, QuantizationSpecBase], output: QuantizationSpecBase | None) -> None:
    node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)


def _is_annotated(node: Node) -> bool:
    return Q_ANNOTATION_KEY in node.meta


def _output_spec(node: Node) -> QuantizationSpecBase | None:
    return node.meta[Q_ANNOTATION_KEY].output_qspec if _is_annotated(node) else None


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _only_user(node: Node, targets: Set[Any]) -> Node | None:
    """Return the one user of ``node`` when it is the only one and one of ``targets``."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in targets and _is_clamp_ok(users[0]) else None


def _is_clamp_ok(node: Node) -> bool:
    """TFLite fuses ReLU and ReLU6 only; a hardtanh with other limits is an operation of its own."""
    return node.target not in (aten.hardtanh.default, aten.hardtanh_.default) or tuple(node.args[1:3]) == (0.0, 6.0)


def _fused_tail(node: Node) -> Node:
    """Return the last node that TFLite computes together with a convolution: itself, its BatchNorm or its ReLU."""
    tail = _only_user(node, BATCH_NORMS) or node
    return _only_user(tail, RELUS | RELU6S) or tail


def _between(first: Any, last: Any) -> list[Node]:
    """Return the nodes of a chain strictly between its ends."""
    chain: list[Node] = []
    while last is not first and (last := last.args[0]) is not first:
        chain.append(last)
    return chain

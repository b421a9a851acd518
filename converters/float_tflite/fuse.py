"""Write as one operation what PyTorch exports as several and TFLite has as one: GELU.

Taken apart it would need TensorFlow's own Erf, which LiteRT does not have.
"""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import NodeProto, helper

from torchshrink.converters import onnx_file
from torchshrink.converters.onnx_file import load

_OPSET = 20  # the first with Gelu


def gelu(path: Path) -> None:
    """Replace every taken apart GELU, exact or approximated with tanh, in the ONNX file at ``path``.

    Source: Hendrycks and Gimpel, arXiv:1606.08415: ``0.5 x (1 + erf(x / sqrt(2)))``, or
    ``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``.
    """
    model = load(path)
    graph = _Graph(model)
    found = {node.output[0]: match for node in model.graph.node if (match := graph.gelu(node)) is not None}
    if not found:
        return
    nodes = []
    for node in model.graph.node:
        if node.output[0] in found:
            source, kind = found[node.output[0]]
            node = helper.make_node("Gelu", [source], list(node.output), node.name or node.output[0], approximate=kind)
        nodes.append(node)
    while len(kept := _used(model, nodes)) < len(nodes):
        nodes = kept
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx_file.replace_initializers(model, {})
    for item in model.opset_import:
        if item.domain == "":
            item.version = max(item.version, _OPSET)
    onnx.save(model, str(path))


def _used(model: onnx.ModelProto, nodes: list[NodeProto]) -> list[NodeProto]:
    used = {name for node in nodes for name in node.input} | {item.name for item in model.graph.output}
    return [node for node in nodes if any(name in used for name in node.output)]


class _Graph:
    """A graph whose expressions can be taken apart, whatever the order of the operands."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._numbers = {name: float(a.ravel()[0]) for name, a in onnx_file.constants(model).items() if a.size == 1}

    def gelu(self, node: NodeProto) -> tuple[str, str] | None:
        """Return the input of the GELU whose last operation is ``node``, and its kind; None when it is none."""
        for source, factor in self._operands(node, "Mul"):
            argument = self._operand(self._operand(factor, "Mul", 0.5), "Add", 1.0)
            producer = self._producers.get(argument or "")
            if producer is None:
                continue
            inner = producer.input[0]
            if producer.op_type == "Erf" and self._is_divided(inner, source):
                return source, "none"
            if producer.op_type == "Tanh" and self._is_cubic(inner, source):
                return source, "tanh"
        return None

    def _is_divided(self, name: str, source: str) -> bool:
        """Return whether ``name`` is ``source / sqrt(2)``."""
        node = self._producers.get(name)
        if node is not None and node.op_type == "Div" and node.input[0] == source:
            return self._is_number(node.input[1], math.sqrt(2))
        return self._operand(name, "Mul", math.sqrt(0.5)) == source

    def _is_cubic(self, name: str, source: str) -> bool:
        """Return whether ``name`` is ``sqrt(2 / pi) (source + 0.044715 source^3)``."""
        total = self._operand(name, "Mul", math.sqrt(2 / math.pi))
        for one, other in self._operands(self._producers.get(total or ""), "Add"):
            power = self._producers.get(self._operand(other, "Mul", 0.044715) or "")
            if one == source and power is not None and power.op_type == "Pow":
                return power.input[0] == source and self._is_number(power.input[1], 3.0)
        return False

    def _operands(self, node: NodeProto | None, kind: str) -> list[tuple[str, str]]:
        """Return both orders of the operands of a sum or product; none when ``node`` is something else."""
        if node is None or node.op_type != kind or len(node.input) != 2:
            return []
        return [(node.input[0], node.input[1]), (node.input[1], node.input[0])]

    def _operand(self, name: str | None, kind: str, number: float) -> str | None:
        """Return what is added to or multiplied by ``number`` to make ``name``."""
        pairs = self._operands(self._producers.get(name or ""), kind)
        return next((other for constant, other in pairs if self._is_number(constant, number)), None)

    def _is_number(self, name: str, number: float) -> bool:
        return math.isclose(self._numbers.get(name, math.nan), number, rel_tol=1e-5)

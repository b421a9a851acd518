"""Write operations into an exported graph, with all that the exporter notes of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node


class Writer:
    """Adds operations before ``node``, as calls of the same module."""

    def __init__(self, graph: GraphModule, node: Node, is_qat: bool) -> None:
        self.graph, self.node, self.is_qat = graph, node, is_qat
        self.constants = dict(graph.named_buffers()) | ({} if is_qat else dict(graph.named_parameters()))

    def call(self, target: Any, *args: Any) -> Node:
        """Add an operation; its result has a shape and type, as those of the exporter."""
        made = self.graph.graph.call_function(target, args)
        with self._fake_mode():
            made.meta["val"] = target(*torch.fx.node.map_arg(args, lambda arg: arg.meta["val"]))
        made.meta["nn_module_stack"] = self.node.meta.get("nn_module_stack", {})
        return made

    def constant(self, value: float | Tensor) -> Node:
        """Add a constant tensor; a number becomes one of shape [1]."""
        value = value.detach() if isinstance(value, Tensor) else torch.tensor([float(value)])
        value = value.to(self._example().device)
        name = f"_constant_{self.node.name}"
        while hasattr(self.graph, name):
            name += "_"
        self.graph.register_buffer(name, value)
        made = self.graph.graph.get_attr(name)
        made.meta["val"] = self._fake_mode().from_tensor(value)
        return made

    def known(self, operand: Any) -> float | Tensor | None:
        """Return a number, or the values of a constant tensor; None for what is computed or trained."""
        if isinstance(operand, Node):
            return self.constants.get(str(operand.target)) if operand.op == "get_attr" and is_float(operand) else None
        return float(operand)

    def _example(self) -> Any:
        value = self.node.meta["val"]
        return value[0] if isinstance(value, list | tuple) else value

    def _fake_mode(self) -> Any:
        return self._example().fake_mode


def is_float(node: Node) -> bool:
    """Return whether a node is one tensor of real numbers."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.is_floating_point()

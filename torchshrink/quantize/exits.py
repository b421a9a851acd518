"""Which operation of a graph gives what a module of the model returns, and what both compute there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from torchshrink.model.graphs import MODULES
from torchshrink.model.signature import leaves


def mark(graph: GraphModule) -> None:
    """Note at every operation of a graph as it was captured the calls of modules that end with it."""
    last: dict[str, Node] = {}
    for node in graph.graph.nodes:
        for key, (path, _) in node.meta.get("nn_module_stack", {}).items():
            if path and isinstance(node.meta.get("val"), Tensor):
                _, _, call = str(key).partition("@")
                last[f"{path.partition('@')[0]}@{call}" if call else path] = node
    for name, node in last.items():
        node.meta[MODULES] = [*node.meta.get(MODULES, []), name]


@torch.no_grad()
def of_module(model: nn.Module, inputs: Sequence[Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return what every call of a module returned that is one tensor, in order, and the outputs by name."""
    found: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def seen(name: str) -> Any:
        def hook(_module: nn.Module, _given: Any, output: Any) -> None:
            key = f"{name}@{calls[name]}" if calls[name] else name
            calls[name] += 1
            if isinstance(output, Tensor) and output.is_floating_point():
                found[key] = output.clone()  # a ReLU in place may follow

        return hook

    hooks = [module.register_forward_hook(seen(name)) for name, module in model.named_modules() if name]
    try:
        outputs = named(model(*inputs))
    finally:
        for handle in hooks:
            handle.remove()
    return found, outputs


@torch.no_grad()
def of_graph(
    graph: GraphModule, inputs: Sequence[Tensor], look: Callable[[Node, Sequence[Any]], None] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the same of a graph, quantized where it quantizes: what later operations get to see.

    ``look`` is shown every operation and its arguments.
    """
    runner = _Recorder(graph, look)
    outputs = named(runner.run(*inputs))
    return runner.found, outputs


def place(node: Node) -> str:
    """Return where an operation stands, for a message: its module, or its own name."""
    paths = [path.partition("@")[0] for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return f"{paths[-1]!r} ({node.name})" if paths and paths[-1] else repr(node.name)


@torch.no_grad()
def first_not_finite(graph: GraphModule, inputs: Sequence[Tensor]) -> str:
    """Return where an observed graph first computes NaN or infinity from finite inputs."""
    found: list[str] = []

    class Looking(Interpreter):
        def run_node(self, n: Node) -> Any:
            is_observer = n.op == "call_module" and hasattr(self.fetch_attr(str(n.target)), "calculate_qparams")
            observed: Any = n.args[0] if n.args else None
            value = self.env[observed] if is_observer else super().run_node(n)
            if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
                found.append(place(n))
            return value

    Looking(graph).run(*inputs)
    return found[0] if found else "its output"


def named(outputs: Any) -> dict[str, Tensor]:
    """Return outputs under the names that files give them."""
    return {name or "output": value for name, value in leaves(outputs) if isinstance(value, Tensor)}


class _Recorder(Interpreter):
    def __init__(self, graph: GraphModule, look: Callable[[Node, Sequence[Any]], None] | None) -> None:
        super().__init__(graph)
        self._look = look
        self.found: dict[str, Tensor] = {}
        self._names: dict[Node, list[str]] = {}
        for node in graph.graph.nodes:
            if MODULES in node.meta:
                self._names[seen(node)] = [*self._names.get(seen(node), []), *node.meta[MODULES]]

    def run_node(self, n: Node) -> Any:
        if self._look is not None and n.op == "call_function":
            self._look(n, self.fetch_args_kwargs_from_env(n)[0])
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.is_floating_point():
            self.found |= {name: value.clone() for name in self._names.get(n, [])}
        return value


def seen(node: Node) -> Node:
    """Return the node that users of an operation see: past its quantization."""
    return all_seen(node)[0]


def all_seen(node: Node) -> list[Node]:
    """Return the nodes that users of an operation see: each may take the same codes back for itself."""
    codes = list(node.users)
    if len(codes) != 1 or ".quantize_per_" not in str(codes[0].target):
        return [node]
    reals = list(codes[0].users)
    return reals if reals and all(".dequantize_per_" in str(real.target) for real in reals) else codes

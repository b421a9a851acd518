"""Modules that stay float in a quantized graph, by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import nn
from torch.fx import Graph, Node

from torchshrink.errors import ModelError

_NEAR = 5  # names that an error lists at most


def check(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse names of no module.

    Args:
        model: The float module.
        names: As in ``model.named_modules()``; the whole model, ``""``, is none of them.

    Raises:
        ModelError: Naming modules that are called nearly so.
    """
    known = [name for name, _ in model.named_modules() if name]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, _NEAR, cutoff=0.4) or known[:_NEAR]
            listed = f"near it: {', '.join(near)}" if near else "it has no modules in it"
            raise ModelError(f"keep_float {name!r} is no module of {type(model).__name__}; {listed}")


def nodes_in(graph: Graph, names: Sequence[str]) -> set[Node]:
    """Return the operations of an exported graph that belong to the named modules, or to modules inside them.

    Raises:
        ModelError: When a module has no operation, because the model never calls it.
    """
    found: set[Node] = set()
    for name in names:
        inside = {node for node in graph.nodes if _is_in(node, name)}
        if not inside:
            raise ModelError(
                f"keep_float {name!r} computes nothing itself: name the module that calls it or contains it"
            )
        found |= inside
    return found


def _is_in(node: Node, name: str) -> bool:
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return any(path == name or path.startswith(f"{name}.") for path in paths)

"""What an exported graph does in training only: its operations hold their mode as an argument."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from torchshrink.errors import ModelError

aten = torch.ops.aten

_KEY = "in_training"
_FLAGS = {"train", "training", "use_input_stats"}  # arguments that hold the mode; ``dropout_p`` is a rate instead


CUMULATIVE = -1.0  # stands in a graph for a momentum of None: the average over all batches


def remember(graph: GraphModule) -> None:
    """Note at every operation what it does in training, as `switch` needs it, before anything else changes it.

    What was captured in evaluation stays in it: a norm that its owner froze. What normalises by the batch in either
    mode stays as it is.
    """
    for node in graph.graph.nodes:
        place = _training_argument(node)
        if place is not None and place[1]:
            node.meta[_KEY] = place
            if _arguments(node).get("momentum") == CUMULATIVE:
                node.meta["momentum"] = CUMULATIVE


def switch(graph: GraphModule, is_training: bool, frozen_statistics: bool = False) -> None:
    """Write a mode into the operations of a graph; ``frozen_statistics`` keeps norms in evaluation."""
    learns = is_training and not frozen_statistics
    for node in graph.graph.nodes:
        if _KEY in node.meta:
            name, value = node.meta[_KEY]
            is_on = learns if _has_statistics(node) else is_training
            _set(node, name, value if is_on else False if isinstance(value, bool) else 0.0)
        elif is_counter(node):
            node.args = (node.args[0], int(learns))
    graph.recompile()


def set_cumulative(graph: GraphModule) -> None:
    """Give norms without a momentum the one that makes the next batch count as much as each before it."""
    norms = [node for node in graph.graph.nodes if node.meta.get("momentum") == CUMULATIVE]
    buffers = dict(graph.named_buffers())
    for node in norms:
        seen = buffers[str(node.args[3].target).replace("running_mean", "num_batches_tracked")]
        _set(node, "momentum", 1 / (int(seen) + 1))
    if norms:
        graph.recompile()


def forget_counters(graph: GraphModule) -> None:
    """Drop what counts the batches that norms have seen, which training alone needs, in place."""
    for node in reversed(list(graph.graph.nodes)):
        if is_counter(node) and not node.users:
            graph.graph.erase_node(node)


def random_operations(graph: GraphModule) -> list[Node]:
    """Return what draws random numbers whatever the mode of the graph is."""
    is_seeded = torch.Tag.nondeterministic_seeded
    return [
        node
        for node in graph.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
        and is_seeded in node.target.tags
        and not {argument.name for argument in node.target._schema.arguments} & (_FLAGS | {"dropout_p"})
    ]


def owner(node: Node) -> str:
    """Return the name of the module that calls an operation; the whole model is ``""``."""
    paths = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return str(paths[-1]).partition("@")[0] if paths else ""


def refuse_random(graph: GraphModule, model: nn.Module) -> None:
    """Refuse a graph captured in evaluation that draws random numbers.

    Raises:
        ModelError: Naming the layer and the operation.
    """
    drawn = [node for node in graph.graph.nodes if _draws_in_evaluation(node)]
    for node in random_operations(graph) + drawn:
        name = owner(node)
        kind = type(model.get_submodule(name)).__name__
        raise ModelError(
            f"{f'layer {name!r} ({kind})' if name else kind} draws random numbers in evaluation too ({node.target}), "
            "so no file can compute what it computes: draw only where self.training is set, or outside of the model"
        )


def _draws_in_evaluation(node: Node) -> bool:
    place = _training_argument(node)
    return place is not None and bool(place[1]) and not _has_statistics(node)


def _training_argument(node: Node) -> tuple[str, Any] | None:
    """Return the argument of an operation that holds its mode, and what it is now."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    given = _arguments(node)
    if "running_mean" in given and given["running_mean"] is None:
        return None  # normalises by the batch in either mode
    name = next((name for name in given if name in _FLAGS or name == "dropout_p"), None)
    return None if name is None else (name, given[name])


def _has_statistics(node: Node) -> bool:
    return "running_mean" in _arguments(node)


def is_counter(node: Node) -> bool:
    """Return whether a node counts the batches that a norm has seen."""
    counted: Any = node.args[0] if node.target is aten.add_.Tensor else None
    while isinstance(counted, Node) and counted.target is aten.add_.Tensor:  # a norm that is called once more
        counted = counted.args[0]
    return (
        isinstance(counted, Node) and counted.op == "get_attr" and str(counted.target).endswith("num_batches_tracked")
    )


def _arguments(node: Node) -> dict[str, Any]:
    schema: Any = node.target._schema.arguments  # type: ignore[union-attr]
    defaults = {argument.name: argument.default_value for argument in schema}
    return defaults | dict(zip(defaults, node.args, strict=False)) | node.kwargs


def _set(node: Node, name: str, value: Any) -> None:
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    place = names.index(name)
    if place < len(node.args):
        node.args = (*node.args[:place], value, *node.args[place + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}

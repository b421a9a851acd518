"""Write a traced graph as plain JSON and build it again, without pickles and without the model's own code.

What a file may hold is checked as a whole by `torchshrink.model.graph_schema` before anything is built.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_unflatten

from torchshrink.errors import ModelError
from torchshrink.model import graph_operators
from torchshrink.model.graph_schema import CONSTANTS, MODULE, Call, Constant, Description, Named, Result

MODULES = "modules"  # in a node's meta: the calls of modules that end with it, "encoder.0" or, the second one, "act@1"


def to_json(module: GraphModule) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the operations of a traced module, and the tensors that they use by name.

    Raises:
        ModelError: When the graph calls something that is not an operation of PyTorch.
    """
    nodes: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    output: Any = None
    for node in module.graph.nodes:
        if node.op == "output":
            output = _encode(_structured(module, node.args[0]))
        elif node.op == "placeholder":
            nodes.append({"op": "placeholder", "name": node.name})
        elif node.op == "get_attr" and node.users:
            tensors[node.name] = _attribute(module, node.target)
            nodes.append({"op": "get_attr", "name": node.name})
        elif node.op == "call_function" and not _is_bookkeeping(node):
            kwargs = {key: _encode(value) for key, value in node.kwargs.items()}
            entry = {"op": "call", "name": node.name, "target": _target_name(node), "args": _encode(node.args)}
            modules = [name for name in node.meta.get(MODULES, []) if MODULE.fullmatch(name)]
            nodes.append(entry | ({"kwargs": kwargs} if kwargs else {}) | ({"modules": modules} if modules else {}))
    return {"nodes": nodes, "output": output}, tensors


def check_operations(module: GraphModule) -> None:
    """Refuse what `to_json` would, before any time is spent on a graph.

    Raises:
        ModelError: When the graph calls something that is not an operation of PyTorch.
    """
    for node in module.graph.nodes:
        if node.op == "call_function" and node.users:
            _target_name(node)


def from_json(content: Any, tensors: dict[str, Tensor]) -> GraphModule:
    """Build the module that `to_json` described; its tensors are buffers, it returns what the traced module returned.

    Raises:
        ModelError: When the description is damaged, or calls what a file may not call.
    """
    try:
        description = Description.model_validate(content)
    except ValidationError as error:
        raise ModelError(f"the graph in this file is damaged: {_problem(error)}") from error
    graph, root = Graph(), nn.Module()
    known: dict[str, Node] = {}
    try:
        for entry in description.nodes:
            if isinstance(entry, Call):
                arguments = tuple(_decode(value, known) for value in entry.args)
                kwargs = {key: _decode(value, known) for key, value in entry.kwargs.items()}
                node = graph.call_function(graph_operators.find(entry.target), arguments, kwargs)
                node.name = entry.name
                if entry.modules:
                    node.meta[MODULES] = list(entry.modules)
            elif entry.op == "placeholder":
                node = graph.placeholder(entry.name)
            else:
                root.register_buffer(entry.name, tensors[entry.name])
                node = graph.get_attr(entry.name)
            known[entry.name] = node
        output = _decode(description.output, known)
        graph.output(output[0] if isinstance(output, list) and len(output) == 1 else output)
        graph.lint()
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise ModelError(f"the graph in this file is damaged: {error}") from error
    module = GraphModule(root, graph, "QuantizedGraph").eval()
    if {value.dtype for value in tensors.values() if value.is_floating_point()} <= {torch.float32}:
        module.register_forward_pre_hook(_in_float32)
    return module


def _in_float32(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Let inputs of half or double precision be what the graph computes with, as `quantize.prepare_ptq` does."""
    return tuple(value.float() if _is_of_other_floats(value) else value for value in inputs)


def _is_of_other_floats(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dtype != torch.float32


def _structured(module: GraphModule, output: Any) -> Any:
    """Return the output as the module returns it: an exported graph lists the tensors and rebuilds the rest."""
    specification = getattr(getattr(module.graph._codegen, "pytree_info", None), "out_spec", None)
    return output if specification is None else tree_unflatten(list(output), specification)


def _is_bookkeeping(node: Node) -> bool:
    """Guards, assertions and counters of an exported program compute nothing that the output needs.

    Raises:
        ModelError: When it changes a tensor in place, which others may read.
    """
    if node.users or not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return not node.users
    if node.target is torch.ops.aten.detach_.default:
        return True  # no value changes
    alias, changed = node.target._schema.arguments[0].alias_info, node.args[0]
    if alias is not None and alias.is_write and isinstance(changed, Node) and changed.op != "get_attr":
        raise ModelError(
            f"operation {node.target} of node {node.name!r} changes a tensor in place, which a file cannot hold: "
            "capture the model with torchshrink.quantize.capture, which writes such changes out"
        )
    return True


def _attribute(module: GraphModule, target: Any) -> Tensor:
    value: Any = module
    for part in str(target).split("."):
        value = getattr(value, part)
    tensor: Tensor = value.detach()
    return tensor


def _target_name(node: Node) -> str:
    name = graph_operators.name_of(node.target)
    if name is None:
        paths = [path.partition("@")[0] for path, _ in node.meta.get("nn_module_stack", {}).values()]
        layer = f"layer {paths[-1]!r}" if paths and paths[-1] else f"node {node.name!r}"
        raise ModelError(
            f"operation {node.target} of {layer} cannot be written to a file: compute it outside of the model, or "
            "write it with other operations of PyTorch"
        )
    return name


def _encode(value: Any) -> Any:
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if str(value) in CONSTANTS:
        return {"constant": str(value)}
    if isinstance(value, torch.device):
        return {"constant": "cpu"}
    raise ModelError(f"argument {value!r} of a graph cannot be written to a file")


def _decode(value: Any, known: dict[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, known) for item in value]
    if isinstance(value, Result):
        return known[value.node]
    if isinstance(value, Named):
        return {key: _decode(item, known) for key, item in value.items.items()}
    return CONSTANTS[value.constant] if isinstance(value, Constant) else value


def _problem(error: ValidationError) -> str:
    """Return the first thing that is wrong, and where."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(key) for key in first["loc"])[:200]
    return f"{place}: {first['msg']}" if place else first["msg"]

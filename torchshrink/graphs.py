"""Write a traced graph as plain JSON and build it again, without pickles and without the model's own code.

Only operations of PyTorch's own registries are written and only those are looked up when reading, so a file can name
no code of its own.
"""

from __future__ import annotations

import keyword
import operator
import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_unflatten

from torchshrink.errors import ModelError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMESPACES = ("aten", "quantized_decomposed")
_REFUSED = ("from_file",)  # maps a file of the user, for writing too
_FUNCTIONS = {
    f"operator.{function.__name__}": function
    for function in (operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.eq)
}
_CONSTANTS = {
    str(value): value
    for value in (
        *(getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16", "bool", "uint8", "int8")),
        *(getattr(torch, name) for name in ("int16", "int32", "int64", "strided")),
        *(getattr(torch, name) for name in ("contiguous_format", "preserve_format", "channels_last")),
    )
}


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
            nodes.append(entry | ({"kwargs": kwargs} if kwargs else {}))
    return {"nodes": nodes, "output": output}, tensors


def from_json(content: dict[str, Any], tensors: dict[str, Tensor]) -> GraphModule:
    """Build the module that `to_json` described; its tensors are buffers, it returns what the traced module returned.

    Raises:
        ModelError: When the description is damaged or names an unknown operation.
    """
    graph, known, root = Graph(), {}, nn.Module()
    try:
        for entry in content["nodes"]:
            name = _checked(entry["name"])
            if name in known:
                raise ValueError(f"two nodes are called {name!r}")
            if entry["op"] == "placeholder":
                known[name] = graph.placeholder(name)
            elif entry["op"] == "get_attr":
                root.register_buffer(name, tensors[name])
                known[name] = graph.get_attr(name)
            else:
                arguments = tuple(_decode(entry["args"], known))
                kwargs = {key: _decode(value, known) for key, value in entry.get("kwargs", {}).items()}
                known[name] = graph.call_function(_target(entry["target"]), arguments, kwargs)
                known[name].name = name
        output = _decode(content["output"], known)
        graph.output(output[0] if isinstance(output, list) and len(output) == 1 else output)
        graph.lint()
    except (KeyError, TypeError, IndexError, AttributeError, RuntimeError, ValueError) as error:
        raise ModelError(f"the graph in this file is damaged: {error}") from error
    return GraphModule(root, graph, "QuantizedGraph").eval()


def _structured(module: GraphModule, output: Any) -> Any:
    """Return the output as the module returns it: an exported graph lists the tensors and rebuilds the rest."""
    specification = getattr(getattr(module.graph._codegen, "pytree_info", None), "out_spec", None)
    return output if specification is None else tree_unflatten(list(output), specification)


def _checked(name: Any) -> str:
    """Return a name that may stand in the code that torch.fx generates from a graph; anything else is refused."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or keyword.iskeyword(name) or name == "self":
        raise ValueError(f"{name!r} is not a name")
    return name


def _is_bookkeeping(node: Node) -> bool:
    """Guards, assertions and counters of an exported program compute nothing that the output needs."""
    return not node.users


def _attribute(module: GraphModule, target: Any) -> Tensor:
    value: Any = module
    for part in str(target).split("."):
        value = getattr(value, part)
    tensor: Tensor = value.detach()
    return tensor


def _target_name(node: Node) -> str:
    target = node.target
    if isinstance(target, torch._ops.OpOverload) and target.namespace in _NAMESPACES:
        return f"{target.namespace}.{target._opname}.{target._overloadname}"
    name = f"operator.{getattr(target, '__name__', target)}"
    if name not in _FUNCTIONS:
        raise ModelError(f"operation {target} of node {node.name!r} cannot be written to a file")
    return name


def _target(name: str) -> Any:
    if not isinstance(name, str):
        raise ModelError(f"the graph in this file calls {name!r}, which is not the name of an operation")
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    namespace, _, rest = name.partition(".")
    operation, _, overload = rest.partition(".")
    if namespace == "quantized_decomposed":
        from torch.ao.quantization.fx import _decomposed  # noqa: F401  # registers the namespace
    try:
        if namespace not in _NAMESPACES or operation in _REFUSED:
            raise AttributeError(name)
        found = getattr(getattr(getattr(torch.ops, namespace), operation), overload)
        if not overload or not isinstance(found, torch._ops.OpOverload):
            raise AttributeError(name)
    except (AttributeError, RuntimeError) as error:
        raise ModelError(f"the graph in this file calls {name!r}, which this PyTorch does not have") from error
    return found


def _encode(value: Any) -> Any:
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _encode(item) for key, item in value.items()}}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if str(value) in _CONSTANTS:
        return {"constant": str(value)}
    if isinstance(value, torch.device):
        return {"constant": "cpu"}
    raise ModelError(f"argument {value!r} of a graph cannot be written to a file")


def _decode(value: Any, known: dict[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode(item, known) for item in value]
    if isinstance(value, dict):
        if "node" in value:
            return known[value["node"]]
        if "dict" in value:
            return {str(key): _decode(item, known) for key, item in value["dict"].items()}
        return torch.device("cpu") if value["constant"] == "cpu" else _CONSTANTS[value["constant"]]
    return value

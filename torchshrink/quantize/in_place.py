"""Changes of a part of a tensor in place, written as the whole tensor that they leave.

A quantized graph computes on rounded copies, and a file holds no storage that two tensors share: what ``y[:, 0] = 0``
does to ``y`` would be lost. torch.export keeps such a change as an operation on a view, whose result nobody reads.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from torchshrink.errors import ModelError
from torchshrink.quantize.modes import is_counter, owner
from torchshrink.quantize.writer import Writer

aten = torch.ops.aten


def spell_out(graph: GraphModule) -> None:
    """Write every change of a tensor that is seen through another one as a new tensor, in place.

    What is changed as a whole and read by nobody else stays as it is, and so do the counters of norms.

    Raises:
        ModelError: When a change cannot be written so.
    """
    for node in list(graph.graph.nodes):
        if not _is_written_out(node):
            continue
        if _is_part(_root(node.args[0])):
            raise _refusal(node)
        _spell_out(graph, node)
    graph.graph.eliminate_dead_code(lambda node: node.is_impure() and not _is_written_out(node))  # what nobody reads
    graph.recompile()


def changes_values(node: Node) -> bool:
    """Return whether an operation changes its first argument in place."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.args:
        return False
    alias = node.target._schema.arguments[0].alias_info
    return alias is not None and alias.is_write


def _is_written_out(node: Any) -> bool:
    """Return whether all that is read of a change is the result of the operation, once `spell_out` has seen it."""
    return changes_values(node) and not is_counter(node) and _root(node.args[0]).op != "get_attr"


def _spell_out(graph: GraphModule, node: Any) -> None:
    changed, root = node.args[0], _root(node.args[0])
    place = {each: index for index, each in enumerate(graph.graph.nodes)}
    seen = [each for each in _views(root) if place[each] < place[node]]
    later = {each: [user for user in each.users if place[user] > place[node]] for each in seen}
    if not any(later.values()):
        if not node.users:
            graph.graph.erase_node(node)
        return
    write = Writer(graph, node, is_qat=True)
    new = {root: node}
    if changed is not root:
        with graph.graph.inserting_before(node):
            new[root] = _put_back(write, changed, _value(write, node))
    with graph.graph.inserting_before(node.next):
        for each in [each for each in seen if later[each]]:
            renewed = _renewed(write, each, new)
            for user in later[each]:
                user.replace_input_with(each, renewed)
        if changed is not root:
            if node.users:
                node.replace_all_uses_with(_renewed(write, changed, new))
            graph.graph.erase_node(node)


def _renewed(write: Writer, view: Any, new: dict[Node, Node]) -> Node:
    """Return a view as it is after the change."""
    if view not in new:
        new[view] = write.call(view.target, _renewed(write, view.args[0], new), *view.args[1:])
    return new[view]


def _is_part(node: Any) -> bool:
    return node.target is operator.getitem and node.args[0].target in _PARTS


def _root(node: Any) -> Any:
    while _is_view(node):
        node = node.args[0]
    return node


def _is_view(node: Node) -> bool:
    """Return whether a tensor shares its values with the one that it is made from."""
    if not isinstance(node.target, torch._ops.OpOverload) or not node.all_input_nodes:
        return False
    returns, source = node.target._schema.returns, node.args[0]
    can_share = len(returns) == 1 and returns[0].alias_info is not None and not returns[0].alias_info.is_write
    if not can_share or not isinstance(source, Node) or node.target == aten.expand_as.default:
        return False  # nobody can change what is expanded: that is a value which was written here
    value, before = node.meta.get("val"), source.meta.get("val")
    are_tensors = isinstance(value, Tensor) and isinstance(before, Tensor)
    return are_tensors and (node.target not in _COPIES or torch._C._is_alias_of(value, before))  # type: ignore[attr-defined]


def _views(root: Node) -> list[Node]:
    """Return a tensor and all views of it."""
    return [root, *(each for user in root.users if _is_view(user) and user.args[0] is root for each in _views(user))]


def _value(write: Writer, node: Any) -> Node:
    """Return what a part is after the change of it, computed without changing it."""
    part, *others = node.args
    name, overload = node.target._schema.name.removeprefix("aten::"), node.target._overloadname
    if name == "zero_":
        return write.call(aten.full_like.default, part, 0.0)
    if name == "fill_" and not isinstance(others[0], Node):
        return write.call(aten.full_like.default, part, others[0])
    if name in ("fill_", "copy_"):
        source: Node = others[0]
        if source.meta["val"].dtype != part.meta["val"].dtype:
            source = write.call(aten.to.dtype, source, part.meta["val"].dtype)
        is_whole = source.meta["val"].dim() == part.meta["val"].dim() and _shape(source) == _shape(part)
        return source if is_whole else write.call(aten.expand_as.default, source, part)
    twin = getattr(getattr(aten, name.removesuffix("_"), None), overload, None)
    if twin is None or node.kwargs:
        raise _refusal(node)
    return write.call(twin, part, *others)


def _put_back(write: Writer, view: Any, value: Node) -> Node:
    """Return the tensor of which ``view`` shows a part, once that part has another value."""
    if not _is_view(view):
        return value
    how = _INVERSE.get(view.target)
    whole = how(write, value, *view.args) if how is not None else None
    if whole is None:
        raise _refusal(write.node)
    return _put_back(write, view.args[0], whole)


def _slice(
    write: Writer, value: Node, whole: Node, dim: int = 0, start: int | None = None, end: int | None = None,
    step: int = 1,
) -> Node | None:  # fmt: skip
    size, start = whole.meta["val"].shape[dim], start or 0
    if isinstance(start, Node) or isinstance(end, Node) or step != 1:
        return None
    if start == 0 and (end is None or end == sys.maxsize):
        return value
    if not isinstance(size, int):
        return None
    start, end, _ = slice(start, end).indices(size)
    before = [write.call(aten.slice.Tensor, whole, dim, 0, start)] if start else []
    after = [write.call(aten.slice.Tensor, whole, dim, end, size)] if end < size else []
    return write.call(aten.cat.default, [*before, value, *after], dim) if before or after else value


def _select(write: Writer, value: Node, whole: Node, dim: int, index: int) -> Node | None:
    shape = whole.meta["val"].shape
    dim = dim % len(shape)
    if not isinstance(shape[dim], int) or not isinstance(index, int):
        return None
    index = index % shape[dim]
    return _slice(write, write.call(aten.unsqueeze.default, value, dim), whole, dim, index, index + 1)


def _transposed(write: Writer, value: Node, _: Node, first: int, second: int) -> Node:
    return write.call(aten.transpose.int, value, first, second)


def _permuted(write: Writer, value: Node, whole: Node, dims: list[int]) -> Node:
    rank = whole.meta["val"].dim()
    order = [dim % rank for dim in dims]
    return write.call(aten.permute.default, value, [order.index(dim) for dim in range(rank)])


def _reshaped(write: Writer, value: Node, whole: Node, *_: Any) -> Node:
    return write.call(aten.reshape_as.default, value, whole)


def _same(_: Writer, value: Node, *__: Any) -> Node:
    return value


def _shape(node: Node) -> list[Any]:
    return list(node.meta["val"].shape)


def _refusal(node: Any) -> ModelError:
    where = f" in module {owner(node)!r}" if owner(node) else ""
    return ModelError(
        f"a part of a tensor is changed in place{where} ({node.target}), and a quantized graph cannot hold that: "
        "compute the whole tensor in the model, with torch.cat or torch.where"
    )


_PARTS = {aten.chunk.default, aten.split.Tensor, aten.split_with_sizes.default, aten.unbind.int}
# Views where the layout in memory allows it, and copies otherwise.
_COPIES = {aten.reshape.default, aten.flatten.using_ints, aten.contiguous.default, aten.to.dtype}
_INVERSE: dict[Any, Callable[..., Node | None]] = {
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.transpose.int: _transposed,
    aten.permute.default: _permuted,
    **dict.fromkeys((aten.contiguous.default, aten.alias.default, aten.detach.default, aten.to.dtype), _same),
    **dict.fromkeys(
        (aten.view.default, aten.reshape.default, aten.reshape_as.default, aten.flatten.using_ints, aten.unflatten.int,
         aten.unsqueeze.default, aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims),
        _reshaped,
    ),
}  # fmt: skip

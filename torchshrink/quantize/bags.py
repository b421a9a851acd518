"""Embedding bags of one length, written as what they compute: rows of a table, then their sum, mean or maximum."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from torchshrink.quantize.writer import Writer

aten = torch.ops.aten

_SUM, _MEAN, _MAX = 0, 1, 2  # how PyTorch numbers the modes


def spell_out(graph: GraphModule) -> None:
    """Replace, in place, every bag whose indices came as ``[N, L]``; ragged ones stay."""
    for node in graph.graph.find_nodes(op="call_function", target=aten.embedding_bag.padding_idx):
        with graph.graph.inserting_before(node):
            replacement = _written(Writer(graph, node, is_qat=True), *node.args)
        if replacement is not None:
            for user in list(node.users):
                user.replace_all_uses_with(replacement)
                graph.graph.erase_node(user)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _written(
    write: Writer,
    table: Node,
    flat: Node,
    offsets: Node,
    _scale_gradient: bool = False,
    mode: int = _SUM,
    _sparse: bool = False,
    weights: Node | None = None,
    _last_offset: bool = False,
    padding: int | None = None,
) -> Node | None:
    ids, factors = _before_flattening(flat), None if weights is None else _before_flattening(weights)
    skips = padding is not None and padding >= 0
    is_plain = ids is not None and offsets.target is aten.arange.start_step and (weights is None) == (factors is None)
    only_first = not any(user.users and user.args[1] for user in write.node.users)  # of four results
    if ids is None or not (is_plain and only_first) or (skips and mode == _MAX):
        return None
    rows = write.call(aten.embedding.default, table, ids)
    if mode == _MAX:
        return write.call(aten.amax.default, rows, [1])
    if skips:
        kept = write.call(aten.to.dtype, write.call(aten.ne.Scalar, ids, padding), torch.float32)
        factors = kept if factors is None else write.call(aten.mul.Tensor, factors, kept)
    if factors is not None:
        rows = write.call(aten.mul.Tensor, rows, write.call(aten.unsqueeze.default, factors, -1))
    if mode == _SUM or not skips:
        return write.call((aten.sum.dim_IntList if mode == _SUM else aten.mean.dim), rows, [1])
    count = write.call(aten.clamp.default, write.call(aten.sum.dim_IntList, factors, [1], True), 1.0)
    return write.call(aten.div.Tensor, write.call(aten.sum.dim_IntList, rows, [1]), count)


def _before_flattening(flat: Node) -> Node | None:
    """Return the ``[N, L]`` that was written as one row."""
    source: Any = flat.args[0] if flat.target in (aten.reshape.default, aten.view.default) else None
    return source if isinstance(source, Node) and source.meta["val"].dim() == 2 else None

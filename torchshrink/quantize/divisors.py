"""What a model divides by: the step of an int8 grid is as large as the smallest divisors, and some round to zero."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from torchshrink.quantize.operators import role

aten = torch.ops.aten

_DIVISIONS = {aten.div.Tensor, aten.div_.Tensor, aten.reciprocal.default}
_SHIFTED = {aten.add.Tensor, aten.add_.Tensor, aten.clamp_min.default, aten.clamp.default}  # by a small number


def divisors(graph: GraphModule) -> set[Node]:
    """Return the operations that compute what is divided by, back to the last one that does more than move it.

    They stay float. Linear attention divides its sums by those of the weights, which come out of one product.
    """
    found: set[Node] = set()
    for node in graph.graph.nodes:
        each: Any = node.args[-1] if node.target in _DIVISIONS else None
        while isinstance(each, Node) and each.op == "call_function" and each not in found:
            found.add(each)
            each = each.args[0] if role(each) == "moved" or each.target in _SHIFTED else None
    return found

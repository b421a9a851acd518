"""Means of what has been centred: zero in float, and up to half a step of what they are taken of in int8."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver

from torchshrink.quantize.observer import fixed

aten = torch.ops.aten

_MEANS = (aten.mean.dim, aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default)


@torch.no_grad()
def widen(graph: GraphModule) -> None:
    """Let means have room for that, in place, in a graph that was calibrated in float.

    The second of two norms takes the mean of what the first has centred. Its range was that of the rounding of floats.
    """
    for node in graph.graph.nodes:
        ends = (
            [each for each in (node.args[0], *node.users) if each.op == "call_module"] if node.target in _MEANS else []
        )
        observers: list[Any] = [graph.get_submodule(str(each.target)) for each in ends]
        if len(observers) != 2 or not all(isinstance(each, HistogramObserver | MinMaxObserver) for each in observers):
            continue
        before, own = observers
        step = float(before.max_val - before.min_val) / 255
        if float(own.max_val - own.min_val) < step:
            wider = fixed(own, float(own.min_val) - step / 2, float(own.max_val) + step / 2)
            for name, module in list(graph.named_modules(remove_duplicate=False)):
                if module is own:
                    graph.set_submodule(name, wider)

"""The first step: other ranges of the activations than those of least squared error."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch.fx import GraphModule
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver

from torchshrink.quantize.observer import fixed

Ranges = Literal["mse", "minmax", "99.999%", "99.99%", "99.9%"]
OTHERS: tuple[Ranges, ...] = get_args(Ranges)[1:]


def choose(graph: GraphModule, ranges: Ranges) -> None:
    """Let the activations of a calibrated graph, in place, have other ranges.

    Args:
        graph: Its observers hold a histogram of what they saw.
        ranges: ``"mse"`` leaves them to the observer, which looks for the least squared error of each tensor;
            ``"minmax"`` takes everything that was seen; a share cuts as many of the smallest and largest values off.

    Source: Krishnamoorthi, arXiv:1806.08342, section 2.5; Wu et al., arXiv:2004.09602, section 5.2.
    """
    if ranges == "mse":
        return
    made: dict[int, MinMaxObserver] = {}
    for name, observer in list(graph.named_modules(remove_duplicate=False)):
        if isinstance(observer, HistogramObserver) and bool(observer.min_val <= observer.max_val):
            if id(observer) not in made:
                made[id(observer)] = fixed(observer, *_ends(observer, ranges))
            graph.set_submodule(name, made[id(observer)])


def _ends(observer: HistogramObserver, ranges: Ranges) -> tuple[float, float]:
    low, high = float(observer.min_val), float(observer.max_val)
    if ranges == "minmax":
        return low, high
    beyond = (1 - float(ranges.rstrip("%")) / 100) / 2
    shares = torch.cumsum(observer.histogram.double(), 0) / observer.histogram.double().sum().clamp_min(1e-30)
    first, last = int((shares <= beyond).sum()), int((shares < 1 - beyond).sum()) + 1
    step = (high - low) / observer.bins
    return low + step * first, low + step * min(last, observer.bins)

"""The fourth step, AdaRound: each weight is rounded up or down so that its layer computes what it did."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule, Node

from torchshrink.progress import SILENT, Progress
from torchshrink.quantize.ladder.walk import Call, together
from torchshrink.quantize.scheme import WEIGHT_MAX, WEIGHT_MIN

aten = torch.ops.aten

STEPS = 400
_BATCH = 16
_RATE = 1e-2
_LOW, _HIGH = -0.1, 1.1  # what a sigmoid is stretched to, and cut to [0, 1]
_FREE = 0.2  # share of the steps without a push towards 0 and 1
_SHARPNESS = (20.0, 2.0)  # of the push, from the first step to the last
_CLAMPS: dict[Any, Callable[[Tensor], Tensor]] = {
    aten.relu.default: F.relu, aten.relu_.default: F.relu, aten.relu6.default: F.relu6,
}  # fmt: skip


def round_again(
    graph: GraphModule,
    floats: GraphModule,
    inputs: Sequence[Tensor],
    steps: int = STEPS,
    progress: Progress = SILENT,
) -> int:
    """Choose the codes of the weights of a quantized graph anew, in place, layer by layer.

    Every code is one of the two next to the weight; scales stay, so that a file still carries what was learned. Of each
    layer the squared distance to its float output is minimised, ReLU included, for the inputs that the layers before
    it make once they are rounded. A weight that is exactly zero keeps the code 0. Where the choice is no better
    than the nearest codes, these stay.

    Args:
        graph: What `torchshrink.quantize.convert` returned.
        floats: The same in float, see `walk.together`.
        inputs: ``[N, C, *size]`` for each argument: some hundred samples, without labels.
        steps: Of gradient descent for each layer.
        progress: Told about every layer.

    Returns:
        How many codes are others than the nearest.

    Source: Nagel et al., arXiv:2004.10568, equations 21 to 25.
    """
    changed, done = 0, 0
    layers = sum("dequantize_per_channel" in str(node.target) for node in graph.graph.nodes)
    for call, wanted in together(graph, floats, inputs):
        weight: Any = call.node.args[1]
        if "per_channel" not in str(weight.target) or weight.args[0].op != "get_attr":
            continue
        codes, scale = getattr(graph, weight.args[0].target), getattr(graph, weight.args[1].target)
        scales = scale.reshape([-1 if place == call.axis else 1 for place in range(codes.dim())]).float()
        found = _learned(call, wanted, codes.float(), scales, steps)
        changed += int((found != codes).sum())
        setattr(graph, weight.args[0].target, found.to(codes.dtype))
        call.args[1] = found * scales
        done += 1
        progress.update(done, layers, call.node.name)
    return changed


@torch.enable_grad()
def _learned(call: Call, wanted: Call, nearest: Tensor, scales: Tensor, steps: int) -> Tensor:
    """Return the codes that bring a layer closest to its float output, or the nearest."""
    after, target = _after(wanted.node), wanted.output().detach()
    target, source = after(target), call.args[0].detach()
    real = wanted.args[1].detach() / scales
    down = real.floor()
    rest = (real - down).clamp(1e-4, 1 - 1e-4)
    choice = torch.log((rest - _LOW) / (_HIGH - rest)).requires_grad_()  # where the stretched sigmoid is ``rest``
    is_fixed = (wanted.args[1] == 0) | (real <= WEIGHT_MIN) | (real >= WEIGHT_MAX)

    def distance(codes: Tensor, places: Tensor | slice) -> Tensor:
        output = call.node.target(source[places], codes * scales, *call.args[2:], **call.kwargs)  # type: ignore[operator]
        return (after(output) - target[places]).square().mean()

    def codes() -> Tensor:
        up = (torch.sigmoid(choice) * (_HIGH - _LOW) + _LOW).clamp(0, 1)
        return torch.where(is_fixed, nearest, (down + up).clamp(WEIGHT_MIN, WEIGHT_MAX))

    with torch.no_grad():
        before = distance(nearest, slice(None))
    if float(before) == 0 or len(source) == 0:
        return nearest
    descent = torch.optim.Adam([choice], _RATE)
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        places = torch.randint(len(source), (min(_BATCH, len(source)),), generator=generator)
        loss = distance(codes(), places) / before + _undecided(choice, step / steps)
        descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
    with torch.no_grad():
        found = torch.where(is_fixed, nearest, (down + (choice > 0)).clamp(WEIGHT_MIN, WEIGHT_MAX))
        return found if bool(distance(found, slice(None)) < before) else nearest


def _undecided(choice: Tensor, share: float) -> Tensor | float:
    """Return how far the choices are from 0 and 1: ``1 - |2 h - 1| ^ b`` in the mean, b annealed by a cosine."""
    if share < _FREE:
        return 0.0
    first, last = _SHARPNESS
    done = (share - _FREE) / (1 - _FREE)
    sharpness = last + (first - last) * 0.5 * (1 + math.cos(done * math.pi))
    up = (torch.sigmoid(choice) * (_HIGH - _LOW) + _LOW).clamp(0, 1)
    return (1 - (2 * up - 1).abs().pow(sharpness)).mean()


def _after(node: Node) -> Callable[[Tensor], Tensor]:
    """Return the ReLU that follows a layer, or nothing."""
    users = list(node.users)
    return _CLAMPS.get(users[0].target, _same) if len(users) == 1 else _same


def _same(values: Tensor) -> Tensor:
    return values

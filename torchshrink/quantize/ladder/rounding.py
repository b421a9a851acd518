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
_PLACES = 1024  # outputs of a channel that are enough for a step
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

    A step looks at `_BATCH` samples, or at fewer where these have many positions, each of which is an example for the
    weights of a convolution.

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


def _learned(call: Call, wanted: Call, nearest: Tensor, scales: Tensor, steps: int) -> Tensor:
    """Return the codes that bring a layer closest to its float output, or the nearest."""
    after, source = _after(wanted.node), call.args[0].detach()
    target = after(wanted.output().detach())
    real = wanted.args[1].detach() / scales
    is_fixed = (wanted.args[1] == 0) | (real <= WEIGHT_MIN) | (real >= WEIGHT_MAX)
    down = torch.where(is_fixed, nearest, real.floor())
    start, span = down * scales, torch.where(is_fixed, 0.0, scales)

    def distance(weight: Tensor, places: Tensor | slice) -> Tensor:
        output = call.node.target(source[places], weight, *call.args[2:], **call.kwargs)  # type: ignore[operator]
        return F.mse_loss(after(output), target[places])

    before = distance(nearest * scales, slice(None))
    if float(before) == 0 or len(source) == 0:
        return nearest
    choice = _Choice((real - real.floor()).clamp(1e-4, 1 - 1e-4))
    generator, count, pull = torch.Generator().manual_seed(0), _batch(target, wanted.channels), span / before
    for step in range(steps):
        places = torch.randint(len(source), (count,), generator=generator)
        weight = torch.addcmul(start, choice.up(), span).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(distance(weight, places), weight)
        choice.step(gradient.mul_(pull), step / steps)
    found = torch.where(is_fixed, nearest, down + choice.is_up())
    return found if bool(distance(found * scales, slice(None)) < before) else nearest


class _Choice:
    """How far up each weight is rounded, h in [0, 1]: a stretched sigmoid of what is learned.

    A step takes a few passes over the weights, of which there are more than of anything else in the later layers of a
    network; derived by `torch.autograd` it takes three times as many.
    """

    def __init__(self, start: Tensor) -> None:
        self._learned = torch.log((start - _LOW) / (_HIGH - start))
        self._descent = torch.optim.Adam([self._learned], _RATE, fused=True)

    def up(self) -> Tensor:
        """Return h."""
        self._sigmoid = torch.sigmoid(self._learned)
        self._stretched = self._sigmoid.mul(_HIGH - _LOW).add_(_LOW)
        return self._stretched.clamp(0, 1)

    def is_up(self) -> Tensor:
        """Return 1 where a weight is rounded up, else 0."""
        return (self._learned > 0).to(self._learned)

    def step(self, gradient: Tensor, share: float) -> None:
        """Descend: by the gradient of a distance to the last h, which is changed, and by what pushes h to 0 and 1."""
        _push(gradient, self._stretched, share)
        inner = aten.hardtanh_backward(gradient, self._stretched, 0, 1)
        self._learned.grad = aten.sigmoid_backward(inner, self._sigmoid).mul_(_HIGH - _LOW)
        self._descent.step()


def _push(gradient: Tensor, up: Tensor, share: float) -> None:
    """Add, in place, the gradient of ``1 - |2 h - 1| ^ b`` in the mean, b annealed by a cosine."""
    if share < _FREE:
        return
    first, last = _SHARPNESS
    done = (share - _FREE) / (1 - _FREE)
    sharpness = last + (first - last) * 0.5 * (1 + math.cos(done * math.pi))
    side = up.mul(2).sub_(1)
    gradient.add_(side.abs().pow_(sharpness - 1).copysign_(side), alpha=-2 * sharpness / up.numel())


def _batch(output: Tensor, channels: int) -> int:
    """Return how many samples of a layer's output a step looks at."""
    places = output[0].numel() // output.shape[channels]
    return min(_BATCH, len(output), max(1, -(-_PLACES // places)))


def _after(node: Node) -> Callable[[Tensor], Tensor]:
    """Return the ReLU that follows a layer, or nothing."""
    users = list(node.users)
    return _CLAMPS.get(users[0].target, _same) if len(users) == 1 else _same


def _same(values: Tensor) -> Tensor:
    return values

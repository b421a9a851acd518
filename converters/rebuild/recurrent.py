"""LSTM and GRU: layers of PyTorch, whose gates stand in another order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchshrink.converters.rebuild.node import Node

# The places in ONNX of the gates in PyTorch's order: of i, o, f, c to i, f, c, o; of z, r, h to r, z, h.
_GATES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "LSTM": (nn.LSTM, (0, 2, 3, 1)),
    "GRU": (nn.GRU, (1, 0, 2)),
}


class Recurrent(nn.Module):
    """A layer in the shapes of ONNX: ``[L, N, C]`` to ``[L, D, N, H]``, and its states ``[D, N, H]``."""

    def __init__(self, layer: nn.RNNBase, is_reversed: bool) -> None:
        super().__init__()
        self.layer, self.is_reversed = layer, is_reversed
        self.directions = 2 if layer.bidirectional else 1

    def forward(self, values: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return the output of every step and the last states."""
        given: Any = None if not states else states if len(states) == 2 else states[0]
        output, last = self.layer(values.flip(0) if self.is_reversed else values, given)
        output = output.flip(0) if self.is_reversed else output
        parts = output.unflatten(-1, (self.directions, self.layer.hidden_size)).permute(0, 2, 1, 3)
        return (parts, *(last if isinstance(last, tuple) else (last,)))


def recurrent(node: Node) -> Callable[..., Any]:
    """LSTM or GRU in their usual form.

    Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, https://onnx.ai/onnx/operators/onnx__GRU.html
    """
    kind, order = _GATES[node.proto.op_type]
    usual = {"layout": 0, "clip": None, "input_forget": 0, "activations": None}
    unusual = [name for name, value in usual.items() if node.setting(name, default=value) != value]
    if unusual == ["activations"] and _are_usual(node):
        unusual = []
    if kind is nn.GRU and not node.setting("linear_before_reset", default=0):
        unusual.append("linear_before_reset=0")
    if node.has(7):
        unusual.append("peepholes")
    if unusual:
        raise node.refusal(f"has {unusual[0]}, which PyTorch's layer does not have")
    if node.has(4) and bool((node.constant(4) != node.value().shape[0]).any()):
        raise node.refusal("ends some sequences early")
    _leave_out_zeros(node)
    direction = node.setting("direction", default="forward")
    weight, state = node.constant(1), node.constant(2)
    hidden = state.shape[2]
    layer: Any = kind(weight.shape[2], hidden, bidirectional=direction == "bidirectional")
    bias = node.constant(3) if node.has(3) else torch.zeros(len(weight), 2 * len(order) * hidden)
    for place, suffix in enumerate(["", "_reverse"][: len(weight)]):
        both = bias[place].chunk(2)
        parts = {"weight_ih": weight[place], "weight_hh": state[place], "bias_ih": both[0], "bias_hh": both[1]}
        for name, values in parts.items():
            gates = values.chunk(len(order))
            getattr(layer, f"{name}_l0{suffix}").data.copy_(torch.cat([gates[gate] for gate in order]))
    return Recurrent(layer, direction == "reverse")


def _are_usual(node: Node) -> bool:
    """Return whether the activations are written down, and are those that are meant without."""
    names = [name.decode().lower() for name in node.setting("activations")]
    usual = ["sigmoid", "tanh", "tanh"] if node.proto.op_type == "LSTM" else ["sigmoid", "tanh"]
    return names == usual * (len(names) // len(usual))


def _leave_out_zeros(node: Node) -> None:
    """Take states of zeros for none: a constant has them for one sample only."""
    for place in (5, 6):
        if node.is_known(place) and not bool(node.value(place).any()):
            node.constant(place)

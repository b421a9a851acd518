"""Divisors stay float, where int8 would round the small ones to zero."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchshrink import quantize
from torchshrink.quantize.noise import snr_db


class Divided(nn.Module):
    """What ``divide`` makes of ``[N, 6, 8]`` and of weights for its rows."""

    def __init__(self, divide: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.values, self.weights, self.divide = nn.Linear(8, 8), nn.Linear(8, 6), divide

    def forward(self, x: Tensor) -> Tensor:
        return self.divide(self.values(x), torch.relu(self.weights(x)))


def linear_attention(values: Tensor, weights: Tensor) -> Tensor:
    whole = weights @ nn.functional.pad(values, (0, 1), value=1.0)
    return whole[..., :-1] / (whole[..., -1:] + 1e-6)


def normalized(values: Tensor, weights: Tensor) -> Tensor:
    return (weights @ values) / weights.sum(-1, keepdim=True).clamp_min(1e-6)


def inverted(values: Tensor, weights: Tensor) -> Tensor:
    return torch.reciprocal((weights @ values.abs()).transpose(1, 2) + 1e-3)


@pytest.mark.parametrize("divide", [linear_attention, normalized, inverted])
def test_small_divisors_are_not_rounded(divide: Callable[[Tensor, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, inputs = Divided(divide).eval(), torch.randn(32, 6, 8)
    prepared = quantize.prepare_ptq(model, inputs)
    quantize.calibrate(prepared, [inputs])
    graph = quantize.convert(prepared)
    with torch.no_grad():
        assert snr_db(graph(inputs), model(inputs)) > 10
    divisions = [node for node in graph.graph.nodes if node.name in ("div", "reciprocal", "div_tensor")]
    assert divisions
    assert not any("quantized" in str(node.args[-1].target) for node in divisions)

"""A mean of what is centred has room for what rounding leaves of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchshrink import quantize


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True)


@pytest.mark.parametrize("make", [lambda: nn.LayerNorm(8), Centred, lambda: nn.InstanceNorm1d(6)])
def test_the_second_of_two_norms_keeps_the_mean_that_rounding_left(make: Any) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(32, 6, 8)
    prepared = quantize.prepare_ptq(nn.Sequential(make(), make()).eval(), inputs)
    quantize.calibrate(prepared, [inputs])
    graph = quantize.convert(prepared).graph
    found = 0
    for mean in graph.find_nodes(op="call_function", target=torch.ops.aten.mean.dim):
        entry, (codes,) = mean.args[0], mean.users
        source = entry.args[0].args[0]
        if source.target is torch.ops.aten.mul.Tensor and source.args[0] is source.args[1]:
            continue  # a variance
        found += 1
        scale, zero_point, *ends = codes.args[1:5]
        assert min(zero_point - ends[0], ends[1] - zero_point) * scale > 0.45 * entry.args[1]
    assert found == 2

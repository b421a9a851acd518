"""Constant factors keep their values, however small: a layer scale begins with a millionth."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Interpreter

from torchshrink import quantize


class Scaled(nn.Module):
    """A branch whose channels are scaled, by a parameter of the result's rank or by one that is reshaped."""

    def __init__(self, scale: Tensor, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.layer, self.scale, self.shape = nn.Conv2d(3, 4, 1), nn.Parameter(scale), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.scale.reshape(self.shape) if self.shape else self.layer(x) * self.scale


@pytest.mark.filterwarnings("ignore:output 'output' of the quantized graph")  # a millionth of what goes in
@pytest.mark.parametrize("shape", [(), (1, 4, 1, 1)])
@pytest.mark.parametrize(("size", "error"), [(1e-6, 0.5), (1e-3, 0.01), (1.0, 0.01)])
def test_a_small_factor_is_not_rounded_to_zero(size: float, error: float, shape: tuple[int, ...]) -> None:
    scale = size * torch.tensor([1.0, 0.75, 0.5, -1.0])
    model = Scaled(scale if shape else scale.reshape(4, 1, 1), shape).eval()
    inputs = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    prepared = quantize.prepare_ptq(model, inputs)
    quantize.calibrate(prepared, [inputs])
    run = Interpreter(quantize.convert(prepared), garbage_collect_values=False)
    run.run(inputs)
    (product,) = (node for node in run.graph.nodes if node.target is torch.ops.aten.mul.Tensor)
    assert (run.env[product.args[1]].flatten() - scale).abs().max() <= error * size

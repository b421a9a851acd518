"""Inputs whose channels are as many as another side: said in the graph, and nothing else is changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.float_tflite import equal_sizes
from torchshrink.converters.float_tflite.signals import lift


def norm(*size: int) -> nn.LayerNorm:
    made = nn.LayerNorm(size)
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


class Branches(nn.Module):
    """Reads its input twice, with a width and without."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.linear = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.two(self.one(x))
        return y + self.linear(x)


EQUAL: dict[str, Callable[[], nn.Module]] = {
    "signal": lambda: nn.Sequential(nn.Conv1d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 3, 1)),
    "tokens": lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)),
    "norm": lambda: nn.Sequential(norm(4), nn.Linear(4, 4)),
    "norm without gains": lambda: nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 4)),
    "branches": Branches,
}


@pytest.mark.parametrize("name", EQUAL)
def test_an_input_comes_channels_last_and_is_moved_back(name: str, run_onnx: Callable[..., NDArray[Any]]) -> None:
    torch.manual_seed(0)
    model, inputs = EQUAL[name]().eval(), torch.randn(1, 4, 4)
    written = equal_sizes.spell_out(lift(export(model, inputs)))
    assert [item.doc_string for item in written.graph.input] == [equal_sizes.CHANNELS_LAST]
    assert "LayerNormalization" not in {node.op_type for node in written.graph.node}
    found = run_onnx(written, inputs.transpose(1, 2).contiguous().numpy())
    assert np.abs(found - model(inputs).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("model", "shape"), [(nn.Linear(4, 4), (5, 4)), (nn.Conv2d(4, 4, 1), (4, 4, 4)), (norm(4), (5, 4))]
)
def test_others_stay_as_they_are(model: nn.Module, shape: tuple[int, ...]) -> None:
    exported = export(model.eval(), torch.randn(1, *shape))
    before = exported.SerializeToString()
    assert equal_sizes.spell_out(exported).SerializeToString() == before


@pytest.mark.parametrize("sides", [(3, 4, 5), (4, 5)])
def test_norms_over_several_sides_are_taken_apart(
    sides: tuple[int, ...], run_onnx: Callable[..., NDArray[Any]]
) -> None:
    """Gains of all sides get one for the samples, by which onnx2tf finds the channels."""
    model, inputs = norm(*sides).eval(), torch.randn(1, 3, 4, 5)
    written = equal_sizes.spell_out(lift(export(model, inputs)))
    assert "LayerNormalization" not in {node.op_type for node in written.graph.node}
    shapes = {tuple(item.dims) for item in written.graph.initializer}
    assert ((1, *sides) in shapes) == (len(sides) == 3)
    assert np.abs(run_onnx(written, inputs.numpy()) - model(inputs).detach().numpy()).max() < 1e-5

"""Each step alone, on a layer or two that need it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import quantize
from torchshrink.quantize import parity
from torchshrink.quantize.ladder import bias_correction, costly, equalization, ranges, rounding
from torchshrink.quantize.ladder.walk import together
from torchshrink.quantize.noise import snr_db


def _quantized(
    model: nn.Module, x: Tensor, before: Callable[[Any], Any] | None = None, after: Callable[[Any], Any] | None = None
) -> tuple[GraphModule, GraphModule]:
    """Return the quantized and the float graph, changed before or after calibration."""
    prepared = quantize.prepare_ptq(model, x)
    if before is not None:
        before(prepared.graph_module)
    quantize.calibrate(prepared, [x])
    if after is not None:
        after(prepared.graph_module)
    return quantize.convert(prepared), parity.without_quantization(prepared.graph_module)


def _db(graph: GraphModule, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return snr_db(graph(x), model(x))


def _lopsided(middle: nn.Module, second: nn.Module) -> nn.Module:
    """Return two layers with one channel between them a hundred times the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), middle, second, nn.Conv2d(8, 4, 1)).eval()
    with torch.no_grad():
        model[0].weight[0] *= 100
        if isinstance(second, nn.Conv2d):
            second.weight[0 if second.groups > 1 else slice(None), 0] /= 100
    return model


@pytest.mark.parametrize(
    ("middle", "second", "gain"),
    [(nn.ReLU(), nn.Conv2d(8, 8, 3), 10), (nn.LeakyReLU(), nn.Conv2d(8, 8, 3, groups=8), 10)],
    ids=["ReLU", "depthwise"],
)
def test_equalization_of_an_outlier_channel(middle: nn.Module, second: nn.Module, gain: float) -> None:
    model, x = _lopsided(middle, second), torch.randn(32, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    counts: list[int] = []
    plain, _ = _quantized(model, x)
    graph, floats = _quantized(model, x, before=lambda each: counts.append(equalization.equalize(each, (x,))))
    torch.testing.assert_close(floats(x), model(x), rtol=1e-4, atol=1e-4)  # nothing but the grid is another
    assert counts == [2]  # the last two layers as well, with nothing between them
    assert _db(graph, model, x) > _db(plain, model, x) + gain


def test_equalization_takes_the_limit_off_a_relu6() -> None:
    """A channel that never comes near 6 keeps what it computes; its scale may not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU6(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].weight[1:] /= 50
        model[0].bias[1:] /= 50
        model[2].weight[:, 1:] *= 50
    x = torch.randn(64, 4)
    plain, _ = _quantized(model, x)
    graph, floats = _quantized(model, x, before=lambda each: equalization.equalize(each, (x,)))
    assert not any("hardtanh" in str(node.target) or "relu6" in str(node.target) for node in floats.graph.nodes)
    assert _db(graph, model, x) > _db(plain, model, x) + 5


def test_what_cannot_be_scaled_is_left_alone() -> None:
    """A sigmoid between them, a sum that reads the same, one layer called twice."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(torch.sigmoid(self.a(x)))
            y = torch.relu(x)
            return self.d(self.d(self.c(y) + y))

    x = torch.randn(8, 4)
    prepared = quantize.prepare_ptq(Net().eval(), x)
    before = {name: value.clone() for name, value in prepared.graph_module.named_parameters()}
    assert equalization.equalize(prepared.graph_module, (x,)) == 0
    for name, value in prepared.graph_module.named_parameters():
        assert torch.equal(value, before[name])


@pytest.fixture(scope="module")
def biased() -> tuple[nn.Module, Tensor, GraphModule, GraphModule]:
    """A layer whose weights are all rounded down by 0.4 steps, on inputs that are all positive."""
    model = nn.Linear(16, 4).eval()
    with torch.no_grad():
        model.weight.copy_(torch.full((4, 16), 20.4) / 127)
        model.weight[:, 0] = 1.0
        model.weight[2, 5] = 0.0
        model.weight[:, 1] = 0.0
    model = nn.Sequential(model)
    x = torch.rand(256, 16, generator=torch.Generator().manual_seed(0))
    return model, x, *_quantized(model, x)


def test_bias_correction_takes_the_shift_off(biased: tuple[nn.Module, Tensor, GraphModule, GraphModule]) -> None:
    model, x, graph, floats = biased
    before, corrected = _db(graph, model, x), _quantized(model, x)[0]
    bias_correction.correct(corrected, floats, (x,))
    with torch.no_grad():
        shifts = [(each(x) - model(x)).mean(0).abs() for each in (graph, corrected)]
    assert float(shifts[0].min()) > 0.015  # 14 weights of half an input, 0.4 steps of 1 / 127 each: 0.022
    assert float(shifts[1].max()) < 0.005
    assert _db(corrected, model, x) > before + 3


def test_rounding_is_better_than_the_nearest_codes_at_equal_scales(
    biased: tuple[nn.Module, Tensor, GraphModule, GraphModule],
) -> None:
    model, x, plain, floats = biased
    graph = _quantized(model, x)[0]
    changed = rounding.round_again(graph, floats, (x,))
    old, new = dict(plain.named_buffers()), dict(graph.named_buffers())
    codes = [name for name, value in old.items() if value.dtype == torch.int8 and value.dim() == 2]
    assert len(codes) == 1
    apart = (old[codes[0]].int() - new[codes[0]].int()).abs()
    assert changed == int((apart > 0).sum()) > 0
    assert int(apart.max()) == 1
    zeros = model[0].weight == 0
    assert torch.equal(new[codes[0]][zeros], torch.zeros(int(zeros.sum()), dtype=torch.int8))
    for name, value in old.items():
        assert name == codes[0] or torch.equal(value, new[name])
    assert _db(graph, model, x) > _db(plain, model, x) + 3


@torch.no_grad()
def _by_autograd(call: Any, wanted: Any, nearest: Tensor, scales: Tensor, steps: int) -> Tensor:
    """Return the codes of a layer without ReLU as the paper writes them, every step on whole samples."""
    source, target = call.args[0], wanted.output()
    real = wanted.args[1] / scales
    rest = (real - real.floor()).clamp(1e-4, 1 - 1e-4)
    choice = torch.log((rest + 0.1) / (1.1 - rest)).requires_grad_()
    is_fixed = (wanted.args[1] == 0) | (real.abs() >= 127)
    before = (call.output() - target).square().mean()
    descent, generator = torch.optim.Adam([choice], 1e-2), torch.Generator().manual_seed(0)
    for step in range(steps):
        places = torch.randint(len(source), (16,), generator=generator)
        with torch.enable_grad():
            up = (torch.sigmoid(choice) * 1.2 - 0.1).clamp(0, 1)
            weight = torch.where(is_fixed, nearest, real.floor() + up) * scales
            output = call.node.target(source[places], weight, *call.args[2:], **call.kwargs)
            loss = (output - target[places]).square().mean() / before
            if (done := (step / steps - 0.2) / 0.8) >= 0:
                loss = loss + (1 - (2 * up - 1).abs().pow(2 + 9 * (1 + math.cos(done * math.pi)))).mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
    return torch.where(is_fixed, nearest, real.floor() + (choice > 0))


@pytest.mark.parametrize("layer", [nn.Linear(16, 8), nn.Conv2d(6, 8, 3, stride=2), nn.Conv1d(8, 8, 5, groups=8)])
def test_rounding_descends_as_the_paper_says(layer: nn.Module) -> None:
    """By a gradient that is written out, to the codes to which `torch.autograd` leads."""
    torch.manual_seed(0)
    shape = {nn.Linear: (16,), nn.Conv2d: (6, 9, 9), nn.Conv1d: (8, 12)}[type(layer)]
    x = torch.randn(40, *shape)
    graph, floats = _quantized(nn.Sequential(layer).eval(), x)
    for call, wanted in together(graph, floats, (x,)):
        weight = call.node.args[1]
        codes, scale = (getattr(graph, weight.args[0 if part == 0 else 1].target) for part in (0, 1))
        scales = scale.reshape(-1, *[1] * (codes.dim() - 1)).float()
        expected = _by_autograd(call, wanted, codes.float(), scales, rounding.STEPS)
    rounding.round_again(graph, floats, (x,))
    found = getattr(graph, weight.args[0].target)
    assert bool((found != codes).any())
    assert float((found != expected).float().mean()) < 0.01


def test_a_step_of_rounding_looks_at_fewer_samples_of_many_positions() -> None:
    output = torch.zeros(96, 4, 32, 32)
    assert [rounding._batch(output[..., :side, :side], 1) for side in (1, 8, 16, 32)] == [16, 16, 4, 1]
    assert [rounding._batch(torch.zeros(96, 200, 4)[:count], -1) for count in (96, 3)] == [6, 3]


def test_few_positions_round_as_well_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture every position is an example."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3)).eval()
    x, unseen = torch.rand(2, 48, 16, 16, 16).unbind()
    found = []
    for places in (rounding._PLACES, 10**9):
        monkeypatch.setattr(rounding, "_PLACES", places)
        graph, floats = _quantized(model, x)
        before = _db(graph, model, unseen)
        rounding.round_again(graph, floats, (x,))
        found.append(_db(graph, model, unseen) - before)
    assert found[0] == pytest.approx(found[1], abs=0.5)
    assert found[0] > 1


@pytest.fixture(scope="module")
def outlier() -> tuple[nn.Module, Tensor]:
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 1000.0
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 4)).eval(), x


def _first_range(graph: GraphModule) -> tuple[float, float]:
    entry = next(node for node in graph.graph.nodes if "quantize_per_tensor" in str(node.target))
    scale, zero = float(entry.args[1]), int(entry.args[2])
    return (-128 - zero) * scale, (127 - zero) * scale


@pytest.mark.parametrize("kind", ["minmax", "99%"])
def test_ranges_are_those_of_the_values(kind: Any, outlier: tuple[nn.Module, Tensor]) -> None:
    model, x = outlier
    low, high = _first_range(_quantized(model, x, after=lambda graph: ranges.choose(graph, kind))[0])
    beyond = 0 if kind == "minmax" else 0.5
    wanted = np.percentile(x.numpy(), [beyond, 100 - beyond])
    assert (low, high) == pytest.approx(tuple(wanted), abs=(1000 + 4) / 2048 + (high - low) / 255)


def test_the_layer_that_loses_most_is_named_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).eval()
    with torch.no_grad():
        model[2].weight[:, 0] = 1000.0  # the grid of its outputs' channels leaves nothing to the other weights
        model[0].weight[0], model[0].bias[0] = 0.0, 0.0
    x = torch.randn(64, 8)
    graph, floats = _quantized(model, x)
    names = costly.most_costly(graph, floats, (x,))
    assert (names[0], sorted(names)) == ("2", ["0", "2", "4"])

"""What candidates cost at the least, before anything is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from torchshrink.losses import FocalTversky
from torchshrink.model.unet import UNet
from torchshrink.pipeline.recipe import Space
from torchshrink.pipeline.students import Students
from torchshrink.search import space as spaces
from torchshrink.search.estimate import Estimator, fastest, latency
from torchshrink.search.limits import Limits
from torchshrink.search.space import Resolved, Stage, derive
from torchshrink.task import Normalization, Task

DENSE = {"size": 40_000.0, "latency": 1.0, "latency_ms": 2.0, "rss": 60.0, "loss": 0.2, "int8_latency": 0.5}


class Chain(nn.Module):
    """Three convolutions: 9 * 8, 72 * 8 and 8 weights, at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.b = nn.Conv2d(8, 8, 3, padding=1, stride=2, bias=False)
        self.c = nn.Conv2d(8, 1, 1, bias=False)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.up(self.c(torch.relu(self.b(torch.relu(self.a(x)))))))


def task() -> Task:
    inputs = torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, (inputs > 0).to(torch.uint8))
    return Task("noise", data, data, data, Normalization((0.0,), (1.0,)), FocalTversky())


def made(space: Resolved, stages: tuple[Stage, ...]) -> Estimator:
    space = space.model_copy(update={"stages": stages})
    return Estimator(Chain().eval(), task(), space, DENSE, [(1.0, 0.5), (0.25, 0.2)])


SETTINGS: dict[str, Any] = {"channels": 0.5, "sparsity": 0.0, "round_to": 1}
BOTH = (Stage(name="stage_1", layers=("a",), offset=(0, 0)), Stage(name="stage_2", layers=("b",), offset=(0, 0)))


def test_narrow_models_by_hand(space: Resolved) -> None:
    found = made(space, BOTH)(SETTINGS)
    # 4 channels everywhere: 9 * 4 and 36 * 4 and 4 weights; the first at 256 points, the others at 64.
    assert found["size"] == 36 + 144 + 4
    whole, narrow = 72 * 256 + 576 * 64 + 8 * 64, 36 * 256 + 144 * 64 + 4 * 64
    assert found["macs"] == pytest.approx(narrow / whole)
    assert found["latency"] == pytest.approx(latency(narrow / whole, [(1.0, 0.5), (0.25, 0.2)]), abs=1e-5)


def test_a_student_is_not_held_to_what_narrow_models_take(space: Resolved) -> None:
    """However few MACs a narrow model has, it keeps the operators of the dense one; a student has others."""
    settings = {"family": "student", "sparsity": 0.0, "student_width": 4, "student_growth": 1.0, "student_depth": 2}
    estimate = made(space.model_copy(update={"student": Students()}), BOTH)
    found = estimate({**settings, "student_stem": "stride"})
    assert found["latency"] == fastest(found["macs"], [(1.0, 0.5), (0.25, 0.2)])
    assert found["latency"] < latency(found["macs"], [(1.0, 0.5), (0.25, 0.2)])
    assert estimate.violations(found, Limits(latency=found["latency"])) == {}


def test_what_no_arena_can_be_smaller_than(space: Resolved) -> None:
    """The second convolution has the most: channels of 16 x 16, and as many of 8 x 8."""
    estimate = made(space, BOTH)
    assert estimate(SETTINGS)["arena"] == 4 * 256 + 4 * 64
    assert estimate({**SETTINGS, "channels": 0.0})["arena"] == 8 * 256 + 8 * 64
    found = estimate.violations(estimate(SETTINGS), Limits(arena=1000.0, is_micro=True))
    assert found == {"arena": pytest.approx(0.28)}


def test_zeros_count_only_where_they_save_bytes(space: Resolved) -> None:
    estimate = made(space, BOTH)
    whole = {**SETTINGS, "channels": 0.0}
    assert estimate(whole)["size"] == 72 + 576 + 8
    assert estimate({**whole, "sparsity": 0.5})["size"] == 656
    assert estimate({**whole, "sparsity": 0.9})["size"] == round(2 * 656 * 0.1)
    assert estimate({**whole, "sparsity": 0.9})["macs"] == 1.0


def test_only_obvious_violations_count(space: Resolved) -> None:
    estimate = made(space, BOTH)
    estimated = {"size": 1000.0, "macs": 0.5, "latency": 0.3}
    assert estimate.violations(estimated, Limits(size=999.0)) == {"size": pytest.approx(1 / 999)}
    assert estimate.violations(estimated, Limits(size=1000.0, latency=0.28)) == {}
    assert estimate.violations(estimated, Limits(latency=0.2)) == {"latency": pytest.approx(0.35)}
    assert estimate.violations(estimated, Limits(latency=0.55, latency_unit="ms")) == {}
    assert estimate.violations(estimated, Limits(latency=0.4, latency_unit="ms")) == {"latency": pytest.approx(0.35)}


def test_latency_between_and_beyond_what_was_measured() -> None:
    measured = [(1.0, 0.5), (0.2, 0.1), (0.4, 0.2)]
    assert latency(0.7, measured) == pytest.approx(0.35)
    assert latency(0.3, measured) == pytest.approx(0.15)
    assert latency(0.15, measured) == pytest.approx(0.075)
    assert latency(0.01, measured) == pytest.approx(0.05)
    assert latency(0.5, [(1.0, 0.4)]) == pytest.approx(0.2)


def test_stages_are_resolutions() -> None:
    found = derive(Space(), Chain().eval(), task())
    assert [stage.layers for stage in found.stages] == [("a",), ("b",)]
    assert all(low < 0 <= high for low, high in (stage.offset for stage in found.stages))
    unet = derive(Space(stage_spread=0.1), UNet(widths=(4, 8)).eval(), task())
    assert [stage.name for stage in unet.stages] == ["stage_1", "stage_2"]
    assert all(name.startswith("encoder.1") for name in unet.stages[1].layers)
    assert {stage.offset[0] for stage in unet.stages} == {-0.1}


def test_what_a_recipe_says_is_taken() -> None:
    space = Space(channels=(0.1, 0.2), sparsity=(0.6, 0.7), keep_float=1, stage_spread=0.0)
    found = derive(space, Chain().eval(), task())
    assert (found.channels, found.sparsity) == ((0.1, 0.2), (0.6, 0.7))
    assert len(found.kept) == 1
    assert {stage.offset for stage in found.stages} == {(0.0, 0.0)}


def test_sensitive_models_are_pruned_less(monkeypatch: pytest.MonkeyPatch) -> None:
    class Costs:
        loss = 0.2

        def __init__(self, half: float, int8: float) -> None:
            self.pruned = {"a": {0.5: half}, "b": {0.5: 0.001}, "c": {0.5: half}}
            self.int8 = {"a": int8, "b": 0.0, "c": 0.0001}

    monkeypatch.setattr(spaces.sensitivity, "measure", lambda *_, **__: Costs(0.2, 0.01))
    sensitive = derive(Space(), Chain().eval(), task())
    assert sensitive.sparsity[1] == 0.8
    assert sensitive.kept == ("a",)
    assert [stage.offset[1] > 0 for stage in sensitive.stages] == [False, True]
    monkeypatch.setattr(spaces.sensitivity, "measure", lambda *_, **__: Costs(0.001, 0.001))
    robust = derive(Space(), Chain().eval(), task())
    assert robust.sparsity[1] == 0.95
    assert robust.kept == ()
    assert [stage.offset[1] > 0 for stage in robust.stages] == [True, True]


def test_models_that_cannot_be_narrowed(tmp_path: Path) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.only(x))

    assert derive(Space(), Flat().eval(), task()).stages == ()

"""Which layers stay float, on a model where int8 is known to hurt in two of five."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from torchshrink import sensitivity
from torchshrink.errors import RecipeError
from torchshrink.meters import Metric
from torchshrink.sensitivity import keep_float
from torchshrink.sensitivity.keep_float import Choice, choose, layers_to_keep
from torchshrink.sensitivity.measurement import Figures, int8_increases
from torchshrink.task import Normalization, Task


class Wide(nn.Module):
    """``wide`` makes one channel 1000 times as large, and ``narrow`` takes the other: it needs a step of 1/1000."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide, self.narrow = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1)
        self.fourth, self.last = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
        weights = ([[1.0], [1.0]], [[1000.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]], [[1.0]], [[1.0]])
        for layer, weight in zip(self.children(), weights, strict=True):
            layer.weight.data = torch.tensor(weight)[:, :, None, None]  # type: ignore[union-attr]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.fourth(self.narrow(self.wide(self.first(x)))))


class SquaredError(nn.Module):
    """Its least value is 0.01."""

    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        return (output - truth).square().mean() + 0.01


@pytest.fixture
def task() -> Task:
    """The identity, which `Wide` is."""
    inputs = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = TensorDataset(inputs, inputs)
    return Task("same", samples, samples, samples, Normalization((0.0,), (1.0,)), SquaredError())  # type: ignore[arg-type]


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, title: str) -> None: ...

    def update(self, done: int, total: int, note: str = "") -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_what_int8_hurts_stays_float(task: Task) -> None:
    choice = choose(Wide(), task)
    assert set(choice.layers) == {"wide", "narrow"}
    assert choice.loss == pytest.approx(0.01, abs=1e-6)
    assert choice.all_int8 > 0.5
    assert choice.increase <= 0.01 * choice.loss * 1.01
    assert choice.is_within


def test_costs_count_the_input(task: Task) -> None:
    """``narrow`` returns small numbers; it suffers from the step of what it is given."""
    costs = sensitivity.int8_costs(Wide(), task)
    assert set(costs) == {"first", "wide", "narrow", "fourth", "last"}
    assert min(costs["wide"], costs["narrow"]) > 0.5
    assert max(costs["first"], costs["fourth"], costs["last"]) < 0.01
    assert sensitivity.measure(Wide(), task, amounts=(0.5,)).int8["narrow"] < 0.01


def test_nothing_stays_float_without_need(task: Task) -> None:
    choice = choose(Wide(), task, budget=1e6)
    assert choice.layers == ()
    assert choice.increase == choice.all_int8
    assert "no layer is kept float" in str(choice)


def test_at_most_half_stays_float(task: Task) -> None:
    choice = choose(Wide(), task, budget=0.0)
    assert len(choice.layers) == 2
    assert not choice.is_within
    assert "more than the budget of 0%" in str(choice)


def test_a_single_layer_is_never_kept(task: Task) -> None:
    choice = choose(nn.Sequential(nn.Conv2d(1, 1, 1)), task, budget=0.0)
    assert choice.layers == ()


def test_the_model_is_left_alone(task: Task) -> None:
    model = Wide()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choose(model, task)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not [module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks]


def test_auto_says_what_it_chose(task: Task) -> None:
    progress = Notes()
    assert set(layers_to_keep("auto", Wide(), task, progress)) == {"wide", "narrow"}
    assert progress.notes[-1].startswith("kept float: ")
    assert "narrow (alone +1." in progress.notes[-1]
    assert any(note.startswith("int8 with 0 of 5 layers float: loss +1.") for note in progress.notes)


def test_names_are_taken_as_they_are(task: Task) -> None:
    assert layers_to_keep(("head", "ups"), Wide(), task) == ["head", "ups"]


def test_in_words() -> None:
    choice = Choice(("head",), {"head": 0.02, "other": 0.0}, 0.5, 0.03, 0.004, 0.01)
    assert choice.is_within
    assert str(choice) == (
        "kept float: head (alone +0.0200); int8 then raises the validation loss of 0.5000 by +0.0040 instead of "
        "+0.0300, within the budget of 1%"
    )


@pytest.mark.parametrize("budget", [-0.1, float("nan")])
def test_a_budget_out_of_range(task: Task, budget: float) -> None:
    with pytest.raises(RecipeError, match="budget="):
        choose(Wide(), task, budget)


def test_layers_are_ranked_by_what_decides_then_by_the_loss(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy of a few samples is the same for most layers; the loss tells those apart."""
    known = {"first": (0, 9), "wide": (1, 0), "narrow": (0, 1), "fourth": (0, 5), "last": (0, 0)}
    found = {name: Figures(*each) for name, each in known.items()}
    monkeypatch.setattr(keep_float, "int8_increases", lambda *_, **__: found)
    assert choose(Wide(), task, budget=0.0).layers == ("wide", "first")


def test_what_decides_is_measured_of_each_layer_alone(task: Task) -> None:
    """Twice the loss as the metric: each layer's figure in it is twice its figure in the loss."""
    doubled = replace(task, metrics={"twice": Metric(lambda x, y: 2 * SquaredError()(x, y), False)}, decides="twice")
    found = int8_increases(Wide(), doubled)
    assert found["narrow"].loss > 0.5
    assert all(each.cost == pytest.approx(2 * each.loss, abs=1e-4) for each in found.values())

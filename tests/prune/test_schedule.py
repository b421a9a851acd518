"""When how much is pruned, and what the remaining weights go back to."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchshrink import prune
from torchshrink.errors import RecipeError
from torchshrink.model.unet import UNet
from torchshrink.prune import Schedule


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in prune.prunable_layers(model).items()}


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    model(torch.randn(8, 4)).pow(2).mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def calls_of(schedule: Schedule, steps: int) -> list[tuple[int, float]]:
    """Which steps prune, and how much."""
    calls: list[tuple[int, float]] = []
    step = 0
    schedule.method = lambda model, amount: calls.append((step, amount))
    for step in range(steps):  # the method sees it
        schedule.step(nn.Linear(1, 1), step)
    return calls


def test_polynomial_against_the_formula() -> None:
    schedule = Schedule.polynomial(0.2, 0.8, begin=100, end=300)
    # 0.8 - 0.6 * (1 - (step - 100) / 200) ** 3
    assert schedule.amount(100) == pytest.approx(0.2)
    assert schedule.amount(150) == pytest.approx(0.8 - 0.6 * 0.421875)
    assert schedule.amount(200) == pytest.approx(0.8 - 0.6 * 0.125)
    assert schedule.amount(300) == 0.8
    assert schedule.amount(10_000) == 0.8
    assert schedule.amount(0) == pytest.approx(0.2)
    assert Schedule.polynomial(0.0, 0.8, 0, 100, power=1).amount(25) == pytest.approx(0.2)


def test_amounts_never_fall() -> None:
    schedule = Schedule.polynomial(0.1, 0.9, begin=10, end=77)
    amounts = [schedule.amount(step) for step in range(100)]
    assert amounts == sorted(amounts)


def test_an_instant_schedule_has_an_amount_before_it() -> None:
    schedule = Schedule.polynomial(0.1, 0.5, begin=5, end=5)
    assert schedule.amount(3) == pytest.approx(0.1)
    assert schedule.amount(5) == 0.5


def test_steps_inside_a_loop() -> None:
    model = UNet(widths=(2, 4))
    schedule = Schedule.polynomial(0.0, 0.75, begin=2, end=12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found = []
    for step in range(20):
        schedule.step(model, step)
        found.append(prune.sparsity(model))
        model(torch.randn(2, 1, 4, 4)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    count = sum(layer.weight.numel() for layer in prune.prunable_layers(model).values())
    # 0.75 - 0.75 * (1 - (step - 2) / 10) ** 3 from step 2 to 12, then constant
    expected = [0.75 - 0.75 * (1 - min(max(step - 2, 0), 10) / 10) ** 3 for step in range(20)]
    assert found == pytest.approx(expected, abs=1 / count)
    assert prune.sparsity(prune.remove(model)) == math.ceil(0.75 * count) / count


def test_long_schedules_prune_about_fifty_times() -> None:
    calls = calls_of(Schedule.polynomial(0.0, 0.8, begin=0, end=1037), 2000)
    amounts = [amount for _, amount in calls]
    assert 50 <= len(calls) <= 55
    assert calls[0] == (0, 0)
    assert calls[-1] == (1037, 0.8)  # also when `end` is no multiple of the interval
    assert amounts == sorted(amounts)


def test_constant_prunes_to_one_amount() -> None:
    calls = calls_of(Schedule.constant(0.6, begin=10, end=120), 200)
    assert [step for step, _ in calls] == [*range(10, 120, 2), 120]
    assert {amount for _, amount in calls} == {0.6}


def test_constant_keeps_its_first_choice() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    schedule = Schedule.constant(0.5, begin=0, end=5)
    schedule.step(model, 0)
    first = {name: weight == 0 for name, weight in weights(model).items()}
    for step in range(1, 8):
        train_step(model, optimizer)
        schedule.step(model, step)
        assert prune.sparsity(model) == 0.5
    assert all(torch.equal(weight == 0, first[name]) for name, weight in weights(model).items())


def test_one_shot_prunes_once() -> None:
    assert calls_of(Schedule.one_shot(0.7, at=13), 50) == [(13, 0.7)]
    assert calls_of(Schedule.one_shot(0.7, at=0), 50) == [(0, 0.7)]


def test_method_reaches_the_pruning() -> None:
    model = net()
    method = partial(prune.magnitude, scope="layer", ignore=["0"])
    Schedule.polynomial(0.0, 0.5, 0, 0, method=method).step(model, 0)
    assert {name: int((weight == 0).sum()) for name, weight in weights(model).items()} == {"0": 0, "2": 32, "4": 8}


@pytest.mark.parametrize("rewind_to", [0, 3])
def test_rewinding_restores_the_remaining_weights_bit_for_bit(rewind_to: int) -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = Schedule.one_shot(0.6, at=8, rewind_to=rewind_to)
    for step in range(9):
        if step == rewind_to:
            remembered = weights(model)
        if step == 8:
            expected = prune.magnitude(copy.deepcopy(model), 0.6)  # chosen by the weights of then, not of before
        schedule.step(model, step)
        if step < 8:
            train_step(model, optimizer)
    model(torch.zeros(1, 4))  # the masks of PyTorch apply in forward
    for name, weight in weights(model).items():
        kept = weights(expected)[name] != 0
        assert torch.equal(weight != 0, kept)
        assert torch.equal(weight[kept], remembered[name][kept])
    train_step(model, optimizer)
    for name, weight in weights(prune.remove(model)).items():
        assert torch.equal(weight != 0, weights(expected)[name] != 0)
        assert not torch.equal(weight, remembered[name])


def test_rewinding_keeps_zeros_of_before() -> None:
    model = prune.keep_zeros(prune.remove(prune.magnitude(net(), 0.3)))
    gone = {name: weight == 0 for name, weight in weights(model).items()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = Schedule.one_shot(0.6, at=4, rewind_to=1)
    for step in range(6):
        schedule.step(model, step)
        train_step(model, optimizer)
    assert prune.sparsity(prune.remove(model)) == pytest.approx(0.6, abs=1 / 112)
    assert all((weight[gone[name]] == 0).all() for name, weight in weights(model).items())


def test_rewinding_when_training_starts_late() -> None:
    """Trainings count finished steps, so that step 0 never comes."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    schedule = Schedule.one_shot(0.5, at=3, rewind_to=0)
    for step in (1, 2, 3):
        train_step(model, optimizer)
        if step == 1:
            remembered = weights(model)
        schedule.step(model, step)
    for name, weight in weights(prune.remove(model)).items():
        assert torch.equal(weight, torch.where(weight != 0, remembered[name], 0))


def test_a_schedule_serves_one_model_after_another() -> None:
    schedule = Schedule.one_shot(0.5, at=3, rewind_to=0)
    for _ in range(2):
        model = net()
        before = weights(model)
        for step in (1, 2, 3, 4):
            schedule.step(model, step)
        for name, weight in weights(prune.remove(model)).items():
            assert torch.equal(weight, torch.where(weight != 0, before[name], 0))


@pytest.mark.parametrize(
    "arguments",
    [
        {"initial": -0.1},
        {"initial": 0.9},
        {"final": 1.0},
        {"begin": -1},
        {"begin": 11},
        {"every": 0},
        {"final": float("nan")},
    ],
)
def test_contradicting_schedules(arguments: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"initial": 0.0, "final": 0.5, "begin": 0, "end": 10} | arguments
    with pytest.raises(RecipeError, match="expected 0 <= initial <= final < 1"):
        Schedule(**settings)


@pytest.mark.parametrize("rewind_to", [-1, 10, 11])
def test_rewinding_goes_back(rewind_to: int) -> None:
    with pytest.raises(RecipeError, match=f"rewind_to={rewind_to}: expected a step before 10, the one that prunes"):
        Schedule.one_shot(0.5, at=10, rewind_to=rewind_to)

"""Magnitude pruning against numpy, and masks against training."""

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from torchshrink import prune
from torchshrink.errors import RecipeError
from torchshrink.models import UNet

Scopes = Literal["global", "layer"]


def net() -> nn.Module:
    """Every prunable kind of layer, their weights of different sizes, and BatchNorm, which is not to be pruned."""
    return nn.Sequential(
        nn.Conv2d(1, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.ConvTranspose2d(5, 3, 2, stride=2),
        nn.Flatten(2),
        nn.Conv1d(3, 4, 3, padding=1),
        nn.ConvTranspose1d(4, 2, 2, stride=2),
        nn.Linear(64, 7),
    )


EXAMPLE = (4, 1, 2, 4)  # becomes [4, 5, 2, 4], [4, 3, 4, 8], [4, 3, 32], [4, 2, 64]
COUNT = 5 * 9 + 5 * 3 * 4 + 3 * 4 * 3 + 4 * 2 * 2 + 64 * 7  # = 605


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: layer.weight.detach().numpy().copy() for name, layer in prune.prunable_layers(model).items()}


def zeros(model: nn.Module) -> int:
    return sum(int((array == 0).sum()) for array in weights(model).values())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    for _ in range(steps):
        model(torch.randn(EXAMPLE)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


OPTIMIZERS = [
    lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=0.01),
    lambda parameters: torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.1),
]
AMOUNTS = [0.0, 0.001, 0.25, 0.5, 0.8, 0.999]


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("seed", range(3))
def test_global_sparsity_is_what_was_asked(amount: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = net()
    assert prune.magnitude(model, amount) is model
    assert zeros(model) == min(math.ceil(amount * COUNT), COUNT - 1)  # at least, and never all of them
    assert prune.sparsity(model) == zeros(model) / COUNT


@pytest.mark.parametrize("amount", AMOUNTS)
def test_layer_sparsity_is_what_was_asked(amount: float) -> None:
    for name, array in weights(prune.magnitude(net(), amount, scope="layer")).items():
        assert abs((array == 0).sum() - amount * array.size) <= 0.5, name


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
def test_global_prunes_the_smallest(amount: float) -> None:
    model = net()
    before = weights(model)
    flat = np.concatenate([array.ravel() for array in before.values()])
    expected = flat.copy()
    expected[np.argsort(np.abs(flat))[: math.ceil(amount * COUNT)]] = 0
    prune.magnitude(model, amount)
    found = np.concatenate([array.ravel() for array in weights(model).values()])
    np.testing.assert_array_equal(found, expected)


def test_layer_scope_is_torchs_own() -> None:
    model = net()
    reference = copy.deepcopy(model)
    prune.magnitude(model, 0.5, scope="layer")
    for name, layer in prune.prunable_layers(reference).items():
        torch_prune.l1_unstructured(layer, "weight", amount=0.5)
        np.testing.assert_array_equal(layer.weight.detach(), weights(model)[name])


def test_forward_uses_the_mask() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, -3.0]])
    prune.magnitude(layer, 0.5)
    assert layer(torch.tensor([[10.0, 1.0]])).item() == -3.0


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_greater_amounts_keep_earlier_zeros(scope: Scopes) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    gone = {name: np.zeros(array.shape, bool) for name, array in weights(model).items()}
    for amount in (0.2, 0.5, 0.5, 0.9):
        prune.magnitude(model, amount, scope)
        for name, array in weights(model).items():
            assert (array[gone[name]] == 0).all()
            gone[name] = array == 0
        assert zeros(model) == pytest.approx(amount * COUNT, abs=3)
        train(model, optimizer)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
def test_masks_survive_training(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    model = net()
    optimizer = make_optimizer(model.parameters())
    train(model, optimizer)  # momentum on every weight, also on those that are pruned next
    prune.magnitude(model, 0.7)
    pruned = {name: array == 0 for name, array in weights(model).items()}
    before = weights(model)
    train(model, optimizer)
    prune.remove(model)
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array == 0, pruned[name])
        assert (array != before[name])[~pruned[name]].any()


def test_permanent_zeros_have_one_sign() -> None:
    model = prune.remove(prune.magnitude(net(), 0.8))
    for array in weights(model).values():
        assert not np.signbit(array[array == 0]).any()


def test_remove_gives_back_plain_parameters() -> None:
    model = net()
    before = dict(model.named_parameters())
    prune.magnitude(model, 0.5)
    assert any(name.endswith("weight_mask") for name, _ in model.named_buffers())
    assert prune.remove(model) is model
    after = dict(model.named_parameters())
    assert {name: id(value) for name, value in after.items()} == {name: id(value) for name, value in before.items()}
    assert all(not layer._forward_pre_hooks for layer in model.modules())
    assert not any("mask" in name for name in model.state_dict())
    assert prune.sparsity(model) == pytest.approx(0.5, abs=1 / COUNT)
    copy.deepcopy(model)


def test_remove_without_masks_changes_nothing() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    prune.remove(model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
def test_keep_zeros(make_optimizer: Callable[..., torch.optim.Optimizer]) -> None:
    model = prune.remove(prune.magnitude(net(), 0.6))
    expected = {name: array == 0 for name, array in weights(model).items()}
    assert prune.keep_zeros(model) is model
    train(model, make_optimizer(model.parameters()))
    prune.remove(model)
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array == 0, expected[name])


def test_without_keep_zeros_they_grow() -> None:
    """The meta-test of the two above: this training does move weights that nothing holds."""
    model = prune.remove(prune.magnitude(net(), 0.6))
    train(model, OPTIMIZERS[1](model.parameters()))
    assert prune.sparsity(model) < 0.1


def test_keep_zeros_leaves_dense_layers_alone() -> None:
    model = prune.keep_zeros(net())
    assert not any("mask" in name for name in model.state_dict())


def test_only_convolutions_and_linear_layers_are_pruned() -> None:
    model = net()
    assert list(prune.prunable_layers(model)) == ["0", "3", "5", "6", "7"]
    kept = {name: value.clone() for name, value in model.named_parameters() if name.startswith("1.") or "bias" in name}
    prune.magnitude(model, 0.999)
    for name, value in model.named_parameters():
        if name in kept:
            assert torch.equal(value, kept[name])


def test_sparsity_counts_what_is_there() -> None:
    layer = nn.Linear(4, 2)
    layer.weight.data = torch.tensor([[0.0, 1, 2, 3], [0, 0, 1, -0.0]])
    assert prune.sparsity(layer) == 0.5
    assert prune.sparsity(nn.ReLU()) == 0


@pytest.mark.parametrize("amount", [-0.1, 1, 1.5, float("nan")])
def test_amount_out_of_range(amount: float) -> None:
    with pytest.raises(RecipeError, match=f"amount={amount}"):
        prune.magnitude(net(), amount)


def test_unknown_scope() -> None:
    with pytest.raises(RecipeError, match="scope='channel'"):
        prune.magnitude(net(), 0.5, scope="channel")  # type: ignore[arg-type]


def test_nothing_to_prune() -> None:
    with pytest.raises(RecipeError, match="Sequential has no convolution or linear layer"):
        prune.magnitude(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)), 0.5)


def test_bad_calls_change_nothing() -> None:
    model = prune.magnitude(net(), 0.5)
    before = weights(model)
    for settings in ({"amount": 2.0}, {"amount": 0.1, "scope": "x"}):
        with pytest.raises(RecipeError):
            prune.magnitude(model, **settings)  # type: ignore[arg-type]
    np.testing.assert_equal(weights(model), before)


# --- Schedule


def test_polynomial_against_the_formula() -> None:
    schedule = prune.Schedule.polynomial(0.2, 0.8, begin=100, end=300)
    # 0.8 - 0.6 * (1 - (step - 100) / 200) ** 3
    assert schedule.amount(100) == pytest.approx(0.2)
    assert schedule.amount(150) == pytest.approx(0.8 - 0.6 * 0.421875)
    assert schedule.amount(200) == pytest.approx(0.8 - 0.6 * 0.125)
    assert schedule.amount(300) == 0.8
    assert schedule.amount(10_000) == 0.8
    assert schedule.amount(0) == pytest.approx(0.2)
    assert prune.Schedule.polynomial(0.0, 0.8, 0, 100, power=1).amount(25) == pytest.approx(0.2)


def test_amounts_never_fall() -> None:
    schedule = prune.Schedule.polynomial(0.1, 0.9, begin=10, end=77)
    amounts = [schedule.amount(step) for step in range(100)]
    assert amounts == sorted(amounts)


def test_an_instant_schedule_has_an_amount_before_it() -> None:
    schedule = prune.Schedule.polynomial(0.1, 0.5, begin=5, end=5)
    assert schedule.amount(3) == pytest.approx(0.1)
    assert schedule.amount(5) == 0.5


def test_steps_inside_a_loop() -> None:
    model = UNet(widths=(2, 4))
    schedule = prune.Schedule.polynomial(0.0, 0.75, begin=2, end=12)
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


def test_long_schedules_prune_about_fifty_times(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    monkeypatch.setattr(prune, "magnitude", lambda model, amount, scope: calls.append(amount))
    schedule = prune.Schedule.polynomial(0.0, 0.8, begin=0, end=1037)
    for step in range(2000):
        schedule.step(nn.Linear(1, 1), step)
    assert 50 <= len(calls) <= 55
    assert calls[0] == 0
    assert calls[-1] == 0.8  # also when `end` is no multiple of the interval
    assert calls == sorted(calls)


def test_scope_reaches_the_pruning() -> None:
    model = net()
    prune.Schedule.polynomial(0.0, 0.5, 0, 0, scope="layer").step(model, 0)
    assert all(abs((array == 0).sum() - 0.5 * array.size) <= 0.5 for array in weights(model).values())


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
        prune.Schedule(**settings)

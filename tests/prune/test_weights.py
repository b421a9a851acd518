"""Magnitude pruning against numpy, and masks against training."""

import copy
import math
import re
from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from torchshrink import prune
from torchshrink.errors import RecipeError
from torchshrink.model.unet import UNet

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
    for name, array in weights(prune.magnitude(net(), amount, scope="layer", ignore=())).items():
        assert abs((array == 0).sum() - amount * array.size) <= 0.5, name


def test_layer_scope_spares_the_first_and_the_last_layer() -> None:
    for name, array in weights(prune.magnitude(net(), 0.5, scope="layer")).items():
        assert (array == 0).sum() == (0 if name in ("0", "7") else array.size / 2), name


@pytest.mark.parametrize("count", [1, 2])
def test_layer_scope_prunes_models_without_inner_layers(count: int) -> None:
    model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(count)])
    assert prune.sparsity(prune.magnitude(model, 0.5, scope="layer")) == 0.5


def test_global_scope_spares_no_layer() -> None:
    assert all((array == 0).any() for array in weights(prune.magnitude(net(), 0.8)).values())


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
    prune.magnitude(model, 0.5, scope="layer", ignore=())
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
        prune.magnitude(model, amount, scope, ignore=())
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


# --- ignore


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        (["7"], {"0", "3", "5", "6"}),
        ("7", {"0", "3", "5", "6"}),  # one name, not a sequence of letters
        (["Linear"], {"0", "3", "5", "6"}),
        (["Conv?d", "6"], {"3", "7"}),
        (["*Conv*"], {"7"}),
        (["[0-3]"], {"5", "6", "7"}),
        ([], {"0", "3", "5", "6", "7"}),
    ],
)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_ignore(ignore: list[str], left: set[str], scope: Scopes) -> None:
    model = net()
    assert set(prune.prunable_layers(model, ignore)) == left
    prune.magnitude(model, 0.5, scope, ignore)
    found = {name: (array == 0).sum() for name, array in weights(model).items()}
    size = sum(array.size for name, array in weights(model).items() if name in left)
    assert {name for name, count in found.items() if count} == left
    assert sum(found.values()) == pytest.approx(0.5 * size, abs=len(left) / 2)


def test_ignore_by_a_nested_name() -> None:
    model = UNet(widths=(2, 4))
    assert set(prune.prunable_layers(model)) - set(prune.prunable_layers(model, ["encoder.0.*"])) == {
        "encoder.0.0",
        "encoder.0.3",
    }


@pytest.mark.parametrize("pattern", ["70", "BatchNorm2d", "conv2d", "", "1"])
def test_ignored_patterns_must_fit_a_layer(pattern: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"ignore {pattern!r} fits no layer; there are 0, 3, 5, 6, 7")):
        prune.magnitude(net(), 0.5, ignore=["7", pattern])


def test_everything_ignored() -> None:
    with pytest.raises(RecipeError, match="Sequential has no convolution or linear layer to prune"):
        prune.magnitude(net(), 0.5, ignore=["*"])


def test_zeros_of_ignored_layers_stay_masked() -> None:
    model = prune.magnitude(net(), 0.6)
    pruned = {name: array == 0 for name, array in weights(model).items()}
    prune.magnitude(model, 0.7, scope="layer")
    train(model, OPTIMIZERS[1](model.parameters()))
    for name, array in weights(prune.remove(model)).items():
        assert (array[pruned[name]] == 0).all(), name


def test_of_equal_weights_no_more_go_than_were_asked() -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))
    for layer in model:
        nn.init.constant_(layer.weight, 0.5)  # type: ignore[arg-type]
    prune.magnitude(model, 0.75)
    assert [int((layer.weight == 0).sum()) for layer in model] == [100, 50]  # the first ones

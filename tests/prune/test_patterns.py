"""LAMP, random, per layer, N:M and blocks, against numpy; how much becomes zero, and where."""

import copy
import math
import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from torchshrink import prune
from torchshrink.errors import RecipeError
from torchshrink.prune.methods import method, most

Prune = Callable[[nn.Module, float], nn.Module]


def net() -> nn.Module:
    """Every prunable kind of layer, also grouped; weights of very different sizes."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 12, (1, 3), groups=2),
        nn.ConvTranspose2d(12, 6, 2),
        nn.ConvTranspose2d(6, 4, 3, groups=2),
        nn.Conv1d(7, 5, 3),
        nn.ConvTranspose1d(6, 9, 2),
        nn.Linear(18, 10),
    )
    for index, layer in enumerate(prune.prunable_layers(model).values()):
        layer.weight.data *= 4.0**index
    return model


def weights(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: layer.weight.detach().numpy().copy() for name, layer in prune.prunable_layers(model).items()}


def rows(layer: nn.Module) -> np.ndarray:
    """[output channels, kernel positions * input channels] by loops, from the formula of each layer."""
    weight = layer.weight.detach().numpy()
    if isinstance(layer, nn.Linear):
        return weight.copy()
    kernel = list(np.ndindex(*layer.kernel_size))
    inside, outside = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    found = np.zeros((layer.out_channels, len(kernel) * inside), weight.dtype)
    for out in range(layer.out_channels):
        group = out // outside
        for position, at in enumerate(kernel):
            for into in range(inside):
                index = (group * inside + into, out % outside, *at) if layer.transposed else (out, into, *at)
                found[out, position * inside + into] = weight[index]
    return found


def shuffled_zeros(model: nn.Module, share: float = 0.2) -> dict[str, np.ndarray]:
    """Set some weights to zero for good, and return where."""
    for layer in prune.prunable_layers(model).values():
        layer.weight.data[torch.rand_like(layer.weight) < share] = 0
    return {name: array == 0 for name, array in weights(model).items()}


GLOBAL: dict[str, Prune] = {"magnitude": prune.magnitude, "lamp": prune.lamp, "random": prune.random}
AMOUNTS = [0.0, 0.1, 0.37, 0.5, 0.8, 0.95]


# --- How much


@pytest.mark.parametrize("name", GLOBAL)
@pytest.mark.parametrize("amount", AMOUNTS)
def test_global_methods_reach_the_amount(name: str, amount: float) -> None:
    model = net()
    assert GLOBAL[name](model, amount) is model
    size = sum(array.size for array in weights(model).values())
    assert sum((array == 0).sum() for array in weights(model).values()) == math.ceil(round(amount * size, 6))


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (2, 3), (1, 1)])
def test_blocks_reach_the_amount(amount: float, shape: tuple[int, int]) -> None:
    found = weights(prune.block(net(), amount, shape, ignore=()))
    size = sum(array.size for array in found.values())
    zeros = sum(int((array == 0).sum()) for array in found.values())
    assert 0 <= zeros - amount * size < shape[0] * shape[1]


@pytest.mark.parametrize("amount", [0.9, 0.999])
def test_blocks_never_take_all(amount: float) -> None:
    layer = nn.Linear(4, 2)
    assert prune.sparsity(prune.block(layer, amount, (1, 4), ignore=())) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_by_layer_reaches_each_amount(seed: int) -> None:
    model = net()
    amounts = dict(zip(weights(model), np.random.default_rng(seed).uniform(0, 0.97, 7).tolist(), strict=True))
    del amounts["4"]
    before = weights(model)
    assert prune.by_layer(model, amounts) is model
    for name, array in weights(model).items():
        assert abs((array == 0).sum() - amounts.get(name, 0.0) * array.size) <= 0.5, name
        gone = np.abs(before[name][array == 0])
        assert gone.max(initial=0) <= np.abs(array[array != 0]).min()  # the smallest ones


@pytest.mark.parametrize("name", ["magnitude", "lamp", "random", "layer", "2:4", "1x4"])
def test_zeros_of_before_stay(name: str) -> None:
    """In layers that are pruned and in those that are not; also while training and when asked for fewer."""
    model = net()
    gone = shuffled_zeros(model)
    method(name)(model, 0.1)
    for layer in prune.prunable_layers(model).values():
        layer.weight_orig.data += 1.0  # training
    for key, array in weights(prune.remove(model)).items():
        assert (array[gone[key]] == 0).all(), key


@pytest.mark.parametrize("name", GLOBAL)
def test_zeros_of_before_count(name: str) -> None:
    model = net()
    gone = shuffled_zeros(model)
    GLOBAL[name](model, 0.6)
    size = sum(array.size for array in weights(model).values())
    assert sum((array == 0).sum() for array in weights(model).values()) == math.ceil(round(0.6 * size, 6))
    assert all((array[gone[key]] == 0).all() for key, array in weights(model).items())


# --- LAMP and random


def naive_lamp(weight: np.ndarray) -> np.ndarray:
    """Equation 4: the square of a weight over the sum of squares of those that come after it, itself included."""
    flat = weight.ravel().astype(np.float64)
    order = np.argsort(np.abs(flat), kind="stable")
    scores = np.zeros_like(flat)
    for rank, index in enumerate(order):
        scores[index] = flat[index] ** 2 / sum(flat[other] ** 2 for other in order[rank:])
    return scores.reshape(weight.shape)


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
def test_lamp_against_the_formula(amount: float) -> None:
    model = net()
    before = weights(model)
    scores = np.concatenate([naive_lamp(array).ravel() for array in before.values()])
    expected = np.concatenate([array.ravel() for array in before.values()])
    expected[np.argsort(scores)[: math.ceil(round(amount * expected.size, 6))]] = 0
    prune.lamp(model, amount)
    np.testing.assert_array_equal(np.concatenate([array.ravel() for array in weights(model).values()]), expected)


@pytest.mark.parametrize("amount", [0.5, 0.9, 0.98, 0.99])
def test_no_layer_dies_under_lamp(amount: float) -> None:
    model = net()
    dead = copy.deepcopy(model)
    assert all(array.any() for array in weights(prune.lamp(model, amount)).values())
    if amount > 0.8:  # the meta-test: magnitude does kill layers here
        assert not all(array.any() for array in weights(prune.magnitude(dead, amount)).values())


def test_lamp_of_low_precision() -> None:
    """Squares of small weights are zero in float16, so that their layer would go first."""
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20)).half()
    reference = copy.deepcopy(model).float()
    model[1].weight.data *= 2**-8  # exact; LAMP does not see a layer's scale
    prune.lamp(model, 0.6)
    prune.lamp(reference, 0.6)
    for name, array in weights(model).items():
        np.testing.assert_array_equal(array == 0, weights(reference)[name] == 0)


def test_random_is_seeded() -> None:
    first, again, other = (weights(prune.random(net(), 0.5, seed)) for seed in (3, 3, 4))
    for name in first:
        np.testing.assert_array_equal(first[name] == 0, again[name] == 0)
    assert any(((first[name] == 0) != (other[name] == 0)).any() for name in first)


def test_random_does_not_see_the_weights() -> None:
    """A fifth of the weights of every layer goes, whatever their sizes."""
    model = nn.Sequential(*[nn.Linear(50, 50) for _ in range(4)])
    model[0].weight.data *= 1000
    prune.random(model, 0.2)
    for array in weights(model).values():
        assert (array == 0).mean() == pytest.approx(0.2, abs=0.03)


def test_random_leaves_the_global_generator_alone() -> None:
    model = net()
    before = torch.random.get_rng_state()
    prune.random(model, 0.5)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_random_prunes_further() -> None:
    model = net()
    gone = {name: np.zeros(array.shape, bool) for name, array in weights(model).items()}
    for amount in (0.2, 0.5, 0.9):
        prune.random(model, amount)
        assert all((array[gone[name]] == 0).all() for name, array in weights(model).items())
        gone = {name: array == 0 for name, array in weights(model).items()}


# --- N:M


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (3, 4), (1, 4), (4, 8), (0, 4)])
def test_n_of_every_m(n: int, m: int) -> None:
    """Exactly the smallest n, in the order of the matrix that is multiplied with; what is left over is dense."""
    model = net()
    before = {name: rows(layer) for name, layer in prune.prunable_layers(model).items()}
    assert prune.n_m(model, n, m, ignore=()) is model
    for name, layer in prune.prunable_layers(model).items():
        expected = before[name].copy()
        for row in expected:
            for start in range(0, len(row) - m + 1, m):
                group = row[start : start + m]
                group[np.argsort(np.abs(group))[:n]] = 0
        np.testing.assert_array_equal(rows(layer), expected, err_msg=name)


def test_remainders_stay_dense() -> None:
    layer = nn.Linear(10, 3)
    prune.n_m(layer, 2, 4, ignore=())
    zeros = layer.weight.detach().numpy() == 0
    assert (zeros[:, :8].reshape(3, 2, 4).sum(2) == 2).all()
    assert not zeros[:, 8:].any()


def test_short_rows_stay_dense() -> None:
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Conv1d(4, 4, 3))
    prune.n_m(model, 2, 4, ignore=())
    assert [prune.sparsity(layer) for layer in model] == [0, 0.5]


def test_n_m_groups_the_input_channels_of_one_position() -> None:
    """By hand: [out 1, in 4, kernel 2]; 2:4 zeros the two smallest of each position's four."""
    layer = nn.Conv1d(4, 1, 2)
    layer.weight.data = torch.tensor([[[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [4.0, 5.0]]])
    prune.n_m(layer, 2, 4, ignore=())
    assert layer.weight.tolist() == [[[0, 8], [0, 7], [3, 0], [4, 0]]]


# --- Blocks


def blocks(matrix: np.ndarray, shape: tuple[int, int]) -> list[np.ndarray]:
    """Views; those at the edges are smaller."""
    height, width = shape
    return [
        matrix[top : top + height, left : left + width]
        for top in range(0, matrix.shape[0], height)
        for left in range(0, matrix.shape[1], width)
    ]


@pytest.mark.parametrize("shape", [(1, 4), (4, 1), (2, 2), (16, 64)])
@pytest.mark.parametrize("amount", [0.2, 0.5, 0.8])
def test_blocks_are_whole_and_the_smallest(shape: tuple[int, int], amount: float) -> None:
    model = net()
    expected = {name: rows(layer) for name, layer in prune.prunable_layers(model).items()}
    ordered = sorted(
        (block for matrix in expected.values() for block in blocks(matrix, shape)), key=lambda b: np.abs(b).mean()
    )
    left = amount * sum(matrix.size for matrix in expected.values())
    for block in ordered[:-1]:
        if left > 1e-6:
            left -= block.size
            block[:] = 0
    prune.block(model, amount, shape, ignore=())
    for name, layer in prune.prunable_layers(model).items():
        np.testing.assert_array_equal(rows(layer), expected[name], err_msg=name)


def test_patterns_spare_the_first_and_the_last_layer() -> None:
    for prune_some in (partial(prune.block, amount=0.5), prune.n_m):
        found = weights(prune_some(net()))
        assert not (found["0"] == 0).any()
        assert not (found["7"] == 0).any()
        assert sum((array == 0).sum() for array in found.values()) > 100


@pytest.mark.parametrize("ignore", [["5"], ["Conv1d"], ["*ransp*", "5"]])
def test_patterns_ignore(ignore: list[str]) -> None:
    for prune_some in (partial(prune.block, amount=0.5), prune.n_m, partial(prune.lamp, amount=0.5)):
        found = weights(prune_some(net(), ignore=ignore))
        assert not (found["5"] == 0).any()
        assert sum((array == 0).sum() for array in found.values()) > 100


# --- Errors


@pytest.mark.parametrize("prune_some", [*GLOBAL.values(), prune.block])
@pytest.mark.parametrize("amount", [-0.1, 1.0, float("nan")])
def test_amounts_out_of_range(prune_some: Prune, amount: float) -> None:
    model = net()
    before = weights(model)
    with pytest.raises(
        RecipeError, match=f"amount={amount}: the share of weights to prune must be at least 0 and less"
    ):
        prune_some(model, amount)
    np.testing.assert_equal(weights(model), before)


@pytest.mark.parametrize("prune_some", [*GLOBAL.values(), prune.block])
def test_nothing_to_prune(prune_some: Prune) -> None:
    with pytest.raises(RecipeError, match="Sequential has no convolution or linear layer to prune"):
        prune_some(nn.Sequential(nn.ReLU()), 0.5)


def test_by_layer_errors() -> None:
    with pytest.raises(RecipeError, match="'1' is no layer that can be pruned; there are 0, 2, 3, 4, 5, 6, 7"):
        prune.by_layer(net(), {"0": 0.5, "1": 0.5})
    with pytest.raises(RecipeError, match=r"amount=1\.0"):
        prune.by_layer(net(), {"0": 0.5, "2": 1.0})


@pytest.mark.parametrize(("n", "m"), [(4, 4), (5, 4), (-1, 4), (0, 0)])
def test_no_pattern(n: int, m: int) -> None:
    with pytest.raises(RecipeError, match=f"n={n}, m={m}: n of every m weights become zero, so 0 <= n < m"):
        prune.n_m(net(), n, m)


def test_rows_too_short() -> None:
    with pytest.raises(RecipeError, match="no layer of Linear has 4 weights in a row to prune 2 of"):
        prune.n_m(nn.Linear(3, 8), 2, 4)


@pytest.mark.parametrize("shape", [(0, 4), (1, -1)])
def test_no_block(shape: tuple[int, int]) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"shape={shape}: a block has at least one row and one column")):
        prune.block(net(), 0.5, shape)


# --- By name


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("magnitude", partial(prune.magnitude, amount=0.5)),
        ("layer", partial(prune.magnitude, amount=0.5, scope="layer")),
        ("lamp", partial(prune.lamp, amount=0.5)),
        ("random", partial(prune.random, amount=0.5, seed=7)),
        ("2:4", prune.n_m),
        ("4:8", partial(prune.n_m, n=4, m=8)),
        ("4x1", partial(prune.block, amount=0.5, shape=(4, 1))),
    ],
)
@pytest.mark.parametrize("ignore", [None, ["5"]])
def test_methods_by_name(name: str, same: Callable[..., nn.Module], ignore: list[str] | None) -> None:
    model = net()
    expected = weights(same(copy.deepcopy(model), ignore=ignore))
    np.testing.assert_equal(weights(method(name, ignore, seed=7)(model, 0.5)), expected)


def test_patterns_grow_with_the_amount() -> None:
    assert [
        int((prune.prunable_layers(method("3:4", ())(nn.Linear(4, 1), amount))[""].weight == 0).sum())
        for amount in (0.0, 0.25, 0.5, 0.75)
    ] == [0, 1, 2, 3]
    assert most("3:4") == 0.75
    assert most("lamp") == most("1x4") == 1.0


@pytest.mark.parametrize("name", ["", "magnitud", "2:", "a:4", "2x", "0x4", "1x0", "2:4 ", "1x4x1"])
def test_unknown_methods(name: str) -> None:
    with pytest.raises(
        RecipeError, match=re.escape(f"method {name!r}: expected one of magnitude, layer, lamp, random")
    ):
        method(name)


@pytest.mark.parametrize("name", ["4:4", "0:4", "5:4", "0:0"])
def test_methods_without_a_pattern(name: str) -> None:
    with pytest.raises(RecipeError, match=f"method '{name}': n of every m weights become zero, so 0 < n < m"):
        method(name)

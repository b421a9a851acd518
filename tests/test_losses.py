"""Losses against numbers worked out by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchshrink import losses
from torchshrink.errors import RecipeError
from torchshrink.losses import imitation

# Four pixels: truth 1 1 0 0, prediction 0.8 0.5 0.3 0.
#   TP = 0.8 + 0.5       = 1.3
#   FN = 0.2 + 0.5       = 0.7
#   FP = 0.3 + 0         = 0.3
# alpha=0.7, beta=0.3, smooth=1: TI = 2.3 / (1.3 + 0.49 + 0.09 + 1) = 2.3 / 2.88 = 0.7986111
PROBABILITY = torch.tensor([[[0.8, 0.5, 0.3, 0.0]]])
TRUTH = torch.tensor([[[1, 1, 0, 0]]], dtype=torch.uint8)
INDEX = 2.3 / 2.88


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.FocalTversky(), 0.2013889**0.75),  # = 0.300628
        (losses.FocalTversky(gamma=1.5), 0.2013889**1.5),
        (losses.Tversky(), 0.2013889),
        (losses.FocalTversky(gamma=1), 0.2013889),
        # TI = 2.3 / (1.3 + 0.3 * 0.7 + 0.7 * 0.3 + 1) = 2.3 / 2.72
        (losses.Tversky(alpha=0.3, beta=0.7), 1 - 2.3 / 2.72),
        # Soft Dice with both sums: (2 * 1.3 + 2) / (1.6 + 2 + 2) = 4.6 / 5.6, as one position is added on each side
        (losses.Dice(), 1 - 4.6 / 5.6),
        # (1.3 + 0.01) / (1.3 + 0.35 + 0.15 + 0.01)
        (losses.Dice(smooth=0.01), 1 - 1.31 / 1.81),
        # -(log 0.8 + log 0.5 + log 0.7 + log 1) / 4
        (losses.BCE(), -(math.log(0.8) + math.log(0.5) + math.log(0.7)) / 4),
    ],
)
def test_four_pixels(loss: nn.Module, expected: float) -> None:
    assert loss(PROBABILITY, TRUTH).item() == pytest.approx(expected, rel=1e-5)


def test_index_is_per_sample_and_channel() -> None:
    probability = torch.stack([PROBABILITY[0], torch.ones(1, 4)]).repeat(1, 2, 1)
    truth = torch.stack([TRUTH[0], torch.ones(1, 4)]).repeat(1, 2, 1)
    expected = torch.tensor([[INDEX, INDEX], [1.0, 1.0]])
    torch.testing.assert_close(losses.tversky_index(probability, truth), expected)


def test_mean_is_over_losses_not_over_pixels() -> None:
    # Two samples whose losses are 0 and 0.2013889: pooled counts would give TI = 6.3 / 6.88.
    both = torch.cat([PROBABILITY, torch.ones(1, 1, 4)]), torch.cat([TRUTH, torch.ones(1, 1, 4, dtype=torch.uint8)])
    assert losses.Tversky()(*both).item() == pytest.approx(0.2013889 / 2, rel=1e-5)


def test_bce_is_torchs() -> None:
    probability, truth = torch.rand(3, 2, 5, 5), (torch.rand(3, 2, 5, 5) > 0.5).float()
    assert torch.equal(losses.BCE()(probability, truth), nn.BCELoss()(probability, truth))


def test_bce_of_certain_errors_is_finite() -> None:
    assert losses.BCE()(torch.ones(1, 1, 2), torch.zeros(1, 1, 2)).item() == 100


ALL = [losses.FocalTversky(), losses.Tversky(), losses.Dice(), losses.BCE()]
OVERLAPS = ALL[:3]


@pytest.mark.parametrize("loss", ALL)
def test_empty_truth_and_empty_prediction_cost_nothing(loss: nn.Module) -> None:
    assert loss(torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", OVERLAPS)
def test_empty_truth_and_full_prediction_cost_nearly_one(loss: nn.Module) -> None:
    # Tversky: 1 - 1 / (1 + 0.3 * 4096) = 0.99919
    assert 0.99 < loss(torch.ones(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)).item() < 1


@pytest.mark.parametrize("loss", ALL)
def test_perfect_prediction_costs_nothing_and_has_a_finite_gradient(loss: nn.Module) -> None:
    truth = (torch.rand(2, 2, 8, 8) > 0.5).float()
    probability = truth.clone().requires_grad_()
    value = loss(probability, truth)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert probability.grad is not None
    assert torch.isfinite(probability.grad).all()


@pytest.mark.parametrize("loss", ALL)
def test_batch_is_the_mean_of_its_samples(loss: nn.Module) -> None:
    probability, truth = (
        torch.rand(4, 2, 6, 6),
        torch.rand(4, 2, 6, 6) > torch.tensor([0.1, 0.5, 0.9, 1]).view(4, 1, 1, 1),
    )
    singles = [loss(probability[i : i + 1], truth[i : i + 1]).item() for i in range(4)]
    assert loss(probability, truth).item() == pytest.approx(sum(singles) / 4, rel=1e-5)


@pytest.mark.parametrize("loss", OVERLAPS[:2])
def test_missing_costs_more_than_adding(loss: nn.Module) -> None:
    truth = torch.zeros(1, 1, 100)
    truth[..., :50] = 1
    costs = []
    for count in (0, 5, 10, 20):
        missing, adding = truth.clone(), truth.clone()
        missing[..., 50 - count : 50] = 0
        adding[..., 50 : 50 + count] = 1
        costs.append((loss(missing, truth).item(), loss(adding, truth).item()))
    assert all(missing > adding for missing, adding in costs[1:])
    for kind in zip(*costs, strict=True):
        assert list(kind) == sorted(kind)
        assert len(set(kind)) == 4


@pytest.mark.parametrize("loss", ALL)
def test_a_perfect_match_is_the_minimum(loss: nn.Module) -> None:
    truth = (torch.rand(1, 1, 8, 8) > 0.5).float()
    for _ in range(20):
        assert loss(torch.rand(1, 1, 8, 8), truth) > loss(truth, truth)


@pytest.mark.parametrize("loss", OVERLAPS)
@pytest.mark.parametrize("where", [0, 1])
def test_nan_stays_nan(loss: nn.Module, where: int) -> None:
    pair: list[Tensor] = [torch.full((2, 1, 4), 0.5), torch.ones(2, 1, 4)]
    pair[where][0, 0, 0] = torch.nan
    assert math.isnan(loss(*pair).item())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    # 65536 pixels of 1: bfloat16 counts to 256 only, float16 overflows. Half of each is found: 2/3 of both sums.
    full = torch.ones(1, 1, 256, 256, dtype=dtype)
    assert losses.Dice()(full / 2, full).item() == pytest.approx(1 / 3, abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": -0.1},
        {"beta": -1},
        {"gamma": 0},
        {"gamma": -1},
        {"smooth": 0},
        {"alpha": math.nan},
        {"gamma": math.nan},
    ],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(settings))):
        losses.FocalTversky(**settings)


def test_build_by_name() -> None:
    loss = losses.build("focal_tversky", alpha=0.5, beta=0.5, gamma=1)
    assert loss(PROBABILITY, TRUTH).item() == pytest.approx(1 - 4.6 / 5.6, rel=1e-5)
    for name in ("tversky", "dice", "bce"):
        assert losses.build(name)(PROBABILITY, TRUTH).isfinite()


def test_build_refuses_what_it_does_not_know() -> None:
    with pytest.raises(RecipeError, match=r"'hinge'.*focal_tversky, tversky, dice, bce"):
        losses.build("hinge")
    with pytest.raises(RecipeError, match=r"'dice' does not take \{'gamma': 2\}"):
        losses.build("dice", gamma=2)


def test_a_loss_of_torch_by_its_name() -> None:
    scores, numbers = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1], dtype=torch.uint8)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    assert losses.build("CrossEntropyLoss")(scores, numbers).item() == pytest.approx(expected)
    weighted = losses.build("CrossEntropyLoss", weight=[1.0, 0.0])(scores, numbers)
    assert weighted.item() == pytest.approx(math.log(1 + math.exp(-2)))


def test_a_truth_is_not_broadcast() -> None:
    """torch warns and compares each with each: [3, 1] - [3] is [3, 3]."""
    output, truth = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1, 2, 5])
    assert losses.build("MSELoss")(output, truth).item() == pytest.approx(4 / 3)
    assert losses.build("BCEWithLogitsLoss")(torch.zeros(2, 1), torch.tensor([0, 1])).item() == pytest.approx(
        math.log(2)
    )


def test_a_loss_of_torch_is_called_by_its_name() -> None:
    assert losses.name_of(losses.build("HuberLoss", delta=0.5)) == "HuberLoss"
    with pytest.raises(RecipeError, match=r"loss 'HuberLoss' does not take {'gama': 2}"):
        losses.build("HuberLoss", gama=2)
    with pytest.raises(RecipeError, match=r"unknown loss 'CTCLoss': expected one of focal_tversky"):
        losses.build("CTCLoss")


def test_outputs_that_are_no_probabilities_are_imitated_by_their_squared_error() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.rand(4, 3, generator=generator) for _ in range(2))
    divergence = F.kl_div(
        torch.stack([ours, 1 - ours]).log(), torch.stack([theirs, 1 - theirs]), reduction="none"
    ).sum(0).mean()  # fmt: skip
    assert imitation(ours, theirs) == pytest.approx(float(divergence), rel=1e-4)
    for shift in (-0.5, 0.5):
        found = (ours + shift).requires_grad_()
        imitation(found, theirs).backward()
        expected = float((found - theirs).square().mean().detach())
        assert imitation(found.detach(), theirs).item() == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(found.grad, (2 * (found - theirs) / found.numel()).detach())
    assert imitation((ours, ours + 1), (theirs, theirs)) == pytest.approx(
        float(divergence + (ours + 1 - theirs).square().mean()), rel=1e-4
    )

"""The built-in metrics, against figures worked out by hand."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from torchshrink.errors import DataError, RecipeError
from torchshrink.meters import BUILT_IN, Metric, metric

SCORES = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1, 0, 4], [5, 1, 2]])  # classes 0, 1, 2, 0
NUMBERS = torch.tensor([1, 1, 2, 0])  # one of four is wrong


def of(source: Any, *batches: tuple[Any, Any], name: str = "it") -> float:
    meter = metric(name, source).meter()
    for output, truth in batches:
        meter.update(output, truth)
    return float(meter.compute())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("accuracy", 0.75),
        ("top5", 1.0),  # of three classes
        # Per class TP, FP, FN: (1, 1, 0), (1, 0, 1), (1, 0, 0).
        ("f1", (2 / 3 + 2 / 3 + 1) / 3),
        ("dice", (2 / 3 + 2 / 3 + 1) / 3),
        ("iou", (1 / 2 + 1 / 2 + 1) / 3),
    ],
)
def test_class_numbers_in_any_batches(name: str, expected: float) -> None:
    assert of(name, (SCORES, NUMBERS)) == pytest.approx(expected)
    assert of(name, (SCORES[:1], NUMBERS[:1]), (SCORES[1:], NUMBERS[1:])) == pytest.approx(expected)
    masks = SCORES.T[None], NUMBERS[None]  # [1, K, L] and [1, L]
    assert of(name, masks) == pytest.approx(expected)


def test_the_area_under_the_curve_is_that_of_the_ranking() -> None:
    scores, truth = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1])
    assert of("auc", (scores, truth)) == 0.75  # of the four pairs, three are in order
    assert of("auc", (scores[:, None], truth)) == 0.75
    assert of("auc", (torch.stack([-scores, scores], 1), truth)) == 0.75


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mae", (0 + 1 + 3) / 3),
        ("rmse", math.sqrt((0 + 1 + 9) / 3)),
        ("r2", 1 - 10 / 2),  # of 1, 2 and 3, whose squares from the mean add up to 2
        ("psnr", 10 * math.log10(2**2 / (10 / 3))),  # they range over 2
        ("distance", math.sqrt(10 / 14)),
    ],
)
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_numbers(name: str, expected: float, shape: tuple[int, ...]) -> None:
    output, truth = torch.tensor([1.0, 3, 6]).reshape(3, 1), torch.tensor([1.0, 2, 3]).reshape(shape)
    if name == "distance":
        output = output.reshape(shape)
    assert of(name, (output, truth)) == pytest.approx(expected)
    assert of(name, (output[:2], truth[:2]), (output[2:], truth[2:])) == pytest.approx(expected)


def test_masks_are_scored_without_torchmetrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes seconds to import, and most runs are of masks."""
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    probability, truth = torch.tensor([[[0.9, 0.4, 0.4, 0.1]]]), torch.tensor([[[1, 1, 0, 0]]])
    assert of("dice", (probability, truth)) == pytest.approx(2 / 3)
    assert of("iou", (probability, truth)) == 0.5


def test_an_image_is_like_itself() -> None:
    images = torch.rand(2, 1, 16, 16)
    assert of("ssim", (images, images)) == pytest.approx(1)
    assert of("ssim", (1 - images, images)) < 0.5
    assert of("psnr", (images + 0.1, images)) == pytest.approx(20)  # a peak of 1
    with pytest.raises(DataError, match=r"ssim compares images of at least 11x11, got \[2, 1, 8\]"):
        of("ssim", (images[..., 0, :8], images[..., 0, :8]))


def test_of_one_shape_logits_are_told_from_probabilities() -> None:
    truth = torch.tensor([[[1, 1, 0, 0]]])
    probability = torch.tensor([[[0.9, 0.4, 0.4, 0.1]]])
    assert of("dice", (probability, truth)) == pytest.approx(2 / 3)
    assert of("dice", (torch.logit(probability), truth)) == pytest.approx(2 / 3)
    assert of("accuracy", (probability, truth)) == pytest.approx(3 / 4)
    rounded = torch.tensor([[[1.001, 0.4, 0.4, -0.001]]])  # as files in half precision give
    assert of("dice", (rounded, truth)) == pytest.approx(2 / 3)


def test_nan_is_no_score() -> None:
    assert math.isnan(of("accuracy", (SCORES * math.nan, NUMBERS)))
    assert math.isnan(of("mae", (torch.full((2, 1), math.nan), torch.ones(2))))
    assert of("distance", (torch.tensor([math.nan]), torch.ones(1))) != 0.0


def test_a_class_without_a_score_is_named() -> None:
    with pytest.raises(DataError, match="a truth is class 3, but the model gives 3 scores"):
        of("accuracy", (SCORES, torch.tensor([0, 1, 2, 3])))
    with pytest.raises(DataError, match=r"shape \[4, 3\] and truths of shape \[2\] \(torch.int64\)"):
        of("f1", (SCORES, NUMBERS[:2]))


def test_a_function_sees_everything_at_once() -> None:
    """Also of dictionaries: the median over all is no mean over batches."""

    def median(output: dict[str, Tensor], truth: Tensor) -> Tensor:
        return (output["pitch"] - truth).median()

    batches = [({"pitch": torch.tensor(part)}, torch.zeros(len(part))) for part in ([1.0, 2.0], [9.0])]
    assert of(Metric(median, higher_is_better=False), *batches) == 2


def test_a_torchmetrics_object_is_copied() -> None:
    from torchmetrics.classification import MulticlassAccuracy  # here: it imports transformers, which takes seconds

    own = MulticlassAccuracy(3, average="micro")
    own.update(SCORES, (NUMBERS + 1) % 3)
    assert of(own, (SCORES, NUMBERS)) == 0.75
    assert of(own, (SCORES, NUMBERS)) == 0.75
    assert float(own.compute()) != 0.75
    assert metric("accuracy", own).higher_is_better


def test_what_cannot_be_a_metric() -> None:
    with pytest.raises(RecipeError, match="unknown metric 'acuracy': expected one of accuracy, top5"):
        metric("acuracy")
    with pytest.raises(RecipeError, match="metric 'mine' does not say which way is better"):
        metric("mine", lambda output, truth: 0)
    with pytest.raises(RecipeError, match="metric 'mine' is 3: expected a function"):
        metric("mine", 3)


def test_directions() -> None:
    assert {name for name, each in BUILT_IN.items() if not each.higher_is_better} == {"mae", "rmse", "distance"}

"""What a task says of itself."""

from typing import Any

import pytest
import torch

from torchshrink import losses
from torchshrink.errors import DataError, RecipeError
from torchshrink.meters import Metric
from torchshrink.settings import Budget
from torchshrink.task import Normalization, Task

IMAGE = torch.zeros(1, 8, 8)
TRUTHS: dict[str, Any] = {
    "segmentation": torch.zeros(1, 8, 8, dtype=torch.uint8),
    "multiclass": torch.zeros(8, 8, dtype=torch.int64),
    "classification": torch.tensor(3),
    "regression": torch.zeros(2),
    "reconstruction": IMAGE,
    "unlabelled": torch.empty(0),
    "custom": {"a": IMAGE, "b": torch.tensor(1)},
}


def task(truth: Any, **settings: Any) -> Task:
    samples = [(IMAGE, truth)] * 2
    return Task("it", samples, samples, samples, Normalization((0.0,), (1.0,)), **settings)


@pytest.mark.parametrize(
    ("kind", "loss", "decides", "share"),
    [
        ("segmentation", "FocalTversky", "loss", 0.05),
        ("multiclass", "CrossEntropyLoss", "iou", 0.01),
        ("classification", "CrossEntropyLoss", "accuracy", 0.01),
        ("regression", "MSELoss", "mae", 0.05),
        ("reconstruction", "MSELoss", "psnr", 0.01),
    ],
)
def test_a_kind_brings_loss_and_metrics(kind: str, loss: str, decides: str, share: float) -> None:
    found = task(TRUTHS[kind], kind=kind)
    assert (losses.name_of(found.loss), found.decides, found.budget) == (loss, decides, Budget(share))


def test_a_truth_is_of_its_kind_only() -> None:
    for kind, truth in TRUTHS.items():
        task(truth, kind=kind, metrics={"mae": "mae"}).check()
    for kind in ("segmentation", "multiclass", "classification", "regression", "reconstruction"):
        wrong = [name for name, truth in TRUTHS.items() if name != kind and not fits(kind, truth)]
        assert set(TRUTHS) - set(wrong) - {kind} <= {"reconstruction"}  # which may be a segmentation's
    with pytest.raises(
        DataError, match=r"'it' is of kind classification, whose truth is the number of a class.*uint8 of shape \[1, 8"
    ):
        task(TRUTHS["segmentation"], kind="classification").check()


def fits(kind: Any, truth: Any) -> bool:
    try:
        task(truth, kind=kind).check()
    except DataError:
        return False
    return True


def test_contradictions() -> None:
    with pytest.raises(RecipeError, match="task kind 'ranking': expected one of segmentation"):
        task(IMAGE, kind="ranking")
    with pytest.raises(RecipeError, match="is of kind custom: give it metrics"):
        task(IMAGE, kind="custom")
    with pytest.raises(RecipeError, match="'auc' is to decide, the metrics are accuracy, f1"):
        task(TRUTHS["classification"], kind="classification", decides="auc")


def test_own_metrics_and_who_decides() -> None:
    cents = Metric(lambda output, truth: (output - truth).abs().mean(), higher_is_better=False, unit="cents")
    found = task(TRUTHS["regression"], kind="regression", metrics={"pitch": cents, "r2": "r2"}, decides="r2")
    assert list(found.metrics) == ["pitch", "r2"]
    assert found.higher_is_better
    assert task(TRUTHS["regression"], kind="regression", metrics={"pitch": cents}).decides == "pitch"


def test_a_budget_is_a_share_or_in_units() -> None:
    assert Budget.parse("2%").of(-30.0) == pytest.approx(0.6)
    assert Budget.parse(0.3).of(30.0) == 0.3
    assert Budget.parse("0.3") == Budget(0.3, is_share=False)
    for wrong in ("a lot", "-1%", -0.1, float("nan")):
        with pytest.raises(RecipeError, match="budget"):
            Budget.parse(wrong)


def test_any_truth_makes_a_batch() -> None:
    assert task(TRUTHS["classification"], kind="classification").example_truth.tolist() == [3]
    both = task(TRUTHS["custom"], kind="custom", metrics={"mae": "mae"}).example_truth
    assert (both["a"].shape, both["b"].tolist()) == ((1, 1, 8, 8), [1])

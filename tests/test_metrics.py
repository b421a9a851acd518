"""Dice and IoU against sets of positions."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils.data import TensorDataset

from torchshrink import losses, metrics
from torchshrink.task import Task, batches


def by_sets(probability: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Dice and IoU of one sample and channel, with Python's sets."""
    predicted = {tuple(index) for index in np.argwhere(probability > 0.5)}
    true = {tuple(index) for index in np.argwhere(truth == 1)}
    if not predicted and not true:
        return 1.0, 1.0
    both, either = len(predicted & true), len(predicted | true)
    return 2 * both / (len(predicted) + len(true)), both / either


def test_against_sets() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random((5, 3, 7, 6)).astype(np.float32)
    truth = (rng.random((5, 3, 7, 6)) > 0.6).astype(np.uint8)
    probability[0, 0], truth[0, 0] = 0, 0  # both empty
    probability[1, 1], truth[1, 1] = 1, 0  # only the truth is empty
    probability[2, 2], truth[2, 2] = 0.5, 1  # 0.5 is not yet positive
    expected = np.array(
        [[by_sets(p, t) for p, t in zip(*pair, strict=True)] for pair in zip(probability, truth, strict=True)]
    )
    arguments = torch.from_numpy(probability), torch.from_numpy(truth)
    np.testing.assert_allclose(metrics.dice(*arguments), expected[..., 0], rtol=1e-6)
    np.testing.assert_allclose(metrics.iou(*arguments), expected[..., 1], rtol=1e-6)
    scores = metrics.score(*arguments, losses.BCE())
    assert (scores.dice, scores.iou) == pytest.approx((expected[..., 0].mean(), expected[..., 1].mean()), rel=1e-6)


@pytest.mark.parametrize(
    ("prediction", "truth", "dice", "iou"),
    [
        ([1, 1, 0, 0], [1, 1, 0, 0], 1.0, 1.0),
        ([1, 0, 0, 0], [0, 1, 0, 0], 0.0, 0.0),
        ([1, 1, 1, 0], [1, 1, 0, 1], 2 / 3, 1 / 2),  # TP 2, FP 1, FN 1
        ([0, 0, 0, 0], [0, 0, 0, 0], 1.0, 1.0),
        ([0, 0, 0, 1], [0, 0, 0, 0], 0.0, 0.0),
    ],
)
def test_by_hand(prediction: list[float], truth: list[float], dice: float, iou: float) -> None:
    arguments = torch.tensor([[prediction]], dtype=torch.float32), torch.tensor([[truth]])
    assert metrics.dice(*arguments).item() == pytest.approx(dice)
    assert metrics.iou(*arguments).item() == pytest.approx(iou)


class Scaled(nn.Module):
    """Halves its input in evaluation mode and breaks in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return (self.factor * x).clamp(0, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_evaluate_does_not_depend_on_the_batch_size(batch_size: int) -> None:
    probability = 2 * torch.rand(10, 1, 6, 6)
    truth = (torch.rand(10, 1, 6, 6) > 0.5).to(torch.uint8)
    model = Scaled().train()
    found = metrics.evaluate(model, TensorDataset(probability, truth), losses.Dice(), batch_size)
    singles = [
        metrics.score(probability[i : i + 1] / 2, truth[i : i + 1], losses.Dice()) for i in range(len(probability))
    ]
    assert found.loss == pytest.approx(np.mean([single.loss for single in singles]), rel=1e-6)
    assert found.dice == pytest.approx(np.mean([single.dice for single in singles]), rel=1e-6)
    assert found.iou == pytest.approx(np.mean([single.iou for single in singles]), rel=1e-6)
    assert model.training


def test_evaluate_keeps_evaluation_mode() -> None:
    model = Scaled().eval()
    metrics.evaluate(model, TensorDataset(torch.rand(2, 1, 4), torch.ones(2, 1, 4)), losses.Dice())
    assert not model.training


def test_evaluate_takes_a_quantized_graph(ptq_graph: GraphModule, tiny_task: Task) -> None:
    found = metrics.evaluate(ptq_graph, tiny_task.test, tiny_task.loss)
    inputs, truth = metrics.stack(tiny_task.test)
    assert found.dice == pytest.approx(metrics.dice(ptq_graph(inputs), truth).mean().item())


def test_nan_is_not_a_good_score() -> None:
    scores = metrics.score(torch.full((1, 1, 4), torch.nan), torch.ones(1, 1, 4), losses.Dice())
    assert np.isnan(scores.loss)
    assert scores.dice == 0


def test_outputs_are_the_models_in_order() -> None:
    inputs = torch.rand(7, 1, 4)
    assert torch.equal(metrics.outputs(Scaled().eval(), inputs, batch_size=3), inputs / 2)


def test_stack_keeps_order_and_type(make_task: Callable[..., Task]) -> None:
    task = make_task(train=70)  # more than one batch of the loader
    inputs, truths = metrics.stack(task.train)
    assert inputs.shape == truths.shape == (70, 1, 16, 16)
    assert truths.dtype == torch.uint8
    assert torch.equal(inputs[69], task.train[69][0])
    assert torch.equal(truths[69], task.train[69][1])


@pytest.mark.parametrize(("size", "count", "expected"), [(2, None, [2, 2, 1]), (2, 3, [2, 1]), (9, 9, [5]), (2, 0, [])])
def test_any_sequence_of_pairs_is_data(size: int, count: int | None, expected: list[int]) -> None:
    pairs = [(torch.full((1, 4), float(index)), torch.ones(1, 4)) for index in range(5)]
    found = list(batches(pairs, size, count))
    assert [len(inputs) for inputs, _ in found] == expected
    shown = [value for inputs, truth in found for value in inputs[:, 0, 0].tolist()]
    assert shown == [0.0, 1.0, 2.0, 3.0, 4.0][: sum(expected)]
    assert metrics.evaluate(torch.nn.Identity(), pairs[1:], losses.Dice(), size).dice == 1.0


@pytest.mark.parametrize(
    ("decides", "higher", "better"),
    [("loss", False, (0.2, 0.9)), ("dice", True, (0.5, 1.0)), ("mae", False, (0.5, 0.1))],
)
def test_what_decides_costs_less_where_it_is_better(decides: str, higher: bool, better: tuple[float, float]) -> None:
    task: Any = SimpleNamespace(decides=decides, higher_is_better=higher)
    loss, figure = better
    assert metrics.Scores(loss, {decides: figure}).cost(task) < metrics.Scores(0.5, {decides: 0.9}).cost(task)

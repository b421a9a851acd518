"""What the user's code gives to a training is looked at where it comes in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchshrink import training
from torchshrink.data.datasets import task_from_datasets
from torchshrink.errors import DataError, RecipeError
from torchshrink.meters import Metric
from torchshrink.own_loop import Loop
from torchshrink.settings import Training
from torchshrink.task import Task
from torchshrink.training import Settings

X = torch.rand(4, 1, 8, 8)
Y = (X > 0.5).float()


class Samples:
    """As many samples as said, each made by a function."""

    def __init__(self, make: Any, size: Any = 4) -> None:
        self.make, self.size = make, size

    def __len__(self) -> int:
        return self.size  # type: ignore[no-any-return]

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def task(make: Any = lambda index: (X[index], Y[index]), size: Any = 4, **settings: Any) -> Task:
    train, test, validation = (Samples(make, size) for _ in range(3))
    return task_from_datasets(train, test, validation, **settings)


def train(loop: Loop | None = None, **settings: Any) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Sigmoid())
    training.fit(model, task(**settings), Settings(epochs=1, loop=loop or Loop()))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "gives a NoneType"),
        (1.0, "gives a float"),
        (torch.ones(2), r"gives \[2\] numbers instead of one"),
        (torch.tensor(1j), "gives a complex number"),
    ],
)
def test_losses(answer: Any, words: str) -> None:
    with pytest.raises(DataError, match=f"the loss {words}"):
        train(loss=lambda output, truth: answer)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, r"returned a NoneType: expected \(inputs, truth\)"),
        ((X.double(), Y), r"made torch.float64 of inputs of torch.float32"),
        (("a", Y), "made a str of inputs"),
    ],
)
def test_augmentations(answer: Any, words: str) -> None:
    def mine(*_: Any) -> Any:
        return answer

    with pytest.raises(RecipeError, match=f"augment mine {words}"):
        train(augment=mine)


def test_optimizers_and_schedules() -> None:
    def mine(*_: Any, **__: Any) -> Any:
        return None

    with pytest.raises(RecipeError, match="optimizer mine returned a NoneType"):
        train(Loop(optimizer=mine))
    with pytest.raises(RecipeError, match=r"schedule mine returned a NoneType, which has no step\(\)"):
        train(Loop(schedule=mine))
    with pytest.raises(RecipeError, match="holds no parameter of the model"):
        train(Loop(optimizer=lambda *_, **__: torch.optim.SGD([nn.Parameter(torch.ones(1))])))


def test_a_fit_that_makes_another_model() -> None:
    def mine(model: nn.Module, *_: Any) -> None:
        model.double()

    with pytest.raises(RecipeError, match=r"fit mine changed the shape or type of 0\.weight"):
        train(Loop(fit=mine))


def test_a_metric_that_cannot_begin_again() -> None:
    class Half:
        def update(self, output: Any, truth: Any) -> None:
            pass

        def compute(self) -> float:
            return 1.0

    half: Any = Half()
    with pytest.raises(DataError, match="'Half' object is not callable"):
        train(metrics={"half": Metric(half, True)}, decides="half")


@pytest.mark.parametrize(
    ("make", "size", "words"),
    [
        (None, -1, "train has no length that can be used"),
        (None, "a", "train has no length that can be used"),
        (lambda i: (X[i] * 1j, Y[i]), 4, "the input of sample 0 is complex"),
        (lambda i: (X[i].to_sparse(), Y[i]), 4, "the input of sample 0 is torch.sparse_coo"),
        (lambda i: (X[i].to("meta"), Y[i]), 4, "the input of sample 0 has no values"),
        (lambda _: (torch.tensor(1.0), torch.tensor(1.0)), 4, "the input of sample 0 is a single number"),
    ],
)
def test_datasets(make: Any, size: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        task(make, size)


def test_samples_of_many_sizes_make_no_batch() -> None:
    of_many = task(lambda i: (torch.rand(1, 8 + i, 8), torch.ones(1, 8 + i, 8)))
    with pytest.raises(DataError, match="make no batch: RuntimeError: stack expects each tensor to be equal size"):
        training.fit(nn.Conv2d(1, 1, 1), of_many, Settings(epochs=1))


def test_samples_that_carry_gradients() -> None:
    assert not task(lambda i: (X[i].clone().requires_grad_(), Y[i])).train[0][0].requires_grad


def test_a_training_without_end() -> None:
    with pytest.raises(RecipeError, match=f"epochs={10**20}: expected at least 0 and at most 1,000,000"):
        Training(epochs=10**20)

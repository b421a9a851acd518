"""Parts of the training loop, or all of it, that are the user's own."""

from typing import Any

import pytest
import torch
from torch import nn

from torchshrink import stages
from torchshrink.errors import DataError, RecipeError
from torchshrink.own_loop import Loop
from torchshrink.pipeline import recipe, trust
from torchshrink.prune import sparsity
from torchshrink.task import Task
from torchshrink.training import Settings, fit


def test_optimizer_and_schedule_are_those_given(tiny_task: Task, small_net: nn.Module) -> None:
    """24 samples in batches of 8, 2 epochs: 6 steps."""
    asked: list[Any] = []
    rates: list[float] = []

    def schedule(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        asked.extend([type(optimizer).__name__, steps, optimizer.param_groups[0]["weight_decay"]])

        def rate(step: int) -> float:
            rates.append(float(step))
            return 1.0

        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    settings = Settings(2, 0.01, 8, weight_decay=0.5, loop=Loop(optimizer=torch.optim.SGD, schedule=schedule))
    fit(small_net, tiny_task, settings)
    assert asked == ["SGD", 6, 0.5]
    assert rates == [0, 1, 2, 3, 4, 5, 6]


def test_sgd_by_hand(tiny_task: Task) -> None:
    """One step of plain gradient descent on a model of one weight."""
    model = nn.Conv2d(1, 1, 1, bias=False)
    before = model.weight.detach().clone()
    loop = Loop(optimizer=torch.optim.SGD, schedule=lambda made, _: torch.optim.lr_scheduler.ConstantLR(made, 1.0))
    settings = Settings(1, 0.1, 24, weight_decay=0.0, precision="fp32", loop=loop)
    inputs, truth = (torch.stack(part) for part in zip(*tiny_task.train, strict=True))  # type: ignore[call-overload]
    loss = tiny_task.loss(torch.nn.functional.conv2d(inputs, weight := before.clone().requires_grad_()), truth)
    (gradient,) = torch.autograd.grad(loss, weight)
    fit(model, tiny_task, settings)
    torch.testing.assert_close(model.weight.detach(), before - 0.1 * gradient)


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (Loop(optimizer=lambda parameters: None), "optimizer <lambda> does not take lr and weight_decay"),  # type: ignore[arg-type,misc]
        (Loop(schedule=lambda optimizer: None), r"schedule <lambda> does not take \(optimizer, steps\)"),  # type: ignore[arg-type,misc]
    ],
)
def test_parts_that_take_something_else(tiny_task: Task, small_net: nn.Module, loop: Loop, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        fit(small_net, tiny_task, Settings(1, loop=loop))


# --- The whole loop


def theirs(model: nn.Module, task: Any, settings: Any, after_step: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.lr)
    for step in range(1, settings.epochs + 1):
        inputs, truth = task.train[:8]
        task.loss(model.train()(inputs), truth).backward()
        optimizer.step()
        optimizer.zero_grad()
        after_step(step, settings.epochs)


def test_their_loop_prunes(tiny_task: Task, small_net: nn.Module) -> None:
    model, history = stages.prune(small_net, tiny_task, Settings(20, 0.01, loop=Loop(fit=theirs)), 0.5)
    assert sparsity(model) == pytest.approx(0.5, abs=0.01)
    assert not model.training
    assert history.best_epoch == 1
    assert history.best_loss == history.epochs[0]["validation_loss"] > 0


def test_their_loop_is_not_asked_for_no_epochs(tiny_task: Task, small_net: nn.Module) -> None:
    fit(small_net, tiny_task, Settings(0, loop=Loop(fit=lambda *_: pytest.fail("it was"))))


def untold(model: nn.Module, *_: Any) -> None:
    """Trains, and says nothing."""


def half(model: nn.Module, task: Any, settings: Any, after_step: Any) -> None:
    after_step(1, 2)


def broken(*_: Any) -> None:
    raise ZeroDivisionError("by zero")


def refused(*_: Any) -> None:
    raise DataError("no such column")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (untold, RecipeError, r"fit untold ended after telling of step 0 of 0: call after_step\(step, steps\)"),
        (half, RecipeError, "fit half ended after telling of step 1 of 2"),
        (broken, RecipeError, "fit broken stopped with ZeroDivisionError: by zero"),
        (refused, DataError, "^no such column$"),
        (lambda *_: nn.Identity(), RecipeError, "returned another model: train the one that it is given, in place"),
    ],
)
def test_loops_that_are_refused(
    tiny_task: Task, small_net: nn.Module, function: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        stages.prune(small_net, tiny_task, Settings(2, loop=Loop(fit=function)), 0.5)


# --- Recipes


@pytest.mark.parametrize("key", ["fit", "optimizer", "schedule", "augment"])
def test_code_that_a_recipe_names_is_known(key: str) -> None:
    assert trust.references(recipe.parse({key: "os:system"})) == {key: "os:system"}
    with pytest.raises(RecipeError, match=f"would import and call {key} os:system"):
        trust.check(recipe.parse({key: "os:system"}), "r.yaml")


@pytest.mark.parametrize("other", [{"optimizer": "a:b"}, {"schedule": "a:b"}, {"distillation": 0.5}])
def test_fit_is_the_whole_loop(other: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="fit is the whole training loop: leave out"):
        recipe.parse({"fit": "a:b", **other})

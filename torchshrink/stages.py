"""The stages that change a model, each a function from model to model: train, prune, channels, cluster, qat, ptq.

Every stage but `train` leaves the model that it is given as it was. ``teacher`` is the model that a fine-tuning
imitates with the weight ``settings.distillation``.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import quantize
from torchshrink.errors import RecipeError
from torchshrink.metrics import loss_of
from torchshrink.progress import SILENT, Progress
from torchshrink.prune import Schedule, by_layer, keep_zeros, remove, sparsity
from torchshrink.prune.channels import channels as remove_channels
from torchshrink.prune.clusters import cluster as share_weights
from torchshrink.prune.methods import Method, most
from torchshrink.prune.methods import method as pruning_method
from torchshrink.quantize.ladder.climb import BUDGET_DB, Effort
from torchshrink.settings import Importance, Scheduling, Scope, Weights, check
from torchshrink.task import Task, batches
from torchshrink.training import History, Settings, fit

_logger = logging.getLogger(__name__)

# Shares of a training: pruning is done after the first, ranges and BatchNorm statistics freeze after the second.
PRUNED_BY, FROZEN_AFTER = 0.5, 0.6
CALIBRATED = 64  # samples, of which ranges are learned, or begin with in training for quantization
REWOUND_TO = 0.1  # share of a training whose weights rewinding goes back to
TAYLOR_SAMPLES = 64


def train(
    model: nn.Module, task: Task, settings: Settings, teacher: nn.Module | None = None, progress: Progress = SILENT
) -> History:
    """Train ``model`` in place; its zero weights stay zero."""
    keep_zeros(model)
    history = fit(model, task, settings, teacher=teacher, progress=progress)
    remove(model)
    return history


def reinitialize(model: nn.Module, seed: int) -> nn.Module:
    """Return a copy of ``model`` with the weights that its layers start from: the architecture without the training."""
    import torch

    model = copy.deepcopy(model)
    torch.manual_seed(seed)
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model


def prune(
    model: nn.Module,
    task: Task,
    settings: Settings,
    amount: float | None = None,
    method: str = "magnitude",
    schedule: Scheduling = "polynomial",
    *,
    amounts: Mapping[str, float] | None = None,
    ignore: Sequence[str] | None = None,
    teacher: nn.Module | None = None,
    progress: Progress = SILENT,
) -> tuple[nn.Module, History]:
    """Return a copy of ``model`` with weights pruned and the rest fine-tuned, its zeros exact.

    Args:
        model: A trained module.
        task: Data and loss.
        settings: Of the fine-tuning.
        amount: Sparsity to reach, in [0, 1); by default 0.8, or what an N:M pattern makes.
        method: As `torchshrink.prune.methods.method` names them.
        schedule: ``"polynomial"`` prunes gradually over the first half of the fine-tuning, ``"constant"`` and
            ``"one_shot"`` all at once before it, ``"rewind"`` at half of it, after which the remaining weights go back
            to those of its first tenth.
        amounts: Sparsity by layer, instead of ``amount`` and ``method``.
        ignore: Layers to leave alone, as in `torchshrink.prune.magnitude`.
        teacher: See above.
        progress: Told about every step.

    Raises:
        RecipeError: When the settings contradict each other or the model.
    """
    check("schedule", schedule, Scheduling)
    model = keep_zeros(copy.deepcopy(model))
    initial = sparsity(model)
    if amounts is not None:
        apply, initial, final = _by_layer(amounts), 0.0, max(amounts.values(), default=0.0)
        if ignore or amount is not None:
            raise RecipeError("amounts says which layers are pruned and how far: give no amount and no ignore")
    else:
        apply = pruning_method(method, ignore, settings.seed)
        final = min(0.8, most(method)) if amount is None else amount
        if final > most(method):
            raise RecipeError(f"method {method!r} reaches a sparsity of {most(method):.4g} at most, not {final}")
        if final < initial - 1e-9:
            raise RecipeError(f"cannot prune from sparsity {initial:.4g} to {final}: pruned weights do not come back")
        initial = min(initial, final)
    is_at_once = schedule in ("constant", "one_shot") or settings.epochs == 0
    if is_at_once:
        apply(model, final)
    plan: list[Schedule] = []

    def after_step(step: int, steps: int) -> None:
        if not plan:
            end = max(1, int(PRUNED_BY * steps))
            plan.append(
                Schedule.one_shot(final, end, min(int(REWOUND_TO * steps) + 1, end - 1), apply)
                if schedule == "rewind"
                else Schedule.polynomial(initial, final, 0, end, method=apply)
            )
        plan[0].step(model, step)

    history = fit(
        model,
        task,
        settings,
        after_step=None if is_at_once else after_step,
        settled=0.0 if is_at_once else PRUNED_BY,
        teacher=teacher,
        progress=progress,
    )
    return remove(model), history


def channels(
    model: nn.Module,
    task: Task,
    settings: Settings,
    amount: float | None = None,
    *,
    amounts: Mapping[str, float] | None = None,
    target_macs: float | None = None,
    target_params: float | None = None,
    importance: Importance = "l2",
    scope: Scope = "global",
    round_to: int = 1,
    rounds: int = 1,
    ignore: Sequence[str] = (),
    teacher: nn.Module | None = None,
    progress: Progress = SILENT,
) -> tuple[nn.Module, History]:
    """Return a copy of ``model`` without its least important channels, fine-tuned; zero weights stay zero.

    A little is removed, the rest fine-tuned, and again, so that every choice is made by a model that has recovered.

    Its settings are those of `torchshrink.prune.channels`; the Taylor importance looks at 64 training samples. Each of
    the ``rounds`` gets an equal part of the epochs, the last one two. A single one removes everything at once, and is
    better unless every round gets tens of epochs.

    Raises:
        RecipeError: When the settings contradict each other or the model.
        ModelError: When the model cannot be traced, or does not run without the channels.
    """
    if sum(goal is not None for goal in (amount, amounts, target_macs, target_params)) > 1:
        raise RecipeError("give one of amount, amounts, target_macs and target_params, not several")
    if rounds < 1:
        raise RecipeError(f"rounds={rounds}: channels are removed in at least one round")
    goals = _goals(model, task, amount, amounts, target_macs, target_params, rounds)
    history = History()
    part = settings.epochs // (rounds + 1)
    for index, goal in enumerate(goals):
        is_last = index == rounds - 1
        model = remove_channels(
            model,
            task.example_input,
            importance=importance,
            scope=scope,
            round_to=round_to if is_last else 1,
            ignore=ignore,
            loss=lambda module: sampled_loss(module, task),
            **goal,
        )
        keep_zeros(model)
        epochs = settings.epochs - part * (rounds - 1) if is_last else part
        found = fit(model, task, replace(settings, epochs=epochs), teacher=teacher, progress=progress)
        remove(model)
        found.best_epoch += len(history.epochs)
        history = replace(found, epochs=history.epochs + found.epochs)
    return model, history


def cluster(
    model: nn.Module,
    task: Task,
    settings: Settings,
    count: int = 16,
    *,
    ignore: Sequence[str] | None = None,
    teacher: nn.Module | None = None,
    progress: Progress = SILENT,
) -> tuple[nn.Module, History]:
    """Return a copy of ``model`` whose layers hold at most ``count`` distinct weights each, trained together.

    Args:
        model: A trained module; its zeros stay zeros.
        task: Data and loss.
        settings: Of the fine-tuning.
        count: Distinct weights per layer, zero included.
        ignore: Layers to leave alone, as in `torchshrink.prune.cluster`.
        teacher: See above.
        progress: Told about every step.

    Raises:
        RecipeError: When ``count`` is out of range or nothing can be clustered.
    """
    model = copy.deepcopy(model)
    clusters = share_weights(model, count, ignore)

    def after_step(_step: int, _steps: int) -> None:
        clusters.apply()

    return model, fit(model, task, settings, after_step=after_step, teacher=teacher, progress=progress)


def qat(
    model: nn.Module,
    task: Task,
    settings: Settings,
    *,
    keep_float: Sequence[str] = (),
    portable: bool = True,
    weights: Weights = "int8",
    teacher: nn.Module | None = None,
    progress: Progress = SILENT,
) -> tuple[GraphModule, History]:
    """Return the quantized graph of ``model`` after quantization-aware training.

    Zero weights stay exactly zero, and weights that were clustered stay clustered. ``keep_float``, ``portable`` and
    ``weights`` are those of `torchshrink.quantize.prepare_qat`.
    """
    prepared = quantize.prepare_qat(model, task.example_input, keep_float, portable, weights)
    quantize.calibrate(prepared, _calibration(task, settings.batch_size, CALIBRATED))

    def after_step(step: int, steps: int) -> None:
        prepared.apply_masks()
        if step == max(1, int(FROZEN_AFTER * steps)):
            prepared.freeze()

    # Fake quantization computes in float32: bfloat16 has fewer digits than the int8 grid needs.
    settings = replace(settings, precision="fp32")
    history = fit(
        prepared, task, settings, after_step=after_step, settled=FROZEN_AFTER, teacher=teacher, progress=progress
    )
    return quantize.convert(prepared), history


def ptq(
    model: nn.Module,
    task: Task,
    samples: int = CALIBRATED,
    batch_size: int = 16,
    *,
    keep_float: Sequence[str] = (),
    portable: bool = True,
    effort: Effort = "none",
    budget_db: float = BUDGET_DB,
    progress: Progress = SILENT,
) -> GraphModule:
    """Return the quantized graph of ``model``, its ranges calibrated on the first ``samples`` training inputs.

    ``keep_float`` and ``portable`` are those of `torchshrink.quantize.prepare_ptq`, ``effort`` and ``budget_db`` those
    of `torchshrink.quantize.ptq`.
    """
    if effort != "none":
        given = [inputs for inputs, _ in batches(task.train, batch_size, samples)]
        return quantize.ptq(
            model, given, effort, budget_db=budget_db, keep_float=keep_float, portable=portable, progress=progress
        )
    prepared = quantize.prepare_ptq(model, task.example_input, keep_float, portable)
    quantize.calibrate(prepared, _calibration(task, batch_size, samples))
    return quantize.convert(prepared)


def _calibration(task: Task, batch_size: int, samples: int) -> Iterator[Tensor]:
    total = math.ceil(min(samples, len(task.train)) / batch_size)
    for count, (inputs, _) in enumerate(batches(task.train, batch_size, samples), 1):
        _logger.info("batch %d of the calibration data", count, extra={"done": count - 1, "total": total})
        yield inputs


def _by_layer(amounts: Mapping[str, float]) -> Method:
    """Return the method that prunes every layer to its share of its own sparsity, all at once when the last is due."""
    most_of_all = max(amounts.values(), default=0.0)

    def apply(model: nn.Module, amount: float) -> nn.Module:
        share = amount / most_of_all if most_of_all else 0.0
        return by_layer(model, {name: value * share for name, value in amounts.items()})

    return apply


def sampled_loss(model: nn.Module, task: Task) -> Tensor:
    """Return the mean loss over the first training batches, with its gradient graph.

    Raises:
        RecipeError: When the data has no labels: a model's distance to itself has no gradient.
    """
    if task.kind == "unlabelled":
        raise RecipeError("importance='taylor' asks the loss, which data without labels has none of: choose l2 or bn")
    losses = [loss_of(task, model(inputs), truth) for inputs, truth in batches(task.train, 16, TAYLOR_SAMPLES)]
    total: Tensor = sum(losses[1:], losses[0]) / len(losses)
    return total


def _goals(
    model: nn.Module,
    task: Task,
    amount: float | None,
    amounts: Mapping[str, float] | None,
    macs: float | None,
    params: float | None,
    rounds: int,
) -> list[dict[str, Any]]:
    """Return what each round aims at, so that each removes the same share of what the one before left."""

    def each(share: float) -> float:
        return 1 - (1 - share) ** (1 / rounds) if 0 <= share < 1 else share  # refused with the reason

    if amounts is not None:
        return [{"amount": amount, "amounts": {name: each(share) for name, share in amounts.items()}}] * rounds
    if amount is not None:
        return [{"amount": each(amount)}] * rounds
    steps = [(index + 1) / rounds for index in range(rounds)]
    if macs is not None:
        from torchshrink.model.macs import count_macs

        whole = count_macs(model, task.example_input)
        share = macs if macs < 1 else macs / whole
        return [{"target_macs": max(1.0, whole * share**step)} for step in steps]
    if params is not None:
        whole = sum(parameter.numel() for parameter in model.parameters())
        share = params if params < 1 else params / whole
        return [{"target_params": max(1.0, whole * share**step)} for step in steps]
    return [{"amount": amount}] * rounds

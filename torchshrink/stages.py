"""The stages that change a model, each a function from model to model: train, prune, qat, ptq."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn
from torch.fx import GraphModule
from torch.utils.data import DataLoader, Subset

from torchshrink import prune as pruning
from torchshrink import quantize
from torchshrink.errors import RecipeError
from torchshrink.progress import SILENT, Progress
from torchshrink.task import Task
from torchshrink.training import History, Settings, fit

# Shares of a training: pruning is done after the first, ranges and BatchNorm statistics freeze after the second.
PRUNED_BY, FROZEN_AFTER = 0.5, 0.6


def train(model: nn.Module, task: Task, settings: Settings, progress: Progress = SILENT) -> History:
    """Train ``model`` in place."""
    return fit(model, task, settings, progress=progress)


def prune(
    model: nn.Module,
    task: Task,
    settings: Settings,
    amount: float,
    scope: pruning.Scope = "global",
    gradual: bool = True,
    progress: Progress = SILENT,
) -> tuple[nn.Module, History]:
    """Return a copy of ``model`` pruned by magnitude to ``amount`` and fine-tuned, its zeros exact.

    Args:
        model: A trained module.
        task: Data and loss.
        settings: Of the fine-tuning.
        amount: Sparsity to reach, in [0, 1).
        scope: ``"global"`` or ``"layer"``.
        gradual: Prune along a polynomial over the first half of the fine-tuning, or all at once before it.
        progress: Told about every step.
    """
    model = pruning.keep_zeros(copy.deepcopy(model))
    initial = pruning.sparsity(model)
    if amount < initial - 1e-9:
        raise RecipeError(f"cannot prune from sparsity {initial:.4g} to {amount}: pruned weights do not come back")
    if not gradual or settings.epochs == 0:
        pruning.magnitude(model, amount, scope)

    def after_step(step: int, steps: int) -> None:
        if gradual:
            end = max(1, int(PRUNED_BY * steps))
            pruning.Schedule.polynomial(initial, amount, 0, end, scope=scope).step(model, step)

    settled = PRUNED_BY if gradual else 0.0
    history = fit(model, task, settings, after_step=after_step, settled=settled, progress=progress)
    return pruning.remove(model), history


def qat(model: nn.Module, task: Task, settings: Settings, progress: Progress = SILENT) -> tuple[GraphModule, History]:
    """Return the quantized graph of ``model`` after quantization-aware training; zero weights stay exactly zero."""
    prepared = quantize.prepare_qat(model, task.example_input)

    def after_step(step: int, steps: int) -> None:
        prepared.apply_masks()
        if step == max(1, int(FROZEN_AFTER * steps)):
            prepared.freeze()

    # Fake quantization computes in float32: bfloat16 has fewer digits than the int8 grid needs.
    settings = replace(settings, precision="fp32")
    history = fit(prepared, task, settings, after_step=after_step, settled=FROZEN_AFTER, progress=progress)
    return quantize.convert(prepared), history


def ptq(model: nn.Module, task: Task, samples: int = 64, batch_size: int = 16) -> GraphModule:
    """Return the quantized graph of ``model``, its ranges calibrated on the first ``samples`` training inputs."""
    prepared = quantize.prepare_ptq(model, task.example_input)
    count = min(samples, len(task.train))  # type: ignore[arg-type]
    loader = DataLoader(Subset(task.train, range(count)), batch_size)
    quantize.calibrate(prepared, (inputs for inputs, _ in loader))
    return quantize.convert(prepared)

"""What candidates are drawn from: the recipe's space, completed by what each layer of the model can bear."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

from optuna.trial import Trial
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchshrink import prune, sensitivity
from torchshrink.errors import ModelError
from torchshrink.model.macs import evaluating
from torchshrink.pipeline.recipe import Space
from torchshrink.pipeline.students import Students
from torchshrink.pipeline.subject import Strict
from torchshrink.progress import SILENT, Progress
from torchshrink.search import students
from torchshrink.task import Task

Choices = dict[str, Any]  # the settings of one candidate

LEAST_SPARSITY = 0.55  # below it, zeros make no int8 file smaller: a sparse one takes more than 2 bytes per nonzero
_MOST_CHANNELS = 0.8
_MOST_SPARSITY = (0.8, 0.95)  # where most layers suffer from pruning without fine-tuning, and where most do not
_SPREAD = 0.25
_MOST_KEPT = 2
_BEARABLE = 0.01  # loss that pruning half of a robust layer, alone and without fine-tuning, costs at most
_HARMFUL = 0.01  # share of the loss that int8 in one layer alone costs, when it is worth keeping that layer float


class Stage(Strict):
    """Layers that compute at one resolution.

    Attributes:
        name: ``stage_1`` has the highest resolution.
        layers: The roots (`torchshrink.prune.roots`) whose channels it loses.
        offset: The least and greatest difference of its share of channels from the whole model's.
    """

    name: str
    layers: tuple[str, ...]
    offset: tuple[float, float]


class Resolved(Strict):
    """A complete space, as `torchshrink.pipeline.recipe.Space` with nothing left out."""

    channels: tuple[float, float]
    stages: tuple[Stage, ...]
    round_to: tuple[int, ...]
    sparsity: tuple[float, float]
    pattern: tuple[str, ...]
    int8: tuple[str, ...]
    kept: tuple[str, ...]
    distillation: tuple[float, ...]
    length: tuple[float, ...]
    lr: tuple[float, float]
    student: Students | None = None


def derive(space: Space, model: nn.Module, task: Task, progress: Progress = SILENT) -> Resolved:
    """Return a complete space for a trained model.

    What the recipe leaves out follows from what one layer alone costs without fine-tuning
    (`torchshrink.sensitivity.measure`): the greatest sparsity is 0.95 when half of the layers can lose half of their
    weights for a loss of 0.01, else 0.8; stages whose layers are less robust than most lose at most the model's share
    of channels; up to two layers that cost 1 % of the loss in int8 may stay float.

    Args:
        space: Of the recipe.
        model: The dense model; it is left as it was.
        task: The losses are of its validation part.
        progress: Told about every layer.

    Raises:
        ModelError: When the model has nothing to prune.
        DataError: When it cannot be evaluated on the data.
    """
    found = sensitivity.measure(model, task, progress=progress)
    halved = {name: costs[min(costs, key=lambda amount: abs(amount - 0.5))] for name, costs in found.pruned.items()}
    is_robust = statistics.median(halved.values()) <= _BEARABLE
    harmful = sorted(found.int8, key=lambda name: -found.int8[name])
    harmful = [name for name in harmful if found.int8[name] > _HARMFUL * abs(found.loss)]
    most_kept = _MOST_KEPT if space.keep_float is None else space.keep_float
    spread = _SPREAD if space.stage_spread is None else space.stage_spread
    return Resolved(
        channels=space.channels or (0.0, _MOST_CHANNELS),
        stages=_stages(model, task.example_input, halved, spread),
        round_to=space.round_to,
        sparsity=space.sparsity or (0.0, _MOST_SPARSITY[is_robust]),
        pattern=space.pattern,
        int8=space.int8,
        kept=tuple(
            (harmful if space.keep_float is None else sorted(found.int8, key=lambda n: -found.int8[n]))[:most_kept]
        ),
        distillation=space.distillation,
        length=space.length,
        lr=space.lr,
        student=space.student and students.resolved(space.student, task.example_input.shape[2:]),
    )


def draw(trial: Trial, space: Resolved) -> Choices:
    """Return the settings of a candidate."""
    settings: Choices = {}
    if space.student is not None:
        settings["family"] = trial.suggest_categorical("family", (students.PRUNED, students.STUDENT))
    taught = is_student(settings)
    settings |= students.draw(trial, space.student) if taught and space.student else _removals(trial, space)
    settings["sparsity"] = trial.suggest_float("sparsity", *space.sparsity)
    settings["lr"] = trial.suggest_float("lr", *space.lr, log=True)
    for name in ("round_to", "pattern", "int8", "distillation", "length"):
        choices = getattr(space, name)
        if not taught or name != "round_to":
            settings[name] = trial.suggest_categorical(name, choices) if len(choices) > 1 else choices[0]
    settings["keep_float"] = trial.suggest_int("keep_float", 0, len(space.kept)) if space.kept and not taught else 0
    return settings


def is_student(settings: Mapping[str, Any]) -> bool:
    """Return whether a candidate has an architecture of its own."""
    return settings.get("family") == students.STUDENT


def _removals(trial: Trial, space: Resolved) -> Choices:
    settings: Choices = {"channels": trial.suggest_float("channels", *space.channels)}
    for stage in space.stages:
        if stage.offset[0] < stage.offset[1]:
            settings[f"channels_{stage.name}"] = trial.suggest_float(f"channels_{stage.name}", *stage.offset)
    return settings


def shares(settings: Mapping[str, Any], space: Resolved) -> dict[str, float]:
    """Return the share of channels that each root loses; none for a candidate that keeps them all.

    >>> stage = Stage(name="stage_1", layers=("a", "b"), offset=(-0.1, 0.1))
    >>> shares({"channels": 0.5, "channels_stage_1": 0.1}, Resolved.model_construct(stages=(stage,)))
    {'a': 0.6, 'b': 0.6}
    """
    found = dict[str, float]()
    if is_student(settings):
        return found
    for stage in space.stages:
        share = settings["channels"] + settings.get(f"channels_{stage.name}", 0.0)
        share = round(min(max(share, 0.0), 0.95), 4)
        found.update({name: share for name in stage.layers if share > 0})
    return found


def _stages(model: nn.Module, example: Tensor, halved: Mapping[str, float], spread: float) -> tuple[Stage, ...]:
    """Group the roots by the resolution that they compute at, the highest first."""
    try:
        names = prune.roots(model, example)
    except ModelError:
        return ()  # it cannot be traced for channel pruning: weights are pruned only
    sizes: dict[str, int] = {}

    def sized(name: str) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
            output = next(value for value in tree_leaves(outputs) if isinstance(value, Tensor))  # attention has several
            sizes[name] = output[0, 0].numel() if output.dim() > 2 else 1

        return note

    hooks = [model.get_submodule(name).register_forward_hook(sized(name)) for name in names]
    try:
        with evaluating(model):
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    levels = sorted(set(sizes.values()), reverse=True)
    grouped = [[name for name in names if sizes.get(name) == level] for level in levels]
    costs = [statistics.fmean([halved.get(name, 0.0) for name in group]) for group in grouped]
    usual = statistics.median(costs) if costs else 0.0
    return tuple(
        Stage(
            name=f"stage_{index}",
            layers=tuple(group),
            offset=(-spread, 0.0 if cost > usual and cost > _BEARABLE else spread),
        )
        for index, (group, cost) in enumerate(zip(grouped, costs, strict=True), 1)
    )

"""The candidates that a search begins with: what the channels' own importance suggests."""

from __future__ import annotations

from itertools import zip_longest

import torch
from torch import nn

from torchshrink import prune
from torchshrink.errors import ShrinkError
from torchshrink.prune.layers import by_output, prunable_layers
from torchshrink.search import students
from torchshrink.search.space import Choices, Resolved, Stage, shares
from torchshrink.stages import sampled_loss
from torchshrink.task import Task

_MACS = (0.5, 0.3, 0.2, 0.13, 0.08, 0.05)  # shares of the dense model's that are left


def starts(space: Resolved, model: nn.Module, task: Task, lr: float) -> list[Choices]:
    """Return settings in which each stage loses as many channels as a ranking over the whole model takes from it.

    Ranked by what the loss would change without a channel (Molchanov et al., arXiv:1906.10771), until few enough MACs
    remain; one candidate for each of a few amounts. Everything else is what costs the least accuracy or time.

    Args:
        space: What candidates are drawn from.
        model: The dense one; it is left as it was.
        task: Its data.
        lr: What the dense model was trained with: after such cuts, much has to be learned anew.
    """
    found: list[Choices] = []
    known: list[list[torch.Size]] = []
    for share in _MACS if space.stages else ():
        try:
            slim = prune.channels(
                model,
                task.example_input,
                target_macs=share,
                importance="taylor",
                round_to=space.round_to[0],
                loss=lambda module: sampled_loss(module, task),
            )
            settings = _settings(space, _removed(space, model, slim), lr)
            sizes = _sizes(space, model, task, settings)
        except ShrinkError:  # it cannot become as small
            break
        if sizes not in known:
            known.append(sizes)
            found.append(settings)
    return found if space.student is None else _mixed(found, space, lr)


def _mixed(found: list[Choices], space: Resolved, lr: float) -> list[Choices]:
    """Return starts of both families by turns; students learn from their teacher."""
    assert space.student is not None
    others = {**_trained(space, lr), "distillation": max(space.distillation)}
    taught = students.starts(space.student, others)
    pairs = zip_longest([{**settings, "family": students.PRUNED} for settings in found], taught)
    return [settings for pair in pairs for settings in pair if settings is not None]


def _sizes(space: Resolved, model: nn.Module, task: Task, settings: Choices) -> list[torch.Size]:
    """Return the shapes of the model with these settings."""
    if removed := shares(settings, space):
        model = prune.channels(model, task.example_input, amounts=removed, round_to=settings["round_to"])
    return [parameter.shape for parameter in model.parameters()]


def _removed(space: Resolved, model: nn.Module, slim: nn.Module) -> dict[str, float]:
    """Return the share of its channels that each stage lost; its heads are to lose the same."""

    def width(module: nn.Module, stage: Stage) -> int:
        layers = prunable_layers(module)
        return sum(by_output(layers[name], layers[name].weight).shape[0] for name in stage.layers if name in layers)

    before = {stage.name: width(model, stage) for stage in space.stages}
    return {
        stage.name: 1 - width(slim, stage) / before[stage.name] if before[stage.name] else 0.0 for stage in space.stages
    }


def _settings(space: Resolved, removed: dict[str, float], lr: float) -> Choices:
    channels = _within(sum(removed.values()) / len(removed), space.channels)
    settings: Choices = {"channels": channels}
    for stage in space.stages:
        if stage.offset[0] < stage.offset[1]:
            settings[f"channels_{stage.name}"] = _within(removed[stage.name] - channels, stage.offset)
    return {**settings, **_trained(space, lr), "round_to": space.round_to[0]}


def _trained(space: Resolved, lr: float) -> Choices:
    return {
        "sparsity": space.sparsity[0],
        "lr": _within(lr, space.lr),
        "pattern": space.pattern[0],
        "int8": space.int8[0],
        "distillation": min(space.distillation),
        "length": max(space.length),
        "keep_float": 0,
    }


def _within(value: float, bounds: tuple[float, float]) -> float:
    return min(max(value, bounds[0]), bounds[1])

"""What a candidate costs at the least, known before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from torchshrink import prune
from torchshrink.bench import count_macs
from torchshrink.prune.layers import prunable_layers
from torchshrink.search.limits import Limits
from torchshrink.search.space import LEAST_SPARSITY, Resolved, Settings, shares
from torchshrink.task import Task

_SURE = 0.7  # a file whose MACs say that it takes so much of its limit and more may still meet it


@dataclass(frozen=True)
class Estimator:
    """Looks at the architecture of candidates.

    Attributes:
        model: The dense one.
        task: Its data.
        space: What candidates are drawn from.
        dense: What the dense model's float file costs (``"latency_ms"``), and its int8 file (``"int8_latency"``, a
            share of it).
    """

    model: nn.Module
    task: Task
    space: Resolved
    dense: dict[str, float]

    def __call__(self, settings: Settings) -> dict[str, float]:
        """Return ``"size"``, the bytes that its weights alone take in int8, and ``"macs"``, as a share of the dense.

        Raises:
            RecipeError: When the channels cannot be removed.
            ModelError: When the model does not run without them.
        """
        model, example = self.model, self.task.example_input
        removed = shares(settings, self.space)
        if removed:
            model = prune.channels(model, example, amounts=removed, round_to=settings["round_to"])
        weights = sum(layer.weight.numel() for layer in prunable_layers(model).values())
        kept = 1 - settings["sparsity"] if settings["sparsity"] >= LEAST_SPARSITY else 1.0
        return {"size": weights * kept, "macs": count_macs(model, example) / count_macs(self.model, example)}

    def violations(self, estimated: dict[str, float], limits: Limits) -> dict[str, float]:
        """Return by how much a candidate exceeds limits that it obviously cannot meet, as a share of each.

        Fewer MACs are computed less efficiently, not more: the latency of the dense int8 file, scaled by them, is
        what a candidate would take at best. Some more is allowed, because kernels differ.
        """
        at_best = _SURE * self.dense["int8_latency"] * estimated["macs"]
        if limits.latency_unit == "ms":
            at_best *= self.dense["latency_ms"]
        least: dict[str, Any] = {"size": estimated["size"], "latency": at_best}
        return limits.violations(least, self.dense)


def costs(estimated: dict[str, float], objectives: tuple[str, ...]) -> tuple[float, ...]:
    """Return what is known of the costs that are minimised, for comparing candidates before they are measured."""
    known = {"size": estimated["size"], "latency": estimated["macs"]}
    return tuple(known[name] for name in objectives if name in known)

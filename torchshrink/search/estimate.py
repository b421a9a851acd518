"""What a candidate costs at the least, known before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from torchshrink import prune
from torchshrink.model.macs import count_macs, evaluating
from torchshrink.pipeline.teaching import make_student
from torchshrink.prune.layers import prunable_layers
from torchshrink.search import students
from torchshrink.search.limits import Limits
from torchshrink.search.space import LEAST_SPARSITY, Choices, Resolved, is_student, shares
from torchshrink.task import Task

_SPARSE_BYTES = 2  # a nonzero int8 weight and its place, in a sparse TFLite file
_SURE = 0.9  # a file of which so much of the estimated latency exceeds the limit cannot meet it


@dataclass(frozen=True)
class Estimator:
    """Looks at the architecture of candidates.

    Attributes:
        model: The dense one.
        task: Its data.
        space: What candidates are drawn from.
        dense: What the dense model's float file costs.
        measured: MACs as a share of the dense model's, and the latency of an int8 file of such a model as a share of
            the dense float file's, for a few models.
    """

    model: nn.Module
    task: Task
    space: Resolved
    dense: dict[str, float]
    measured: Sequence[tuple[float, float]]

    def __call__(self, settings: Choices) -> dict[str, float]:
        """Return ``"size"``, the bytes that its weights alone take in int8, and shares of the dense model's.

        These are ``"macs"`` and, from them, ``"latency"``: of a student, the least that it can be. ``"arena"`` is what
        the layer with the largest input and output takes for them in int8, in bytes: no arena is smaller.

        Raises:
            RecipeError: When the channels cannot be removed, or a student cannot be made.
            ModelError: When the model does not run without them.
        """
        model, example = self.model, self.task.example_input
        removed = shares(settings, self.space)
        if is_student(settings) and self.space.student is not None:
            model = make_student(students.step(settings, self.space.student), model, self.task, seed=0)
        elif removed:
            model = prune.channels(model, example, amounts=removed, round_to=settings["round_to"])
        weights = sum(layer.weight.numel() for layer in prunable_layers(model).values())
        if settings["sparsity"] >= LEAST_SPARSITY:
            weights = min(weights, round(_SPARSE_BYTES * weights * (1 - settings["sparsity"])))
        macs = count_macs(model, example) / count_macs(self.model, example)
        return {
            "size": weights,
            "macs": macs,
            "latency": fastest(macs, self.measured) if is_student(settings) else latency(macs, self.measured),
            "arena": _widest(model, example),
        }

    def violations(self, estimated: dict[str, float], limits: Limits) -> dict[str, float]:
        """Return by how much a candidate exceeds limits that it obviously cannot meet, as a share of each."""
        unit = self.dense["latency_ms"] if limits.latency_unit == "ms" else 1.0
        least: dict[str, float | None] = {"size": estimated["size"], "latency": _SURE * unit * estimated["latency"]}
        return limits.violations(least | {"arena": estimated.get("arena")}, self.dense)


def _widest(model: nn.Module, example: Tensor) -> int:
    """Return the values of input and output, together, of the layer that has the most."""
    found: list[int] = []

    def note(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((inputs[0].numel() + output.numel()) // len(output))

    hooks = [layer.register_forward_hook(note) for layer in prunable_layers(model).values()]
    try:
        with evaluating(model):
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    return max(found, default=0)


def fastest(macs: float, measured: Sequence[tuple[float, float]]) -> float:
    """Return the latency of a model whose every MAC takes no longer than in the fastest of those that were measured.

    What narrow versions of the dense model take, which have as many operators as it, says no more of another network.

    >>> fastest(0.1, [(1.0, 0.3), (0.5, 0.2)])
    0.03
    """
    return round(macs * min(found / share for share, found in measured), 6)


def latency(macs: float, measured: Sequence[tuple[float, float]]) -> float:
    """Return the latency that models of so many MACs have, by linear interpolation between measured ones.

    Below the smallest measured model, latency is taken to fall with the line to the next one, but to no less than half
    of what was measured: what does not depend on the MACs remains.

    >>> latency(0.75, [(1.0, 0.3), (0.5, 0.2)])
    0.25
    >>> latency(0.0, [(1.0, 0.3), (0.5, 0.2)])
    0.1
    """
    points = sorted(measured)
    if len(points) == 1:
        return points[0][1] * macs / points[0][0]
    upper = next((index for index, (x, _) in enumerate(points) if x >= macs), len(points) - 1)
    (x0, y0), (x1, y1) = points[max(upper, 1) - 1], points[max(upper, 1)]
    found = y0 + (y1 - y0) * (macs - x0) / max(x1 - x0, 1e-9)
    return round(max(found, points[0][1] / 2), 6)

"""Mixed precision: which layers to keep float, so that int8 costs no more than a given share of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from torchshrink import stages
from torchshrink.errors import RecipeError
from torchshrink.progress import SILENT, Progress
from torchshrink.sensitivity.measurement import SAMPLES, int8_costs, loss
from torchshrink.task import Task

KeepFloat = Literal["auto"] | Sequence[str]

BUDGET = 0.01  # share of the float model's validation loss that int8 may add to it
MOST = 0.5  # share of the layers that stay float at most: beyond it, int8 gains too little


@dataclass(frozen=True)
class Choice:
    """The layers that stay float.

    Attributes:
        layers: Their names, the most costly first.
        costs: By layer, how much the validation loss rises when it alone is int8, its input too.
        loss: Of the float model.
        all_int8: How much the loss rises when every layer is int8.
        increase: How much it rises when ``layers`` stay float.
        budget: The share of ``loss`` that it may rise.
    """

    layers: tuple[str, ...]
    costs: dict[str, float]
    loss: float
    all_int8: float
    increase: float
    budget: float

    @property
    def is_within(self) -> bool:
        """Return whether the loss rises no more than allowed."""
        return self.increase <= self.budget * abs(self.loss)

    def __str__(self) -> str:
        """Return what was chosen, and what each layer costs, in words."""
        if not self.layers:
            return f"no layer is kept float: int8 raises the validation loss of {self.loss:.4f} by {self.increase:+.4f}"
        kept = ", ".join(f"{name} (alone {self.costs[name]:+.4f})" for name in self.layers)
        limit = "within" if self.is_within else "more than"
        return (
            f"kept float: {kept}; int8 then raises the validation loss of {self.loss:.4f} by {self.increase:+.4f} "
            f"instead of {self.all_int8:+.4f}, {limit} the budget of {self.budget:.0%}"
        )


def choose(
    model: nn.Module,
    task: Task,
    budget: float = BUDGET,
    *,
    samples: int = SAMPLES,
    progress: Progress = SILENT,
) -> Choice:
    """Return the fewest layers that must stay float for int8 without training to stay within a budget.

    Layers are kept in the order of what each alone costs (`torchshrink.sensitivity.int8_costs`), and how many is found
    by bisection, each time calibrating the whole model and measuring its loss. At most half of the layers are kept;
    where that is not enough, that half is, and ``is_within`` is false.

    Args:
        model: A float module; it is left as it was.
        task: The losses are of its validation part, the ranges of its training part; the test part is not touched.
        budget: Share of the float loss that int8 may add, at least 0.
        samples: How many samples of each part to use, at most; the first ones.
        progress: Told about every step.

    Raises:
        ModelError: When the model has no layer, or cannot be traced.
        DataError: When it cannot be evaluated on the data.
        RecipeError: When the budget is negative.
    """
    if not budget >= 0:
        raise RecipeError(f"budget={budget}: the share of the loss that int8 may add must be at least 0")
    float_loss = loss(model, task, samples)
    costs = int8_costs(model, task, samples, progress=progress)
    ranked = sorted(costs, key=lambda name: (-costs[name], name))
    increases: dict[int, float] = {}

    def increase(count: int) -> float:
        if count not in increases:
            graph = stages.ptq(model, task, samples, keep_float=ranked[:count])
            increases[count] = loss(graph, task, samples) - float_loss
            progress.note(f"int8 with {count} of {len(ranked)} layers float: loss {increases[count]:+.4f}")
        return increases[count]

    progress.start("find the layers that must stay float")
    allowed = budget * abs(float_loss)
    fails, fits = -1, int(MOST * len(ranked))
    if increase(0) <= allowed:
        fits = 0
    elif increase(fits) <= allowed:
        fails = 0
        while fits - fails > 1:
            middle = (fits + fails) // 2
            fails, fits = (fails, middle) if increase(middle) <= allowed else (middle, fits)
    return Choice(tuple(ranked[:fits]), costs, float_loss, increase(0), increase(fits), budget)


def layers_to_keep(keep_float: KeepFloat, model: nn.Module, task: Task, progress: Progress = SILENT) -> list[str]:
    """Return the names of the layers that stay float; ``"auto"`` chooses them and says which. Raises as `choose`."""
    if keep_float != "auto":
        return list(keep_float)
    choice = choose(model, task, progress=progress)
    progress.note(str(choice))
    return list(choice.layers)

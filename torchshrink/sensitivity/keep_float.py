"""Mixed precision: which layers to keep float, so that int8 costs no more than a given share of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from torchshrink import stages
from torchshrink.digits import written, written_change
from torchshrink.errors import RecipeError
from torchshrink.progress import SILENT, Progress
from torchshrink.sensitivity.measurement import SAMPLES, cost, int8_increases
from torchshrink.task import Task

KeepFloat = Literal["auto"] | Sequence[str]

BUDGET = 0.01  # share of the float model's figure in what decides by which int8 may make it worse
MOST = 0.5  # share of the layers that stay float at most: beyond it, int8 gains too little


@dataclass(frozen=True)
class Choice:
    """The layers that stay float.

    Attributes:
        layers: Their names, the most costly first.
        costs: By layer, how much worse what decides becomes when it alone is int8, its input too.
        loss: What decides, of the float model: the validation loss, for most tasks.
        all_int8: How much worse that becomes when every layer is int8.
        increase: How much worse when ``layers`` stay float.
        budget: The share of ``loss`` by which it may become worse.
        decides: What decides: ``loss``, or a metric.
        higher_is_better: Its direction.
        allowed: The budget in its units.
    """

    layers: tuple[str, ...]
    costs: dict[str, float]
    loss: float
    all_int8: float
    increase: float
    budget: float
    decides: str = "loss"
    higher_is_better: bool = False
    allowed: float | None = None

    @property
    def is_within(self) -> bool:
        """Return whether int8 costs no more than allowed."""
        return self.increase <= (self.budget * abs(self.loss) if self.allowed is None else self.allowed)

    def __str__(self) -> str:
        """Return what was chosen, and what each layer costs, in words."""
        sign = -1 if self.higher_is_better else 1
        changed = f"{'changes' if sign < 0 else 'raises'} the validation {self.decides} of {written(self.loss)} by"
        if not self.layers:
            return f"no layer is kept float: int8 {changed} {written_change(sign * self.increase, self.loss)}"
        kept = ", ".join(f"{name} (alone {written_change(sign * self.costs[name], self.loss)})" for name in self.layers)
        limit = "within" if self.is_within else "more than"
        return (
            f"kept float: {kept}; int8 then {changed} {written_change(sign * self.increase, self.loss)} "
            f"instead of {written_change(sign * self.all_int8, self.loss)}, {limit} the budget of {self.budget:.0%}"
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

    Layers are kept in the order of what each alone costs in what decides for the task, and where that is the same, in
    the loss. How many is found by bisection, each time calibrating the whole model and measuring what decides. At most
    half of the layers are kept; where that is not enough, that half is, and ``is_within`` is false.

    Args:
        model: A float module; it is left as it was.
        task: The losses are of its validation part, the ranges of its training part; the test part is not touched.
        budget: Share of the float model's figure by which int8 may make it worse, at least 0; a task whose own budget
            is in units has that instead.
        samples: How many samples of each part to use, at most; the first ones.
        progress: Told about every step.

    Raises:
        ModelError: When the model has no layer, or cannot be traced.
        DataError: When it cannot be evaluated on the data.
        RecipeError: When the budget is negative.
    """
    if not budget >= 0:
        raise RecipeError(f"budget={budget}: the share of the loss that int8 may add must be at least 0")
    float_cost = cost(model, task, samples)
    judged = -float_cost if task.higher_is_better else float_cost
    alone = int8_increases(model, task, samples, progress=progress)
    costs = {name: each.cost for name, each in alone.items()}
    ranked = sorted(costs, key=lambda name: (-alone[name].cost, -alone[name].loss, name))
    increases: dict[int, float] = {}

    def increase(count: int) -> float:
        if count not in increases:
            graph = stages.ptq(model, task, samples, keep_float=ranked[:count])
            increases[count] = cost(graph, task, samples) - float_cost
            worse = -increases[count] if task.higher_is_better else increases[count]
            progress.note(
                f"int8 with {count} of {len(ranked)} layers float: {task.decides} {written_change(worse, judged)}"
            )
        return increases[count]

    progress.start("find the layers that must stay float")
    in_units = task.budget is not None and not task.budget.is_share
    allowed = task.budget.amount if task.budget and in_units else budget * abs(judged)
    fails, fits = -1, int(MOST * len(ranked))
    if increase(0) <= allowed:
        fits = 0
    elif increase(fits) <= allowed:
        fails = 0
        while fits - fails > 1:
            middle = (fits + fails) // 2
            fails, fits = (fails, middle) if increase(middle) <= allowed else (middle, fits)
    found = tuple(ranked[:fits])
    return Choice(
        found, costs, judged, increase(0), increase(fits), budget, task.decides, task.higher_is_better, allowed
    )


def layers_to_keep(keep_float: KeepFloat, model: nn.Module, task: Task, progress: Progress = SILENT) -> list[str]:
    """Return the names of the layers that stay float; ``"auto"`` chooses them and says which. Raises as `choose`."""
    if keep_float != "auto":
        return list(keep_float)
    choice = choose(model, task, progress=progress)
    progress.note(str(choice))
    return list(choice.layers)

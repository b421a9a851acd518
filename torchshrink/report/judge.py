"""What decides in a report: which figure files are judged by, and how much worse it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchshrink.digits import written, written_change
from torchshrink.report.schema import Row
from torchshrink.settings import Budget

MARGIN = 0.02  # share by which a model must be better than a constant answer to have learned something
_ROUNDING = 1e-9
_OF_0_1_0 = Budget(0.01, is_share=False)


@dataclass(frozen=True)
class Judge:
    """What files are judged by; a report of 0.1.0 says nothing of it, and means a test loss 0.01 above the dense one.

    Attributes:
        decides: A metric of every row, or ``loss``.
        higher_is_better: Its direction.
        unit: Of its figures.
        budget: How much worse than the dense model's a file's may be.
        constant: What the best answer that is the same for every input reaches; None where that is not known.
    """

    decides: str = "loss"
    higher_is_better: bool = False
    unit: str = ""
    budget: Budget = _OF_0_1_0
    constant: float | None = None

    @classmethod
    def of(cls, task: Mapping[str, Any]) -> Judge:
        """Return the judge of a report's task."""
        if "decides" not in task:
            return cls()
        decides, budget = task["decides"], task.get("budget")
        metric = task.get("metrics", {}).get(decides, {})
        return cls(
            decides,
            metric.get("higher_is_better", False),
            metric.get("unit", ""),
            Budget(budget["amount"], budget["is_share"]) if budget else cls.budget,
            task.get("constant", {}).get(decides),
        )

    def figure(self, row: Row) -> float:
        """Return a row's figure in what decides; NaN when it has none."""
        found = row["loss"] if self.decides == "loss" else row["metrics"].get(self.decides)
        return math.nan if found is None else float(found)

    def cost(self, row: Row) -> float:
        """Return the figure so that smaller is better."""
        return -self.figure(row) if self.higher_is_better else self.figure(row)

    def limit(self, dense: Row) -> float:
        """Return the greatest cost within the budget."""
        return self.cost(dense) + self.budget.of(self.figure(dense)) + _ROUNDING

    def learned_nothing(self, row: Row) -> bool:
        """Return whether a file is no better than a constant answer; False where that is not known."""
        if self.constant is None or not math.isfinite(self.constant):
            return False
        constant = -self.constant if self.higher_is_better else self.constant
        return not self.cost(row) < constant - MARGIN * abs(constant)

    @property
    def title(self) -> str:
        """What the figure is called."""
        return f"test {self.decides}"

    def text(self, figure: float) -> str:
        """Return a figure with its unit."""
        return f"{written(figure)}{self.unit and f' {self.unit}'}"

    def allowance(self) -> str:
        """Return the budget in words."""
        share = f"{100 * self.budget.amount:g} %"
        return share if self.budget.is_share else f"{self.budget.amount:g}{self.unit and f' {self.unit}'}"

    def change(self, row: Row, dense: Row) -> float:
        """Return by how much a file's figure is above the dense model's."""
        return self.figure(row) - self.figure(dense)

    def change_text(self, row: Row, dense: Row) -> str:
        """Return the change as it is written, beside a file's figure."""
        return written_change(self.change(row, dense), self.figure(dense))

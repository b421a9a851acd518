"""What candidates will cost once they are finished, judged by those that are."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from torchshrink.search.limits import Limits


@dataclass(frozen=True)
class Outlook:
    """What a candidate costs, or will cost.

    Attributes:
        costs: By the names of `torchshrink.search.limits.COSTS`.
        violations: By how much they exceed the limits, as `Limits.violations` returns it.
    """

    costs: dict[str, float]
    violations: dict[str, float]


def outlooks(trials: Iterable[FrozenTrial], limits: Limits, dense: Mapping[str, float]) -> dict[int, Outlook]:
    """Return the outlook of every candidate that was trained, by its number.

    What is not measured yet follows from the finished candidates. The loss changes as much from here on as theirs did,
    the file is as much larger than the weights, its latency as much more than what MACs let expect; the median each.

    Args:
        trials: Of the study.
        limits: What the model may cost.
        dense: The dense model's costs, latency in the unit of the limits.
    """
    trained = {trial.number: trial.user_attrs for trial in trials if trial.user_attrs.get("rungs")}
    finished = [kept for kept in trained.values() if "costs" in kept]

    def gain(rung: int) -> float:
        """Return how the loss changes after a rung."""
        return _median(
            [
                kept["costs"]["loss_increase"] - kept["rungs"][rung]["loss_increase"]
                for kept in finished
                if len(kept["rungs"]) > rung
            ],
            0.0,
        )

    overhead = _median([kept["costs"]["size"] - kept["estimated"]["size"] for kept in finished], 0.0)
    slower = _median(
        [kept["costs"]["latency"] / (kept["estimated"]["latency"] * dense["latency"]) for kept in finished], 1.0
    )
    memory = _median([kept["costs"]["rss"] for kept in finished], dense["rss"])
    found = {}
    for number, kept in trained.items():
        last = len(kept["rungs"]) - 1
        costs = kept.get("costs") or {
            "size": kept["estimated"]["size"] + overhead,
            "latency": kept["estimated"]["latency"] * dense["latency"] * slower,
            "rss": memory,
            "loss_increase": kept["rungs"][last]["loss_increase"] + gain(last),
        }
        found[number] = Outlook(costs, limits.violations(costs, dense))
    return found


def _median(values: Sequence[float], otherwise: float) -> float:
    return statistics.median(values) if values else otherwise

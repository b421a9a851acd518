"""What candidates will cost once they are finished, judged by those that are."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from torchshrink.search.limits import Limits

Estimate = Mapping[str, float]
_LEAST_MEASURED = 4


@dataclass(frozen=True)
class Outlook:
    """What a candidate costs, or will cost.

    Attributes:
        costs: By the names of `torchshrink.search.limits.COSTS`.
        violations: By how much they exceed the limits, as `Limits.violations` returns it.
    """

    costs: dict[str, float]
    violations: dict[str, float]


class Forecast:
    """What finished candidates tell of the others.

    The loss changes as much from a rung on as theirs did, a file is as much larger than its weights, and an arena as
    many times the layer that needs the most, the median each; latency lies on the line through theirs over MACs.

    Args:
        trials: Of the study.
        dense: The dense model's costs, latency in the unit of the limits.
    """

    def __init__(self, trials: Iterable[FrozenTrial], dense: Mapping[str, float]) -> None:
        self._finished = [trial.user_attrs for trial in trials if "costs" in trial.user_attrs]
        measured = [(kept["estimated"], kept["costs"]) for kept in self._finished]
        self._overhead = _median([costs["size"] - estimated["size"] for estimated, costs in measured], 0.0)
        self._memory = _median([costs["rss"] for _, costs in measured], dense["rss"])
        arenas = [costs["arena"] / each["arena"] for each, costs in measured if "arena" in costs]
        self._arena = _median(arenas, 1.0)
        self._latency = _latency([(each, costs["latency"]) for each, costs in measured], dense["latency"])

    @property
    def is_sure(self) -> bool:
        """Return whether enough candidates were measured to drop others untrained."""
        return len(self._finished) >= _LEAST_MEASURED

    def of_file(self, estimated: Estimate) -> dict[str, float]:
        """Return what the file of a candidate will cost that `torchshrink.search.estimate` has looked at."""
        return {
            "size": estimated["size"] + self._overhead,
            "latency": self._latency(estimated),
            "rss": self._memory,
            **({"arena": estimated["arena"] * self._arena} if "arena" in estimated else {}),
        }

    def loss_increase(self, rungs: Sequence[Mapping[str, float]]) -> float:
        """Return what the loss will have increased by after the last rung, from those that are done."""
        last = len(rungs) - 1
        gains = [
            kept["costs"]["loss_increase"] - kept["rungs"][last]["loss_increase"]
            for kept in self._finished
            if len(kept["rungs"]) > last
        ]
        return rungs[last]["loss_increase"] + _median(gains, 0.0)


def outlooks(
    trials: Iterable[FrozenTrial], forecast: Forecast, limits: Limits, dense: Mapping[str, float]
) -> dict[int, Outlook]:
    """Return the outlook of every candidate that was trained, by its number.

    Args:
        trials: Of the study.
        forecast: Made from them.
        limits: What the model may cost.
        dense: The dense model's costs, latency in the unit of the limits.
    """
    found = {}
    for trial in trials:
        kept = trial.user_attrs
        if kept.get("rungs"):
            costs = kept.get("costs") or {
                **forecast.of_file(kept["estimated"]),
                "loss_increase": forecast.loss_increase(kept["rungs"]),
            }
            found[trial.number] = Outlook(costs, limits.violations(costs, dense))
    return found


def _latency(measured: Sequence[tuple[Estimate, float]], unit: float) -> Callable[[Estimate], float]:
    """Return what tells the latency of a candidate, in the unit of the limits, from what was estimated of it.

    From a few measured ones on that is a line over their MACs, never falling, by least squares.
    """
    macs = [estimated["macs"] for estimated, _ in measured]
    if len(set(macs)) < _LEAST_MEASURED:
        slower = _median([found / (estimated["latency"] * unit) for estimated, found in measured], 1.0)
        return lambda estimated: estimated["latency"] * unit * slower
    line = statistics.linear_regression(macs, [found for _, found in measured])
    if line.slope < 0:
        return lambda _: statistics.fmean(found for _, found in measured)
    return lambda estimated: max(line.intercept + line.slope * estimated["macs"], 0.0)


def _median(values: Sequence[float], otherwise: float) -> float:
    return statistics.median(values) if values else otherwise

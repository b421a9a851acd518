"""What a search found, as JSON-like data that reports show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.trial import FrozenTrial

from torchshrink.search.halving import front
from torchshrink.search.hypervolume import hypervolume, place
from torchshrink.search.limits import COSTS, Limits
from torchshrink.search.study import Study, state_of

Row = dict[str, Any]


def collect(study: Study, limits: Limits, about: Mapping[str, Any], dense: Mapping[str, float]) -> dict[str, Any]:
    """Return the search as it stands.

    Args:
        study: Its record.
        limits: What was asked.
        about: ``target``, ``sampler`` and ``seed``.
        dense: The dense model's costs, latency 1 or in ms as the limits have it.
    """
    rows = [_row(trial) for trial in study.trials()]
    finished = [row for row in rows if row["state"] == "finished"]
    feasible = [row for row in finished if not row["violations"]]
    places = {row["number"]: place(row, limits.objectives, dense) for row in feasible}
    nearest = min(finished, key=lambda row: (sum(row["violations"].values()), row["number"]), default=None)
    tried = finished or [row for row in rows if row["violations"]]
    closest = min(tried, key=lambda row: sum(row["violations"].values()), default=None)
    best = min(places, key=lambda number: (sum(places[number]), number), default=None)
    return {
        **limits.to_dict(),
        **about,
        "seconds": study.kept("seconds", 0.0),
        "dense": dict(dense),
        "trials": rows,
        "front": front(places),
        "recommended": best,
        "nearest": nearest["number"] if nearest is not None and best is None else None,
        "binding": _worst(closest["violations"]) if closest is not None and best is None else None,
        "importance": {name: study.importance(name) for name in limits.objectives},
        "hypervolume": _over_time(feasible, places),
    }


def _row(trial: FrozenTrial) -> Row:
    kept = trial.user_attrs
    state = state_of(trial)
    costs = kept.get("costs", {}) if state == "finished" else {}
    return {
        "number": trial.number,
        "state": state,
        "settings": kept.get("settings", {}),
        "rungs": kept.get("rungs", []),
        **{name: costs.get(name) for name in COSTS},
        "estimated": kept.get("estimated"),
        "violations": {name: value for name, value in kept.get("violations", {}).items() if value > 0},
        "seconds": kept.get("spent", 0.0),
        "at": kept.get("at"),
        "reason": kept.get("reason"),
    }


def _worst(violations: Mapping[str, float]) -> str | None:
    return max(violations, key=lambda name: violations[name], default=None)


def _over_time(feasible: list[Row], places: Mapping[int, tuple[float, ...]]) -> list[list[float]]:
    """Return the hypervolume after each candidate that met the limits."""
    found: list[list[float]] = []
    done: list[tuple[float, ...]] = []
    for row in sorted(feasible, key=lambda row: (row["at"] or 0.0, row["number"])):
        done.append(places[row["number"]])
        found.append([round(row["at"] or 0.0, 1), hypervolume(done)])
    return found

"""What a search tried and found, in words and as a table: the ``search`` of a report.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard, get_args

from torchshrink import harmless
from torchshrink.report.columns import Cell, markdown_table
from torchshrink.report.schema import Measure, Search, State, Trial

STATES: tuple[State, ...] = get_args(State)
MEASURES: tuple[Measure, ...] = get_args(Measure)
_NAMES = {"size": "size", "latency": "latency", "rss": "RAM", "arena": "arena", "loss_increase": "loss increase"}
_RUNTIMES = {"litert": "LiteRT", "onnxruntime": "ONNX Runtime", "micro": "TensorFlow Lite Micro"}
_DONE = {"finished": "finished", "stopped": "stopped early", "infeasible": "infeasible", "failed": "failed",
         "open": "still open"}  # fmt: skip


def summary(search: Search) -> str:
    """Say what was asked for, what became of the trials, and which one to take or why there is none."""
    return " ".join([_asked(search), _happened(search), _outcome(search)])


def amount(measure: str, value: float, unit: str) -> str:
    """Return a figure with its unit.

    Args:
        measure: One of `MEASURES`.
        value: As the report holds it: bytes, times the dense file's latency or ms, MB, bytes, loss.
        unit: The ``latency_unit`` of the search.

    >>> amount("size", 120000, "ratio"), amount("latency", 0.2, "ratio"), amount("loss_increase", 0.01, "ms")
    ('0.120 MB', '0.2x the latency', 'loss +0.0100')
    """
    if measure == "latency":
        return f"{value:.3g} ms" if unit == "ms" else f"{value:.3g}x the latency"
    texts = {"size": f"{value / 1e6:.3f} MB", "rss": f"{value:.3g} MB of RAM",
             "arena": f"{value / 1e3:.1f} kB of arena", "loss_increase": f"loss {value:+.4f}"}  # fmt: skip
    return texts[measure]


def last_loss(trial: Trial) -> tuple[float, float] | None:
    """Return after how many epochs a trial's loss was last looked at, and by how much it was above the dense one's."""
    known = [rung for rung in trial["rungs"] if is_known(rung["loss_increase"])]
    return (known[-1]["epochs"], known[-1]["loss_increase"]) if known else None


def is_known(value: Any) -> TypeGuard[float]:
    """Return whether a figure is there and finite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def table(search: Search, *, with_settings: bool = True) -> tuple[list[str], list[list[Cell]]]:
    """Return headings and cells, one line per trial, a column for each setting that was searched unless left out.

    A ``~`` stands before what is estimated, or measured before the training was over.
    """
    found = search["trials"]
    settings = dict.fromkeys(key for trial in found for key in trial["settings"]) if with_settings else {}
    unit = "ms" if search["latency_unit"] == "ms" else "x latency"
    columns: dict[str, Callable[[Trial], Cell]] = {
        "trial": lambda trial: Cell(str(trial["number"]) + _mark(trial, search), trial["number"]),
        "state": lambda trial: Cell(_DONE.get(trial["state"], str(trial["state"]))),
        "MB": _size,
        unit: lambda trial: _number(trial["latency"], ".3g"),
        **_memory(search),
        "loss +": _loss,
        **{key.replace("_", " "): _setting(key, found) for key in settings},
        "epochs": lambda trial: _number(max((rung["epochs"] for rung in trial["rungs"]), default=None), "g"),
        "s": lambda trial: _number(trial["seconds"], ".0f"),
        "note": lambda trial: Cell(_note(trial)),
    }  # fmt: skip
    return list(columns), [[cell(trial) for cell in columns.values()] for trial in found]


def importances(search: Search) -> dict[str, dict[str, float]]:
    """Return by objective what share of the differences each setting explains, the largest first."""
    found: dict[str, dict[str, float]] = {}
    for measure, shares in search["importance"].items():
        known = {name: share for name, share in shares.items() if is_known(share)}
        if known:
            found[measure] = dict(sorted(known.items(), key=lambda item: -item[1]))
    return found


def name(measure: str) -> str:
    """Return what a measure is called in a sentence."""
    return _NAMES.get(measure, measure)


def markdown(search: Search) -> list[str]:
    """Return the lines of the report's section in Markdown."""
    headings, lines = table(search)
    found = ["## Search", "", harmless.markdown(summary(search)), ""]
    if lines:
        found += markdown_table(headings, [[cell.text for cell in line] for line in lines])
    if shares := importances(search):
        settings = list(dict.fromkeys(key for each in shares.values() for key in each))
        cells = [[key, *(f"{each[key]:.0%}" if key in each else "" for each in shares.values())] for key in settings]
        found += ["Share of the differences that each setting explains:", ""]
        found += markdown_table(["setting", *map(name, shares)], cells)
    return found


def _asked(search: Search) -> str:
    limits = {key: value for key, value in search["limits"].items() if key in MEASURES and is_known(value)}
    unit = search["latency_unit"]
    words = [_limit(measure, value, unit) for measure, value in limits.items()]
    objectives = _joined([name(measure) for measure in search["objectives"]])
    target = _RUNTIMES.get(search["target"], search["target"])
    asked = f"at most {_joined(words)}" if words else "no limits"
    smallest = f"; {objectives} as small as possible" if objectives else ""
    return f"Asked for: {asked}{smallest}{f'; in {target}' if target else ''}."


def _limit(measure: str, value: float, unit: str) -> str:
    if measure == "loss_increase":
        return f"{value:g} more validation loss than the dense model"
    text = amount(measure, value, unit)
    return f"{text} of the dense file" if text.endswith("the latency") else text


def _happened(search: Search) -> str:
    trials = search["trials"]
    if not trials:
        return "No trial ran."
    counts = {state: sum(trial["state"] == state for trial in trials) for state in STATES}
    words = [f"{count} {_DONE[state]}" for state, count in counts.items() if count]
    how = [_duration(search["seconds"])] if is_known(search["seconds"]) else []
    how += [f"{search['sampler']} sampler"] if search["sampler"] else []
    how += [f"seed {search['seed']}"] if search["seed"] is not None else []
    total = f"{len(trials)} trial{'s' * (len(trials) > 1)}"
    conditions = f" ({', '.join(how)})" if how else ""
    return f"{total}: {_joined(words)}{conditions}."


def _outcome(search: Search) -> str:
    if (trial := _trial(search, search["recommended"])) is not None:
        return f"Recommended: trial {trial['number']}, {_figures(trial, search)}."
    binding = f": {name(search['binding'])} is the limit that binds" if search["binding"] else ""
    outcome = f"No trial is within every limit{binding}."
    if (trial := _trial(search, search["nearest"])) is not None:
        excess = _violations(trial)
        outcome += f" The nearest is trial {trial['number']}, {_figures(trial, search)}{excess and f' ({excess})'}."
    return outcome


def _figures(trial: Trial, search: Search) -> str:
    unit = search["latency_unit"]
    measures = [measure for measure in MEASURES if measure != "rss" or search["target"] != "micro"]
    words = [amount(measure, value, unit) for measure in measures if is_known(value := trial.get(measure))]
    return ", ".join(words) or "not measured"


def _trial(search: Search, number: int | None) -> Trial | None:
    return next((trial for trial in search["trials"] if trial["number"] == number), None)


def _mark(trial: Trial, search: Search) -> str:
    if trial["number"] == search["recommended"]:
        return " (recommended)"
    return " (front)" if trial["number"] in search["front"] else ""


def _size(trial: Trial) -> Cell:
    if is_known(trial["size"]):
        return _number(trial["size"] / 1e6, ".3f")
    estimated = (trial["estimated"] or {}).get("size")
    return _number(estimated / 1e6, ".3f", "~") if is_known(estimated) else _number(None, "")


def _memory(search: Search) -> dict[str, Callable[[Trial], Cell]]:
    """Return the column of what a file needs beside itself where it runs."""
    if search["target"] != "micro":
        return {"RAM MB": lambda trial: _number(trial["rss"], ".1f")}
    return {"arena kB": lambda trial: _number((trial.get("arena") or math.nan) / 1e3, ".1f")}


def _loss(trial: Trial) -> Cell:
    if is_known(trial["loss_increase"]):
        return _number(trial["loss_increase"], ".4f")
    last = last_loss(trial)
    return _number(last[1], ".4f", "~") if last else _number(None, "")


def _number(value: Any, form: str, before: str = "") -> Cell:
    return Cell(f"{before}{value:{form}}", float(value)) if is_known(value) else Cell("", math.nan)


def _setting(key: str, found: Sequence[Trial]) -> Callable[[Trial], Cell]:
    """Return how to write a setting, which sorts as numbers only when it is a number in every trial."""
    values = [trial["settings"].get(key) for trial in found]
    is_numeric = all(value is None or is_known(value) for value in values)

    def cell(trial: Trial) -> Cell:
        value = trial["settings"].get(key)
        if not is_numeric:
            return Cell("" if value is None else str(value))
        if isinstance(value, bool):
            return Cell("yes" if value else "no", float(value))
        return _number(value, ".3g")

    return cell


def _note(trial: Trial) -> str:
    return "; ".join(part for part in (_violations(trial), " ".join(str(trial["reason"] or "").split())) if part)


def _violations(trial: Trial) -> str:
    over = {measure: value for measure, value in trial["violations"].items() if is_known(value)}
    return ", ".join(f"{name(measure)} {_excess(value)} its limit" for measure, value in over.items())


def _excess(value: float) -> str:
    return f"{100 * value:.2g} % over" if value < 0.995 else f"{1 + value:.1f}x"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _joined(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""

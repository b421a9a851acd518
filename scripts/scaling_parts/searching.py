"""The part of the page about searching: what was measured with workers on one machine, and 100 GPUs on paper.

What was measured is given as ``{"workers": {"1": {"trials", "seconds"}, ...}, "overhead_seconds_per_trial",
"store_queries_per_trial", "artefact_bytes_per_trial"}``, and in ``"about"`` a sentence on how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GPUS = 100
TRAINING_MINUTES = (5, 15, 60)
# What 100 GPUs come with; assumed, not measured.
CORES = 100  # one for each GPU to convert with
QUERIES_PER_S = 1000.0  # that one database serves
BYTES_PER_S = 100e6  # that one shared folder takes
DEVICES = 1  # to measure latency on, one file at a time

Search = Mapping[str, Any]


@dataclass(frozen=True)
class Costs:
    """What a candidate of one model costs besides its training.

    Attributes:
        cpu_s: Processor seconds to calibrate, export, convert and verify.
        measuring_s: Seconds that a quiet core is needed for: the candidate beside the dense file.
        folder_bytes: What it writes.
    """

    cpu_s: float
    measuring_s: float
    folder_bytes: float

    @classmethod
    def of(cls, figures: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Costs]:
        """Return the costs by model, where all of them were measured."""
        found = {}
        for model, stages in figures.items():
            trial, measured = stages.get("trial", {}), stages.get("measure", {})
            if "error" not in trial and "error" not in measured and trial and measured:
                measuring = measured["cpu_seconds"]
                found[model] = cls(max(0.0, trial["cpu_seconds"] - measuring), measuring, trial["bytes"])
        return found


@dataclass(frozen=True)
class Load:
    """What a search asks for at a rate of candidates.

    Attributes:
        trials_per_hour: Of all GPUs together.
        shares: By resource, the demand over what there is.
        demands: By resource, the demand: queries/s, bytes/s, cores, devices.
    """

    trials_per_hour: float
    demands: Mapping[str, float]
    shares: Mapping[str, float]

    @property
    def bottleneck(self) -> str:
        """The resource that runs out first."""
        return max(self.shares, key=lambda name: self.shares[name])

    @property
    def gpus(self) -> float:
        """How many GPUs the bottleneck is enough for."""
        return GPUS / self.shares[self.bottleneck]


STORE, FOLDER, CONVERTING, MEASURING = "the store", "the folder", "converting", "measuring latency"


def load(minutes: float, cost: Costs, search: Search, artefact_bytes: float) -> Load:
    """Return what 100 GPUs ask for when every GPU trains a candidate for so many minutes, then begins the next.

    Converting is done beside the training, by other cores: a GPU waits for the engine only.
    """
    hourly = GPUS * 3600 / (60 * minutes + search["overhead_seconds_per_trial"])
    per_second = hourly / 3600
    demands = {
        STORE: per_second * search["store_queries_per_trial"],
        FOLDER: per_second * artefact_bytes,
        CONVERTING: per_second * cost.cpu_s,
        MEASURING: per_second * cost.measuring_s,
    }
    there = {STORE: QUERIES_PER_S, FOLDER: BYTES_PER_S, CONVERTING: CORES, MEASURING: DEVICES}
    return Load(hourly, demands, {name: demand / there[name] for name, demand in demands.items()})


def write(search: Search, costs: Mapping[str, Costs]) -> list[str]:
    """Return the lines of this part.

    Args:
        search: What was measured, as this module says.
        costs: By model, the smallest first: the one that the search was measured with.
    """
    about = [f"Measured with: {search['about']}", ""] if "about" in search else []
    return [
        "## Searching",
        "",
        *about,
        *_measured(search),
        "",
        f"## {GPUS} GPUs, on paper",
        "",
        *_estimate(search, costs),
    ]


def _measured(search: Search) -> list[str]:
    lines = [
        "| workers | trials | seconds | trials per hour | times one worker | overhead |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    rates = {workers: 3600 * run["trials"] / run["seconds"] for workers, run in search["workers"].items()}
    first = next(iter(rates.values()))
    overhead = search["overhead_seconds_per_trial"]
    for workers, run in search["workers"].items():
        share = overhead * run["trials"] / (run["seconds"] * int(workers))
        lines.append(
            f"| {workers} | {run['trials']} | {run['seconds']:.0f} | {rates[workers]:.1f} | "
            f"{rates[workers] / first:.2f} | {share:.1%} |"
        )
    return [
        *lines,
        "",
        f"The engine itself takes {overhead:.2f} s a trial (*overhead*: its share of the workers' time), asks its "
        f"store {search['store_queries_per_trial']:.0f} times and leaves "
        f"{search['artefact_bytes_per_trial'] / 1e6:.1f} MB.",
    ]


def _estimate(search: Search, costs: Mapping[str, Costs]) -> list[str]:
    if not costs:
        return ["The figures above lack what a candidate costs besides its training, so there is nothing to add up."]
    smallest = next(iter(costs.values()))
    lines = [
        f"Nothing here was measured on GPUs. Every GPU trains one candidate after the other, {GPUS} at a time; what "
        "comes after the training is what was measured on this machine.",
        "",
        "| U-Net | training, minutes | trials per hour | store, queries/s | folder, GB/hour | converting, cores | "
        "measuring, devices | bottleneck | enough for, GPUs |",
        "|---|---:|---:|---:|---:|---:|---:|---|---:|",
    ]
    loads = {}
    for model, cost in costs.items():
        written = search["artefact_bytes_per_trial"] * cost.folder_bytes / smallest.folder_bytes
        for minutes in TRAINING_MINUTES:
            found = loads[model, minutes] = load(minutes, cost, search, written)
            demand = found.demands
            lines.append(
                f"| {model} | {minutes} | {found.trials_per_hour:.0f} | {demand[STORE]:.2f} | "
                f"{demand[FOLDER] * 3600 / 1e9:.2f} | {demand[CONVERTING]:.1f} | {demand[MEASURING]:.2f} | "
                f"{found.bottleneck} | {found.gpus:.0f} |"
            )
    return [*lines, "", *_arithmetic(search, costs, loads)]


def _arithmetic(search: Search, costs: Mapping[str, Costs], loads: Mapping[tuple[str, int], Load]) -> list[str]:
    """Show one line's sums, and name the bottleneck of all."""
    model, cost = next(iter(costs.items()))
    minutes = TRAINING_MINUTES[0]
    found = loads[model, minutes]
    overhead, hourly = search["overhead_seconds_per_trial"], found.trials_per_hour
    worst_model, worst_minutes = max(loads, key=lambda key: max(loads[key].shares.values()))
    worst = loads[worst_model, worst_minutes]
    wait = cost.cpu_s + cost.measuring_s
    return [
        f"The first line: {GPUS} x 3600 s / ({minutes} x 60 s + {overhead:.2f} s) = {hourly:.0f} trials per hour, "
        f"{hourly / 3600:.3f} a second. From that follow:",
        "",
        f"- {STORE}: x {search['store_queries_per_trial']:.0f} queries = {found.demands[STORE]:.2f} queries/s, "
        f"{found.shares[STORE]:.1%} of the {QUERIES_PER_S:.0f}/s that one database is taken to serve;",
        f"- {FOLDER}: x {search['artefact_bytes_per_trial'] / 1e6:.1f} MB = {found.demands[FOLDER] / 1e6:.2f} MB/s, "
        f"{found.shares[FOLDER]:.1%} of {BYTES_PER_S / 1e6:.0f} MB/s; other models write as much more as their "
        "candidates' folders are larger;",
        f"- {CONVERTING}: x {cost.cpu_s:.1f} s of processor time (the candidate without its training and without "
        f"measuring) = {found.demands[CONVERTING]:.1f} cores, {found.shares[CONVERTING]:.1%} of one core for each GPU;",
        f"- {MEASURING}: x {cost.measuring_s:.1f} s (two files, as above) = {found.demands[MEASURING]:.2f} devices, of "
        f"which there is {DEVICES}: a file must be alone on a quiet core, or its latency says nothing.",
        "",
        f"**The bottleneck** in the worst case ({worst_model}, {worst_minutes} minutes) is **{worst.bottleneck}**: "
        f"{worst.shares[worst.bottleneck]:.2f} times what there is, enough for {worst.gpus:.0f} GPUs. "
        + (
            f"{GPUS} GPUs need {worst.shares[worst.bottleneck]:.1f} times as much of it."
            if worst.shares[worst.bottleneck] > 1
            else f"{GPUS} GPUs do not reach it."
        ),
        "",
        f"A worker that trains, converts and measures in turn leaves its GPU idle meanwhile: {wait:.1f} s of "
        f"{60 * minutes + overhead + wait:.0f} s, {wait / (60 * minutes + overhead + wait):.1%}, with {model} and "
        f"{minutes} minutes of training.",
    ]

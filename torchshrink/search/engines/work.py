"""What a worker does: one rung of one candidate, in a folder that keeps every finished step."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torchshrink import bench
from torchshrink.bench import ratio
from torchshrink.errors import ParityError
from torchshrink.metrics import Scores
from torchshrink.pipeline.artefacts import Bridge
from torchshrink.pipeline.assemble import make_task
from torchshrink.pipeline.job import Job
from torchshrink.pipeline.recipe import parse
from torchshrink.pipeline.steps import Steps
from torchshrink.progress import SILENT, Progress
from torchshrink.task import Task

MakeBridge = Callable[[], Bridge]


@dataclass(frozen=True)
class Request:
    """One rung of one candidate.

    Attributes:
        number: Of the candidate.
        folder: Where its steps are kept.
        recipe: As `torchshrink.pipeline.recipe.dump` returns it.
        variants: What to make, in order; what is made already is not made again.
        ships: The variant to export, verify and measure after them; None when the rung is not the last.
        reference: The dense float file, which latency is compared with.
        costs: What operators cost on the processor that latency is of, if not this one.
        is_micro: Whether the file is for a microcontroller.
    """

    number: int
    folder: Path
    recipe: dict[str, Any]
    variants: tuple[str, ...]
    ships: str | None
    reference: Path
    costs: Path | None = None
    is_micro: bool = False


def do(
    request: Request, make_bridge: MakeBridge, progress: Progress = SILENT, steps: Steps | None = None
) -> dict[str, Any]:
    """Make the variants of a rung, and for the last rung the file, its proof and its cost.

    Args:
        request: The rung.
        make_bridge: Returns what exports and compares.
        progress: Told about everything.
        steps: What keeps the finished steps; by default the request's folder alone.

    Returns:
        ``loss``: what decides on the validation part, of the last variant, negated where higher is better;
        ``seconds`` of processor time; and for the last rung ``size`` in bytes, ``latency`` as a share of the
        reference's, ``latency_ms``, ``rss`` in MB, ``macs`` and the file's ``name``; for a microcontroller ``arena``.

    Raises:
        ParityError: When no file of the candidate was verified.
        ShrinkError: What a step failed with.
    """
    start = _processor_seconds()
    plan = parse(request.recipe)
    steps = steps or Steps(request.folder)
    job = Job(plan, request.folder, make_bridge(), steps, progress, validating(make_task(plan)))
    for name in request.variants:
        job.make(name, plan.variants[name])
    found: dict[str, Any] = {"loss": job.made[request.variants[-1]].best_loss}
    if request.ships is not None:
        found |= _file(job, request)
    return found | {"seconds": _processor_seconds() - start}


def _processor_seconds() -> float:
    """Return the processor time of this process and of what it started and waited for, all threads together."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def validating(task: Task) -> Task:
    """Return a task whose files are scored on the validation part: a search must not see the test part."""
    return replace(task, test=task.validation)


def measure(job: Job, row: dict[str, Any], reference: Path, costs: Path | None = None) -> dict[str, float]:
    """Return what a file costs, its latency compared with the reference's in the same minute.

    With ``costs``, the latency of both is what their operators cost on the processor that those were measured on.
    """
    path = job.out / row["path"]
    settings = job.recipe.measure
    found = bench.measure_all(
        [reference, path], job.task.example_input.numpy(), threads=settings.threads, runs=settings.runs
    )
    share, latency_ms = (
        ratio.paired(found[path].rounds_ms, found[reference].rounds_ms).median,
        found[path].latency.median,
    )
    if costs is not None:
        latency_ms = job.bridge.latency_ms(path, costs)
        share = latency_ms / job.bridge.latency_ms(reference, costs)
    return {
        "size": row["bytes"],
        "latency": share,
        "latency_ms": latency_ms,
        "rss": found[path].peak_rss_mb,
        "loss": Scores(row["loss"], row["metrics"]).cost(job.task),
    }


def smallest(job: Job, variant: str, precision: str, is_micro: bool = False) -> dict[str, Any]:
    """Return the row of a variant's smallest verified file of a precision; microcontrollers take no sparse ones.

    Raises:
        ParityError: When there is none.
    """
    made = job.made[variant]
    rows = [row for row in made.checked if row["precision"] == precision]
    rows = [row for row in rows if not (is_micro and row["name"].endswith("-sparse"))]
    if not rows:
        reason = next((item["reason"] for item in made.failed), "no such file")
        raise ParityError(f"{variant}: no {precision} file was verified: {reason}")
    return min(rows, key=lambda row: row["bytes"])


def arena(job: Job, row: dict[str, Any], is_micro: bool) -> dict[str, float]:
    """Return what a file needs in TensorFlow Lite Micro, by the name of that cost; nothing for other targets."""
    return {"arena": job.bridge.arena_bytes(job.out / row["path"])} if is_micro else {}


def _file(job: Job, request: Request) -> dict[str, Any]:
    assert request.ships is not None
    job.export(request.ships)
    job.check(request.ships)
    row = smallest(job, request.ships, "int8", request.is_micro)
    costs = {**measure(job, row, request.reference, request.costs), **arena(job, row, request.is_micro)}
    return {**costs, "name": row["name"], "macs": row["macs"]}

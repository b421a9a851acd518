"""What a model file costs in production: memory of a fresh process, time to load, latency."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from torchshrink.bench.footprint import Footprint, OnProgress, Steps, first_result
from torchshrink.errors import RecipeError
from torchshrink.runtime.predict import write_inputs
from torchshrink.runtime.process import Worker

_WARMUP_RUNS = 5
_WARMUP_RUNS_PER_TURN = 1  # others ran in between: the caches hold their weights
MOST_WORKERS_ALIVE = 24


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference, setting the input and fetching the output included.

    Attributes:
        median: Over all runs, in ms.
        p90: The 90th percentile, in ms.
        threads: How many the runtime was given.
        runs: How many were timed.
        p10: The 10th percentile, in ms.
    """

    median: float
    p90: float
    threads: int
    runs: int
    p10: float = math.nan


@dataclass(frozen=True)
class Measurement:
    """What one file costs; memory in MB of 1e6 bytes.

    Attributes:
        latency: See `Latency`.
        peak_rss_mb: The most that a fresh process held, through loading the file and one inference.
        runtime_rss_mb: The most that the same process had held before it opened the file: Python, numpy, the runtime
            and the input.
        model_rss_mb: The difference: what the file adds.
        load_ms: From the file to a model that is ready to run, imports excluded.
        cold_start_ms: From the start of a process to its first result, imports included; the file may be in the
            system's cache.
        cpu_ms: Processor time of one inference, user and system, all threads added up.
        rounds_ms: The median latency of each round, which `ratio.paired` compares with that of another file.
        runtime: What ran the file.
    """

    latency: Latency
    peak_rss_mb: float
    runtime_rss_mb: float
    model_rss_mb: float
    load_ms: float
    cold_start_ms: float = math.nan
    cpu_ms: float = math.nan
    rounds_ms: tuple[float, ...] = ()
    runtime: str = ""


@dataclass
class _Found:
    """What the processes of one file gave."""

    footprints: list[Footprint] = field(default_factory=list)
    rounds: list[list[float]] = field(default_factory=list)
    cpu_ms: float = 0.0


def measure(
    path: Path | str,
    inputs: ArrayLike | tuple[ArrayLike, ...],
    *,
    threads: int = 1,
    runs: int = 50,
    allow_pickle: bool = False,
) -> Measurement:
    """Measure one file; see `measure_all`, which compares several fairly."""
    return measure_all([path], inputs, threads=threads, runs=runs, allow_pickle=allow_pickle)[Path(path)]


def measure_all(
    paths: Iterable[Path | str],
    inputs: ArrayLike | tuple[ArrayLike, ...],
    *,
    threads: int = 1,
    runs: int = 50,
    rounds: int = 5,
    starts: int = 1,
    allow_pickle: bool = False,
    on_progress: OnProgress | None = None,
) -> dict[Path, Measurement]:
    """Measure model files, their latencies interleaved so that a machine that slows down slows all alike.

    Each file has a fresh process that loads it and runs it once, which is what memory and starting cost. All of them
    then stay alive, asleep but for the one whose turn it is: in each round every file gets ``runs / rounds``.

    Args:
        paths: ``.onnx``, ``.tflite``, ``.pt2`` or ``.safetensors`` files.
        inputs: ``[1, C, *size]`` float32 in PyTorch's layout, as an array or a tensor, or a tuple of them for files
            with several inputs; the first samples are used, as many as the file takes at once.
        threads: How many threads each runtime may use.
        runs: Timed inferences per file.
        rounds: Turns per file.
        starts: How many times all of this is done, in new processes; the runs and rounds are shared out among them, and
            the figures of memory and starting are medians. No process is like the one before: where its memory lies
            changes its speed.
        allow_pickle: Open ``.pt2`` files, which can run any code that their author put in.
        on_progress: Called with steps done, steps in all, and the step's name.

    Returns:
        A `Measurement` per path.

    Raises:
        ModelError: When a file cannot be loaded or run.
        DataError: When the inputs are not a batch.
        RecipeError: When a count is not positive.
    """
    for name, value in (("threads", threads), ("runs", runs), ("rounds", rounds), ("starts", starts)):
        if value < 1:
            raise RecipeError(f"{name}={value}: measuring needs at least 1")
    files = list(dict.fromkeys(Path(path) for path in paths))
    shares = _shares(runs, rounds)
    starts = min(starts, len(shares))
    report = Steps(len(files) * (starts + len(shares)), on_progress)
    found = {file: _Found() for file in files}
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
        sample = write_inputs(Path(folder, "sample"), inputs)
        for start in range(starts):
            for batch in _batches(files):
                workers = {file: Worker(file, threads=threads, allow_pickle=allow_pickle) for file in batch}
                _start(workers, sample, shares[start::starts], found, report)
    return {file: _measurement(each, threads) for file, each in found.items()}


def _start(
    processes: dict[Path, Worker],
    sample: Path,
    shares: Sequence[int],
    found: dict[Path, _Found],
    report: Steps,
) -> None:
    """Start the processes one after the other, then add the rounds of ``shares`` runs each, the files taking turns."""
    with ExitStack() as stack:
        for file, process in processes.items():
            worker = stack.enter_context(process)
            found[file].footprints.append(first_result(worker, worker.load(sample)))
            worker.ask("time", runs=0, warmup=_WARMUP_RUNS)
            report.step(f"{file.name}: memory")
        for turn, share in enumerate(shares, 1):
            for file, worker in processes.items():
                times = worker.ask("time", runs=share, warmup=_WARMUP_RUNS_PER_TURN)
                found[file].rounds.append(times["latencies_ms"])
                found[file].cpu_ms += times["cpu_ms"]
                report.step(f"{file.name}: latency {turn}/{len(shares)}")


def _shares(runs: int, rounds: int) -> list[int]:
    """Return how many runs each round gets: they add up to ``runs``, and no round is empty."""
    rounds = min(rounds, runs)
    return [runs // rounds + (turn < runs % rounds) for turn in range(rounds)]


def _batches(files: Sequence[Path]) -> list[Sequence[Path]]:
    """Return as few groups of at most ``MOST_WORKERS_ALIVE`` as possible, of about the same length."""
    count = math.ceil(len(files) / MOST_WORKERS_ALIVE)
    return [files[start::count] for start in range(count)]


def _measurement(found: _Found, threads: int) -> Measurement:
    footprints = found.footprints
    latencies_ms = [value for share in found.rounds for value in share]
    p10, median, p90 = np.percentile(latencies_ms, [10, 50, 90]).tolist()
    peak_rss_mb = float(np.median([each.peak_rss_mb for each in footprints]))
    runtime_rss_mb = float(np.median([each.runtime_rss_mb for each in footprints]))
    return Measurement(
        latency=Latency(median, p90, threads, len(latencies_ms), p10),
        peak_rss_mb=peak_rss_mb,
        runtime_rss_mb=runtime_rss_mb,
        model_rss_mb=peak_rss_mb - runtime_rss_mb,
        load_ms=float(np.median([each.load_ms for each in footprints])),
        cold_start_ms=float(np.median([each.cold_start_ms for each in footprints])),
        cpu_ms=found.cpu_ms / len(latencies_ms),
        rounds_ms=tuple(float(np.median(share)) for share in found.rounds),
        runtime=footprints[0].runtime,
    )

"""A comparison of files: every figure from fresh processes, ratios with their spread, as one JSON-like dict."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.bench import footprint, history, ratio
from torchshrink.bench.environment import environment
from torchshrink.bench.measurement import MOST_WORKERS_ALIVE, Measurement, measure_all
from torchshrink.bench.sizes import size_bytes
from torchshrink.progress import Progress, Silent
from torchshrink.runtime.process import Worker

_ROUNDS = 12
_STARTS = 3
_PROFILE_RUNS = 10
_LEAST_CPU_SHARE = 0.8  # of the latency: threads that compute all the time reach 1 and more
_NO_PROFILER = "LiteRT has no profiler in Python: no operations of {}"

Row = dict[str, Any]


def run(
    files: Sequence[Path],
    inputs: NDArray[np.float32],
    *,
    reference: Path,
    threads: Sequence[int] = (1,),
    runs: int = 50,
    sizes: Sequence[int] = (),
    is_profiled: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> history.Session:
    """Measure files against one of them.

    Args:
        files: ``.onnx``, ``.tflite``, ``.pt2`` or ``.safetensors`` files, the reference among them.
        inputs: ``[1, C, *size]`` float32.
        reference: What the ratios compare with.
        threads: Thread counts; everything is measured for each.
        runs: Timed inferences per file and thread count.
        sizes: Other sizes of the input at which memory is measured, with the first thread count.
        is_profiled: Whether to ask the runtimes which operations the time goes to.
        allow_pickle: As in `measure_all`.
        progress: Told what happens.

    Returns:
        What `history.save` writes: ``schema``, ``environment``, ``reference``, ``method``, ``rows`` (one per file and
        thread count), ``sizes``, ``profiles`` and ``warnings``.

    Raises:
        ModelError: When a file cannot be loaded or run.
        DataError: When an input of one of the sizes does not fit into the memory.
    """
    footprint.check_sizes(inputs[:1], sizes)
    progress = progress or Silent()
    labels = names(files)
    session: history.Session = {
        "schema": history.SCHEMA,
        "environment": environment(),
        "reference": labels[reference],
        "method": ratio.METHOD,
        "rows": [],
        "sizes": [],
        "profiles": [],
        "warnings": [],
    }
    for count in threads:
        progress.start(f"measure on {_threads(count)}")
        found = measure_all(
            files,
            inputs,
            threads=count,
            runs=runs,
            rounds=_ROUNDS,
            starts=_STARTS,
            allow_pickle=allow_pickle,
            on_progress=progress.update,
        )
        session["rows"] += [_row(labels[file], file, value, found[reference]) for file, value in found.items()]
        session["warnings"] += _warnings({labels[file]: found[file] for file in found}, labels[reference], count)
    if sizes:
        progress.start("memory at other sizes")
        rows = footprint.at_sizes(
            files, inputs[:1], sizes, threads=threads[0], allow_pickle=allow_pickle, on_progress=progress.update
        )
        session["sizes"] = [{"name": labels[Path(row["path"])], **row} for row in rows]
    if is_profiled:
        progress.start("operations")
        session["profiles"] = [
            {"name": labels[file], **_profile(file, inputs, threads[0], allow_pickle)} for file in files
        ]
    return session


def names(files: Sequence[Path]) -> dict[Path, str]:
    """Return what each file is called: its name, or its path where two have the same name."""
    counts = Counter(file.name for file in files)
    return {file: file.name if counts[file.name] == 1 else str(file) for file in files}


def _row(name: str, file: Path, found: Measurement, reference: Measurement) -> Row:
    return {
        "name": name,
        "path": str(file),
        "runtime": found.runtime,
        "threads": found.latency.threads,
        "bytes": size_bytes(file),
        "latency_ms": asdict(found.latency),
        "ratio": asdict(ratio.paired(reference.rounds_ms, found.rounds_ms)),
        "rounds_ms": list(found.rounds_ms),
        "cpu_ms": found.cpu_ms,
        "cold_start_ms": found.cold_start_ms,
        "load_ms": found.load_ms,
        "peak_rss_mb": found.peak_rss_mb,
        "runtime_rss_mb": found.runtime_rss_mb,
        "model_rss_mb": found.model_rss_mb,
    }


def _warnings(found: dict[str, Measurement], reference: str, threads: int) -> list[str]:
    pairs = ratio.unsure({name: value.rounds_ms for name, value in found.items()}, reference)
    warnings = [
        f"unsure which is faster on {_threads(threads)}: {faster} is {spread} as fast as {slower}; more --runs may tell"
        for faster, slower, spread in pairs
    ]
    shares = {name: value.cpu_ms / value.latency.median for name, value in found.items()}
    worst = min(shares, key=lambda name: shares[name])
    if shares[worst] < _LEAST_CPU_SHARE:
        warnings.append(
            f"the processor was busy with other work on {_threads(threads)}: {worst} computed for "
            f"{found[worst].cpu_ms:.2f} of its {found[worst].latency.median:.2f} ms; measure again when nothing else "
            "runs"
        )
    if len(found) > MOST_WORKERS_ALIVE:
        warnings.append(
            f"more than {MOST_WORKERS_ALIVE} files are measured in groups, one after the other: ratios of files in "
            "different groups hold the drift of the machine"
        )
    return warnings


def _profile(file: Path, inputs: NDArray[np.float32], threads: int, allow_pickle: bool) -> Row:
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
        sample = Path(folder, "sample.npy")
        np.save(sample, inputs[:1])
        with Worker(file, threads=threads, allow_pickle=allow_pickle) as worker:
            worker.load(sample)
            operations = worker.ask("profile", runs=_PROFILE_RUNS)["operations"]
    note = _NO_PROFILER.format(file.name) if operations is None else None
    return {"path": str(file), "threads": threads, "operations": operations, "note": note}


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"

"""What a file costs a process that has just started: memory, time to the first result; at its own size and others."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import DataError, ModelError
from torchshrink.runtime.limits import memory_bytes
from torchshrink.runtime.process import Worker

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Footprint:
    """One fresh process that loaded a file and ran it once; memory in MB of 1e6 bytes.

    Attributes:
        peak_rss_mb: The most that it held.
        runtime_rss_mb: The most that it had held before it opened the file.
        load_ms: From the file to a model that is ready to run, imports excluded.
        cold_start_ms: From the start of the process to the first result.
        runtime: What ran the file.
    """

    peak_rss_mb: float
    runtime_rss_mb: float
    load_ms: float
    cold_start_ms: float
    runtime: str


class Steps:
    """Counts steps for a function that shows progress."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self._done, self._total, self._on_progress = 0, total, on_progress

    def step(self, note: str) -> None:
        """Say that one more is done."""
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total, note)


def first_result(worker: Worker, loaded: dict[str, Any]) -> Footprint:
    """Run a file once in a process that has just loaded it, and return what that took."""
    peak_rss_mb = worker.ask("once")["peak_rss_mb"]
    cold_start_ms = worker.age_ms
    return Footprint(peak_rss_mb, loaded["runtime_rss_mb"], loaded["load_ms"], cold_start_ms, loaded["runtime"])


def at_sizes(
    files: Sequence[Path],
    sample: NDArray[np.float32],
    sizes: Sequence[int],
    *,
    threads: int = 1,
    allow_pickle: bool = False,
    on_progress: OnProgress | None = None,
) -> list[dict[str, Any]]:
    """Measure the memory of files at other sizes of their input, where they take them.

    ONNX files do where their dimensions are free; checkpoints do where their layers fit; TFLite files, whose size is
    only a default, where the interpreter accepts another. It computes memory, and does not check what comes out.

    Args:
        files: As in `measurement.measure_all`.
        sample: ``[1, C, *size]``, repeated or cut to each size.
        sizes: The side, or the length of a signal, in samples.
        threads: How many threads the runtime may use.
        allow_pickle: As in `measurement.measure_all`.
        on_progress: Called with steps done, steps in all, and the step's name.

    Returns:
        A dict per file and size: ``path``, ``size``, ``threads``, the three figures of memory, which are None where
        ``note`` says why there are none.
    """
    report = Steps(len(files) * len(sizes), on_progress)
    rows = []
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
        for size in sizes:
            np.save(Path(folder, f"{size}.npy"), resized(sample, size))
        for file in files:
            for size in sizes:
                process = Worker(file, threads=threads, allow_pickle=allow_pickle)
                rows.append(_at_size(process, Path(folder, f"{size}.npy")) | {"size": size, "threads": threads})
                report.step(f"{file.name}: memory at {size}")
    return rows


def check_sizes(sample: NDArray[np.float32], sizes: Sequence[int]) -> None:
    """Refuse sizes at which the input alone takes more than half of the memory.

    Raises:
        DataError: Naming the first of them.
    """
    for size in sizes:
        needed = math.prod(sample.shape[:2]) * size ** (sample.ndim - 2) * sample.itemsize
        if needed > memory_bytes() / 2:
            raise DataError(
                f"an input of size {size} takes {needed / 1e9:.3g} GB, this machine has {memory_bytes() / 1e9:.3g}: "
                "choose smaller sizes"
            )


def resized(sample: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return ``[1, C, *size]`` with every side cut, or repeated, to ``size``.

    >>> resized(np.array([[[1, 2, 3]]], np.float32), 5).tolist()
    [[[1.0, 2.0, 3.0, 1.0, 2.0]]]
    """
    for axis in range(2, sample.ndim):
        sample = np.take(sample, np.arange(size) % sample.shape[axis], axis)
    return sample


def _at_size(process: Worker, sample: Path) -> dict[str, Any]:
    file = process.path
    try:
        with process as worker:
            loaded = worker.load(sample, fit=True)
            if "fixed" in loaded:
                sides = ", ".join(str(side) for side in loaded["fixed"])
                return _no_figures(file, f"fixed size, takes [{sides}] only")
            found = first_result(worker, loaded)
    except ModelError as error:
        cause = str(error).partition(f"{file}: ")[2] or str(error)
        return _no_figures(file, f"does not run at this size: {cause}")
    return {
        "path": str(file),
        "peak_rss_mb": found.peak_rss_mb,
        "runtime_rss_mb": found.runtime_rss_mb,
        "model_rss_mb": found.peak_rss_mb - found.runtime_rss_mb,
        "note": None,
    }


def _no_figures(file: Path, note: str) -> dict[str, Any]:
    return {"path": str(file), "peak_rss_mb": None, "runtime_rss_mb": None, "model_rss_mb": None, "note": note}

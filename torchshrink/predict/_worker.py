"""Run one file over many images in a process of its own. A script: `run.py` starts it.

It imports numpy, Pillow and the one runtime that the file needs, so that its peak memory is that of a production
process. It reads a `Job` as JSON on stdin and writes one JSON object a line to stdout: ``{"done", "total", "note"}``
for each row of tiles, then ``{"peak_rss_mb", "runtime", "tiles"}``, or ``{"error", "kind"}`` with the name of a class
of `torchshrink.errors`. Memory is in MB of 1e6 bytes.
"""

from __future__ import annotations

import csv
import importlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from torchshrink.data import preparation
from torchshrink.data.inputs import alike
from torchshrink.errors import DataError, ModelError, ShrinkError
from torchshrink.files import atomic
from torchshrink.harmless import csv_cell
from torchshrink.predict import prepared, streams, tiles
from torchshrink.runtime import _model_files, _worker
from torchshrink.runtime.limits import limit_memory

_THRESHOLD = 0.5  # as torchshrink.metrics, which needs torch: positive where it exceeds this

Band = NDArray[np.float32]
Predict = Callable[[NDArray[np.float32]], Band]


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        model: The ``.onnx`` or ``.tflite`` file.
        threads: How many the runtime may use.
        channels: Of its input.
        tile: Its size, ``[L]`` or ``[H, W]``.
        overlap: What neighbouring tiles share at least, along each of these.
        mean: What is subtracted, per channel.
        std: What the result is divided by.
        raw: What images and arrays must hold.
        classes: How many output channels there are.
        files: ``{"source", "masks": [path, ...], "probabilities": path or null}`` each.
        prepared: What training did to files, see `torchshrink.data.preparation`.
        is_scores: Whether outputs are scores of classes of which one is right, instead of a probability for each.
        table: Where to write one line for each whole input, instead of masks; empty for masks.
        names: Of the outputs, for the table.
    """

    model: str
    threads: int
    channels: int
    tile: list[int]
    overlap: list[int]
    mean: list[float]
    std: list[float]
    raw: str
    classes: int
    files: list[dict[str, Any]]
    prepared: str = ""
    is_scores: bool = False
    table: str = ""
    names: list[str] = field(default_factory=list)


class Network:
    """The model: raw tiles ``[C, h, w]`` in, probabilities ``[K, h, w]`` out."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._shape = (1, job.channels, *job.tile)
        modules, opener = _model_files.RUNTIMES[Path(job.model).suffix]
        try:
            for module in modules:
                importlib.import_module(module)
            self._runtime = opener(job.model, job.threads, self._shape)
        except Exception as error:
            raise ModelError(f"{job.model} cannot be opened: {_one_line(error)}; export it again") from error
        self.name = self._runtime.name
        self._mean, self._std = (np.array(values, np.float32)[:, None, None] for values in (job.mean, job.std))

    def __call__(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        job, output = self._job, self._run(raw)
        wanted = (1, job.classes, *job.tile)
        if output.size != np.prod(wanted) or output.shape[1] != job.classes:
            raise ModelError(
                f"{job.model} makes {list(output.shape)} of {list(self._shape)}, not {list(wanted)}: a mask needs an "
                "output of the size of the input"
            )
        return output.reshape(job.classes, *raw.shape[1:])

    def answer(self, raw: NDArray[np.float32]) -> list[float]:
        """Return the outputs for a whole input."""
        output = self._run(raw)
        if output.size != self._job.classes:
            raise ModelError(f"{self._job.model} makes {list(output.shape)}, not {self._job.classes} outputs")
        return [float(value) for value in output.ravel()]

    def _run(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        job, runtime = self._job, self._runtime
        sample = ((raw - self._mean) / self._std).reshape(self._shape)
        try:
            output: NDArray[np.float32] = runtime.finish(runtime.run(runtime.prepare([sample])), False)[0]
        except Exception as error:
            raise ModelError(f"{runtime.name} cannot run {job.model}: {_one_line(error)}") from error
        if not np.isfinite(output).all():
            raise ModelError(f"{job.model} gives outputs that are not finite: verify it with torchshrink verify")
        return output


class Tiling:
    """The tiles of a source along both axes; a signal is an image of one row."""

    def __init__(self, source: streams.Source, tile: list[int], overlap: list[int]) -> None:
        (self._tall, self._wide), (above, beside) = ([1, *tile][-2:], [0, *overlap][-2:])
        self.rows = tiles.plan(source.height, self._tall, above)
        self.columns = tiles.plan(source.width, self._wide, beside)
        self._source = source

    def __len__(self) -> int:
        return self._source.count * len(self.rows) * len(self.columns)

    def bands(self, predict: Predict, classes: int) -> Iterator[tuple[int, int, Band]]:
        """Yield sample, first row, and probabilities ``[K, rows, W]``, in order and without gaps.

        The array is the same every time.
        """
        height, width = self._source.height, self._source.width
        columns = [tiles.reflected(tile.start, tile.start + self._wide, width) for tile in self.columns]
        whole = np.empty((classes, max(row.keep_to - row.keep_from for row in self.rows), width), np.float32)
        for sample, read in enumerate(self._source.samples()):
            for row in self.rows:
                places = tiles.reflected(row.start, row.start + self._tall, height)
                first = int(places.min())
                stored = read(first, int(places.max()) + 1)
                band = whole[:, : row.keep_to - row.keep_from]
                for tile, columns_read in zip(self.columns, columns, strict=True):
                    raw = stored[:, (places - first)[:, None], columns_read]
                    output = predict(raw.astype(np.float32) / np.float32(self._source.divisor))
                    band[:, :, tile.keep_from : tile.keep_to] = output[
                        :,
                        row.keep_from - row.start : row.keep_to - row.start,
                        tile.keep_from - tile.start : tile.keep_to - tile.start,
                    ]
                yield sample, row.keep_from, band


def work(job: Job, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Check all files, then predict them one by one; return the summary."""
    total = sum(len(_tiling(job, file)[1]) for file in job.files)
    network = Network(job)
    done = 0
    for file in job.files:
        source, tiling = _tiling(job, file)
        with ExitStack() as stack:
            sink, floats = _outputs(job, file, source, stack)
            write = prepared.at_own_size(source, job.classes, partial(_write, job, sink, floats))
            for sample, first, band in tiling.bands(network, job.classes):
                write(sample, first, band)
                done += len(tiling.columns)
                report({"done": done, "total": total, "note": Path(file["source"]).name})
    return {"peak_rss_mb": _worker.peak_rss_mb(), "runtime": network.name, "tiles": total}


def answer(job: Job, report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Check all files, then write a line for each whole input: file, number, class where one is right, outputs."""
    paths = [Path(file["source"]) for file in job.files]
    counts = [_wholes(job, path)[0] for path in paths]
    network, done, total = Network(job), 0, sum(counts)
    with atomic(Path(job.table)) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        first = ["file", "sample", *(["class"] if job.is_scores else [])]
        table.writerow([csv_cell(name) for name in (*first, *job.names)])
        for path in paths:
            for number, raw in enumerate(_wholes(job, path)[1]):
                found = network.answer(_fitting(job, path, raw))
                best = [job.names[int(np.argmax(found))]] if job.is_scores else []
                table.writerow([csv_cell(str(path)), number, *map(csv_cell, best), *found])
                done += 1
                report({"done": done, "total": total, "note": path.name})
    return {"peak_rss_mb": _worker.peak_rss_mb(), "runtime": network.name, "tiles": total}


def _wholes(job: Job, path: Path) -> tuple[int, Iterator[NDArray[np.float32]]]:
    """Return how many inputs a file holds, and these, ``[C, *size]``, as training read them."""
    how = preparation.stored(job.prepared)
    if path.suffix.lower() in streams.ARRAY_ENDINGS:
        source = prepared.open_source(path, job.channels, len(job.tile), job.raw, how)
        divisor = np.float32(source.divisor)
        return source.count, (read(0, source.height).astype(np.float32) / divisor for read in source.samples())
    inputs = alike([path], how)
    if inputs.raw != job.raw:
        raise DataError(f"{path} holds {inputs.raw}, but the model was trained on {job.raw}: store it as that")
    return 1, (inputs.read(each) for each in (path,))


def _fitting(job: Job, path: Path, raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an input as an image, a signal as one of one row."""
    wanted, found = (job.channels, *job.tile), (len(raw), *raw.shape[1:][-len(job.tile) :])
    if found != wanted:
        sizes = ("x".join(map(str, size)) for size in (found, wanted))
        raise DataError("{} holds an input of {}, but the model takes {}: resize it".format(path, *sizes))
    return raw.reshape(len(raw), *([1, *job.tile][-2:]))


def _write(job: Job, sink: streams.Sink, floats: streams.NpyFile | None, sample: int, first: int, band: Band) -> None:
    """Write the masks of probabilities ``[K, rows, W]``, and these; of scores, which of them is the largest."""
    if job.is_scores:
        found = band.argmax(0) == np.arange(len(band))[:, None, None]
        powers = np.exp(band - band.max(0))
        band = powers / powers.sum(0)
    else:
        found = band > _THRESHOLD
    sink.write(sample, first, found)
    if floats is not None:
        floats.write(sample, first, band)


def _tiling(job: Job, file: dict[str, Any]) -> tuple[streams.Source, Tiling]:
    how = preparation.stored(job.prepared)
    source = prepared.open_source(Path(file["source"]), job.channels, len(job.tile), job.raw, how)
    return source, Tiling(source, job.tile, job.overlap)


def _outputs(
    job: Job, file: dict[str, Any], source: streams.Source, stack: ExitStack
) -> tuple[streams.Sink, streams.NpyFile | None]:
    """Open what is written for a source."""
    paths = [Path(path) for path in file["masks"]]
    is_array = Path(file["source"]).suffix.lower() in streams.ARRAY_ENDINGS
    size = source.own_size[-len(job.tile) :]
    shape = (*([source.count] if is_array else []), job.classes, *size)
    floats = None
    if file["probabilities"] is not None:
        path = Path(file["probabilities"])
        floats = stack.enter_context(streams.probabilities(path, shape, job.classes, source))
    masks = streams.array_masks(paths[0], shape, source) if is_array else streams.image_masks(paths, source)
    return stack.enter_context(masks), floats


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def main() -> None:
    """Do the job that stands on stdin."""
    replies = _worker.open_replies()
    limit_memory()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files go
    Image.MAX_IMAGE_PIXELS = None  # an image of any size is what tiles are for

    def report(content: dict[str, Any]) -> None:
        replies.write(json.dumps(content) + "\n")

    try:
        job = Job(**json.load(sys.stdin))
        result = (answer if job.table else work)(job, report)
        report(result | ({"modules": sorted(sys.modules)} if "--modules" in sys.argv else {}))
    except ShrinkError as error:
        report({"error": str(error), "kind": type(error).__name__})


if __name__ == "__main__":
    main()

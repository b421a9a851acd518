"""Use a shipped file: run it over images or signals of any size, tile by tile, and write masks.

The work is done in a process that imports numpy, Pillow and the file's runtime only; see `_worker.py`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torchshrink import errors
from torchshrink.data.inputs import ENDINGS, files_in
from torchshrink.errors import DataError, ModelError, OutputError, RecipeError
from torchshrink.files import real
from torchshrink.predict import _worker, shipped, streams
from torchshrink.predict._worker import Job
from torchshrink.predict.shipped import Shipped
from torchshrink.progress import SILENT, Progress
from torchshrink.runtime.process import cause_of_death, start
from torchshrink.settings import check_threads

_SCRIPT = Path(_worker.__file__)
_TABLE = "predictions.csv"
_MASKS, _ANSWERS = ("segmentation", "multiclass"), ("classification", "regression")  # kinds of tasks
_GRACE_S = 5.0  # to remove temporary files
_TIMEOUT_S = 600.0  # for a row of tiles


@dataclass(frozen=True)
class Prediction:
    """What was done.

    Attributes:
        outputs: The masks written for each source, one per class for images; or the table.
        probabilities: The file of probabilities of each source, if asked for.
        tile: The size of a tile, ``(L,)`` or ``(H, W)``.
        overlap: What neighbouring tiles share at least, along each of these.
        tiles: How many were computed.
        seconds: The whole time, starting the process included.
        peak_rss_mb: The most memory that the process held, in MB of 1e6 bytes.
        runtime: What ran the file.
        table: The answers for whole inputs, instead of masks.
    """

    outputs: dict[Path, list[Path]]
    probabilities: dict[Path, Path]
    tile: tuple[int, ...]
    overlap: tuple[int, ...]
    tiles: int
    seconds: float
    peak_rss_mb: float
    runtime: str
    table: Path | None = None


def predict(
    file: Path | str,
    data: Path | str,
    out: Path | str,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    threads: int = 1,
    probabilities: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Prediction:
    """Run a shipped file over images or signals and write masks under the names of their sources, or a table.

    Inputs are resized, converted and scaled as in training and normalised as the file's metadata says; masks have the
    size of their sources again. Images larger than a tile are cut into overlapping tiles of which the centres are kept;
    smaller ones are reflected at their ends. A network that sees no further than half of the overlap gives what it
    would give for the whole image, except within that distance of the lower and right border where these are
    reflected. See `torchshrink.predict.tiles.plan`.

    A model that classifies, or tells numbers, is given whole inputs, cropped too where training was. The table has a
    line for each: its file, its number there, the class with the largest output, and all outputs.

    Args:
        file: An ``.onnx`` or ``.tflite`` file that torchshrink made, of any precision.
        data: An image (PNG, TIFF, JPEG), an ``.npz`` with ``x`` or an ``.npy`` of ``[N, C, *size]``, or a folder of
            them, or one with a folder ``images``. For whole inputs also sounds (WAV), and folders in folders.
        out: The folder for ``predictions.csv``, or for ``NAME.png``, 0 and 255, in a folder per class where there are
            several; for arrays ``NAME.npz`` with ``y`` of 0 and 1, ``[N, K, *size]``. Positive is a probability above
            0.5; of a model that tells several classes apart, the class with the largest score.
        tile: The side of a tile; by default the file's own input, and nothing else unless the file takes any size.
        overlap: What neighbouring tiles share at least; by default a quarter of the tile.
        threads: How many the runtime may use.
        probabilities: Write ``probabilities/NAME.npy`` too, float32, ``[K, H, W]`` or ``[N, K, *size]``.
        overwrite: Replace existing outputs.
        progress: Told about tiles.

    Raises:
        ModelError: When the file cannot be used, or takes no tile of this size.
        DataError: When there is nothing to predict, or an input cannot be read or does not fit the model.
        RecipeError: When the overlap does not fit the tile, or a number is too small.
        OutputError: When an output exists or cannot be written.
    """
    began = time.perf_counter()
    check_threads(threads)
    model = shipped.read(Path(file))
    if model.kind not in (*_MASKS, *_ANSWERS):
        said = f"was trained for {model.kind}" if model.kind else "does not say what its outputs are"
        raise ModelError(
            f"{model.path} {said}, and predict writes masks or a table: torchshrink bundle makes a runner of it"
        )
    is_whole = model.kind in _ANSWERS
    if is_whole and (overlap is not None or probabilities):
        raise RecipeError(f"{model.path} answers for whole inputs: leave out --overlap and --probabilities")
    sides = _tile(model, tile)
    overlaps = _overlap(sides, 0 if is_whole else overlap)
    place = Path(os.path.expanduser(data))
    sources = _find_whole(place) if is_whole else _find(place)
    table = [Path(out, _TABLE)] if is_whole else []
    outputs = {source: table or _masks(source, Path(out), model.class_names) for source in sources}
    floats = {source: Path(out, "probabilities", f"{source.stem}.npy") for source in sources} if probabilities else {}
    _check_outputs(sources, [*(path for paths in outputs.values() for path in paths), *floats.values()], overwrite)
    job = Job(
        model=str(model.path.resolve()),
        threads=threads,
        channels=model.channels,
        tile=list(sides),
        overlap=list(overlaps),
        mean=list(model.mean),
        std=list(model.std),
        raw=model.raw,
        classes=len(model.class_names),
        prepared=model.prepared,
        is_scores=model.kind in ("multiclass", "classification"),
        table=str(table[0]) if is_whole else "",
        names=list(model.class_names),
        files=[
            {
                "source": str(source),
                "masks": [str(path) for path in paths],
                "probabilities": str(floats[source]) if probabilities else None,
            }
            for source, paths in outputs.items()
        ],
    )
    progress.start(f"predict {len(sources)} file{'s' * (len(sources) != 1)}")
    found = run(job, progress.update)
    return Prediction(
        outputs=outputs,
        probabilities=floats,
        tile=sides,
        overlap=overlaps,
        tiles=found["tiles"],
        seconds=time.perf_counter() - began,
        peak_rss_mb=found["peak_rss_mb"],
        runtime=found["runtime"],
        table=table[0] if table else None,
    )


def run(job: Job, update: Callable[[int, int, str], None], *arguments: str) -> dict[str, Any]:
    """Do a job in a process of its own and return its summary, see `_worker.py`.

    Raises:
        ShrinkError: What the process raised; ModelError when it died.
    """
    with tempfile.TemporaryFile() as stderr:  # a pipe would block a chatty runtime
        process = start(_SCRIPT, job.threads, stderr, *arguments)
        try:
            reply = _converse(process, job, update)
        finally:
            _end(process)
        if reply is None:
            raise ModelError(f"the prediction with {job.model} stopped: {cause_of_death(process.returncode, stderr)}")
    if "error" in reply:
        raise getattr(errors, reply["kind"])(reply["error"])
    return reply


def _converse(
    process: subprocess.Popen[str], job: Job, update: Callable[[int, int, str], None]
) -> dict[str, Any] | None:
    """Send the job and return the last answer, None when there is none."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with process.stdin as stdin:
            json.dump(asdict(job), stdin)
    except BrokenPipeError:
        pass  # its last words tell more
    while line := _next_line(process, job):
        reply: dict[str, Any] = json.loads(line)
        if "done" not in reply:
            return reply
        update(reply["done"], reply["total"], reply["note"])
    return None


def _next_line(process: subprocess.Popen[str], job: Job) -> str:
    """Return the next answer, empty at the end; a model that does not come to one is stopped."""
    assert process.stdout is not None
    is_late = threading.Event()

    def stop() -> None:
        is_late.set()
        process.kill()

    timer = threading.Timer(_TIMEOUT_S, stop)
    timer.daemon = True
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    if is_late.is_set():
        raise ModelError(f"{job.model} gave no answer in {_TIMEOUT_S:g} s: use a smaller tile, or another file")
    return line


def _end(process: subprocess.Popen[str]) -> None:
    """Let the process clean up, and wait for it."""
    assert process.stdout is not None
    process.stdout.close()
    try:
        process.wait(_GRACE_S / 10)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tile(model: Shipped, tile: int | None) -> tuple[int, ...]:
    """Return the size of a tile, which is the file's own where that is fixed."""
    size = "x".join(str(side) if side else "any" for side in model.sides)
    if tile is None:
        if 0 in model.default_sides:
            raise ModelError(f"{model.path} takes inputs of any size: choose one with --tile")
        return model.default_sides
    if tile < 1:
        raise RecipeError(f"tile={tile}: a tile needs at least 1 sample")
    if any(side not in (0, tile) for side in model.sides):
        raise ModelError(
            f"{model.path} takes inputs of {size} only, not tiles of {tile}: leave out --tile, or export the model at "
            "that size"
        )
    return (tile,) * len(model.sides)


def _overlap(tile: tuple[int, ...], overlap: int | None) -> tuple[int, ...]:
    if overlap is None:
        return tuple(side // 4 for side in tile)
    if not 0 <= overlap < min(tile):
        raise RecipeError(
            f"overlap {overlap} does not fit tiles of {'x'.join(map(str, tile))}: choose 0 to {min(tile) - 1}"
        )
    return (overlap,) * len(tile)


def _find(data: Path) -> list[Path]:
    """Return the files to predict, in the order of their names."""
    endings = (*streams.IMAGE_ENDINGS, *streams.ARRAY_ENDINGS)
    if data.is_file():
        if data.suffix.lower() not in endings:
            raise DataError(f"{data} is a {data.suffix or 'nameless'} file: expected {', '.join(endings)}, or a folder")
        return [data]
    if not data.is_dir():
        raise DataError(f"{data} does not exist: pass a folder of images or arrays, or one file")
    for folder in (data, data / "images"):
        found: dict[str, Path] = {}
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() not in endings or path.name.startswith(".") or not path.is_file():
                continue
            if path.stem in found:
                raise DataError(f"{found[path.stem]} and {path.name} share the name {path.stem!r}: keep one of them")
            found[path.stem] = path
        if found:
            return list(found.values())
    raise DataError(f"{data} holds nothing to predict: put {', '.join(endings)} files there")


def _find_whole(data: Path) -> list[Path]:
    """Return the files of whole inputs: images and sounds of a folder and those in it, and its arrays."""
    endings = (*ENDINGS, *streams.ARRAY_ENDINGS)
    if data.is_file() and data.suffix.lower() not in endings:
        raise DataError(f"{data} is a {data.suffix or 'nameless'} file: expected {', '.join(endings)}, or a folder")
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise DataError(f"{data} does not exist: pass a folder of images, sounds or arrays, or one file")
    arrays = sorted(path for path in data.iterdir() if path.suffix.lower() in streams.ARRAY_ENDINGS)
    if not (found := [*files_in(data), *arrays]):
        raise DataError(f"{data} holds nothing to predict: put {', '.join(endings)} files there")
    return found


def _masks(source: Path, out: Path, class_names: tuple[str, ...]) -> list[Path]:
    """Return where the masks of a source go."""
    if source.suffix.lower() in streams.ARRAY_ENDINGS:
        return [out / f"{source.stem}.npz"]
    if len(class_names) == 1:
        return [out / f"{source.stem}.png"]
    folders = [re.sub(r"[^\w.-]+", "-", name).strip("-.") for name in class_names]
    if "" in folders or len({folder.lower() for folder in (*folders, "probabilities")}) <= len(folders):
        folders = [f"{index}-{folder}".rstrip("-") for index, folder in enumerate(folders)]
    return [out / folder / f"{source.stem}.png" for folder in folders]


def _check_outputs(sources: list[Path], outputs: list[Path], overwrite: bool) -> None:
    """Refuse to replace an input ever, and other files unless told to."""
    inputs = {real(source) for source in sources}
    for path in dict.fromkeys(outputs):
        if real(path) in inputs:
            raise OutputError(f"{path} is an input: choose another --out")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists: choose another --out, or pass --overwrite")

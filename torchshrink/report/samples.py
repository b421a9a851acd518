"""What a report shows of a few test samples (inputs, truths, what each file made of them) and of a file's numbers."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.files import LARGEST_TEXT, atomic, read
from torchshrink.report.activations import Activation, from_arrays, to_arrays

FOLDER = "samples"
COUNT = 4
MANY = 2000  # samples that are kept of answers that are a few numbers each
_LONGEST_SIDE = {1: 2048, 2: 160}  # of what is kept; longer ones are thinned
_BINS = 101


@dataclass(frozen=True)
class Histogram:
    """How often the weights of a file have each value.

    Attributes:
        counts: Per bin.
        edges: One more: real numbers, or for int8 weights the codes minus a half.
        is_int8: Whether the values are codes.
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    is_int8: bool


def keep_data(out: Path, inputs: NDArray[Any], truths: NDArray[Any]) -> Path:
    """Write the first test samples, ``[N, C, *size]``, and their truths, ``[N, ...]``, into a run's folder."""
    path = out / FOLDER / "data.npz"
    _write(path, {"input": thin(inputs[:COUNT]), "truth": first(truths)})
    return path


def keep(
    out: Path,
    name: str,
    outputs: NDArray[Any],
    weights: Sequence[NDArray[Any]],
    spreads: Sequence[Activation] = (),
) -> Path:
    """Write what the file of a row made of the first test samples, ``[N, ...]``, and how its numbers spread."""
    path = _path(out, name)
    content: dict[str, NDArray[Any]] = {"output": first(np.asarray(outputs))}
    if spread := histogram(weights):
        content |= {"counts": spread.counts, "edges": spread.edges, "is_int8": np.array(spread.is_int8)}
    _write(path, content | to_arrays(spreads))
    return path


def data(out: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return inputs and truths; ``None`` for a run that kept none."""
    found = _read(out / FOLDER / "data.npz")
    return (found["input"], found["truth"]) if {"input", "truth"} <= set(found) else None


def outputs(out: Path, name: str) -> NDArray[np.float32] | None:
    """Return what the file of a row made of the samples; ``None`` when it was not kept."""
    return _read(_path(out, name)).get("output")


def weights(out: Path, name: str) -> Histogram | None:
    """Return how the weights of a row's file spread; ``None`` when it was not kept."""
    found = _read(_path(out, name))
    if not {"counts", "edges", "is_int8"} <= set(found):
        return None
    return Histogram(found["counts"].astype(np.int64), found["edges"].astype(np.float64), bool(found["is_int8"]))


def activations(out: Path, name: str) -> list[Activation]:
    """Return how activations of a row's file spread; nothing when it was not kept."""
    return from_arrays(_read(_path(out, name)))


def first(values: NDArray[Any]) -> NDArray[Any]:
    """Return what is kept of truths or outputs ``[N, ...]``: the first samples, or many where each is small."""
    if values.ndim > 2:
        return thin(values[:COUNT])
    return values[:MANY].astype(np.float32)


def thin(values: NDArray[Any]) -> NDArray[np.float16]:
    """Return ``[N, C, *size]`` as float16, every n-th point of each side when there are more than a page can show."""
    longest = _LONGEST_SIDE.get(values.ndim - 2)
    step = math.ceil(max(values.shape[2:]) / longest) if longest else 1
    kept = values[(slice(None), slice(None), *[slice(None, None, step)] * max(values.ndim - 2, 0))]
    limit = float(np.finfo(np.float16).max)
    return np.clip(kept, -limit, limit).astype(np.float16)


def histogram(weights: Sequence[NDArray[Any]]) -> Histogram | None:
    """Count weights: the 256 codes when all are int8, or else 101 bins that are symmetric around zero.

    Where a file keeps some weights in float (int8 with islands), the int8 ones are counted.
    """
    codes = [array for array in weights if array.dtype == np.int8]
    if codes:
        edges = (np.arange(-128, 129) - 0.5).astype(np.float64)
        flat = np.concatenate([array.ravel() for array in codes]).astype(np.int16)
    else:
        floats = [array.ravel() for array in weights if np.issubdtype(array.dtype, np.floating)]
        flat = np.concatenate([*floats, np.empty(0)]).astype(np.float64)
        flat = flat[np.isfinite(flat)]
        widest = float(np.abs(flat).max(initial=0.0)) or 1.0
        edges = np.linspace(-widest, widest, _BINS + 1).astype(np.float64)
    if flat.size == 0:
        return None
    counts, _ = np.histogram(flat, edges)
    return Histogram(counts, edges, bool(codes))


def _path(out: Path, name: str) -> Path:
    return out / FOLDER / "files" / f"{name}.npz"


def _write(path: Path, content: dict[str, Any]) -> None:
    whole = io.BytesIO()  # zipfile has no good end where a disk is full
    np.savez_compressed(whole, **content)
    with atomic(path) as temporary:
        temporary.write_bytes(whole.getvalue())


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """Return what a file holds, float16 as float32; nothing when it is missing or damaged."""
    try:
        with np.load(io.BytesIO(read(path)), allow_pickle=False) as content:
            if sum(member.file_size for member in content.zip.infolist()) > LARGEST_TEXT:
                return {}  # a run keeps a few samples
            found = {name: content[name] for name in content.files}
    except Exception:  # whatever the bytes happen to mean
        return {}
    return {name: array.astype(np.float32) if array.dtype == np.float16 else array for name, array in found.items()}

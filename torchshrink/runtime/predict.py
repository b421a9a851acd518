"""What a file computes for inputs, in its real runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torchshrink.errors import DataError
from torchshrink.runtime._worker import read_arrays, write_arrays
from torchshrink.runtime.process import Worker
from torchshrink.runtime.processors import HERE


def predict(
    path: Path | str, inputs: ArrayLike, *, threads: int = 1, raw: bool = False, allow_pickle: bool = False
) -> NDArray[Any]:
    """Run a file of one input and one output on samples; see `predict_all`, which this calls.

    Args:
        path: As in `measure_all`.
        inputs: ``[N, C, *size]`` float32 in PyTorch's layout.
        threads: How many threads the runtime may use.
        raw: Return the integer codes of a quantized output, for bit-exact comparison.
        allow_pickle: As in `measure_all`.

    Returns:
        ``[N, K, *size]``: float32, or int16 with ``raw``.
    """
    return predict_all(path, (inputs,), threads=threads, raw=raw, allow_pickle=allow_pickle)[0]


def predict_all(
    path: Path | str,
    inputs: Sequence[ArrayLike],
    *,
    threads: int = 1,
    raw: bool = False,
    allow_pickle: bool = False,
    processor: str = HERE,
) -> list[NDArray[Any]]:
    """Run a file on samples in a fresh process, so that a runtime that crashes takes nothing with it.

    Args:
        path: As in `measure_all`.
        inputs: ``[N, C, *size]`` float32 in PyTorch's layout for each input of the file, which sees one sample at a
            time, or as many as it takes.
        threads: How many threads the runtime may use.
        raw: Return integer codes of quantized outputs.
        allow_pickle: As in `measure_all`.
        processor: Which kind of processor runs it, one of `processors.KINDS`; others than this one are emulated.

    Returns:
        ``[N, K, *size]`` for each output of the file: float32, or int16 with ``raw``.

    Raises:
        MissingExtraError: When an emulator is not installed.
        ModelError: When the file cannot be loaded or run, takes another number of inputs, or ``raw`` is asked of a
            float output.
        DataError: When the inputs are not batches of one length.
    """
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
        samples, output = write_inputs(Path(folder, "inputs"), tuple(inputs)), Path(folder, "output.npz")
        with Worker(path, threads=threads, allow_pickle=allow_pickle, processor=processor) as worker:
            worker.load()
            worker.ask("predict", inputs=str(samples), output=str(output), raw=raw)
        return read_arrays(str(output))


def write_inputs(path: Path, inputs: ArrayLike | tuple[ArrayLike, ...]) -> Path:
    """Write batches for `_worker.py`: one as ``.npy``, which takes no other module to read."""
    batches = [_batch(values) for values in (inputs if isinstance(inputs, tuple) else (inputs,))]
    if len({len(batch) for batch in batches}) != 1:
        raise DataError(
            f"inputs of shapes {[list(batch.shape) for batch in batches]}: expected as many samples of each"
        )
    path = path.with_suffix(".npy" if len(batches) == 1 else ".npz")
    write_arrays(str(path), batches)
    return path


def _batch(inputs: ArrayLike) -> NDArray[np.float32]:
    values = np.ascontiguousarray(inputs, np.float32)
    if values.ndim < 2 or len(values) == 0:
        raise DataError(f"inputs of shape {list(values.shape)}: expected a batch [N, C, *size] of at least one sample")
    return values

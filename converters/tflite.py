"""ONNX to TFLite: float32, float16 weights and int8 with learned scales, dense or sparse."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from torchshrink.converters import foreign, half, qdq, runtimes, sparse, targets, tflite_file
from torchshrink.converters import ranges as range_store
from torchshrink.converters.export.to_onnx import Precision
from torchshrink.converters.float_tflite import fuse, layout, signals
from torchshrink.converters.float_tflite.constants import put_back, take_out
from torchshrink.converters.float_tflite.names import number, restore
from torchshrink.converters.int8_tflite import quantize
from torchshrink.converters.int8_tflite.ends import make_float
from torchshrink.converters.int8_tflite.matching import Match
from torchshrink.converters.onnx_file import load, save
from torchshrink.converters.ranges import Ranges
from torchshrink.converters.targets import Target
from torchshrink.errors import ConversionError, UnsupportedOpError
from torchshrink.files import atomic

Ends = Literal["int8", "float"]

_WORKER = Path(__file__).parent / "float_tflite" / "_tensorflow_worker.py"


@dataclass(frozen=True)
class FloatFiles:
    """What one run of onnx2tf leaves: a TFLite file, and the folder of the SavedModel."""

    fp32: Path
    folder: Path


@dataclass(frozen=True)
class Written:
    """What was found while writing a file: how int8 tensors were matched, and how many tensors became sparse."""

    match: Match | None
    sparse_tensors: int


def to_tflite(
    onnx_path: Path | str,
    path: Path | str,
    precision: Precision = "fp32",
    ranges: Ranges | Path | None = None,
    is_sparse: bool = False,
    metadata: dict[str, Any] | None = None,
    target: Target = "litert",
    ends: Ends = "int8",
) -> Path:
    """Convert an ONNX file to TFLite and return the new file's path.

    Args:
        onnx_path: A float ONNX file; for ``"int8"`` a QDQ file of this or another tool, or a float file together with
            ``ranges``.
        path: The file to write.
        precision: ``"fp16"`` stores float16 weights, ``"int8"`` makes everything int8 that has a range.
        ranges: What `torchshrink.converters.qdq.split` returned, or a file that `ranges.save` wrote.
        is_sparse: Store pruned weights as sparse tensors.
        metadata: Stored in the file as JSON.
        target: What runs the file: ``"litert"``, ``"integer-only"`` or ``"edgetpu"``; see `targets.check`.
        ends: What an int8 file takes and gives: ``"int8"`` codes, or ``"float"``.

    Raises:
        UnsupportedOpError: When an operation has no counterpart in TFLite or on the target.
        ConversionError: When onnx2tf or ai-edge-quantizer fails, or the file is quantized in a form that TFLite does
            not have.
    """
    onnx_path, path = Path(onnx_path), Path(path)
    model = load(onnx_path)
    if precision == "int8" and ranges is None and not qdq.is_quantized(model):
        raise ConversionError(f"{onnx_path} has no ranges: quantize the model first (torchshrink qat or ptq)")
    model = foreign.normalise(model, onnx_path.name)
    with tempfile.TemporaryDirectory() as folder:
        if qdq.is_quantized(model):
            model, found = qdq.split(model)
            ranges = ranges or found
        onnx_path = Path(folder, onnx_path.name)
        save(model, onnx_path)
        with float_files([onnx_path]) as (files,):
            write(files, onnx_path, path, precision, ranges, is_sparse, metadata, target=target, ends=ends)
    return path


def write(
    files: FloatFiles,
    float_onnx: Path,
    path: Path,
    precision: str,
    ranges: Ranges | Path | None = None,
    is_sparse: bool = False,
    metadata: dict[str, Any] | None = None,
    samples: Sequence[runtimes.Sample] = (),
    target: Target = "litert",
    ends: Ends = "int8",
) -> Written:
    """Write one TFLite file from what onnx2tf made of ``float_onnx``, and return what there is to know about it.

    Args as `to_tflite`, and ``samples`` as `tflite_int8.quantize`.
    """
    match, sparse_tensors, source = None, 0, files.fp32
    with atomic(path) as temporary:
        if precision == "int8":
            if ranges is None:
                raise ConversionError(f"{float_onnx} has no ranges: quantize the model first (torchshrink qat or ptq)")
            known = range_store.load(ranges) if isinstance(ranges, Path) else ranges
            match = quantize.quantize(source, float_onnx, known, temporary, samples)
            source = temporary
        elif precision == "fp16":
            half.round_tflite(source, temporary)
            source = temporary
        if is_sparse:
            sparse_tensors = sparse.encode(source, temporary)
            source = temporary
        model = tflite_file.read(source)
        if metadata is not None:
            tflite_file.set_metadata(model, metadata)
        if ends == "float":
            make_float(model)
        targets.check(model, target, path.name)
        tflite_file.write(model, temporary)
    return Written(match, sparse_tensors)


@contextmanager
def float_files(onnx_paths: Sequence[Path], keras: bool = False) -> Iterator[list[FloatFiles]]:
    """Convert float ONNX files with onnx2tf, all in one start of TensorFlow, and yield what it wrote for each.

    The files live as long as the block. Inputs are copied first: onnx2tf was seen rewriting its own.

    Args:
        onnx_paths: Float ONNX files.
        keras: Also write ``model_float32.h5`` into each folder.

    Raises:
        ConversionError: When onnx2tf fails; the text names its log, kept in the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as root:
        jobs, taken, names = [], [], []
        for index, path in enumerate(onnx_paths):
            folder = Path(root, str(index))
            folder.mkdir()
            copy = folder / "model.onnx"
            copy.write_bytes(path.read_bytes())
            signals.lift_file(copy)
            names.append(number(copy))  # while constants among the inputs still show by their values
            taken.append(take_out(copy))
            fuse.gelu(copy)
            jobs.append({"onnx": str(copy), "folder": str(folder / "out"), "keras": keras})
        _run(jobs, Path(root), onnx_paths)
        folders = [Path(str(job["folder"])) for job in jobs]
        files = [FloatFiles(folder / "model_float32.tflite", folder) for folder in folders]
        for path, item, values, named in zip(onnx_paths, files, taken, names, strict=True):
            put_back(item.fp32, values)
            restore(item.fp32, named)
            _check_operators(item.fp32)
            layout.settle(item.fp32, load(path), path.name)
        yield files


def _check_operators(path: Path) -> None:
    """Refuse a file with operators that only TensorFlow itself has."""
    foreign = sorted({tflite_file.custom_name(code) for code in tflite_file.read(path).operatorCodes} - {""})
    if foreign:
        named = ", ".join(name.removeprefix("Flex") for name in foreign)
        raise UnsupportedOpError(f"LiteRT has no operator {named}: replace the operation that needs it in the model")


def _run(jobs: list[dict[str, Any]], root: Path, onnx_paths: Sequence[Path]) -> None:
    # Where onnx2tf looks for images to try a model of 3 channels with, before it downloads some.
    images = np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
    np.save(root / "calibration_image_sample_data_20x128x128x3_float32.npy", images)
    order = root / "jobs.json"
    order.write_text(json.dumps(jobs))
    result = subprocess.run(
        [sys.executable, "-P", str(_WORKER), str(order)],
        capture_output=True,
        text=True,
        errors="replace",
        cwd=root,
        check=False,
    )
    written = [Path(str(job["folder"]), "model_float32.tflite") for job in jobs]
    if result.returncode == 0 and all(path.is_file() for path in written):
        return
    failed = next((i for i, path in enumerate(written) if not path.is_file()), 0)
    handle, log = tempfile.mkstemp(prefix=f"{onnx_paths[failed].stem}-", suffix=".onnx2tf.log")
    with open(handle, "w") as file:
        file.write(result.stdout + result.stderr)
    lines = [line for line in (result.stdout + result.stderr).splitlines() if "error" in line.lower()]
    reason = lines[-1].strip()[:200] if lines else f"exit status {result.returncode}"
    raise ConversionError(f"onnx2tf could not convert {onnx_paths[failed].name} ({reason}); its log is {log}")

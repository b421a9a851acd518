"""ONNX to TFLite: float32, float16 weights and int8 with learned scales, dense or sparse."""

from __future__ import annotations

import copy
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx

from torchshrink.converters import (
    foreign,
    half,
    int4,
    prepared,
    qdq,
    runtimes,
    second_road,
    sparse,
    speed,
    targets,
    tflite_file,
)
from torchshrink.converters import ranges as range_store
from torchshrink.converters.export.to_onnx import Precision
from torchshrink.converters.float_tflite import layout
from torchshrink.converters.float_tflite.passes import PASSES, Pass
from torchshrink.converters.int8_tflite import quantize
from torchshrink.converters.int8_tflite.ends import make_float
from torchshrink.converters.int8_tflite.matching import Match
from torchshrink.converters.onnx_file import load, save
from torchshrink.converters.ranges import Ranges
from torchshrink.converters.targets import Target
from torchshrink.converters.trim import trim
from torchshrink.errors import ConversionError, RecipeError, ShrinkError, UnsupportedOpError
from torchshrink.files import atomic
from torchshrink.settings import check, check_switch

_logger = logging.getLogger(__name__)

Ends = Literal["int8", "float"]

_NO_RANGES = (
    "has no ranges: quantize the model first (torchshrink qat or ptq), or give data to calibrate the file on "
    "(torchshrink convert --data)"
)

_NEXT = "\f"  # what the worker prints before each file
_WORKER = Path(__file__).parent / "float_tflite" / "_tensorflow_worker.py"


@dataclass(frozen=True)
class FloatFiles:
    """What a conversion leaves: a float TFLite file, the folder that it is in, and which tool made it."""

    fp32: Path
    folder: Path
    road: str = "onnx2tf"


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

    Warns when an int8 file needs more time on this processor than the float one.

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
        RecipeError: When an argument is none of its choices, or two contradict each other.
        UnsupportedOpError: When an operation has no counterpart in TFLite or on the target.
        ConversionError: When onnx2tf or ai-edge-quantizer fails, or the file is quantized in a form that TFLite does
            not have.
    """
    for name, value, choices in (("precision", precision, Precision), ("target", target, Target), ("ends", ends, Ends)):
        check(name, value, choices)
    check_switch("is_sparse", is_sparse)
    if ends == "float" and target != "litert":
        raise RecipeError(f"ends='float': {target} has no floats")
    onnx_path, path = Path(onnx_path), Path(path)
    model = load(onnx_path)
    if precision == "int8" and ranges is None and not qdq.is_quantized(model):
        raise ConversionError(f"{onnx_path} {_NO_RANGES}")
    model = foreign.normalise(model, onnx_path.name)
    with tempfile.TemporaryDirectory() as folder:
        if qdq.is_quantized(model):
            model, found = qdq.split(model)
            ranges = ranges or found
        onnx_path = Path(folder, onnx_path.name)
        save(model, onnx_path)
        with float_files([onnx_path]) as (files,):
            _logger.info("write %s", path.name)
            write(files, onnx_path, path, precision, ranges, is_sparse, metadata, target=target, ends=ends)
            if files.road != FloatFiles.road:
                warnings.warn(f"{path.name}: onnx2tf does not convert {onnx_path.name}; {files.road} did", stacklevel=2)
            if (
                precision == "int8"
                and target == "litert"
                and (said := speed.said_of_slower(path, files.fp32, path.name))
            ):
                warnings.warn(said, stacklevel=2)
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

    Args as `to_tflite`, and ``samples`` as `int8_tflite.quantize`.
    """
    match, sparse_tensors, source = None, 0, files.fp32
    with atomic(path) as temporary:
        if precision == "int8":
            if ranges is None:
                raise ConversionError(f"{float_onnx} {_NO_RANGES}")
            known = range_store.load(ranges) if isinstance(ranges, Path) else ranges
            match = quantize.quantize(source, float_onnx, known, temporary, samples, target)
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
        if target == "litert":
            int4.pack(model)
        trim(model)
        tflite_file.write(model, temporary)
    return Written(match, sparse_tensors)


@contextmanager
def float_files(onnx_paths: Sequence[Path], keras: bool = False) -> Iterator[list[FloatFiles]]:
    """Convert float ONNX files with onnx2tf, all in one start of TensorFlow, and yield what it wrote for each.

    The files live as long as the block.

    Args:
        onnx_paths: Float ONNX files.
        keras: Also write a SavedModel and ``model_float32.h5`` into each folder.

    Raises:
        ConversionError: When onnx2tf fails, and litert-torch too where it is installed; the text names the first one's
            log, kept in the folder for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as root:
        _logger.info("make a float TFLite file with TensorFlow, in a process of its own")
        sources = [load(path) for path in onnx_paths]
        folders = [Path(root, str(index)) for index in range(len(sources))]
        passes = [_prepare(source, folder) for source, folder in zip(sources, folders, strict=True)]
        failures = _run(Path(root), folders, keras, onnx_paths)
        yield [
            _finish(folder / "out", steps, source, path.name, failure)
            for path, source, folder, steps, failure in zip(onnx_paths, sources, folders, passes, failures, strict=True)
        ]


def _prepare(source: onnx.ModelProto, folder: Path) -> list[Pass]:
    """Write the graph that onnx2tf is given into a new folder and return the passes that it went through."""
    model, steps = copy.deepcopy(source), [make() for make in PASSES]
    for step in steps:
        model = step.before(model)
    _check_branches(model)
    folder.mkdir()
    onnx.save(model, str(folder / "model.onnx"))
    return steps


def _check_branches(model: onnx.ModelProto) -> None:
    """Refuse operations that hold graphs of their own, which are computed or not, or again and again."""
    node = next((each for each in model.graph.node if each.op_type in ("If", "Loop", "Scan")), None)
    if node is not None:
        raise UnsupportedOpError(
            f"{node.op_type} {node.output[0]!r} holds graphs of its own, which cannot be converted to TFLite: export "
            "the model with one branch taken, or the loop written out"
        )


def _finish(
    folder: Path, steps: Sequence[Pass], source: onnx.ModelProto, name: str, failure: ConversionError | None
) -> FloatFiles:
    """Undo what the passes did and hold the file against its graph; take the second road where it is wrong."""
    path = folder / "model_float32.tflite"
    try:
        if failure is not None:
            raise failure
        model = tflite_file.read(path)
        for step in reversed(steps):
            step.after(model)
        return _settled(model, source, name, FloatFiles(path, folder))
    except (ConversionError, UnsupportedOpError) as refusal:
        second = folder.with_name("second") / path.name
        try:
            model = second_road.convert(source, name, second)
            return _settled(model, source, name, FloatFiles(second, folder, second_road.NAME))
        except ShrinkError as error:
            raise type(refusal)(f"{refusal}; {error}") from refusal


def _settled(model: Any, source: onnx.ModelProto, name: str, files: FloatFiles) -> FloatFiles:
    _check_operators(model)
    layout.settle(model, source, name, files.road)
    tflite_file.write(model, files.fp32)
    return files


def _check_operators(model: Any) -> None:
    """Refuse a file with operators that only TensorFlow itself has."""
    foreign = sorted({tflite_file.custom_name(code) for code in model.operatorCodes} - {""})
    if foreign:
        named = ", ".join(name.removeprefix("Flex") for name in foreign)
        raise UnsupportedOpError(f"LiteRT has no operator {named}: replace the operation that needs it in the model")


def _run(root: Path, folders: Sequence[Path], keras: bool, onnx_paths: Sequence[Path]) -> list[ConversionError | None]:
    """Let onnx2tf write the folder ``out`` beside each ``model.onnx``, and return what it could not, by the paths."""
    outputs = [folder / "out" for folder in folders]
    # Where onnx2tf looks for images to try a model of 3 channels with, before it downloads some.
    images = np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
    np.save(root / "calibration_image_sample_data_20x128x128x3_float32.npy", images)
    order = root / "jobs.json"
    order.write_text(
        json.dumps([{"onnx": str(out.parent / "model.onnx"), "folder": str(out), "keras": keras} for out in outputs])
    )
    status, said = prepared.run(_WORKER, order, root)
    parts = said.split(_NEXT)[1:]  # what it said of each
    failures: list[ConversionError | None] = []
    for index, (out, path) in enumerate(zip(outputs, onnx_paths, strict=True)):
        is_whole = status == 0 or out.with_name("done").is_file()
        if is_whole and (out / "model_float32.tflite").is_file():
            failures.append(None)
        else:
            failures.append(_failure(path, parts[index] if parts[index:] else said, status))
    return failures


def _failure(path: Path, said: str, status: int) -> ConversionError:
    handle, log = tempfile.mkstemp(prefix=f"{path.stem}-", suffix=".onnx2tf.log")
    with open(handle, "w") as file:
        file.write(said)
    return ConversionError(f"onnx2tf could not convert {path.name} ({_reason(said, status)}); its log is {log}")


def _reason(said: str, status: int) -> str:
    """Return the exception that ended onnx2tf, or what it said itself before its advice, and at which node."""
    said = re.sub("\x1b\\[[0-9;]*m", "", said)
    raised, own = re.findall(r"^\w+Error: .*", said, re.M), re.findall(r"^ERROR: (?!The trace log)(.*)", said, re.M)
    lines = raised[-1:] or own[:1] or [line for line in said.splitlines() if "error" in line.lower()][-1:]
    reason = lines[0].strip()[:200] if lines else f"exit status {status}"
    node = re.search(r"onnx_op_name: (\S+)", said)
    return reason if node is None else f"{reason}, at {node[1]}"

"""The same model in every framework's file format, to compare what each takes on disk."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from torchshrink import bench, checkpoint
from torchshrink.converters import contents, runtimes, tflite
from torchshrink.converters.export.to_onnx import to_onnx
from torchshrink.converters.sizes import parts
from torchshrink.converters.sizes.parts import Parts
from torchshrink.files import atomic
from torchshrink.model.signature import first
from torchshrink.quantize import is_quantized
from torchshrink.quiet import quiet


@dataclass(frozen=True)
class Size:
    """What one format takes.

    Attributes:
        path: The file, or the folder of a SavedModel.
        framework: Who reads it.
        precision: How weights are stored.
        bytes: On disk.
        gzip_bytes: After gzip -9.
        zstd_bytes: After zstd -19.
        entropy_bytes: Shannon bound of the weights; None for formats whose weights are not read back.
        parts: What the bytes are spent on; None for formats that do not tell.
    """

    path: Path
    framework: str
    precision: str
    bytes: int
    gzip_bytes: int
    zstd_bytes: int
    entropy_bytes: int | None
    parts: Parts | None


def sizes(model: nn.Module, example_input: Tensor, out: Path) -> list[Size]:
    """Write ``model`` in every format that it has, and return their sizes.

    A float model becomes .pt, .pt2, .safetensors, .onnx (fp32, fp16), .ort, .tflite (fp32, fp16, and sparse ones when
    it is pruned), SavedModel and Keras .h5; a quantized graph becomes .pt2, .safetensors, .onnx, .ort and .tflite in
    int8.

    Raises:
        UnsupportedOpError: When an operation has no ONNX counterpart.
        ConversionError: When a converter fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    is_int8 = is_quantized(model)
    checkpoint.save(model, out / "model.safetensors")
    rows = [_size(out / "model.safetensors", "PyTorch", "int8" if is_int8 else "fp32")]
    if not is_int8:
        with atomic(out / "model.pt") as temporary:
            torch.save(model.state_dict(), temporary)
        rows.insert(0, _size(out / "model.pt", "PyTorch", "fp32"))
    rows.append(_size(_program(model, example_input, out / "model.pt2"), "PyTorch (torch.export)", rows[-1].precision))
    for precision in ("int8",) if is_int8 else ("fp32", "fp16"):
        path = to_onnx(model, example_input, out / f"model-{precision}.onnx", precision)  # type: ignore[arg-type]
        rows.append(_size(path, "ONNX Runtime", precision))
    whole = out / f"model-{'int8' if is_int8 else 'fp32'}.onnx"
    rows.append(_size(_ort(whole, whole.with_suffix(".ort")), "ONNX Runtime", rows[0].precision))
    return rows + (_int8_files(model, example_input, out) if is_int8 else _float_files(out))


def _program(model: nn.Module, example_input: Tensor, path: Path) -> Path:
    """Write what torch.export makes of a model."""
    with quiet(), atomic(path) as temporary:
        named = temporary.with_suffix(".pt2")  # it insists on the ending
        torch.export.save(torch.export.export(model, first(example_input)), named)
        named.replace(temporary)
    return path


def _ort(source: Path, path: Path) -> Path:
    """Write an ONNX file in the form that ONNX Runtime loads without parsing, as optimized for any machine."""
    with atomic(path) as temporary:
        runtimes.onnx_session(source, source.name, level="ENABLE_EXTENDED", optimized=temporary)
    return path


def _int8_files(model: nn.Module, example_input: Tensor, out: Path) -> list[Size]:
    source = to_onnx(model, example_input, out / "model-generic.onnx", "int8", "generic")
    rows = []
    for suffix, is_sparse in (("", False), ("-sparse", True)):
        path = tflite.to_tflite(source, out / f"model-int8{suffix}.tflite", "int8", is_sparse=is_sparse)
        rows.append(_size(path, "TFLite", "int8"))
    source.unlink()
    return rows


def _float_files(out: Path) -> list[Size]:
    source = out / "model-fp32.onnx"
    rows = []
    with tflite.float_files([source], keras=True) as (files,):
        for precision in ("fp32", "fp16"):
            for suffix, is_sparse in (("", False), ("-sparse", True))[: 1 if precision == "fp16" else 2]:
                path = out / f"model-{precision}{suffix}.tflite"
                written = tflite.write(files, source, path, precision, is_sparse=is_sparse)
                if is_sparse and not written.sparse_tensors:
                    path.unlink()
                else:
                    rows.append(_size(path, "TFLite", precision))
        saved_model = out / "saved_model"
        shutil.rmtree(saved_model, ignore_errors=True)
        saved_model.mkdir()
        shutil.copy(files.folder / "saved_model.pb", saved_model)
        shutil.copytree(files.folder / "variables", saved_model / "variables")
        shutil.copy(files.folder / "model_float32.h5", out / "model.h5")
    rows.append(_size(saved_model, "TensorFlow SavedModel", "fp32"))
    rows.append(_size(out / "model.h5", "Keras (as onnx2tf writes it)", "fp32"))
    return rows


def _size(path: Path, framework: str, precision: str) -> Size:
    readable = path.suffix in (".onnx", ".tflite", ".safetensors")
    entropy = bench.entropy_bytes(contents.read_weights(path)) if readable else None
    compressed = bench.gzip_bytes(path), bench.zstd_bytes(path)
    return Size(path, framework, precision, bench.size_bytes(path), *compressed, entropy, parts.read(path))

"""Every file of a model of the zoo, and whether it computes the same: what the tests assert and the table shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from zoo_models import Entry

from torchshrink import quantize
from torchshrink.converters import qdq, tflite, to_onnx
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import scales, verify
from torchshrink.converters.proof.scales import Scale
from torchshrink.converters.proof.verify import Parity
from torchshrink.errors import ShrinkError
from torchshrink.model.signature import tensors

SAMPLES, STEPS = 8, 2
FLOAT, CALIBRATED, TRAINED = "float", "ptq", "qat"
# Format, precision, and the graph that it is made from.
FORMATS = {
    "onnx-fp32": ("onnx", "fp32", FLOAT),
    "onnx-fp16": ("onnx", "fp16", FLOAT),
    "onnx-int8-ptq": ("onnx", "int8", CALIBRATED),
    "onnx-int8-qat": ("onnx", "int8", TRAINED),
    "tflite-fp32": ("tflite", "fp32", FLOAT),
    "tflite-fp16": ("tflite", "fp16", FLOAT),
    "tflite-int8-ptq": ("tflite", "int8", CALIBRATED),
    "tflite-int8-qat": ("tflite", "int8", TRAINED),
}


@dataclass(frozen=True)
class Result:
    """What became of one format of a model: a file and its parity, or the reason why there is none."""

    path: Path | None = None
    parity: Parity | None = None
    refusal: str = ""
    islands: tuple[str, ...] = ()
    scales: tuple[Scale, ...] = ()

    @property
    def is_verified(self) -> bool:
        return self.parity is not None and self.parity.passed


def make(entry: Entry, folder: Path) -> dict[str, Result]:
    """Write every format of a model into ``folder``, TensorFlow started once, and verify each file in its runtime."""
    model = entry.model()
    sources: dict[str, Any] = {FLOAT: model}
    for kind, quantizing in ((CALIBRATED, _calibrated), (TRAINED, _trained)):
        sources[kind] = _attempt(lambda quantizing=quantizing: quantizing(entry, model))
    graphs = {
        kind: source
        if isinstance(source, ShrinkError)
        else _attempt(lambda source=source: export(source, entry.inputs(SAMPLES), entry.batch))
        for kind, source in sources.items()
    }
    results = {}
    for name, (format_, precision, kind) in FORMATS.items():
        if format_ == "onnx" and not isinstance(sources[kind], ShrinkError):
            path = folder / f"{name}.onnx"
            made = _attempt(
                lambda kind=kind, path=path, precision=precision: to_onnx(
                    sources[kind], entry.inputs(SAMPLES), path, precision, batch=entry.batch
                )
            )
            results[name] = _checked(made, sources[kind], graphs[kind], entry, precision)
        elif format_ == "onnx":
            results[name] = Result(refusal=str(sources[kind]))
    return results | _tflite_files(sources, graphs, entry, folder)


def _tflite_files(sources: dict[str, Any], graphs: dict[str, Any], entry: Entry, folder: Path) -> dict[str, Result]:
    results = {}
    floats: dict[str, Path] = {}
    ranges: dict[str, Any] = {FLOAT: None}
    for kind, graph in graphs.items():
        if isinstance(graph, ShrinkError):
            continue
        if kind != FLOAT:
            graph, ranges[kind] = qdq.split(graph)
        floats[kind] = folder / f"{kind}-float.onnx"
        save(graph, floats[kind])
    try:
        with tflite.float_files(list(floats.values())) as converted:
            files = dict(zip(floats, converted, strict=True))
            for name, (format_, precision, kind) in FORMATS.items():
                if format_ != "tflite":
                    continue
                if kind not in files:
                    results[name] = Result(refusal=str(graphs[kind]))
                    continue
                path = folder / f"{name}.tflite"
                made = _attempt(
                    lambda kind=kind, path=path, precision=precision: (
                        tflite.write(files[kind], floats[kind], path, precision, ranges[kind]) and path
                    )
                )
                results[name] = _checked(made, sources[kind], graphs[kind], entry, precision)
    except ShrinkError as error:
        for name, (format_, _, _) in FORMATS.items():
            if format_ == "tflite":
                results.setdefault(name, Result(refusal=str(error)))
    return results


def _calibrated(entry: Entry, model: nn.Module) -> nn.Module:
    prepared = quantize.prepare_ptq(model, entry.inputs(SAMPLES))
    quantize.calibrate(prepared, [entry.inputs(SAMPLES, seed) for seed in range(4)])
    return quantize.convert(prepared)


def _trained(entry: Entry, model: nn.Module) -> nn.Module:
    """Return the graph after a few steps towards what the float model computes."""
    prepared = quantize.prepare_qat(model, entry.inputs(SAMPLES))
    optimizer = torch.optim.SGD(prepared.parameters(), 1e-3)
    for seed in range(STEPS):
        inputs = entry.inputs(SAMPLES, seed)
        with torch.no_grad():
            wanted = tensors(model(*inputs))
        loss = sum(nn.functional.mse_loss(*pair) for pair in zip(tensors(prepared(*inputs)), wanted, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return quantize.convert(prepared)


def _checked(made: Any, source: nn.Module, graph: Any, entry: Entry, precision: str) -> Result:
    if isinstance(made, ShrinkError):
        return Result(refusal=str(made))
    inputs = entry.inputs(SAMPLES, seed=100)
    parity = _attempt(lambda: verify.verify(made, source, inputs, precision, "source"))
    if isinstance(parity, ShrinkError):
        return Result(refusal=str(parity))
    if precision != "int8":
        return Result(made, parity)
    return Result(made, parity, "", find_islands(made), tuple(scales.compare(made, graph, inputs)))


def _attempt(function: Any) -> Any:
    """Return what ``function`` returns, or the error by which it refuses."""
    try:
        return function()
    except ShrinkError as error:
        return error

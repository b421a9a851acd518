"""What is measured: each function does one thing to one model, in a fresh process, and says what it took.

A function gets the folder that the models' files are in and returns ``seconds``, ``cpu_seconds`` (of all its processes)
and, where it writes something, ``bytes``.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from processes import peak_mb

Figures = dict[str, Any]

WIDTHS = {
    "0.5 M": (16, 32, 64, 128),
    "7.8 M": (64, 128, 256, 512),
    "31 M": (64, 128, 256, 512, 1024),
}
SIZE = 128
BATCH = 16
STEPS = 3  # the first is not counted: it plans memory and chooses kernels
SAMPLES = 4  # that a file is verified with
TRIAL_SAMPLES = 20


class Clock:
    """Measures what a block takes, in wall time and in processor time of this process and its children."""

    def __enter__(self) -> Clock:
        self._start, self._cpu = time.perf_counter(), cpu_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds, self.cpu = time.perf_counter() - self._start, cpu_seconds() - self._cpu

    @property
    def figures(self) -> Figures:
        """What was measured."""
        return {"seconds": self.seconds, "cpu_seconds": self.cpu}


def cpu_seconds() -> float:
    """Return the processor time so far of this process and of the children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


def describe(folder: Path, widths: tuple[int, ...]) -> Figures:
    """Make the model, write its checkpoint, and count what its costs may grow with."""
    import torch
    from torch import nn

    import torchshrink as ts
    from torchshrink import checkpoint

    torch.manual_seed(0)
    model, example = ts.UNet(widths=widths).eval(), torch.randn(1, 1, SIZE, SIZE)
    path = folder / "dense.safetensors"
    with Clock() as clock:
        checkpoint.save(model, path)
    outputs: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d | nn.ReLU | nn.MaxPool2d):
            module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output.numel()))
    with torch.no_grad():
        model(example)
    activations = sum(outputs)
    return {
        **clock.figures,
        "bytes": path.stat().st_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "macs": ts.bench.count_macs(model, example),
        "activations": activations,
    }


def train(folder: Path) -> Figures:
    """Train for a few steps, in the precision that training chooses by itself."""
    return _steps(_dense(folder), "auto")


def train_int8(folder: Path) -> Figures:
    """Train for a few steps with int8 faked in float32."""
    from torchshrink import quantize

    prepared = quantize.prepare_qat(_dense(folder), _example())
    return _steps(prepared, "fp32", prepared.apply_masks)


def quantize_(folder: Path) -> Figures:
    """Prepare for int8, show one batch of two so that ranges exist, convert, and write the checkpoint."""
    from torchshrink import checkpoint, quantize

    model, path = _dense(folder), folder / "int8.safetensors"
    with Clock() as prepare:
        prepared = quantize.prepare_qat(model, _example())
    prepared(_random(2))
    with Clock() as convert:
        graph = quantize.convert(prepared)
    checkpoint.save(graph, path)
    return {
        "seconds": prepare.seconds + convert.seconds,
        "cpu_seconds": prepare.cpu + convert.cpu,
        "prepare_cpu_seconds": prepare.cpu,
        "convert_cpu_seconds": convert.cpu,
        "bytes": path.stat().st_size,
    }


def export(folder: Path, precision: str) -> Figures:
    """Export to ONNX; int8 in the form that becomes TFLite."""
    from torchshrink.converters import to_onnx

    model, path = _model(folder, precision), folder / f"{precision}.onnx"
    with Clock() as clock:
        to_onnx(model, _example(), path, precision, target="generic")  # type: ignore[arg-type]
    return {**clock.figures, "bytes": path.stat().st_size}


def to_tflite(folder: Path, precision: str) -> Figures:
    """Convert ONNX to TFLite."""
    from torchshrink.converters import to_tflite

    path = folder / f"{precision}.tflite"
    with Clock() as clock:
        to_tflite(folder / f"{precision}.onnx", path, precision)  # type: ignore[arg-type]
    return {**clock.figures, "bytes": path.stat().st_size}


def verify(folder: Path, precision: str) -> Figures:
    """Compare a TFLite file with the PyTorch model on a few samples."""
    from torchshrink.converters.proof.verify import verify

    model = _model(folder, precision)
    with Clock() as clock:
        parity = verify(folder / f"{precision}.tflite", model, _random(SAMPLES), precision, "PyTorch")
    return {**clock.figures, "passed": parity.passed, "max_abs": parity.max_abs, "lsb_match": parity.lsb_match}


def measure(folder: Path) -> Figures:
    """Measure an int8 TFLite file beside the float one, as a search does: peak RAM and latency, in fresh processes."""
    from torchshrink import bench

    files = [folder / "fp32.tflite", folder / "int8.tflite"]
    with Clock() as clock:
        found = bench.measure_all(files, _random(1).numpy())
    return {**clock.figures, "latency_ms": [found[file].latency.median for file in files]}


def trial(folder: Path, widths: tuple[int, ...]) -> Figures:
    """Do one candidate of a search with everything but its training: calibrate, export, convert, verify, measure."""
    from torchshrink.converters.bridge import Bridge
    from torchshrink.pipeline import recipe
    from torchshrink.search.engines.work import Request, do

    out = folder / "trial"
    shutil.rmtree(out, ignore_errors=True)
    plan = recipe.parse(
        {
            "data": f"synthetic:cells?size={SIZE}&train={TRIAL_SAMPLES}&test=1",
            "model": {"arguments": {"widths": widths}, "checkpoint": str(folder / "dense.safetensors")},
            "variants": {"dense": {"train": {"epochs": 0}}, "tuned": {"from": "dense", "train": {"epochs": 0}}},
            "formats": ["tflite"],
            "precisions": ["int8"],
        }
    )
    request = Request(0, out, recipe.dump(plan), tuple(plan.variants), "tuned", folder / "fp32.tflite")
    with Clock() as clock:
        do(request, Bridge)
    return {**clock.figures, "bytes": sum(path.stat().st_size for path in out.rglob("*") if path.is_file())}


# In the order in which they need each other's files.
STAGES: dict[str, Callable[[Path, tuple[int, ...]], Figures]] = {
    "model": describe,
    "train": lambda folder, _: train(folder),
    "qat": lambda folder, _: train_int8(folder),
    "quantize": lambda folder, _: quantize_(folder),
    "onnx-fp32": lambda folder, _: export(folder, "fp32"),
    "onnx-int8": lambda folder, _: export(folder, "int8"),
    "tflite-fp32": lambda folder, _: to_tflite(folder, "fp32"),
    "tflite-int8": lambda folder, _: to_tflite(folder, "int8"),
    "verify-fp32": lambda folder, _: verify(folder, "fp32"),
    "verify-int8": lambda folder, _: verify(folder, "int8"),
    "measure": lambda folder, _: measure(folder),
    "trial": trial,
}

# The files of other stages that a stage needs.
NEEDS = {
    "tflite-fp32": ("fp32.onnx",),
    "onnx-int8": ("int8.safetensors",),
    "tflite-int8": ("int8.onnx",),
    "verify-fp32": ("fp32.tflite",),
    "verify-int8": ("int8.tflite",),
    "measure": ("fp32.tflite", "int8.tflite"),
    "trial": ("fp32.tflite",),
}


def _steps(model: Any, precision: Any, after: Callable[[], None] = lambda: None) -> Figures:
    """Return the median of a few training steps, with the library's own loop."""
    from torch.utils.data import TensorDataset

    from torchshrink.task import Normalization, Task
    from torchshrink.training import Settings, fit, uses_bf16

    inputs = _random(BATCH * STEPS)
    data = TensorDataset(inputs, (inputs > 0).float())
    few = TensorDataset(*data[:2])
    task = Task("random", data, few, few, Normalization((0.0,), (1.0,)))  # type: ignore[arg-type]
    ends: list[tuple[float, float]] = []

    def after_step(_step: int, _steps: int) -> None:
        after()
        ends.append((time.perf_counter(), cpu_seconds()))

    fit(model, task, Settings(epochs=1, batch_size=BATCH, precision=precision), after_step=after_step)
    wall, cpu = ([later - earlier for earlier, later in pairwise(times)] for times in zip(*ends, strict=True))
    return {
        "seconds": statistics.median(wall),
        "cpu_seconds": statistics.median(cpu),
        "precision": "bfloat16" if uses_bf16(precision, "cpu") else "float32",
    }


def _example() -> Any:
    return _random(1)


def _random(count: int) -> Any:
    import torch

    return torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def _dense(folder: Path) -> Any:
    return _model(folder, "fp32")


def _model(folder: Path, precision: str) -> Any:
    from torchshrink import checkpoint

    return checkpoint.load(folder / ("int8.safetensors" if precision == "int8" else "dense.safetensors"))


def main(stage: str, model: str, folder: Path) -> None:
    """Do one thing and print its figures as the only line."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    figures = STAGES[stage](folder, WIDTHS[model])
    replies.write(json.dumps({**figures, "peak_mb": peak_mb("self")}) + "\n")
    replies.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

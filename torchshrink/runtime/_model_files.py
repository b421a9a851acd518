"""The runtimes that a model file can be opened in, for a process that measures or predicts with one of them.

Imports numpy only; each runtime is imported by who opens a file in it. Arrays are float32 in PyTorch's layout,
``[N, C, *size]``, whatever the file wants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import ModelError
from torchshrink.runtime.onnx_session import open_session, profiled

Array = NDArray[Any]
Shape = tuple[int, ...]

_PROFILE_WARMUP_RUNS = 2

_ONNX_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class FixedSizeError(ValueError):
    """The file takes inputs of one size, and was asked for another; its argument is the shape that it takes."""


class Runtime(Protocol):
    """A model file, opened.

    Attributes:
        name: What runs it.
        batch: How many samples it takes at once; 1 where it takes any number.
    """

    name: str
    batch: int

    def prepare(self, samples: Sequence[Array]) -> Any:
        """Return one ``[batch, C, *size]`` float32 for each input as the file wants it: layout, quantization, type."""

    def run(self, entry: Any) -> Any:
        """Set the inputs, compute and fetch the outputs: what is timed."""

    def finish(self, outputs: Any, raw: bool) -> list[Array]:
        """Return each output as ``[batch, K, *size]``: float32, or with ``raw`` the integer codes as int16."""

    def profile(self, entry: Any, runs: int) -> list[dict[str, Any]] | None:
        """Return where the time of one inference goes, the mean of ``runs``; None where the runtime does not tell."""


class OnnxFile:
    """An .onnx file in onnxruntime."""

    name = "onnxruntime"

    def __init__(self, path: str, threads: int, shape: Shape | None = None) -> None:
        self._path, self._threads = Path(path), threads
        self._session = open_session(self._path, threads=threads)
        entries = self._session.get_inputs()
        for entry in entries:
            if entry.type not in _ONNX_DTYPES:
                raise TypeError(f"its input {entry.name!r} is a {entry.type}, which no array of numbers fits")
        if shape is not None and not fits(entries[0].shape, shape):
            raise FixedSizeError(entries[0].shape)
        self._inputs = {entry.name: _ONNX_DTYPES[entry.type] for entry in entries}
        self._outputs = [output.name for output in self._session.get_outputs()]
        batch = entries[0].shape[0] if entries[0].shape else 1
        self.batch = batch if isinstance(batch, int) else 1

    def prepare(self, samples: Sequence[Array]) -> dict[str, Array]:
        check_count(samples, self._inputs)
        pairs = zip(self._inputs.items(), samples, strict=True)
        return {name: np.ascontiguousarray(sample, dtype) for (name, dtype), sample in pairs}

    def run(self, entry: dict[str, Array]) -> Any:
        return self._session.run(self._outputs, entry)

    def finish(self, outputs: list[Array], raw: bool) -> list[Array]:
        return [codes(output) if raw else output.astype(np.float32, copy=False) for output in outputs]

    def profile(self, entry: dict[str, Array], runs: int) -> list[dict[str, Any]]:
        calls = profiled(self._path, entry, runs, _PROFILE_WARMUP_RUNS, threads=self._threads)
        return operations(((call["args"]["op_name"], call["dur"], 1) for call in calls), runs)


class TFLiteFile:
    """A .tflite file in LiteRT with its default delegates (XNNPACK)."""

    name = "LiteRT"

    def __init__(self, path: str, threads: int, shape: Shape | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(path, num_threads=threads)
        if shape is not None:
            self._resize(shape)
        self._interpreter.allocate_tensors()
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self.batch = int(self._inputs[0]["shape"][0]) if len(self._inputs[0]["shape"]) else 1

    def prepare(self, samples: Sequence[Array]) -> list[tuple[int, Array]]:
        check_count(samples, [detail["name"] for detail in self._inputs])
        entry = []
        for sample, detail in zip(samples, self._inputs, strict=True):
            values = quantize(sample, detail["dtype"], *_affine(detail))
            entry.append((int(detail["index"]), to_tflite_layout(values, tuple(detail["shape"].tolist()))))
        return entry

    def run(self, entry: list[tuple[int, Array]]) -> Any:
        for index, values in entry:
            self._interpreter.set_tensor(index, values)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(detail["index"]) for detail in self._outputs]

    def finish(self, outputs: list[Array], raw: bool) -> list[Array]:
        moved = [to_torch_layout(output) for output in outputs]
        if raw:
            return [codes(output) for output in moved]
        return [dequantize(output, *_affine(detail)) for output, detail in zip(moved, self._outputs, strict=True)]

    def profile(self, entry: list[tuple[int, Array]], runs: int) -> None:  # noqa: ARG002  # its Python interpreter has no profiler
        return None

    def _resize(self, shape: Shape) -> None:
        """Ask for another size before anything is allocated, so that no memory of the file's own size is counted."""
        detail = self._interpreter.get_input_details()[0]
        own = detail["shape"].tolist()
        wanted = tflite_shape(own, shape)
        if wanted == own:
            return
        try:
            self._interpreter.resize_tensor_input(detail["index"], wanted)
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise FixedSizeError(own) from error


class TorchFile:
    """An exported program (.pt2) or a torchshrink checkpoint (.safetensors) in eager PyTorch."""

    def __init__(self, path: str, threads: int, shape: Shape | None = None) -> None:  # noqa: ARG002  # takes any
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self._model: Any
        if path.endswith(".pt2"):
            self._model = torch.export.load(path).module()
        else:
            from torchshrink.checkpoint import load

            self._model = load(Path(path))
        self.batch = 1
        self.name = "PyTorch graph" if isinstance(self._model, torch.fx.GraphModule) else "PyTorch eager"

    def prepare(self, samples: Sequence[Array]) -> Any:
        return [self._torch.from_numpy(np.ascontiguousarray(sample)) for sample in samples]

    def run(self, entry: Any) -> Any:
        with self._torch.inference_mode():
            return self._model(*entry)

    def finish(self, outputs: Any, raw: bool) -> list[Array]:
        from torchshrink.model.signature import tensors

        found = tensors(outputs)
        return [codes(output.numpy()) if raw else np.asarray(output.float().numpy()) for output in found]

    def profile(self, entry: Any, runs: int) -> list[dict[str, Any]]:
        from torch.profiler import ProfilerActivity, profile

        for _ in range(_PROFILE_WARMUP_RUNS):
            self.run(entry)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(runs):
                self.run(entry)
        spent = [(event.key, event.self_cpu_time_total, event.count) for event in profiler.key_averages()]
        return operations(((key, microseconds, count) for key, microseconds, count in spent if "::" in key), runs)


# What each kind of file needs: the modules that its runtime consists of, and who opens it. torch.export.load imports
# its own reader and sympy (75 MB) on first use; the operators of quantized graphs must be registered before.
RUNTIMES: dict[str, tuple[tuple[str, ...], Callable[[str, int, Shape | None], Runtime]]] = {
    ".onnx": (("onnxruntime",), OnnxFile),
    ".tflite": (("ai_edge_litert.interpreter",), TFLiteFile),
    ".pt2": (("torch", "torch.ao.quantization.fx._decomposed", "torch.export.pt2_archive"), TorchFile),
    ".safetensors": (("torch", "torchshrink.checkpoint"), TorchFile),
}


def check_count(samples: Sequence[Array], names: Iterable[str]) -> None:
    """Raise ValueError unless there is one sample for each input."""
    wanted = list(names)
    if len(samples) != len(wanted):
        raise ValueError(f"it takes {len(wanted)} inputs ({', '.join(wanted)}), not {len(samples)}")


def fits(own: Sequence[Any], shape: Sequence[int]) -> bool:
    """Return whether ``shape`` is one that an ONNX input takes: its free dimensions are names or None."""
    return len(own) == len(shape) and all(
        not isinstance(side, int) or side == wanted for side, wanted in zip(own, shape, strict=True)
    )


def tflite_shape(own: Sequence[int], shape: Shape) -> list[int]:
    """Return ``[1, C, *size]`` as channels last with as many dimensions as ``own``: a signal's height of 1 is added.

    Raises:
        FixedSizeError: When the dimensions do not correspond.
    """
    batch, channels, *size = shape
    moved = [batch, *size, channels]
    if len(own) == len(moved) + 1:
        moved.insert(1, 1)
    if len(own) != len(moved) or own[-1] != channels:
        raise FixedSizeError(list(own))
    return moved


def operations(spent: Iterable[tuple[str, float, int]], runs: int) -> list[dict[str, Any]]:
    """Return microseconds and calls of ``runs`` inferences as those of one, the most expensive operation first."""
    times: dict[str, float] = {}
    calls: dict[str, int] = {}
    for operation, microseconds, count in spent:
        times[operation] = times.get(operation, 0.0) + microseconds
        calls[operation] = calls.get(operation, 0) + count
    ordered = sorted(times, key=lambda operation: (-times[operation], operation))
    return [
        {"operation": operation, "ms": times[operation] / runs / 1e3, "calls": calls[operation] / runs}
        for operation in ordered
    ]


def quantize(values: Array, dtype: Any, scale: float, zero_point: int) -> Array:
    """Return ``round(values / scale) + zero_point`` in the range of an integer ``dtype``, half to even.

    A scale of 0 marks a tensor that is not quantized: its values are only converted.
    """
    if scale == 0:
        return values.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    scaled = values / np.float32(scale)
    np.rint(scaled, out=scaled)
    scaled += np.float32(zero_point)
    return np.clip(scaled, limits.min, limits.max, out=scaled).astype(dtype)


def dequantize(values: Array, scale: float, zero_point: int) -> Array:
    """Return ``(values - zero_point) * scale`` as float32; a scale of 0 marks values that are not quantized."""
    if scale == 0:
        return values.astype(np.float32, copy=False)
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def codes(values: Array) -> Array:
    """Return integer outputs as int16, in which int8 and uint8 fit."""
    if not np.can_cast(values.dtype, np.int16):
        raise ValueError(f"raw codes were asked for, but its output is {values.dtype}, not an 8-bit integer")
    return values.astype(np.int16)


def to_tflite_layout(sample: Array, shape: tuple[int, ...]) -> Array:
    """Return ``[1, C, *size]`` as the channels-last array of ``shape``; dimensions of 1 may be added or missing.

    Raises:
        ModelError: When the file takes another size.
    """
    moved = np.moveaxis(sample, 1, -1) if sample.shape != shape or sample.ndim > 2 else sample
    if [n for n in moved.shape if n != 1] != [n for n in shape if n != 1]:
        raise ModelError(f"the TFLite file takes channels-last inputs of {list(shape)}, not {list(moved.shape)}")
    return np.ascontiguousarray(moved.reshape(shape))


def to_torch_layout(output: Array) -> Array:
    """Return channels-last ``[1, *size, K]`` as ``[1, K, *size]``; a map of classes ``[1, H, W]`` has no channels."""
    is_map = output.ndim == 3 and output.dtype in (np.int32, np.int64)
    return np.ascontiguousarray(np.moveaxis(output, -1, 1)) if output.ndim > 2 and not is_map else output


def _affine(detail: dict[str, Any]) -> tuple[float, int]:
    scale, zero_point = detail["quantization"]
    return float(scale), int(zero_point)

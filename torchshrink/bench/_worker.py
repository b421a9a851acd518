"""Load one model file in a fresh process and time it. Run as a script, never inside the process that asks.

It imports numpy and the one runtime that the file needs, so that its peak memory is that of a production process.
It reads one JSON object a line on stdin and answers each with one on stdout:

- ``{"do": "load", "path": FILE, "threads": N, "inputs": NPY or null}``
  -> ``{"runtime_rss_mb", "load_ms"}``: the process's peak before the file is opened, and how long opening takes.
- ``{"do": "once"}`` -> ``{"peak_rss_mb"}``: the peak after one inference of the loaded inputs.
- ``{"do": "time", "runs": N, "warmup": M}`` -> ``{"latencies_ms": [...]}``: N timed runs after M that are not.
- ``{"do": "predict", "inputs": NPY, "output": NPY, "raw": BOOL}`` -> ``{"shape"}``: all samples, one by one.
- ``{"do": "modules"}`` -> ``{"modules"}``: what is imported, for tests.

Whatever goes wrong is answered with ``{"error": SENTENCE}``. Arrays are float32 in PyTorch's layout, ``[N, C, *size]``,
whatever the file wants. Memory is in MB of 1e6 bytes.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_ONNX_DTYPES: dict[str, Any] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class Runtime(Protocol):
    """A model file, opened."""

    def prepare(self, sample: Array) -> Any:
        """Return ``[1, C, *size]`` float32 as the file wants it: layout, quantization, type."""

    def run(self, entry: Any) -> Any:
        """Set the input, compute and fetch the output: what is timed."""

    def finish(self, output: Any, raw: bool) -> Array:
        """Return the output as ``[1, K, *size]``: float32, or with ``raw`` the integer codes as int16."""


class OnnxFile:
    """An .onnx file in onnxruntime."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        if hasattr(onnxruntime, "disable_telemetry_events"):
            onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Many workers wait for their turn: a thread that spins while it waits would slow the one that is timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        entry = self._session.get_inputs()[0]
        if entry.type not in _ONNX_DTYPES:
            raise TypeError(f"its input {entry.name!r} is a {entry.type}, which no array of numbers fits")
        self._input, self._dtype = entry.name, _ONNX_DTYPES[entry.type]
        self._outputs = [self._session.get_outputs()[0].name]

    def prepare(self, sample: Array) -> Array:
        return np.ascontiguousarray(sample, self._dtype)

    def run(self, entry: Array) -> Any:
        return self._session.run(self._outputs, {self._input: entry})[0]

    def finish(self, output: Array, raw: bool) -> Array:
        return codes(output) if raw else output.astype(np.float32, copy=False)


class TFLiteFile:
    """A .tflite file in LiteRT with its default delegates (XNNPACK)."""

    def __init__(self, path: str, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(path, num_threads=threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def prepare(self, sample: Array) -> Array:
        values = quantize(sample, self._input["dtype"], *_affine(self._input))
        return to_tflite_layout(values, tuple(self._input["shape"].tolist()))

    def run(self, entry: Array) -> Any:
        self._interpreter.set_tensor(self._input["index"], entry)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output["index"])

    def finish(self, output: Array, raw: bool) -> Array:
        output = to_torch_layout(output)
        return codes(output) if raw else dequantize(output, *_affine(self._output))


class TorchFile:
    """An exported program (.pt2) or a torchshrink checkpoint (.safetensors) in eager PyTorch."""

    def __init__(self, path: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._torch = torch
        self._model: Any
        if path.endswith(".pt2"):
            self._model = torch.export.load(path).module()
        else:
            from torchshrink.checkpoint import load

            self._model = load(Path(path))

    def prepare(self, sample: Array) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(sample))

    def run(self, entry: Any) -> Any:
        with self._torch.inference_mode():
            output = self._model(entry)
        return output[0] if isinstance(output, (tuple, list)) else output

    def finish(self, output: Any, raw: bool) -> Array:
        return codes(output.numpy()) if raw else np.asarray(output.float().numpy())


# What each kind of file needs: the modules that its runtime consists of, and who opens it. torch.export.load imports
# its own reader and sympy (75 MB) on first use; the operators of quantized graphs must be registered before.
RUNTIMES: dict[str, tuple[tuple[str, ...], Callable[[str, int], Runtime]]] = {
    ".onnx": (("onnxruntime",), OnnxFile),
    ".tflite": (("ai_edge_litert.interpreter",), TFLiteFile),
    ".pt2": (("torch", "torch.ao.quantization.fx._decomposed", "torch.export.pt2_archive"), TorchFile),
    ".safetensors": (("torch", "torchshrink.checkpoint"), TorchFile),
}


class Commands:
    """The answers to the commands above."""

    def __init__(self) -> None:
        self._runtime: Runtime
        self._sample: Array | None = None
        self._entry: Any = None

    def load(self, path: str, threads: int, inputs: str | None = None) -> dict[str, Any]:
        modules, opener = RUNTIMES[Path(path).suffix]
        for module in modules:
            importlib.import_module(module)
        self._sample = np.load(inputs) if inputs else None
        runtime_rss_mb = peak_rss_mb()
        start = time.perf_counter_ns()
        self._runtime = opener(path, threads)
        return {"runtime_rss_mb": runtime_rss_mb, "load_ms": (time.perf_counter_ns() - start) / 1e6}

    def once(self) -> dict[str, Any]:
        self._entry = self._runtime.prepare(self._sample)  # type: ignore[arg-type]
        self._runtime.run(self._entry)
        return {"peak_rss_mb": peak_rss_mb()}

    def time(self, runs: int, warmup: int) -> dict[str, Any]:
        if self._entry is None:
            self._entry = self._runtime.prepare(self._sample)  # type: ignore[arg-type]
        run, entry, clock = self._runtime.run, self._entry, time.perf_counter_ns
        for _ in range(warmup):
            run(entry)
        latencies = []
        for _ in range(runs):
            start = clock()
            run(entry)
            latencies.append((clock() - start) / 1e6)
        return {"latencies_ms": latencies}

    def predict(self, inputs: str, output: str, raw: bool = False) -> dict[str, Any]:
        runtime, samples = self._runtime, np.load(inputs)
        results = [runtime.finish(runtime.run(runtime.prepare(samples[i : i + 1])), raw) for i in range(len(samples))]
        result = np.concatenate(results)
        np.save(output, result)
        return {"shape": list(result.shape)}

    def modules(self) -> dict[str, Any]:
        return {"modules": sorted(sys.modules)}


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
    """Return ``[1, C, *size]`` as the channels-last array of ``shape``; dimensions of 1 may be added or missing."""
    moved = np.moveaxis(sample, 1, -1) if sample.shape != shape or sample.ndim > 2 else sample
    if [n for n in moved.shape if n != 1] != [n for n in shape if n != 1]:
        raise ValueError(f"it takes channels-last inputs of {list(shape)}, not {list(moved.shape)}")
    return np.ascontiguousarray(moved.reshape(shape))


def to_torch_layout(output: Array) -> Array:
    """Return channels-last ``[1, *size, K]`` as ``[1, K, *size]``."""
    return np.ascontiguousarray(np.moveaxis(output, -1, 1)) if output.ndim > 2 else output


def _affine(detail: dict[str, Any]) -> tuple[float, int]:
    scale, zero_point = detail["quantization"]
    return float(scale), int(zero_point)


def peak_rss_mb() -> float:
    """Return the most memory that this process ever held, in MB of 1e6 bytes.

    Linux's VmHWM, not getrusage: Linux carries ru_maxrss over from the process that started this one.
    """
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    if found:
        return int(found[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def main() -> None:
    """Answer commands until stdin ends."""
    # Runtimes print to stdout: keep the pipe to ourselves and send what they say to stderr.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # onnxruntime 1.29 and later uploads an event and writes a device id on import: only this keeps it quiet.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    commands = Commands()
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            reply = getattr(commands, arguments.pop("do"))(**arguments)
        except Exception as error:
            text = " ".join(str(error).split()) or "no explanation"
            reply = {"error": f"{type(error).__name__}: {text}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()

"""Load one model file in a fresh process and time it. Run as a script, never inside the process that asks.

It imports numpy and the one runtime that the file needs, so that its peak memory is that of a production process.
It reads one JSON object a line on stdin and answers each with one on stdout:

- ``{"do": "load", "path": FILE, "threads": N, "inputs": NPY or null, "fit": BOOL}``
  -> ``{"runtime_rss_mb", "load_ms", "runtime"}``: the process's peak before the file is opened, how long opening takes,
  and the runtime's name. With ``fit`` the file is opened for inputs of another size than its own; one that takes no
  other answers ``{"fixed": SHAPE}``.
- ``{"do": "once"}`` -> ``{"peak_rss_mb"}``: the peak after one inference of the loaded inputs.
- ``{"do": "time", "runs": N, "warmup": M}`` -> ``{"latencies_ms": [...], "cpu_ms"}``: N timed runs after M that are
  not, and the processor time of the N together, user and system, all threads added up.
- ``{"do": "profile", "runs": N}`` -> ``{"operations": [{"operation", "ms", "calls"}, ...]}``: where the time of one
  inference goes, by kind of operation; null where the runtime does not tell.
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
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
    """A model file, opened."""

    name: str

    def prepare(self, sample: Array) -> Any:
        """Return ``[1, C, *size]`` float32 as the file wants it: layout, quantization, type."""

    def run(self, entry: Any) -> Any:
        """Set the input, compute and fetch the output: what is timed."""

    def finish(self, output: Any, raw: bool) -> Array:
        """Return the output as ``[1, K, *size]``: float32, or with ``raw`` the integer codes as int16."""

    def profile(self, entry: Any, runs: int) -> list[dict[str, Any]] | None:
        """Return where the time of one inference goes, the mean of ``runs``; None where the runtime does not tell."""


class OnnxFile:
    """An .onnx file in onnxruntime."""

    name = "onnxruntime"

    def __init__(self, path: str, threads: int, shape: Shape | None = None) -> None:
        self._path, self._threads = path, threads
        self._session = self._open()
        entry = self._session.get_inputs()[0]
        if entry.type not in _ONNX_DTYPES:
            raise TypeError(f"its input {entry.name!r} is a {entry.type}, which no array of numbers fits")
        if shape is not None and not fits(entry.shape, shape):
            raise FixedSizeError(entry.shape)
        self._input, self._dtype = entry.name, _ONNX_DTYPES[entry.type]
        self._outputs = [self._session.get_outputs()[0].name]

    def _open(self, profile: str | None = None) -> Any:
        import onnxruntime

        if hasattr(onnxruntime, "disable_telemetry_events"):
            onnxruntime.disable_telemetry_events()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Many workers wait for their turn: a thread that spins while it waits would slow the one that is timed.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])

    def prepare(self, sample: Array) -> Array:
        return np.ascontiguousarray(sample, self._dtype)

    def run(self, entry: Array) -> Any:
        return self._session.run(self._outputs, {self._input: entry})[0]

    def finish(self, output: Array, raw: bool) -> Array:
        return codes(output) if raw else output.astype(np.float32, copy=False)

    def profile(self, entry: Array, runs: int) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
            session = self._open(os.path.join(folder, "profile"))
            for _ in range(_PROFILE_WARMUP_RUNS + runs):
                session.run(self._outputs, {self._input: entry})
            return onnx_operations(json.loads(Path(session.end_profiling()).read_text()), runs)


class TFLiteFile:
    """A .tflite file in LiteRT with its default delegates (XNNPACK)."""

    name = "LiteRT"

    def __init__(self, path: str, threads: int, shape: Shape | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(path, num_threads=threads)
        if shape is not None:
            self._resize(shape)
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

    def profile(self, entry: Array, runs: int) -> None:  # noqa: ARG002  # its Python interpreter has no profiler
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
        self.name = "PyTorch graph" if isinstance(self._model, torch.fx.GraphModule) else "PyTorch eager"

    def prepare(self, sample: Array) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(sample))

    def run(self, entry: Any) -> Any:
        with self._torch.inference_mode():
            output = self._model(entry)
        return output[0] if isinstance(output, (tuple, list)) else output

    def finish(self, output: Any, raw: bool) -> Array:
        return codes(output.numpy()) if raw else np.asarray(output.float().numpy())

    def profile(self, entry: Any, runs: int) -> list[dict[str, Any]]:
        from torch.profiler import ProfilerActivity, profile

        for _ in range(_PROFILE_WARMUP_RUNS):
            self.run(entry)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(runs):
                self.run(entry)
        spent = [(event.key, event.self_cpu_time_total, event.count) for event in profiler.key_averages()]
        return _operations(((key, microseconds, count) for key, microseconds, count in spent if "::" in key), runs)


# What each kind of file needs: the modules that its runtime consists of, and who opens it. torch.export.load imports
# its own reader and sympy (75 MB) on first use; the operators of quantized graphs must be registered before.
RUNTIMES: dict[str, tuple[tuple[str, ...], Callable[[str, int, Shape | None], Runtime]]] = {
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

    def load(self, path: str, threads: int, inputs: str | None = None, fit: bool = False) -> dict[str, Any]:
        modules, opener = RUNTIMES[Path(path).suffix]
        for module in (*modules, *_graph_modules(path)):
            importlib.import_module(module)
        self._sample = np.load(inputs) if inputs else None
        shape = self._sample.shape if fit and self._sample is not None else None
        runtime_rss_mb = peak_rss_mb()
        start = time.perf_counter_ns()
        try:
            self._runtime = opener(path, threads, shape)
        except FixedSizeError as error:
            return {"fixed": error.args[0]}
        load_ms = (time.perf_counter_ns() - start) / 1e6
        return {"runtime_rss_mb": runtime_rss_mb, "load_ms": load_ms, "runtime": self._runtime.name}

    def once(self) -> dict[str, Any]:
        self._entry = self._runtime.prepare(self._sample)  # type: ignore[arg-type]
        self._runtime.run(self._entry)
        return {"peak_rss_mb": peak_rss_mb()}

    def time(self, runs: int, warmup: int) -> dict[str, Any]:
        self._prepare()
        run, entry, clock = self._runtime.run, self._entry, time.perf_counter_ns
        for _ in range(warmup):
            run(entry)
        latencies = []
        spent = time.process_time_ns()
        for _ in range(runs):
            start = clock()
            run(entry)
            latencies.append((clock() - start) / 1e6)
        return {"latencies_ms": latencies, "cpu_ms": (time.process_time_ns() - spent) / 1e6}

    def profile(self, runs: int) -> dict[str, Any]:
        self._prepare()
        return {"operations": self._runtime.profile(self._entry, runs)}

    def predict(self, inputs: str, output: str, raw: bool = False) -> dict[str, Any]:
        runtime, samples = self._runtime, np.load(inputs)
        results = [runtime.finish(runtime.run(runtime.prepare(samples[i : i + 1])), raw) for i in range(len(samples))]
        result = np.concatenate(results)
        np.save(output, result)
        return {"shape": list(result.shape)}

    def modules(self) -> dict[str, Any]:
        return {"modules": sorted(sys.modules)}

    def _prepare(self) -> None:
        if self._entry is None:
            self._entry = self._runtime.prepare(self._sample)  # type: ignore[arg-type]


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


def onnx_operations(events: Sequence[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """Return the mean time of an inference by type of operation, over the last ``runs`` of ONNX Runtime's profile."""
    starts = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    first = starts[-runs] if len(starts) >= runs else 0
    kernels = (
        (event["args"]["op_name"], event["dur"], 1)
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= first
    )
    return _operations(kernels, runs)


def _operations(spent: Iterable[tuple[str, float, int]], runs: int) -> list[dict[str, Any]]:
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


def _graph_modules(path: str) -> tuple[str, ...]:
    """Return what a checkpoint with a quantized graph needs besides, read from its header: half a second to import."""
    if not path.endswith(".safetensors"):
        return ()
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, 100_000_000))
    return ("torch.ao.quantization.fx._decomposed",) if b"quantized_decomposed" in header else ()


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

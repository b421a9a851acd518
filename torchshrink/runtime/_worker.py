"""Load one model file in a fresh process and time it. Run as a script, never inside the process that asks.

It imports numpy and the one runtime that the file needs, so that its peak memory is that of a production process.
It reads one JSON object a line on stdin and answers each with one on stdout:

- ``{"do": "load", "path": FILE, "threads": N, "inputs": ARRAYS or null, "fit": BOOL}``
  -> ``{"runtime_rss_mb", "load_ms", "runtime"}``: the process's peak before the file is opened, how long opening takes,
  and the runtime's name. With ``fit`` the file is opened for inputs of another size than its own; one that takes no
  other answers ``{"fixed": SHAPE}``.
- ``{"do": "once"}`` -> ``{"peak_rss_mb"}``: the peak after one inference of the loaded inputs.
- ``{"do": "time", "runs": N, "warmup": M}`` -> ``{"latencies_ms": [...], "cpu_ms"}``: N timed runs after M that are
  not, and the processor time of the N together, user and system, all threads added up.
- ``{"do": "profile", "runs": N}`` -> ``{"operations": [{"operation", "ms", "calls"}, ...]}``: where the time of one
  inference goes, by kind of operation; null where the runtime does not tell.
- ``{"do": "predict", "inputs": ARRAYS, "output": ARRAYS, "raw": BOOL}`` -> ``{"shapes"}``: all samples, as many at once
  as the file takes.
- ``{"do": "modules"}`` -> ``{"modules"}``: what is imported, for tests.

Whatever goes wrong is answered with ``{"error": SENTENCE}``. Arrays are float32 in PyTorch's layout, ``[N, C, *size]``,
whatever the file wants; ARRAYS is an ``.npy`` of one, or an ``.npz`` of several in the order of the file's inputs.
Memory is in MB of 1e6 bytes.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from torchshrink.runtime._model_files import RUNTIMES, Array, FixedSizeError, Runtime
from torchshrink.runtime.limits import limit_memory


class Commands:
    """The answers to the commands above."""

    def __init__(self) -> None:
        self._runtime: Runtime
        self._samples: list[Array] = []
        self._entry: Any = None

    def load(self, path: str, threads: int, inputs: str | None = None, fit: bool = False) -> dict[str, Any]:
        modules, opener = RUNTIMES[Path(path).suffix]
        for module in (*modules, *_graph_modules(path)):
            importlib.import_module(module)
        self._samples = read_arrays(inputs) if inputs else []
        shape = self._samples[0].shape if fit and self._samples else None
        runtime_rss_mb = peak_rss_mb()
        start = time.perf_counter_ns()
        try:
            self._runtime = opener(path, threads, shape)
        except FixedSizeError as error:
            return {"fixed": error.args[0]}
        load_ms = (time.perf_counter_ns() - start) / 1e6
        return {"runtime_rss_mb": runtime_rss_mb, "load_ms": load_ms, "runtime": self._runtime.name}

    def once(self) -> dict[str, Any]:
        self._entry = self._prepared()
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
        samples = read_arrays(inputs)
        count, step = len(samples[0]), self._runtime.batch
        parts = [
            self._outputs([each[start : start + step] for each in samples], raw) for start in range(0, count, step)
        ]
        results = [np.concatenate(part)[:count] for part in zip(*parts, strict=True)]
        write_arrays(output, results)
        return {"shapes": [list(result.shape) for result in results]}

    def _outputs(self, samples: list[Array], raw: bool) -> list[Array]:
        runtime = self._runtime
        return runtime.finish(runtime.run(runtime.prepare([filled(each, runtime.batch) for each in samples])), raw)

    def modules(self) -> dict[str, Any]:
        return {"modules": sorted(sys.modules)}

    def _prepare(self) -> None:
        if self._entry is None:
            self._entry = self._prepared()

    def _prepared(self) -> Any:
        return self._runtime.prepare([filled(sample, self._runtime.batch) for sample in self._samples])


def read_arrays(path: str) -> list[Array]:
    """Return the array of an ``.npy`` or the arrays of an ``.npz``, in order."""
    content = np.load(path)
    return [content] if path.endswith(".npy") else [content[name] for name in content.files]


def write_arrays(path: str, arrays: Sequence[Array]) -> None:
    """Write what `read_arrays` reads: an ``.npy`` holds one."""
    if path.endswith(".npy"):
        (array,) = arrays
        np.save(path, array)
    else:
        np.savez(path, *arrays)


def filled(samples: Array, count: int) -> Array:
    """Return ``[count, ...]``: the samples, the last one repeated."""
    missing = count - len(samples)
    return np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)]) if missing > 0 else samples


def _graph_modules(path: str) -> tuple[str, ...]:
    """Return what a checkpoint with a quantized graph needs besides, read from its header: half a second to import."""
    if not path.endswith(".safetensors"):
        return ()
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, 100_000_000))
    return ("torch.ao.quantization.fx._decomposed",) if b"quantized_decomposed" in header else ()


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


def open_replies() -> IO[str]:
    """Return stdout for us alone: what runtimes print there goes to stderr. None of them is to be imported yet."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    # onnxruntime 1.29 and later uploads an event and writes a device id on import: only this keeps it quiet.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    return replies


def main() -> None:
    """Answer commands until stdin ends."""
    replies, commands = open_replies(), Commands()
    limit_memory()
    for line in sys.stdin:
        arguments = json.loads(line)
        try:
            reply = getattr(commands, arguments.pop("do"))(**arguments)
        except Exception as error:
            text = " ".join(str(error).split()) or "no explanation"
            reply = {"error": f"{type(error).__name__}: {text}"}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()

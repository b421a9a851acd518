"""Run files of every runtime in fresh processes: what they answer, the memory they take, their latency in turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from contenders import FOLDER

from torchshrink.errors import ModelError
from torchshrink.runtime import _worker

STARTS, ROUNDS, RUNS, WARMUP = 3, 8, 5, 3  # processes per file, turns of each, inferences per turn, untimed ones
LIMIT_S = 300.0
WORKERS = {".onnx": _worker.__file__, ".tflite": _worker.__file__, ".xml": str(FOLDER / "openvino_worker.py")}


@dataclass
class Cost:
    """What a file costs; memory in MB of 1e6 bytes, the largest of a fresh process after one inference."""

    peaks_mb: list[float] = field(default_factory=list)
    rounds_ms: list[float] = field(default_factory=list)
    runtime: str = ""

    @property
    def peak_rss_mb(self) -> float:
        """The median over the starts."""
        return float(np.median(self.peaks_mb))


class Process:
    """A context manager around a process that speaks the protocol of `torchshrink.runtime._worker` for one file."""

    def __init__(self, file: Path, python: Path | str = sys.executable) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._file = file
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed on exit; a pipe would block a chatty runtime
        self._process = subprocess.Popen(
            [str(python), "-P", WORKERS[file.suffix]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def load(self, inputs: Path | None = None) -> dict[str, Any]:
        """Open the file on one thread."""
        return self.ask("load", path=str(self._file.resolve()), threads=1, inputs=str(inputs) if inputs else None)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its answer.

        Raises:
            ModelError: When the process reports an error, dies, or does not answer in time.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(LIMIT_S, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            self._log.seek(0)
            words = [text.strip() for text in self._log.read().splitlines() if text.strip()]
            raise ModelError(f"its process ended with {self._process.wait()}: {' '.join(words[-1:])}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise ModelError(reply["error"])
        return reply


def predict(file: Path, inputs: np.ndarray, python: Path | str = sys.executable) -> np.ndarray:
    """Return what a file computes for ``[N, C, *size]``, float32 ``[N, K, *size]``."""
    with tempfile.TemporaryDirectory() as folder:
        samples, output = Path(folder, "inputs.npy"), Path(folder, "output.npy")
        np.save(samples, inputs)
        with Process(file, python) as process:
            process.load()
            process.ask("predict", inputs=str(samples), output=str(output))
        found: np.ndarray = np.load(output)
        return found


def costs(files: dict[Path, Path | str], sample: np.ndarray) -> dict[Path, Cost]:
    """Measure files, by the python that runs each: memory one by one, latency in turns with all processes alive."""
    found = {file: Cost() for file in files}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "sample.npy")
        np.save(inputs, sample)
        for start in range(1, STARTS + 1):
            print(f"measure {len(files)} files, {start} of {STARTS}", file=sys.stderr, flush=True)
            for file, python in files.items():
                with Process(file, python) as process:
                    found[file].runtime = process.load(inputs)["runtime"]
                    found[file].peaks_mb.append(process.ask("once")["peak_rss_mb"])
            _take_turns(files, inputs, found)
    return found


def _take_turns(files: dict[Path, Path | str], inputs: Path, found: dict[Path, Cost]) -> None:
    with ExitStack() as stack:
        processes = {file: stack.enter_context(Process(file, python)) for file, python in files.items()}
        for process in processes.values():
            process.load(inputs)
            process.ask("time", runs=0, warmup=WARMUP)
        for _ in range(ROUNDS):
            for file, process in processes.items():
                latencies = process.ask("time", runs=RUNS, warmup=1)["latencies_ms"]
                found[file].rounds_ms.append(float(np.median(latencies)))

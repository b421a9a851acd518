"""`torchshrink.runtime._worker` for OpenVINO's files (.xml), run by the python of an environment that holds it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from torchshrink.runtime import _model_files, _worker


class OpenVinoFile:
    """An .xml file in OpenVINO on the processor, in float32 where it is not int8."""

    name = "OpenVINO"
    batch = 1

    def __init__(self, path: str, threads: int, shape: tuple[int, ...] | None = None) -> None:  # noqa: ARG002
        import openvino

        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = openvino.Core().compile_model(path, "CPU", options)
        self._request = compiled.create_infer_request()

    def prepare(self, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the inputs as they are: float32 in PyTorch's layout."""
        return [np.ascontiguousarray(sample, np.float32) for sample in samples]

    def run(self, entry: list[np.ndarray]) -> list[np.ndarray]:
        """Infer and copy the outputs."""
        return [np.array(value) for value in self._request.infer(entry).values()]

    def finish(self, outputs: list[np.ndarray], raw: bool) -> list[np.ndarray]:  # noqa: ARG002
        """Return the outputs as they are: float32."""
        return outputs

    def profile(self, entry: Any, runs: int) -> None:
        """Tell nothing."""


if __name__ == "__main__":
    _model_files.RUNTIMES[".xml"] = (("openvino",), OpenVinoFile)
    _worker.main()

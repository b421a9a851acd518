"""The model in ONNX Runtime, with its memory arena: no setting takes less at any size (docs/deployment.md)."""

from __future__ import annotations

import os
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy as np
import onnxruntime


class Engine:
    """``engine(bytes)`` is the output's bytes."""

    def __init__(self, folder: str, spec: dict[str, Any], threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = os.path.join(folder, spec["file"])
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.name, self.shape = spec["input"]["name"], spec["input"]["shape"]

    def __call__(self, data: bytes) -> bytes:
        """Run the model once."""
        values = np.frombuffer(data, np.float32).reshape(self.shape)
        found: bytes = self.session.run(None, {self.name: values})[0].tobytes()
        return found

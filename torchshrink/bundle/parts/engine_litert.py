"""The model in LiteRT."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Engine:
    """``engine(bytes)`` is the output's bytes; one call at a time."""

    def __init__(self, folder: str, spec: dict[str, Any], threads: int) -> None:
        self.interpreter = Interpreter(os.path.join(folder, spec["file"]), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.input, self.output = self.interpreter.get_input_details()[0], self.interpreter.get_output_details()[0]

    def __call__(self, data: bytes) -> bytes:
        """Run the model once."""
        values = np.frombuffer(data, self.input["dtype"]).reshape(self.input["shape"])
        self.interpreter.set_tensor(self.input["index"], values)
        self.interpreter.invoke()
        found: bytes = self.interpreter.get_tensor(self.output["index"]).tobytes()
        return found

"""ONNX Runtime, opened the same way by all: to measure, to predict, to verify, to look inside.

Like `_model_files` this imports numpy only; the runtime is imported when a file is opened.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from torchshrink.runtime import external_data


def open_session(
    model: Path | bytes,
    *,
    threads: int = 1,
    level: str = "ENABLE_ALL",
    optimized: Path | None = None,
    profile: Path | None = None,
) -> Any:
    """Open an ONNX file, or its content, on the CPU.

    Args:
        model: The file or its content.
        threads: How many threads an operation may use.
        level: How far ONNX Runtime may change the graph: the end of a name of its ``GraphOptimizationLevel``.
        optimized: Where to write the graph as it will run; a name that ends in ``.ort`` asks for that format.
        profile: What the name of a profile begins with.

    Raises:
        ModelError: When a file keeps weights elsewhere, see `external_data.check`.
        Exception: What ONNX Runtime raises; its classes have no other common base.
    """
    if isinstance(model, Path):
        external_data.check(model)
    import onnxruntime

    if hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it logs as an error it raises too
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Many workers wait for their turn: a thread that spins while it waits would slow the one that is timed.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def profiled(
    model: Path | bytes, entry: Mapping[str, NDArray[Any]], runs: int, warmup: int, **settings: Any
) -> list[dict[str, Any]]:
    """Return what ONNX Runtime's profiler notes of the last ``runs`` inferences; see `kernels`.

    ``settings`` and errors as `open_session`.
    """
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
        session = open_session(model, profile=Path(folder, "profile"), **settings)
        for _ in range(warmup + runs):
            session.run(None, entry)
        return kernels(json.loads(Path(session.end_profiling()).read_text()), runs)


def kernels(events: Sequence[dict[str, Any]], runs: int) -> list[dict[str, Any]]:
    """Return the calls of kernels in the last ``runs`` inferences of a profile, in order.

    Returns:
        ``{"node", "dur", "args"}`` each: the node's name, the time in microseconds, and what else is noted, such as
        ``op_name`` and ``output_type_shape``.
    """
    suffix = "_kernel_time"
    starts = sorted(event["ts"] for event in events if event.get("name") == "model_run")
    first = starts[-runs] if len(starts) >= runs else 0
    return [
        {"node": event["name"].removesuffix(suffix), "dur": event["dur"], "args": event["args"]}
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(suffix) and event["ts"] >= first
    ]

"""A whole session, on made-up measurements where figures are checked and on real files where runtimes are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchshrink.bench import session
from torchshrink.bench.measurement import Latency, Measurement


def measured(rounds_ms: tuple[float, ...], cpu_ms: float, threads: int = 1) -> Measurement:
    latency = Latency(float(np.median(rounds_ms)), max(rounds_ms), threads, len(rounds_ms), min(rounds_ms))
    return Measurement(latency, 60.0, 45.0, 15.0, 4.0, 300.0, cpu_ms, rounds_ms, "LiteRT")


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, Measurement]:
    """What is measured, by the file's stem; a file that is not in it takes 10 ms."""
    results: dict[str, Measurement] = {}

    def measure_all(paths: Iterable[Path], inputs: Any, *, threads: int, **_: Any) -> dict[Path, Measurement]:
        return {path: results.get(path.stem, measured((10.0, 10.0), 10.0, threads)) for path in paths}

    monkeypatch.setattr(session, "measure_all", measure_all)
    return results


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"12345")
    return paths


def test_rows_by_hand(made_up: dict[str, Measurement], tmp_path: Path) -> None:
    slow, fast = files(tmp_path, "slow.tflite", "fast.tflite")
    made_up["fast"] = measured((5.0, 2.0, 4.0), 4.0)
    made_up["slow"] = measured((10.0, 10.0, 10.0), 10.0)
    found = session.run([slow, fast], np.zeros((1, 1, 4)), reference=slow)
    assert [row["ratio"]["median"] for row in found["rows"]] == [1.0, 2.5]
    assert (found["schema"], found["reference"], found["warnings"]) == (1, "slow.tflite", [])
    assert found["environment"]["python"]
    assert found["rows"][1] == {
        "name": "fast.tflite",
        "path": str(fast),
        "runtime": "LiteRT",
        "threads": 1,
        "bytes": 5,
        "latency_ms": {"median": 4.0, "p90": 5.0, "threads": 1, "runs": 3, "p10": 2.0},
        "ratio": {"median": 2.5, "low": pytest.approx(2.1), "high": pytest.approx(4.5)},
        "rounds_ms": [5.0, 2.0, 4.0],
        "cpu_ms": 4.0,
        "cold_start_ms": 300.0,
        "load_ms": 4.0,
        "peak_rss_mb": 60.0,
        "runtime_rss_mb": 45.0,
        "model_rss_mb": 15.0,
    }


def test_the_reference_may_be_any_of_the_files(made_up: dict[str, Measurement], tmp_path: Path) -> None:
    slow, fast = files(tmp_path, "slow.tflite", "fast.tflite")
    made_up["fast"] = measured((5.0, 5.0), 5.0)
    found = session.run([slow, fast], np.zeros((1, 1, 4)), reference=fast)
    assert [row["ratio"]["median"] for row in found["rows"]] == [0.5, 1.0]


def test_a_block_for_each_thread_count(made_up: dict[str, Measurement], tmp_path: Path) -> None:
    paths = files(tmp_path, "a.tflite", "b.tflite")
    found = session.run(paths, np.zeros((1, 1, 4)), reference=paths[0], threads=[1, 4])
    order = [("a.tflite", 1), ("b.tflite", 1), ("a.tflite", 4), ("b.tflite", 4)]
    assert [(row["name"], row["threads"]) for row in found["rows"]] == order
    assert [warning.partition(":")[0] for warning in found["warnings"]] == [
        "unsure which is faster on 1 thread",
        "unsure which is faster on 4 threads",
    ]


def test_unsure_ranking_warns(made_up: dict[str, Measurement], tmp_path: Path) -> None:
    paths = files(tmp_path, "a.tflite", "b.tflite")
    made_up["b"] = measured((9.0, 12.0), 10.0)  # 0.9 and 1.2: percentiles 0.93, 1.05, 1.17
    found = session.run(paths, np.zeros((1, 1, 4)), reference=paths[0])
    (warning,) = found["warnings"]
    assert warning.startswith("unsure which is faster on 1 thread: a.tflite is 1.05x (0.93-1.17) as fast as b.tflite")


def test_a_busy_processor_warns(made_up: dict[str, Measurement], tmp_path: Path) -> None:
    paths = files(tmp_path, "a.tflite", "busy.tflite")
    made_up["a"], made_up["busy"] = measured((20.0, 20.0), 15.9), measured((40.0, 40.0), 12.0)
    (warning,) = session.run(paths, np.zeros((1, 1, 4)), reference=paths[0])["warnings"]
    assert "busy.tflite computed for 12.00 of its 40.00 ms" in warning


def test_files_of_the_same_name_are_called_by_their_paths(tmp_path: Path) -> None:
    a, b, c = tmp_path / "old" / "m.onnx", tmp_path / "new" / "m.onnx", tmp_path / "n.onnx"
    assert session.names([a, b, c]) == {a: str(a), b: str(b), c: "n.onnx"}


def test_groups_of_files_warn(made_up: dict[str, Measurement], tmp_path: Path) -> None:
    paths = files(tmp_path, *(f"{number}.tflite" for number in range(25)))
    for number in range(25):
        made_up[str(number)] = measured((1.0 + number,), 1.0 + number)
    (warning,) = session.run(paths, np.zeros((1, 1, 4)), reference=paths[0])["warnings"]
    assert warning.startswith("more than 24 files are measured in groups")


def test_operations_of_every_runtime(
    made_up: dict[str, Measurement], onnx_file: Path, tflite_file: Path, tmp_path: Path, sample: np.ndarray
) -> None:
    from torchshrink import UNet, checkpoint

    onnx, lite = session.run([onnx_file, tflite_file], sample, reference=onnx_file, is_profiled=True)["profiles"]
    ((operation, calls),) = [(item["operation"], item["calls"]) for item in onnx["operations"]]
    assert (onnx["name"], operation, calls, onnx["note"]) == ("scale.onnx", "Mul", 1.0, None)
    assert onnx["operations"][0]["ms"] >= 0
    assert (lite["operations"], lite["note"]) == (
        None,
        "LiteRT has no profiler in Python: no operations of scale.tflite",
    )
    file = tmp_path / "unet.safetensors"
    model = UNet(in_channels=1, out_channels=1, widths=(2, 4), dims=1)
    checkpoint.save(model, file)
    (eager,) = session.run([file], torch.zeros(1, 1, 8).numpy(), reference=file, is_profiled=True)["profiles"]
    calls_of = {item["operation"]: item["calls"] for item in eager["operations"]}
    kinds = (torch.nn.Conv1d, torch.nn.ConvTranspose1d)
    assert calls_of["aten::convolution"] == sum(isinstance(module, kinds) for module in model.modules())


def test_sizes_are_named(made_up: dict[str, Measurement], free_onnx_file: Path, sample: np.ndarray) -> None:
    found = session.run([free_onnx_file], sample, reference=free_onnx_file, threads=[2, 1], sizes=[4])
    (row,) = found["sizes"]
    assert (row["name"], row["size"], row["threads"], row["note"]) == ("free.onnx", 4, 2, None)


def test_a_processor_that_only_computes_is_not_busy(made_up: dict[str, Measurement], tmp_path: Path) -> None:
    paths = files(tmp_path, "a.tflite", "two_threads.tflite")
    made_up["a"], made_up["two_threads"] = measured((10.0, 10.0), 8.5), measured((6.0, 6.0), 11.0, threads=2)
    assert session.run(paths, np.zeros((1, 1, 4)), reference=paths[0])["warnings"] == []

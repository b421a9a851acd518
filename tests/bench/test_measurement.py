"""Measurements of real files in real runtimes; no test asserts a time."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch

from torchshrink.bench import measurement
from torchshrink.bench.footprint import Footprint
from torchshrink.bench.measurement import Measurement, measure, measure_all
from torchshrink.errors import DataError, ModelError, RecipeError
from torchshrink.runtime.predict import predict

FILES = ["onnx_file", "tflite_file", "int8_file", "pt2_file"]


@pytest.fixture
def two(sample: np.ndarray) -> np.ndarray:
    """Two different samples, ``[2, 2, 3, 5]``."""
    return np.concatenate([sample, sample[:, :, ::-1] / 2])


@pytest.mark.parametrize("name", FILES)
def test_predict_computes_what_the_file_says(name: str, two: np.ndarray, request: pytest.FixtureRequest) -> None:
    expected = np.stack([two[:, 0] * 2, two[:, 1] * -3], axis=1)
    if name == "int8_file":
        # Inputs become multiples of 0.5 and fit; products are rounded to integers, half away from zero or to even.
        expected = np.clip(expected, -123, 132)
        tolerance = 0.5
    else:
        tolerance = 0.0
    outputs = predict(request.getfixturevalue(name), two, allow_pickle=True)
    assert outputs.dtype == np.float32
    assert outputs.shape == (2, 2, 3, 5)
    assert np.abs(outputs - expected).max() <= tolerance


def test_int8_codes_by_hand(int8_file: Path) -> None:
    sample = np.zeros((1, 2, 3, 5), np.float32)
    sample[0, 0, 0, 0] = 7  # code 24; y = 14, code 14 - 5
    sample[0, 0, 2, 4] = 1000  # clipped to code 127, which is 58.5; y = 117, code 112
    sample[0, 1, 1, 3] = 0.25  # rounds to even: code 10, which is 0; y = 0, code -5
    sample[0, 1, 2, 0] = 0.75  # code 12, which is 1; y = -3, code -8
    codes = predict(int8_file, sample, raw=True)
    expected = np.full((1, 2, 3, 5), -5)
    expected[0, 0, 0, 0], expected[0, 0, 2, 4], expected[0, 1, 2, 0] = 9, 112, -8
    assert codes.dtype == np.int16
    assert np.array_equal(codes, expected)
    assert np.array_equal(predict(int8_file, sample), expected + 5)


def test_raw_of_a_float_output_fails(tflite_file: Path, sample: np.ndarray) -> None:
    with pytest.raises(ModelError, match=r"scale\.tflite: ValueError: raw codes were asked for, but its output is"):
        predict(tflite_file, sample, raw=True)


def test_wrong_size_is_told_and_not_scrambled(tflite_file: Path) -> None:
    with pytest.raises(ModelError, match=r"LiteRT cannot run .*takes channels-last inputs of \[1, 3, 5, 2\]"):
        predict(tflite_file, np.zeros((1, 2, 5, 3), np.float32))


def test_quantized_program_finds_its_operators(quantized_pt2_file: Path, sample: np.ndarray) -> None:
    expected = np.where(sample < -4, -8.0, np.where(sample > 4, 8.0, 0.0))  # +-4 / 8 = +-0.5 rounds to even: 0
    assert np.array_equal(predict(quantized_pt2_file, sample, allow_pickle=True), expected)


def test_checkpoint_runs_in_eager_torch(tmp_path: Path) -> None:
    from torchshrink import UNet, checkpoint

    torch.manual_seed(0)
    model = UNet(in_channels=1, out_channels=1, widths=(8, 16), dims=1).eval()
    sample = torch.randn(1, 1, 32)
    checkpoint.save(model, tmp_path / "unet.safetensors")
    with torch.no_grad():
        expected = model(sample).numpy()
    assert np.allclose(predict(tmp_path / "unet.safetensors", sample), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_measurement_adds_up(name: str, sample: np.ndarray, request: pytest.FixtureRequest) -> None:
    result = measure(request.getfixturevalue(name), sample, runs=7, allow_pickle=True)
    assert isinstance(result, Measurement)
    assert result.latency.runs == 7
    assert result.latency.threads == 1
    assert 0 < result.latency.median <= result.latency.p90
    assert 0 < result.load_ms < result.cold_start_ms
    assert result.cpu_ms > 0
    assert len(result.rounds_ms) == 5
    assert 0 < result.latency.p10 <= result.latency.median
    runtime = {".onnx": "onnxruntime", ".tflite": "LiteRT", ".pt2": "PyTorch graph"}
    assert result.runtime == runtime[request.getfixturevalue(name).suffix]
    assert 10 < result.runtime_rss_mb <= result.peak_rss_mb
    assert result.model_rss_mb == result.peak_rss_mb - result.runtime_rss_mb
    with pytest.raises(FrozenInstanceError):
        result.load_ms = 0.0  # type: ignore[misc]


def test_memory_of_one_inference_is_seen(hungry_onnx_file: Path) -> None:
    sample = np.full((1, 1), -3, np.float32)
    assert predict(hungry_onnx_file, sample).tolist() == [3.0]
    result = measure(hungry_onnx_file, sample, runs=1)
    assert result.model_rss_mb >= 95
    assert result.runtime_rss_mb < 95


def test_our_own_memory_is_not_the_workers(onnx_file: Path, sample: np.ndarray) -> None:
    ballast = np.ones(50_000_000)  # 400 MB, which ru_maxrss would hand on to the child
    result = measure(onnx_file, sample, runs=1)
    assert result.peak_rss_mb < 300 < ballast.nbytes / 1e6


def test_files_take_turns(
    onnx_file: Path, tflite_file: Path, sample: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []
    steps: list[tuple[int, int, str]] = []

    class Recorder(measurement.Worker):
        def ask(self, do: str, **arguments: object) -> dict[str, object]:
            if do == "time" and arguments["runs"]:
                asked.append((self.path.suffix, int(str(arguments["runs"]))))
            return super().ask(do, **arguments)

    monkeypatch.setattr(measurement, "Worker", Recorder)
    results = measure_all(
        [onnx_file, tflite_file, onnx_file], sample, runs=5, rounds=2, on_progress=lambda *step: steps.append(step)
    )
    assert list(results) == [onnx_file, tflite_file]
    assert asked == [(".onnx", 3), (".tflite", 3), (".onnx", 2), (".tflite", 2)]
    assert [step[:2] for step in steps] == [(done, 6) for done in range(1, 7)]
    assert steps[-1][2] == "scale.tflite: latency 2/2"
    assert {result.latency.runs for result in results.values()} == {5}


def test_runs_are_shared_out() -> None:
    assert measurement._shares(50, 5) == [10] * 5
    assert measurement._shares(7, 3) == [3, 2, 2]
    assert measurement._shares(2, 5) == [1, 1]


def test_many_files_go_in_batches() -> None:
    paths = [Path(str(number)) for number in range(50)]
    batches = measurement._batches(paths)
    assert [len(batch) for batch in batches] == [17, 17, 16]
    assert sorted(path for batch in batches for path in batch) == sorted(paths)
    assert measurement._batches(paths[:24]) == [paths[:24]]
    assert measurement._batches([]) == []


def test_percentiles_by_hand() -> None:
    # Peak, runtime, load and cold start of three processes: each figure is a median of its own, 75 - 50 = 25.
    processes = [(75.0, 51.0, 3.0, 70.0), (74.0, 50.0, 9.0, 90.0), (99.0, 49.0, 2.0, 80.0)]
    footprints = [Footprint(*figures, "LiteRT") for figures in processes]
    rounds = [[0.0, 10.0, 2.0, 8.0], [1.0, 9.0], [3.0, 4.0, 5.0, 6.0, 7.0]]
    result = measurement._measurement(measurement._Found(footprints, rounds, cpu_ms=22.0), threads=2)
    assert result.latency == measurement.Latency(median=5.0, p90=9.0, threads=2, runs=11, p10=1.0)
    assert result.rounds_ms == (5.0, 5.0, 5.0)
    assert result.cpu_ms == 2.0
    assert (result.peak_rss_mb, result.runtime_rss_mb, result.model_rss_mb) == (75.0, 50.0, 25.0)
    assert (result.load_ms, result.cold_start_ms) == (3.0, 80.0)


def test_every_start_has_new_processes_and_its_share_of_the_rounds(
    onnx_file: Path, tflite_file: Path, sample: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, str, int]] = []
    first: list[int] = []

    class Recorder(measurement.Worker):
        def ask(self, do: str, **arguments: object) -> dict[str, object]:
            if do == "time" and arguments["runs"]:
                asked.append((self.pid, self.path.suffix, int(str(arguments["runs"]))))
            if do == "once":
                first.append(self.pid)
            return super().ask(do, **arguments)

    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(measurement, "Worker", Recorder)
    found = measure_all(
        [onnx_file, tflite_file], sample, runs=7, rounds=3, starts=2, on_progress=lambda *step: steps.append(step[:2])
    )
    order = [(".onnx", 3), (".tflite", 3), (".onnx", 2), (".tflite", 2), (".onnx", 2), (".tflite", 2)]
    assert [step[1:] for step in asked] == order
    assert sorted(first) == sorted({pid for pid, _, _ in asked})  # each is looked at before it is timed
    assert len(first) == 4
    assert steps == [(done, 10) for done in range(1, 11)]
    assert [(len(value.rounds_ms), value.latency.runs) for value in found.values()] == [(3, 7), (3, 7)]


def test_more_starts_than_rounds_leave_no_start_empty(onnx_file: Path, sample: np.ndarray) -> None:
    assert measure_all([onnx_file], sample, runs=1, rounds=1, starts=3)[onnx_file].latency.runs == 1


@pytest.mark.parametrize("name", ["threads", "runs", "rounds", "starts"])
def test_counts_must_be_positive(name: str, onnx_file: Path, sample: np.ndarray) -> None:
    with pytest.raises(RecipeError, match=f"{name}=0: measuring needs at least 1"):
        measure_all([onnx_file], sample, **{name: 0})


def test_inputs_must_be_a_batch(onnx_file: Path) -> None:
    with pytest.raises(DataError, match=r"inputs of shape \[3\]: expected a batch"):
        measure(onnx_file, np.zeros(3))


def test_a_damaged_file_stops_the_comparison(onnx_file: Path, tmp_path: Path, sample: np.ndarray) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(ModelError, match=r"onnxruntime cannot load .*bad\.onnx"):
        measure_all([onnx_file, tmp_path / "bad.onnx"], sample, runs=1)

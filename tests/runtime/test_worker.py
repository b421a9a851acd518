"""The conversions of the worker, on numbers worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from torchshrink.errors import ModelError
from torchshrink.runtime import _model_files, _worker, onnx_session


def test_quantize_rounds_half_to_even_and_clips() -> None:
    values = np.array([0.25, 0.75, 1.25, -0.25, -0.75, 1000, -1000, 0], np.float32)  # / 0.5 = 0.5 1.5 2.5 -0.5 -1.5
    codes = _model_files.quantize(values, np.int8, 0.5, 10)
    assert codes.dtype == np.int8
    assert codes.tolist() == [10, 12, 12, 10, 8, 127, -128, 10]


def test_quantize_to_uint8() -> None:
    codes = _model_files.quantize(np.array([-1, 0, 0.5, 2], np.float32), np.uint8, 1 / 256, 0)
    assert codes.tolist() == [0, 0, 128, 255]


def test_quantize_leaves_float_files_alone() -> None:
    values = np.array([0.3, -1e9], np.float32)
    assert _model_files.quantize(values, np.float32, 0.0, 0) is values


def test_dequantize() -> None:
    values = _model_files.dequantize(np.array([-128, 10, 127], np.int8), 0.5, 10)
    assert values.dtype == np.float32
    assert values.tolist() == [-69.0, 0.0, 58.5]


def test_layouts_are_each_others_reverse() -> None:
    sample = np.arange(30).reshape(1, 2, 3, 5)
    moved = _model_files.to_tflite_layout(sample, (1, 3, 5, 2))
    assert moved[0, 2, 4].tolist() == [14, 29]  # the last pixel: both channels
    assert np.array_equal(_model_files.to_torch_layout(moved), sample)


@pytest.mark.parametrize(
    ("sample", "shape"), [((1, 7), (1, 7)), ((1, 2, 9), (1, 9, 2)), ((1, 2, 9), (1, 1, 9, 2)), ((1, 1, 9), (1, 9))]
)
def test_layout_of_vectors_and_signals(sample: tuple[int, ...], shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(sample)).reshape(sample)
    result = _model_files.to_tflite_layout(values, shape)
    assert result.shape == shape
    assert np.array_equal(result.ravel(), (np.moveaxis(values, 1, -1) if len(sample) > 2 else values).ravel())


def test_layout_never_scrambles_a_sample_of_another_size() -> None:
    with pytest.raises(ModelError, match=r"channels-last inputs of \[1, 5, 3, 2\], not \[1, 3, 5, 2\]"):
        _model_files.to_tflite_layout(np.zeros((1, 2, 3, 5)), (1, 5, 3, 2))


def test_codes_hold_both_8_bit_types() -> None:
    assert _model_files.codes(np.array([255], np.uint8)).tolist() == [255]
    assert _model_files.codes(np.array([-128], np.int8)).dtype == np.int16
    with pytest.raises(ValueError, match="its output is float32, not an 8-bit integer"):
        _model_files.codes(np.zeros(1, np.float32))


def test_peak_rss_sees_an_array_that_is_gone() -> None:
    before = _worker.peak_rss_mb()
    np.ones(max(1, int(before * 1e6 / 8)) + 12_500_000)  # what we ever held, and 100 MB more
    assert _worker.peak_rss_mb() >= before + 90


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the fallback is what other systems use anyway")
def test_peak_rss_falls_back_to_getrusage(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = _worker.peak_rss_mb()
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert _worker.peak_rss_mb() >= 0.9 * exact


@pytest.mark.parametrize(
    ("own", "shape", "expected"),
    [
        ([1, 2, "h", "w"], (1, 2, 7, 9), True),
        (["n", 2, None, 5], (1, 2, 7, 5), True),
        ([1, 2, 3, 5], (1, 2, 3, 5), True),
        ([1, 2, 3, 5], (1, 2, 3, 6), False),
        ([1, 2, "h"], (1, 2, 3, 5), False),
    ],
)
def test_free_dimensions_take_any_size(own: list[object], shape: tuple[int, ...], expected: bool) -> None:
    assert _model_files.fits(own, shape) is expected


def test_shape_of_a_tflite_input_at_another_size() -> None:
    assert _model_files.tflite_shape([1, 3, 5, 2], (1, 2, 7, 9)) == [1, 7, 9, 2]
    assert _model_files.tflite_shape([1, 1, 32, 2], (1, 2, 64)) == [1, 1, 64, 2]
    assert _model_files.tflite_shape([1, 7], (1, 7)) == [1, 7]
    for own in ([1, 3, 5, 4], [1, 3, 2]):
        with pytest.raises(_model_files.FixedSizeError) as caught:
            _model_files.tflite_shape(own, (1, 2, 7, 9))
        assert caught.value.args == (own,)


def _kernel(start: int, operation: str, microseconds: int) -> dict[str, object]:
    name = f"node_{operation}_kernel_time"
    return {"cat": "Node", "name": name, "ts": start, "dur": microseconds, "args": {"op_name": operation}}


def test_operations_of_the_last_runs_by_hand() -> None:
    runs = [{"cat": "Session", "name": "model_run", "ts": start, "dur": 90} for start in (100, 200, 300)]
    warm_up = [_kernel(110, "Conv", 5000)]
    timed = [
        _kernel(210, "Conv", 1000),
        _kernel(220, "Add", 10),
        _kernel(230, "Conv", 2000),
        _kernel(310, "Conv", 3000),
    ]
    fence = {"cat": "Node", "name": "node_Conv_fence_before", "ts": 205, "dur": 7, "args": {"op_name": "Conv"}}
    calls = onnx_session.kernels([*runs, *warm_up, fence, *timed], runs=2)
    assert [call["node"] for call in calls] == ["node_Conv", "node_Add", "node_Conv", "node_Conv"]
    found = _model_files.operations([(call["args"]["op_name"], call["dur"], 1) for call in calls], runs=2)
    # Conv: 1 + 2 + 3 ms and three calls in two runs; Add: 0.01 ms and one call.
    assert found == [
        {"operation": "Conv", "ms": 3.0, "calls": 1.5},
        {"operation": "Add", "ms": 0.005, "calls": 0.5},
    ]


def test_only_a_quantized_graph_imports_the_operators(tmp_path: Path) -> None:
    def header(text: bytes) -> str:
        path = tmp_path / f"{len(text)}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + b"quantized_decomposed in the weights")
        return str(path)

    assert _worker._graph_modules(header(b'{"__metadata__": {}}')) == ()
    assert len(_worker._graph_modules(header(b'{"target": "quantized_decomposed.quantize_per_tensor"}'))) == 1
    assert _worker._graph_modules(str(tmp_path / "absent.onnx")) == ()


def test_a_map_of_classes_keeps_its_sides() -> None:
    classes = np.arange(6, dtype=np.int64).reshape(1, 2, 3)
    assert np.array_equal(_model_files.to_torch_layout(classes), classes)

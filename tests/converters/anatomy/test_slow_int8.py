"""What is said of int8 files that save no time; nothing is timed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from program import call

from torchshrink.bench import session
from torchshrink.bench.measurement import Latency, Measurement
from torchshrink.cli import shown
from torchshrink.converters import probe
from torchshrink.converters.anatomy import findings, kernels, onnx_operations, slow_int8


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One convolution of each format and precision, by name."""
    folder = tmp_path_factory.mktemp("convolutions")
    codes = np.random.default_rng(0).integers(-63, 64, (32, 32, 3, 3)).astype(np.int8)
    found = {}
    for write, ending in ((probe._write_onnx, ".onnx"), (probe._write_tflite, ".tflite")):
        for name in ("int8", "float"):
            found[name + ending] = folder / (name + ending)
            write(found[name + ending], codes, name == "int8")
    return found


@pytest.fixture
def without_dots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_int8, "has_dot_products", lambda: False)
    monkeypatch.setattr(slow_int8, "instructions", lambda: ("SSE4.1", "AVX2"))


@pytest.mark.parametrize("ending", [".onnx", ".tflite"])
def test_a_processor_without_int8_dot_products(files: dict[str, Path], without_dots: None, ending: str) -> None:
    (said,) = slow_int8.expected(files[f"int8{ending}"])
    assert said.startswith(
        "This processor has no int8 dot products (AVX2 only), so that int8 may save bytes and no time"
    )
    assert slow_int8.expected(files[f"float{ending}"]) == ()


@pytest.mark.parametrize(("ending", "runtime", "kind"), [
    (".onnx", "ONNX Runtime", "QLinearConv"),
    (".tflite", "LiteRT", "CONV_2D"),
])  # fmt: skip
def test_operators_that_are_slower_in_int8(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, ending: str, runtime: Any, kind: str
) -> None:
    monkeypatch.setattr(slow_int8, "has_dot_products", lambda: True)
    assert slow_int8.expected(files[f"int8{ending}"]) == ()
    monkeypatch.setitem(kernels.SLOWER_IN_INT8, runtime, frozenset({kind}))
    (said,) = slow_int8.expected(files[f"int8{ending}"])
    assert said.startswith(f"{kind} takes longer in int8 than in float in {runtime}: torchshrink bench")
    assert slow_int8.expected(files[f"float{ending}"]) == ()


def test_depthwise_convolutions_of_onnx(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(slow_int8, "has_dot_products", lambda: True)
    model = onnx.load(str(files["int8.onnx"]))
    (convolution,) = (node for node in model.graph.node if node.op_type == "Conv")
    convolution.attribute.append(helper.make_attribute("group", 32))
    (codes,) = (item for item in model.graph.initializer if item.name == "codes")
    codes.CopyFrom(numpy_helper.from_array(np.ones((32, 1, 3, 3), np.int8), "codes"))
    onnx.save(model, str(tmp_path / "depthwise.onnx"))
    (said,) = slow_int8.expected(tmp_path / "depthwise.onnx")
    assert said.startswith("depthwise QLinearConv takes longer in int8 than in float in ONNX Runtime")
    operations = [replace(each, ms=1.0) for each in onnx_operations.read(tmp_path / "depthwise.onnx")]
    assert [each.kind for each in operations if each.is_depthwise] == ["QLinearConv"]
    lines = findings.findings(operations, (), "ONNX Runtime")
    assert any(
        "slower than its float one; keep it float (keep_float), or ship the TFLite file" in each for each in lines
    )


def rows(files: dict[str, Path], **ms: float) -> list[dict[str, Any]]:
    found = []
    for key, median in ms.items():
        path = files[key.replace("_", ".")]
        found.append({"name": path.name, "path": str(path), "latency_ms": {"median": median}})
    return found


def test_an_int8_file_that_was_slower(files: dict[str, Path]) -> None:
    (said,) = slow_int8.timed(rows(files, int8_onnx=3.0, float_onnx=2.0, int8_tflite=1.0, float_tflite=1.5))
    assert said == (
        "int8.onnx is int8 and takes 1.50 times as long as float.onnx, its float form: torchshrink inspect says why; "
        "for speed ship the float file, or remove channels"
    )
    assert slow_int8.timed(rows(files, int8_onnx=3.0, float_tflite=2.0)) == []  # another format


def test_what_has_other_weights_is_no_float_form(files: dict[str, Path], tmp_path: Path) -> None:
    slim = tmp_path / "slim.tflite"
    codes = np.zeros((32, 32, 1, 1), np.int8)
    probe._write_tflite(slim, codes, False)
    found = slow_int8.timed(rows(files | {"slim.tflite": slim}, int8_tflite=3.0, slim_tflite=1.0))
    assert found == []


def test_bench_warns(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def measure_all(paths: Iterable[Path], *_: Any, threads: int, **__: Any) -> dict[Path, Measurement]:
        times = {path: 3.0 if path.stem == "int8" else 2.0 for path in paths}
        return {
            path: Measurement(Latency(ms, ms, threads, 5, ms), 1.0, 1.0, 0.0, 1.0, 1.0, ms, (ms, ms), "LiteRT")
            for path, ms in times.items()
        }

    monkeypatch.setattr(session, "measure_all", measure_all)
    result = call("bench", files["int8.tflite"], files["float.tflite"], "--threads", "1,2", "--json")
    assert result.code == 0, result.stderr
    (said,) = result.json["warnings"]
    assert said.startswith("int8.tflite is int8 and takes 1.50 times as long as float.tflite")


def test_what_export_and_convert_show(
    files: dict[str, Path], without_dots: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = files["int8.tflite"]
    shown.show_file(path, as_json=True, is_int8=True)
    assert json.loads(capsys.readouterr().out) == {
        "path": str(path), "bytes": path.stat().st_size, "speed": list(slow_int8.expected(path)),
    }  # fmt: skip
    shown.show_file(path, as_json=False, is_int8=True)
    assert "speed: This processor has no int8 dot products" in " ".join(capsys.readouterr().out.split())
    shown.show_file(files["float.tflite"], as_json=False)
    assert "speed" not in capsys.readouterr().out

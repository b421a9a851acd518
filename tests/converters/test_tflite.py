"""ONNX to TFLite: the three ways in, and what happens when the converter fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from torchshrink.converters import qdq, ranges, tflite, tflite_file, to_tflite
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import scales, verify
from torchshrink.converters.tflite import FloatFiles
from torchshrink.errors import ConversionError, ModelError, UnsupportedOpError
from torchshrink.files import sha256

LOUD = "import sys; print('loading'); print('ERROR: no axes for you', file=sys.stderr); print('bye'); sys.exit(1)"
SILENT = "import sys; sys.exit(3)"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
FORGETFUL = "print('done, I believe')"
LATE = """
import json, pathlib, sys
for job in json.loads(pathlib.Path(sys.argv[1]).read_text()):
    folder = pathlib.Path(job["folder"])
    folder.mkdir()
    for kind in ("float32", "float16"):
        (folder / f"model_{kind}.tflite").write_bytes(b"half of a file")
sys.exit("Error: written, then crashed")
"""

# --- the ways in ---


def test_from_float_onnx(unet2d: Any, tmp_path: Path) -> None:
    source = unet2d.path("onnx-fp32")
    before = sha256(source)
    path = to_tflite(str(source), str(tmp_path / "model.tflite"), metadata={"by": "hand"})
    assert path == tmp_path / "model.tflite"
    assert verify.verify(path, unet2d.model, unet2d.inputs, "fp32", "model").passed
    assert tflite_file.get_metadata(tflite_file.read(path)) == {"by": "hand"}
    assert sha256(source) == before
    assert list(tmp_path.iterdir()) == [path]


def test_from_qdq_onnx(unet2d: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The terminal stays empty: TensorFlow, onnx2tf and ai-edge-quantizer print pages when asked directly."""
    source = tmp_path / "generic.onnx"
    onnx.save(unet2d.generic, str(source))
    before = sha256(source)
    path = to_tflite(source, tmp_path / "model.tflite", "int8")
    assert capfd.readouterr() == ("", "")
    assert verify.verify(path, unet2d.quantized, unet2d.inputs, "int8", "graph").passed
    assert all(row.is_equal for row in scales.compare(path, unet2d.generic, unet2d.inputs))
    assert sha256(source) == before
    assert {item.name for item in tmp_path.iterdir()} == {"generic.onnx", "model.tflite"}


def test_from_float_onnx_and_a_file_of_ranges(unet2d: Any, tmp_path: Path) -> None:
    """The same bytes as from the QDQ graph, but for the names that TensorFlow gives its tensors."""
    floats, known = qdq.split(unet2d.generic)
    save(floats, tmp_path / "float.onnx")
    ranges.save(known, tmp_path / "ranges.json")
    path = to_tflite(
        tmp_path / "float.onnx", tmp_path / "model.tflite", "int8", ranges=tmp_path / "ranges.json", is_sparse=True
    )
    assert verify.verify(path, unet2d.quantized, unet2d.inputs, "int8", "graph").passed
    assert all(row.is_equal for row in scales.compare(path, unet2d.generic, unet2d.inputs))
    assert any(tensor.sparsity is not None for tensor in tflite_file.read(path).subgraphs[0].tensors)


def test_nothing_of_it_is_loaded_here(unet2d: Any) -> None:
    assert unet2d.artefacts
    assert "tensorflow" not in sys.modules
    code = "import sys, torchshrink.converters.bridge; print('tensorflow' in sys.modules, 'onnx2tf' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


# --- writing from what onnx2tf left ---


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_tensor_that_int8_needs_is_matched(conversion: Any, tmp_path: Path, precision: str) -> None:
    written = tflite.write(
        conversion.files, conversion.onnx, tmp_path / "model.tflite", precision, conversion.ranges, is_sparse=True
    )
    if precision != "int8":
        assert written.match is None
    else:
        assert written.match is not None
        assert (written.match.floating, written.match.calibrated, written.match.share) == ([], [], 1.0)
        assert set(written.match.sources.values()) == set(conversion.ranges)
    assert (written.sparse_tensors > 0) is (precision != "fp16")


def test_int8_needs_ranges(conversion: Any, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"float\.onnx has no ranges: quantize the model first .*qat or ptq"):
        tflite.write(conversion.files, conversion.onnx, tmp_path / "model.tflite", "int8")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["weight", "relu"])
def test_an_operation_with_a_missing_range_stays_float(conversion: Any, tmp_path: Path, kind: str) -> None:
    """Never a guess: the file would load, and be wrong."""
    left_out = [
        name
        for name, item in conversion.ranges.items()
        if (item.axis is not None if kind == "weight" else kind in name)
    ][1]
    known = {name: item for name, item in conversion.ranges.items() if name != left_out}
    tflite.write(conversion.files, conversion.onnx, tmp_path / "model.tflite", "int8", known)
    found = find_islands(tmp_path / "model.tflite")
    assert {item.split()[0] for item in found} >= {"CONV_2D"}
    assert {item.split()[0] for item in found} <= {"CONV_2D", "DEQUANTIZE", "MAX_POOL_2D", "CONCATENATION"}


def test_int8_needs_ranges_before_tensorflow_starts(
    unet2d: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tflite, "_run", lambda *_: pytest.fail("the user waits ten seconds for a usage error"))
    with pytest.raises(ConversionError, match="quantize the model first"):
        to_tflite(unet2d.path("onnx-fp32"), tmp_path / "model.tflite", "int8")


# --- failures ---


@pytest.mark.parametrize("content", [None, b"", b"not a model"], ids=["missing", "empty", "text"])
def test_an_input_that_is_no_onnx_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "damaged.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.onnx cannot be read as ONNX"):
        to_tflite(tmp_path / "damaged.onnx", tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let that script stand in for TensorFlow, with an empty folder for temporary files."""

    def replace(code: str) -> None:
        (tmp_path / "temporary").mkdir()
        (tmp_path / "worker.py").write_text(code)
        monkeypatch.setattr(tflite, "_WORKER", tmp_path / "worker.py")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    return replace


@pytest.mark.parametrize("source", ["float", "generic"])
@pytest.mark.parametrize(
    ("code", "reason", "logged"),
    [
        (LOUD, "(no axes for you)", ["loading", "ERROR: no axes for you", "bye"]),
        (SILENT, "exit status 3", []),
        (KILLED, "exit status -9", []),
        (FORGETFUL, "exit status 0", ["done, I believe"]),
        (LATE, "Error: written, then crashed", ["written, then crashed"]),
    ],
    ids=["an error", "no word", "killed", "nothing written", "crash at the end"],
)
def test_a_failing_converter_is_told_with_its_log(
    unet2d: Any,
    tmp_path: Path,
    worker: Callable[[str], None],
    source: str,
    code: str,
    reason: str,
    logged: list[str],
) -> None:
    worker(code)
    onnx.save(unet2d.generic, str(tmp_path / "generic.onnx"))
    path = unet2d.path("onnx-fp32") if source == "float" else tmp_path / "generic.onnx"
    target = tmp_path / "out" / "model.tflite"
    with pytest.raises(ConversionError, match="onnx2tf could not convert") as caught:
        to_tflite(path, target, "fp32" if source == "float" else "int8")
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    log = Path(message.rpartition("its log is ")[2].partition(";")[0])
    assert log.is_file()
    assert all(line in log.read_text() for line in logged)
    assert not target.exists()
    assert list((tmp_path / "temporary").iterdir()) == [log]


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("ERROR: The trace log is below.\nValueError: Exception in tf.pad\nERROR: onnx_op_name: node_pad\nERROR: Also",
         "ValueError: Exception in tf.pad, at node_pad"),
        ("\x1b[31mERROR:\x1b[0m DFT must be\nERROR: onnx_op_name: dft\nERROR: Also", "DFT must be, at dft"),
        ("an error somewhere", "an error somewhere"),
        ("", "exit status 3"),
    ],
    ids=["an exception", "its own words", "neither", "nothing"],
)  # fmt: skip
def test_the_reason_is_the_cause_and_no_advice(said: str, reason: str) -> None:
    assert tflite._reason(said, 3) == reason


def test_a_failure_leaves_an_earlier_file_alone(unet2d: Any, tmp_path: Path, worker: Callable[[str], None]) -> None:
    worker(LOUD)
    (tmp_path / "model.tflite").write_bytes(b"of yesterday")
    with pytest.raises(ConversionError):
        to_tflite(unet2d.path("onnx-fp32"), tmp_path / "model.tflite")
    assert (tmp_path / "model.tflite").read_bytes() == b"of yesterday"


def test_damaged_files_of_the_converter_are_told(unet2d: Any, tmp_path: Path, worker: Callable[[str], None]) -> None:
    worker(LATE.replace("sys.exit", "print"))
    with pytest.raises((ConversionError, ModelError), match="is not a TFLite file"):
        to_tflite(unet2d.path("onnx-fp32"), tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError])
def test_a_failing_quantizer_is_told(
    conversion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error("no such recipe")

    monkeypatch.setattr("ai_edge_quantizer.quantizer.Quantizer.quantize", refuse)
    with pytest.raises(ConversionError, match=r"ai-edge-quantizer refused model_float32\.tflite: .*no such recipe"):
        tflite.write(conversion.files, conversion.onnx, tmp_path / "model.tflite", "int8", conversion.ranges)
    assert list(tmp_path.iterdir()) == []


def test_quantizing_warns_of_nothing(conversion: Any, tmp_path: Path) -> None:
    """With warnings as errors, as this whole suite runs: the caller's filters must not decide whether it works."""
    tflite.write(conversion.files, conversion.onnx, tmp_path / "model.tflite", "int8", conversion.ranges)
    assert np.fromfile(tmp_path / "model.tflite", np.uint8, 8)[4:].tobytes() == b"TFL3"


def test_several_files_in_one_start(unet2d: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def run(_: Path, folders: list[Path], keras: bool, paths: list[Path]) -> list[None]:
        started.append((len(folders), keras))
        return [None] * len(paths)

    monkeypatch.setattr(tflite, "_run", run)
    monkeypatch.setattr(tflite, "_finish", lambda folder, *_: FloatFiles(folder / "a", folder))  # nothing wrote them
    with tflite.float_files([unet2d.path("onnx-fp32")] * 3, keras=True) as files:
        assert all(isinstance(item, FloatFiles) for item in files)
        folders = {item.folder for item in files}
        copies = [item.folder.parent / "model.onnx" for item in files]
        assert all(copy.read_bytes() == unet2d.path("onnx-fp32").read_bytes() for copy in copies)
    assert len(folders) == 3
    assert started == [(3, True)]
    assert not any(folder.parent.exists() for folder in folders)


def test_what_one_road_refuses_takes_the_second(unet2d: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file its own: TensorFlow says what it refuses between form feeds."""
    source, made = unet2d.path("onnx-fp32"), unet2d.path("tflite-fp32")

    def run(_: Path, order: Path, __: Path) -> tuple[int, str]:
        first, _second = json.loads(order.read_text())
        Path(first["folder"]).mkdir()
        shutil.copy(made, Path(first["folder"], "model_float32.tflite"))
        Path(first["folder"]).with_name("done").touch()
        return 1, "\fgood\fERROR: sizes are equal\n"

    monkeypatch.setattr(tflite.prepared, "run", run)
    monkeypatch.setattr(tflite, "PASSES", ())
    with pytest.raises(ConversionError, match=r"\(sizes are equal\).*doctor --prepare litert-torch"):
        tflite.float_files([source, source]).__enter__()

    def convert(_: Any, name: str, target: Path) -> Any:
        target.parent.mkdir()
        return tflite_file.read(made)

    monkeypatch.setattr(tflite.second_road, "convert", convert)
    with tflite.float_files([source, source]) as files:
        assert [each.road for each in files] == ["onnx2tf", "litert-torch"]
        assert all(each.fp32.is_file() for each in files)


def test_branches_are_refused_before_tensorflow_starts(tmp_path: Path) -> None:
    def branch(name: str, kind: str) -> onnx.GraphProto:
        item = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 4])
        return onnx.helper.make_graph([onnx.helper.make_node(kind, ["x"], [name])], name, [], [item])

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    flag = onnx.helper.make_tensor_value_info("flag", onnx.TensorProto.BOOL, [1])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    node = onnx.helper.make_node("If", ["flag"], ["y"], then_branch=branch("a", "Relu"), else_branch=branch("b", "Neg"))
    graph = onnx.helper.make_graph([node], "g", [value, flag], [output])
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(UnsupportedOpError, match=r"^If 'y' holds graphs of its own, .* with one branch taken"):
        to_tflite(path, tmp_path / "m.tflite")

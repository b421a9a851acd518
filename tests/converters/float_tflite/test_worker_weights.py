"""The process with TensorFlow does not write weights as text, unless a Keras file needs them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest

import torchshrink.converters

WORKER = Path(torchshrink.converters.__file__).parent / "float_tflite" / "_tensorflow_worker.py"


class Functional:
    def get_config(self) -> dict[str, Any]:
        return {"layers": ["every weight"]}


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    for key, value in members.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def test_configurations_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[Any] = []

    def convert(**settings: Any) -> None:
        try:
            found.append(Functional().get_config())
        except NotImplementedError:
            found.append(None)
        if settings["input_onnx_file_path"] == "broken":
            raise RuntimeError("it does not convert")

    stub(monkeypatch, "onnx2tf", convert=convert, __version__="1.29.24")
    stub(monkeypatch, "onnx2tf.onnx2tf", rewrite_tflite_inout_opname=None)
    stub(monkeypatch, "tensorflow", saved_model=SimpleNamespace(save=None))
    resize = type("Resize", (), {"make_node": staticmethod(lambda **_: None)})
    stub(monkeypatch, "onnx2tf.ops", Add=type("Add", (), {}), Resize=resize)
    for name in ("tf_keras", "tf_keras.src", "tf_keras.src.engine"):
        stub(monkeypatch, name)
    stub(monkeypatch, "tf_keras.src.engine.functional", Functional=Functional)
    worker = runpy.run_path(str(WORKER))
    monkeypatch.setattr(onnx, "load", lambda _: onnx.ModelProto())
    worker["convert"]("model.onnx", str(tmp_path / "a"), keras=False)
    worker["convert"]("model.onnx", str(tmp_path / "b"), keras=True)
    with pytest.raises(RuntimeError, match="it does not convert"):
        worker["convert"]("broken", str(tmp_path / "c"), keras=False)
    assert found == [None, {"layers": ["every weight"]}, None]
    assert Functional().get_config() == {"layers": ["every weight"]}

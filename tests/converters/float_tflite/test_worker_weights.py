"""What the process with TensorFlow leaves out: weights as text, unless a Keras file needs them, and what it knows.

Also the functions of every layer, where only that of the model is converted.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import torchshrink.converters

WORKER = Path(torchshrink.converters.__file__).parent / "float_tflite" / "_tensorflow_worker.py"


ENDS = [SimpleNamespace(place=place) for place in range(4)]
CALLS: list[tuple[int, float]] = []  # which layer was given what


def node(place: int) -> Any:
    """A layer that adds one to what the layer before it returns."""
    before, after = (str(id(ENDS[each])) for each in (place, place + 1))

    def layer(value: Any) -> Any:
        CALLS.append((place, float(value)))
        return value + 1

    return SimpleNamespace(is_input=False, flat_input_ids=[before], flat_output_ids=[after], layer=layer,
                           map_arguments=lambda values: ((values[before].pop(),), {}))  # fmt: skip


NODES = [node(place) for place in range(3)]


def save(obj: Any, folder: str, signatures: Any = None, options: Any = None) -> tuple[Any, ...]:
    """What TensorFlow is asked to save."""
    return obj, folder, signatures, options


SAVER = SimpleNamespace(save=lambda *given, **named: asked.append(save(*given, **named)))
asked: list[tuple[Any, ...]] = []


class Functional:
    """What Keras makes of the first layers."""

    def __init__(self, layers: int = 0) -> None:
        self.inputs, self.outputs, self._nested_outputs = [ENDS[0]], [ENDS[layers]], None
        self._nodes_by_depth = {layers - place: [NODES[place]] for place in range(layers)}

    def get_config(self) -> dict[str, Any]:
        return {"layers": ["every weight"]}

    def _flatten_to_reference_inputs(self, inputs: Any) -> list[Any]:
        return [inputs]

    def _conform_to_reference_input(self, value: Any, ref_input: Any) -> Any:
        return np.float64(value)  # a new object each time

    def _run_internal_graph(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return f"all {inputs}"


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    for key, value in members.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


def started(monkeypatch: pytest.MonkeyPatch, convert: Callable[..., None], is_eager: bool = True) -> dict[str, Any]:
    """Return what the worker defines, beside libraries of which only ``convert`` does something."""
    stub(monkeypatch, "onnx2tf", convert=convert, __version__="1.29.24")
    stub(monkeypatch, "onnx2tf.onnx2tf", rewrite_tflite_inout_opname=None)
    nest = SimpleNamespace(flatten=lambda value: [value], pack_sequence_as=lambda _, values: values[0])
    stub(monkeypatch, "tensorflow", saved_model=SimpleNamespace(save=None), nest=nest, reduce_all=np.all,
         executing_eagerly=lambda: is_eager, Module=SimpleNamespace)  # fmt: skip
    for name in ("tensorflow.lite", "tensorflow.lite.python"):
        stub(monkeypatch, name)
    stub(monkeypatch, "tensorflow.lite.python.lite", _save=SAVER)
    sys.modules["tensorflow.lite.python"].lite = sys.modules["tensorflow.lite.python.lite"]  # type: ignore[attr-defined]
    names = ("Resize", "Reshape", "Transpose")
    operators = {name: type(name, (), {"make_node": staticmethod(lambda **_: None)}) for name in names}
    stub(monkeypatch, "onnx2tf.ops", Add=type("Add", (), {}), **operators)
    for name in ("", ".src", ".src.engine", ".src.saving", ".src.saving.legacy"):
        stub(monkeypatch, f"tf_keras{name}")
    stub(monkeypatch, "tf_keras.src.saving.legacy.saving_utils", trace_model_call=lambda model: f"calls {model.name}")
    stub(monkeypatch, "tf_keras.src.engine.functional", Functional=Functional)
    monkeypatch.setattr(onnx, "load", lambda _: onnx.ModelProto())
    return runpy.run_path(str(WORKER))


def test_configurations_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[Any] = []

    def convert(**settings: Any) -> None:
        try:
            found.append(Functional().get_config())
        except NotImplementedError:
            found.append(None)
        if settings["input_onnx_file_path"] == "broken":
            raise RuntimeError("it does not convert")

    worker = started(monkeypatch, convert)
    worker["convert"]("model.onnx", str(tmp_path / "a"), keras=False)
    worker["convert"]("model.onnx", str(tmp_path / "b"), keras=True)
    with pytest.raises(RuntimeError, match="it does not convert"):
        worker["convert"]("broken", str(tmp_path / "c"), keras=False)
    assert found == [None, {"layers": ["every weight"]}, None]
    assert Functional().get_config() == {"layers": ["every weight"]}


def test_no_layer_computes_the_same_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """onnx2tf runs all layers so far for every new one."""
    found: list[Any] = []

    def convert(**_: Any) -> None:
        for layers, value in ((1, 5.0), (2, 5.0), (3, 5.0), (2, 7.0), (2, 7.0)):
            found.append(Functional(layers)._run_internal_graph(value))

    CALLS.clear()
    worker = started(monkeypatch, convert)
    worker["convert"]("model.onnx", str(tmp_path / "a"), keras=False)
    assert found == [6.0, 7.0, 8.0, 9.0, 9.0]
    assert CALLS == [(0, 5.0), (1, 6.0), (2, 7.0), (0, 7.0), (1, 8.0)]
    assert Functional()._run_internal_graph(1.0) == "all 1.0"


def test_what_is_traced_for_a_file_is_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found: list[Any] = []
    worker = started(monkeypatch, lambda **_: found.append(Functional(2)._run_internal_graph("x")), is_eager=False)
    worker["convert"]("model.onnx", str(tmp_path / "a"), keras=False)
    assert found == ["all x"]


def test_only_the_function_of_a_model_is_saved_for_the_converter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the variables that it reads; what comes with signatures of its own is saved as it is."""
    model, other, before = SimpleNamespace(name="net", variables=["a", "b"]), object(), SAVER.save

    def convert(**settings: Any) -> None:
        SAVER.save(model, "folder", options="debugged")  # as TensorFlow's converter does
        SAVER.save(other, "folder", signatures="its own", options="debugged")
        if settings["input_onnx_file_path"] == "broken":
            raise RuntimeError("it does not convert")

    worker = started(monkeypatch, convert)
    asked.clear()
    worker["convert"]("model.onnx", str(tmp_path / "a"), keras=True)
    held = SimpleNamespace(held=["a", "b"])
    assert asked == [(held, "folder", "calls net", "debugged"), (other, "folder", "its own", "debugged")]
    with pytest.raises(RuntimeError, match="it does not convert"):
        worker["convert"]("broken", str(tmp_path / "b"), keras=False)
    assert SAVER.save is before

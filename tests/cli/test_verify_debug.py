"""``torchshrink verify --debug`` leaves the operation that computes something else for others to look at."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from program import Run, call

from torchshrink.converters import tflite_file

pytestmark = pytest.mark.slow
DATA = "synthetic:cells?size=32&train=40&test=8"


def test_the_folder_is_named_and_holds_the_operation(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    source = finished.out / "models" / "dense.safetensors"
    model = tflite_file.read(finished.out / "files" / "dense-fp32.tflite")
    graph = model.subgraphs[0]
    first = next(each for each in graph.operators if tflite_file.op_name(model, each) == "CONV_2D")
    weight = graph.tensors[first.inputs[1]]
    values = -np.array(tflite_file.constant(model, weight))
    model.buffers[weight.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    tflite_file.write(model, tmp_path / "wrong.tflite")
    arguments = ("verify", tmp_path / "wrong.tflite", "--against", source, "--data", DATA)
    plain, debug = call(*arguments), call(*arguments, "--debug")
    assert plain.code == debug.code == 4
    assert "cut out" not in plain.stderr
    assert f"in the file CONV_2D {tflite_file.tensor_name(graph.tensors[first.outputs[0]])}" in plain.stderr
    named = re.search(r"it is cut out in (\S+)", debug.stderr)
    assert named is not None
    assert sorted(item.name for item in Path(named[1]).iterdir()) == ["inputs.npz", "operation.onnx", "outputs.npz"]

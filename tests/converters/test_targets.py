"""What a target runs, checked on the file; and int8 files that take and give floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink import bench
from torchshrink.converters import targets, tflite_file
from torchshrink.converters.int8_tflite.ends import make_float
from torchshrink.converters.proof import verify
from torchshrink.errors import UnsupportedOpError


@pytest.mark.parametrize("target", targets.TARGETS)
def test_a_full_integer_file_fits_everywhere(unet: Any, target: Any) -> None:
    model = tflite_file.read(unet.path("tflite-int8"))
    targets.check(model, target, "model.tflite")
    kinds = {tensor.type for tensor in model.subgraphs[0].tensors}
    assert kinds.isdisjoint({schema.TensorType.FLOAT16, schema.TensorType.FLOAT32})


@pytest.mark.parametrize("name", ["tflite-fp32", "tflite-fp16"])
@pytest.mark.parametrize("target", ["integer-only", "edgetpu"])
def test_floats_are_named(unet2d: Any, name: str, target: Any) -> None:
    with pytest.raises(UnsupportedOpError, match=r"model\.tflite is not integer-only: \w+ has the float(32|16) tensor"):
        targets.check(tflite_file.read(unet2d.path(name)), target, "model.tflite")
    targets.check(tflite_file.read(unet2d.path(name)), "litert", "model.tflite")


def test_one_float_operator_among_many_is_found(unet2d: Any) -> None:
    model = tflite_file.read(unet2d.path("tflite-int8"))
    make_float(model)
    with pytest.raises(UnsupportedOpError, match=r"QUANTIZE has the float32 tensor .*, DEQUANTIZE has"):
        targets.check(model, "integer-only", "model.tflite")


def test_operators_of_the_edge_tpu(unet2d: Any) -> None:
    model = tflite_file.read(unet2d.path("tflite-int8-sparse"))
    targets.check(model, "integer-only", "model.tflite")
    with pytest.raises(UnsupportedOpError, match="the Edge TPU has no DENSIFY; leave out --sparse"):
        targets.check(model, "edgetpu", "model.tflite")
    model = tflite_file.read(unet2d.path("tflite-int8"))
    index = tflite_file.opcode(model, schema.BuiltinOperator.GELU)
    model.subgraphs[0].operators[0].opcodeIndex = index
    with pytest.raises(UnsupportedOpError, match="the Edge TPU has no GELU: replace them in the model"):
        targets.check(model, "edgetpu", "model.tflite")


def test_float_ends_compute_the_same(unet: Any, tmp_path: Path) -> None:
    model = tflite_file.read(unet.path("tflite-int8"))
    names = [tflite_file.tensor_name(model.subgraphs[0].tensors[i]) for i in model.subgraphs[0].inputs]
    make_float(model)
    path = tmp_path / "float.tflite"
    tflite_file.write(model, path)
    graph = tflite_file.read(path).subgraphs[0]
    for ends in (graph.inputs, graph.outputs):
        assert {graph.tensors[index].type for index in ends} == {schema.TensorType.FLOAT32}
    assert [tflite_file.tensor_name(graph.tensors[i]) for i in graph.inputs] == names
    assert np.array_equal(bench.predict(path, unet.inputs.numpy()), unet.outputs("tflite-int8"))
    assert verify.verify(path, unet.quantized, unet.inputs, "int8", "graph").passed


def test_float_ends_of_a_float_file(unet2d: Any) -> None:
    model = tflite_file.read(unet2d.path("tflite-fp32"))
    before = len(model.subgraphs[0].operators)
    make_float(model)
    assert len(model.subgraphs[0].operators) == before

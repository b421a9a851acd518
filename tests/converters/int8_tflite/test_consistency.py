"""A file that its kernels would misread is refused: the U-Net's int8 file, damaged in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite, tflite_file
from torchshrink.converters.int8_tflite import consistency
from torchshrink.errors import ConversionError

Op = schema.BuiltinOperator


def _first(model: Any, kind: str) -> Any:
    return next(each for each in model.subgraphs[0].operators if tflite_file.op_name(model, each) == kind)


def _scale_weight(model: Any) -> None:
    weight = model.subgraphs[0].tensors[_first(model, "CONV_2D").inputs[1]]
    weight.quantization.scale = np.asarray(weight.quantization.scale) * np.float32(1.01)


def _change_code(model: Any) -> None:
    buffer = model.buffers[model.subgraphs[0].tensors[_first(model, "CONV_2D").inputs[1]].buffer]
    codes = np.array(buffer.data)
    codes[0] = 127 if codes[0] < 100 else 0
    buffer.data = codes


def _scale_bias(model: Any) -> None:
    bias = model.subgraphs[0].tensors[_first(model, "CONV_2D").inputs[2]]
    bias.quantization.scale = np.asarray(bias.quantization.scale) * np.float32(1.01)


def _move_grid(model: Any) -> None:
    tensor = model.subgraphs[0].tensors[_first(model, "MAX_POOL_2D").outputs[0]]
    tensor.quantization.zeroPoint = [int(tensor.quantization.zeroPoint[0]) - 1]


def _sigmoid_grid(model: Any) -> None:
    tensor = model.subgraphs[0].tensors[_first(model, "LOGISTIC").outputs[0]]
    tensor.quantization.scale = [1 / 255]


def _float_output(model: Any) -> None:
    model.subgraphs[0].tensors[_first(model, "LOGISTIC").outputs[0]].type = schema.TensorType.FLOAT32


def _rename_weight(model: Any) -> None:
    model.subgraphs[0].tensors[_first(model, "CONV_2D").inputs[1]].name = "another"


def _no_scale(model: Any) -> None:
    model.subgraphs[0].tensors[_first(model, "LOGISTIC").inputs[0]].quantization.scale = []


@pytest.fixture
def model(conversion: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file before its names are shortened, which come from the float file."""
    monkeypatch.setattr(tflite, "trim", lambda _: None)
    tflite.write(conversion.files, conversion.onnx, tmp_path / "model.tflite", "int8", conversion.ranges)
    return tflite_file.read(tmp_path / "model.tflite")


def test_a_sound_file(model: Any, conversion: Any) -> None:
    """It has every kind of operator that is damaged below."""
    kinds = {tflite_file.op_name(model, each) for each in model.subgraphs[0].operators}
    assert kinds >= {"CONV_2D", "MAX_POOL_2D", "LOGISTIC"}
    consistency.check(model, tflite_file.read(conversion.files.fp32), "model.tflite")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_scale_weight, "CONV_2D .* a weight that is not the float one"),
        (_change_code, "CONV_2D .* a weight that is not the float one"),
        (_scale_bias, "CONV_2D .* a bias on another grid"),
        (_move_grid, "MAX_POOL_2D .* a grid that its kernel does not compute on"),
        (_sigmoid_grid, "LOGISTIC .* a grid that its kernel does not compute on"),
        (_float_output, "LOGISTIC .* int8 and float tensors"),
        (_rename_weight, "CONV_2D .* a weight that the float file does not have"),
        (_no_scale, ".* an int8 tensor without a scale"),
    ],
)
def test_damage_is_seen(conversion: Any, model: Any, damage: Callable[[Any], None], message: str) -> None:
    damage(model)
    with pytest.raises(ConversionError, match=rf"model\.tflite would not compute what its source computes: {message}"):
        consistency.check(model, tflite_file.read(conversion.files.fp32), "model.tflite")

"""What float islands cost, as the bridge tells a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from torchshrink.converters.bridge import Bridge
from torchshrink.errors import ModelError

CONSTANTS = {"scale": np.float32(0.1), "zero": np.int8(3)}


def _pair(source: str, result: str) -> list[onnx.NodeProto]:
    codes = f"{result}_codes"
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [codes]),
        helper.make_node("DequantizeLinear", [codes, "scale", "zero"], [result]),
    ]


def _share(onnx_model: Any, nodes: list[onnx.NodeProto], path: Path) -> float:
    size = (1, 64)
    onnx.save(onnx_model(nodes, {"x": size}, {"y": size}, CONSTANTS), str(path))
    return Bridge().float_time(path, runs=3, threads=1)


def test_a_float_file_spends_all_its_time_in_float(onnx_model: Any, tmp_path: Path) -> None:
    nodes = [helper.make_node("Sin", ["x"], ["a"]), helper.make_node("Cos", ["a"], ["y"])]
    assert _share(onnx_model, nodes, tmp_path / "model.onnx") == 1.0


def test_an_integer_file_spends_none(onnx_model: Any, tmp_path: Path) -> None:
    nodes = [*_pair("x", "a"), helper.make_node("Sigmoid", ["a"], ["b"]), *_pair("b", "y")]
    assert _share(onnx_model, nodes, tmp_path / "model.onnx") == 0.0


def test_an_island_takes_a_part(onnx_model: Any, tmp_path: Path) -> None:
    nodes = [
        *_pair("x", "a"),
        helper.make_node("Sigmoid", ["a"], ["b"]),
        *_pair("b", "c"),
        helper.make_node("Sin", ["c"], ["d"]),
        *_pair("d", "y"),
    ]
    assert 0 < _share(onnx_model, nodes, tmp_path / "model.onnx") < 1


def test_another_kind_of_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected a file in \.onnx or \.tflite"):
        Bridge().float_time(tmp_path / "model.h5", runs=3, threads=1)

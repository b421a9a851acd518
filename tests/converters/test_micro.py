"""Files in TensorFlow Lite Micro: what they compute there, and how small their arena is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from model_files import save_tflite_mul

from torchshrink.bundle import micro as firmware
from torchshrink.bundle.describe import describe
from torchshrink.converters import micro, tflite_file
from torchshrink.errors import MissingExtraError, ModelError, ParityError
from torchshrink.files import sha256


@pytest.fixture
def int8_file(tmp_path: Path) -> Path:
    path = save_tflite_mul(tmp_path / "scale.tflite", np.int8, (2.0, -3.0), [(0.05, 10), (1.0, 0), (0.05, -5)])
    model = tflite_file.read(path)
    normalization = {"mean": [0.4, 0.5], "std": [0.3, 0.2], "raw": "float32"}
    tflite_file.set_metadata(
        model, {"normalization": normalization, "class_names": ["a", "b"], "input_shape": [1, 2, 3, 5]}
    )
    tflite_file.write(model, path)
    return path


@pytest.mark.parametrize("size", [1, 16, 1000, 1024, 1025, 4096, 434_000, 1_716_992])
def test_the_smallest_arena_is_found(size: int) -> None:
    found = micro.smallest(lambda given: given >= size)
    assert size <= found < size + 32
    assert found % 16 == 0


def test_a_file_that_runs_in_no_memory_is_said() -> None:
    with pytest.raises(RuntimeError, match="may lack an operator"):
        micro.smallest(lambda _: False)


def test_a_file_is_compared_and_measured(int8_file: Path) -> None:
    pytest.importorskip("tflite_micro", reason="tflite-micro has no wheel for this Python")
    found = micro.examine(int8_file)
    assert found.operators == ("MUL",)
    assert 0 < found.arena_bytes < 100_000
    assert json.loads(micro.sidecar(int8_file).read_text())["arena_bytes"] == found.arena_bytes
    texts = firmware.sources(int8_file, describe(int8_file))
    stored = bytes(int(byte, 16) for byte in re.findall(r"0x(\w\w)", texts["model_data.cc"]))
    assert stored == int8_file.read_bytes()
    assert f"kArenaBytes = {found.arena_bytes};" in texts["model_data.h"]
    assert "resolver.AddMul();" in texts["main.cc"]
    assert texts["operators.txt"] == "MUL\n"


def test_another_result_is_refused(int8_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "check_installed", lambda: None)
    monkeypatch.setattr(micro.apart, "call", lambda function, path: (1024, 3, "0"))
    with pytest.raises(ParityError, match="3 values of 4 random inputs differ"):
        micro.examine(int8_file)
    assert not micro.sidecar(int8_file).exists()
    assert firmware.sources(int8_file, describe(int8_file)) == {}


def test_what_is_missing_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(micro, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torchshrink\[micro\]'"):
        micro.check_installed()


@pytest.mark.parametrize(
    ("operator", "method"),
    [("CONV_2D", "Conv2D"), ("TRANSPOSE_CONV", "TransposeConv"), ("FULLY_CONNECTED", "FullyConnected"),
     ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor"), ("LOGISTIC", "Logistic"), ("MAX_POOL_2D", "MaxPool2D")],
)  # fmt: skip
def test_operators_are_registered_by_the_names_of_the_resolver(operator: str, method: str) -> None:
    assert firmware._name(operator) == method


def test_what_is_known_of_another_file_is_refused(int8_file: Path) -> None:
    """A file that was converted again without --target micro has the arena of the one before beside it."""
    beside = micro.sidecar(int8_file)
    known = {"arena_bytes": 1024, "operators": ["MUL"], "samples": 4, "version": "0", "sha256": sha256(int8_file)}
    beside.write_text(json.dumps(known))
    assert firmware.needs(int8_file) == {key: known[key] for key in known if key != "samples"}
    beside.write_text(json.dumps(known | {"sha256": "0" * 64}))
    with pytest.raises(ModelError, match=r"scale.micro.json is about another file than scale.tflite: convert it again"):
        firmware.sources(int8_file, describe(int8_file))
    beside.write_text("{")
    with pytest.raises(ModelError, match=r"scale.micro.json is damaged .*delete scale.micro.json"):
        firmware.needs(int8_file)

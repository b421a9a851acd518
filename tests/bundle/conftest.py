"""Small files to bundle: pixelwise ones written by hand, and a U-Net of version 0.1.0."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from model_files import save_tflite_mul

from torchshrink.bundle.write import bundle
from torchshrink.converters import tflite_file

RUN = Path(__file__).parents[1] / "written_by_0_1_0" / "run"
PARTS = Path(importlib.import_module("torchshrink.bundle.parts").__path__[0])
OWN = ("run", "formats", "pngs", "tiles", "engine", "selftest", "server", "load_test")
NORMALIZATION = {"mean": [0.4, 0.5], "std": [0.3, 0.2], "raw": "float32"}


@pytest.fixture(scope="session")
def unet() -> Path:
    """``[1, 1, 32, 32]``, float32, with its report beside it."""
    return RUN / "files" / "dense-fp32.onnx"


@pytest.fixture(scope="session")
def served_unet(unet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its bundle with a server; copy it before anything is changed."""
    return bundle(unet, tmp_path_factory.mktemp("bundles") / "unet", server=True).path


@pytest.fixture(scope="session")
def served_gray(gray_unet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(gray_unet, tmp_path_factory.mktemp("bundles") / "gray", server=True).path


@pytest.fixture(scope="session")
def gray_unet(unet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same file for 8-bit gray images."""
    path = tmp_path_factory.mktemp("gray") / "gray.onnx"
    model = onnx.load(unet)
    (entry,) = [item for item in model.metadata_props if item.key == "torchshrink"]
    content = json.loads(entry.value)
    content["normalization"]["raw"] = "uint8 / 255"
    entry.value = json.dumps(content)
    onnx.save(model, path)
    return path


@pytest.fixture
def int8_tflite(tmp_path: Path) -> Path:
    """Multiplies both channels of ``[1, 2, 3, 5]`` by 2 and -3, in int8: see `model_files.int8_file`."""
    path = save_tflite_mul(tmp_path / "scale.tflite", np.int8, (2.0, -3.0), [(0.05, 10), (1.0, 0), (0.05, -5)])
    return described(path, {"class_names": ["one", "two"], "input_shape": [1, 2, 3, 5]})


@pytest.fixture
def float_tflite(tmp_path: Path) -> Path:
    path = save_tflite_mul(tmp_path / "float.tflite", np.float32, (2.0, -3.0))
    return described(path, {"class_names": ["one", "two"], "input_shape": [1, 2, 3, 5]})


def described(path: Path, content: dict[str, Any]) -> Path:
    """Write into a TFLite file what torchshrink stores in its own."""
    model = tflite_file.read(path)
    tflite_file.set_metadata(model, {"normalization": NORMALIZATION, **content})
    tflite_file.write(model, path)
    return path


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Import a module of a bundle as it is there: ``part("run", folder)``, or of one whose engine gives its input."""

    def load(name: str, folder: Path | None = None) -> Any:
        if folder is None:
            folder = tmp_path / "parts"
            shutil.copytree(PARTS, folder, dirs_exist_ok=True)
            (folder / "engine.py").write_text("def Engine(folder, spec, threads):\n    return lambda data: data\n")
        monkeypatch.syspath_prepend(str(folder))
        return importlib.import_module(name)

    yield load
    for name in OWN:
        sys.modules.pop(name, None)

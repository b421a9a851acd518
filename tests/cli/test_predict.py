"""The command that uses shipped files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from program import Run, call

from torchshrink.data import cells


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file whose output is its input, for images of 16 x 16 between 0 and 1."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 16, 16)) for name in ("input", "output")]
    graph = helper.make_graph([helper.make_node("Identity", ["input"], ["output"])], "graph", ends[:1], ends[1:])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    content = {"normalization": {"mean": [0.0], "std": [1.0], "raw": "uint8 / 255"}, "class_names": ["bright"]}
    helper.set_model_props(made, {"torchshrink": json.dumps(content)})
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (40, 25)), ("b", (7, 16))):
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


def test_masks_and_a_summary(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    result = call("predict", model, "--data", images, "--out", out, "--tile", "16", "--overlap", "8")
    assert result.code == 0, result.stderr
    for name in ("a.png", "b.png"):
        pixels = np.asarray(Image.open(images / name))
        assert np.array_equal(np.asarray(Image.open(out / name)), np.where(pixels > 127, 255, 0))
    # Tiles move on by 8: along 40 they start at 0, 8, 16, 24, along 25 at 0, 8, 16.
    assert "masks of 2 files in " in result.stdout
    assert "13 tiles of 16x16 that share 8x8, onnxruntime, peak RAM " in result.stdout
    assert "predict 2 files ..." in result.stderr


def test_json_is_all_that_stdout_carries(model: Path, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    result = call("predict", model, "--data", images / "b.png", "--out", out, "--probabilities", "--json")
    assert result.code == 0, result.stderr
    found = result.json
    assert found["files"] == 1
    assert found["outputs"] == {str(images / "b.png"): [str(out / "b.png")]}
    assert found["probabilities"] == {str(images / "b.png"): str(out / "probabilities" / "b.npy")}
    assert (found["tile"], found["overlap"], found["tiles"]) == ([16, 16], [4, 4], 1)
    assert found["seconds"] > 0
    assert found["peak_rss_mb"] > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tile", "64"), "takes inputs of 16x16 only, not tiles of 64"),
        (("--overlap", "16"), "overlap 16 does not fit tiles of 16x16"),
        (("--data", "nowhere"), "nowhere does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_3(
    arguments: tuple[str, ...], words: str, model: Path, images: Path, tmp_path: Path
) -> None:
    result = call("predict", model, "--data", images, "--out", tmp_path / "masks", *arguments)
    assert result.code == 3
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    assert result.stdout == ""
    assert not (tmp_path / "masks").exists()


def test_existing_masks_are_kept(model: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "b.png").write_text("mine")
    again = ("predict", model, "--data", images, "--out", tmp_path / "masks")
    result = call(*again)
    assert result.code == 3
    assert "b.png exists: choose another --out, or pass --overwrite" in result.stderr
    assert not (tmp_path / "masks" / "a.png").exists()
    assert call(*again, "--overwrite").code == 0


def test_help_has_an_example_and_loads_nothing_heavy() -> None:
    result = call("predict", "--help")
    assert result.code == 0
    assert "Example: torchshrink predict model.tflite" in " ".join(result.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pruned-qat-int8.tflite", "pruned-qat-int8.onnx", "dense-fp32.tflite"])
def test_files_of_a_run_do_in_production_what_the_report_says(finished: Run, name: str, tmp_path: Path) -> None:
    x, truth = cells(8, 32, 1)  # the test part of the run's data
    np.savez(tmp_path / "cells.npz", x=x)
    result = call("predict", finished.out / "files" / name, "--data", tmp_path / "cells.npz", "--out", tmp_path)
    assert result.code == 3  # cells.npz would be replaced
    result = call("predict", finished.out / "files" / name, "--data", tmp_path / "cells.npz", "--out", tmp_path / "m")
    assert result.code == 0, result.stderr
    with np.load(tmp_path / "m" / "cells.npz") as masks:
        both = (masks["y"] & truth).sum((1, 2, 3))
        total = masks["y"].sum((1, 2, 3)) + truth.sum((1, 2, 3))
    dice = np.where(total > 0, 2 * both / np.maximum(total, 1), 1).mean()
    (row,) = finished.rows(path=f"files/{name}")
    assert dice == pytest.approx(row["metrics"]["dice"], abs=1e-5)

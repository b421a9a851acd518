"""Files whose model was trained on images of another size, colour or level: sources are prepared as training was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from torchshrink.data.preparation import parse
from torchshrink.errors import DataError, ModelError
from torchshrink.predict.run import predict

GRAY = {"mean": [0.0], "std": [1.0], "raw": "uint8 / 255"}
SIGNAL = {"mean": [0.0], "std": [1.0], "raw": "int16"}


def a_file(path: Path, sides: tuple[int, ...], factors: list[float], **content: Any) -> Path:
    """Write a network that returns so many times its one channel, a channel for each factor."""
    factor = np.float32(factors).reshape(-1, *[1] * len(sides))
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, *sides))]
        for name, channels in (("input", 1), ("output", len(factors)))
    ]
    node = helper.make_node("Mul", ["input", "factor"], ["output"])
    graph = helper.make_graph([node], "graph", *ends, [numpy_helper.from_array(factor, "factor")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    names = [f"class {number}" for number in range(len(factors))]
    described = {"normalization": GRAY, "class_names": names, "input_shape": [1, 1, *sides]} | content
    helper.set_model_props(model, {"torchshrink": json.dumps(described)})
    onnx.save(model, path)
    return path


def an_image(path: Path, width: int, height: int, mode: str = "L") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    image.save(path)
    return image


def probabilities(file: Path, source: Path, out: Path) -> Any:
    return np.load(predict(file, source, out, probabilities=True).probabilities[source])


@pytest.mark.parametrize(
    ("prepared", "width", "height"), [("size=8", 8, 8), ("size=8x8&fit=resize", 8, 8), ("size=8&fit=cover", 8, 27)]
)
def test_images_are_resized_and_masks_are_of_their_size(prepared: str, width: int, height: int, tmp_path: Path) -> None:
    """The image is 30 wide and 100 high: writing takes two strips."""
    file = a_file(tmp_path / "model.onnx", (8, 8), [0.5], prepared=prepared)
    image = an_image(tmp_path / "image.png", 30, 100)
    found = probabilities(file, tmp_path / "image.png", tmp_path / "out")
    small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(np.float32) / 255 * 0.5
    wanted = np.asarray(Image.fromarray(small).resize((30, 100), Image.Resampling.BILINEAR))
    assert found.shape == (1, 100, 30)
    assert np.allclose(found[0], wanted, atol=1e-5)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "image.png")), (found[0] > 0.5) * 255)


def test_what_was_cropped_is_seen_at_its_own_size(tmp_path: Path) -> None:
    file = a_file(tmp_path / "model.onnx", (8, 8), [0.5], prepared="size=8&fit=crop")
    image = an_image(tmp_path / "image.png", 20, 10)
    found = probabilities(file, tmp_path / "image.png", tmp_path / "out")
    assert np.allclose(found[0], np.asarray(image) / 255 * 0.5, atol=1e-6)


def test_colours_are_converted(tmp_path: Path) -> None:
    file = a_file(tmp_path / "model.onnx", (8, 8), [1.0], prepared="colour=gray")
    image = an_image(tmp_path / "image.png", 8, 8, "RGB")
    found = probabilities(file, tmp_path / "image.png", tmp_path / "out")
    assert np.allclose(found[0], np.asarray(image.convert("L")) / 255, atol=1e-6)


@pytest.mark.parametrize(("level", "by"), [("peak", 200.0), ("rms", np.sqrt((200**2 + 100**2) / 16))])
def test_signals_are_brought_to_their_level(level: str, by: float, tmp_path: Path) -> None:
    file = a_file(tmp_path / "model.onnx", (16,), [1.0], prepared=f"level={level}", normalization=SIGNAL)
    x = np.zeros((2, 1, 16), np.int16)
    x[0, 0, 3], x[0, 0, 9] = -200, 100
    np.save(tmp_path / "x.npy", x)
    found = probabilities(file, tmp_path / "x.npy", tmp_path / "out")
    assert np.allclose(found, x / by, atol=1e-6)  # silence stays silent


def test_of_several_classes_the_largest_score_is_the_answer(tmp_path: Path) -> None:
    """Scores are no probabilities: none or several of them may exceed 0.5."""
    file = a_file(tmp_path / "model.onnx", (8, 8), [-1.0, 0.1, -2.0], kind="multiclass")
    an_image(tmp_path / "image.png", 8, 8)
    found = probabilities(file, tmp_path / "image.png", tmp_path / "out")
    assert np.allclose(found.sum(0), 1)
    masks = [np.asarray(Image.open(tmp_path / "out" / f"class-{number}" / "image.png")) for number in range(3)]
    assert [int(mask.min()) for mask in masks] == [0, 255, 0]


@pytest.mark.parametrize("kind", ["reconstruction", "unlabelled", "custom"])
def test_what_makes_no_masks_is_refused(kind: str, tmp_path: Path) -> None:
    file = a_file(tmp_path / "model.onnx", (8, 8), [1.0], kind=kind)
    an_image(tmp_path / "image.png", 8, 8)
    with pytest.raises(ModelError, match=f"was trained for {kind}, and predict writes masks"):
        predict(file, tmp_path / "image.png", tmp_path / "out")


def test_an_unknown_level() -> None:
    with pytest.raises(DataError, match="there is no level=loud, choose peak, rms"):
        parse("data", {"level": "loud"})

"""Every real file, used: what `predict` writes is what the file computes for inputs normalised by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thinned

from torchshrink import bench
from torchshrink.predict.run import predict

pytestmark = pytest.mark.slow

FILES = ("onnx-fp32", "onnx-fp16", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8", "tflite-int8-sparse")


@pytest.mark.parametrize(
    ("dims", "name"), thinned.product((2, 1), FILES, often=lambda dims, name: dims == 2 or name == "tflite-int8")
)
def test_predict_is_the_file_on_normalised_inputs(
    export: Callable[[int], Any], dims: int, name: str, tmp_path: Path
) -> None:
    unet = export(dims)
    x = np.random.default_rng(0).normal(size=unet.inputs.shape).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x)
    found = predict(unet.path(name), tmp_path / "a.npz", tmp_path / "out", probabilities=True)
    expected = bench.predict(unet.path(name), (x - np.float32(0.25)) / np.float32(1.5))
    assert found.tile == x.shape[2:]
    assert np.array_equal(np.load(found.probabilities[tmp_path / "a.npz"]), expected)
    with np.load(tmp_path / "out" / "a.npz") as masks:
        assert np.array_equal(masks["y"], expected > 0.5)


@pytest.mark.parametrize("name", ["onnx-int8", "tflite-int8"])
def test_the_middle_of_a_tile_is_that_tile(unet: Any, name: str, tmp_path: Path) -> None:
    # Tiles of 32 that share 8 move on by 16, those of 64 that share 16 by 32: the second starts there, and of what it
    # shares each neighbour keeps a half.
    side = unet.inputs.shape[-1]
    x = np.random.default_rng(0).normal(size=[1, 1, *[2 * side] * unet.inputs[0, 0].ndim]).astype(np.float32)
    np.save(tmp_path / "a.npy", x)
    found = predict(unet.path(name), tmp_path / "a.npy", tmp_path / "out", probabilities=True)
    move = side // 2
    place = slice(move, move + side)
    middle = (..., *[place] * (x.ndim - 2))
    expected = bench.predict(unet.path(name), (x[middle] - np.float32(0.25)) / np.float32(1.5))
    kept = (..., *[slice(side // 4, side - side // 4)] * (x.ndim - 2))
    assert np.array_equal(np.load(found.probabilities[tmp_path / "a.npy"])[middle][kept], expected[kept])

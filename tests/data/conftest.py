from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

Writer = Callable[..., Path]


@pytest.fixture
def write_image(tmp_path: Path) -> Writer:
    """Write an array as an image file below tmp_path."""

    def write(name: str, pixels: NDArray[np.generic], mode: str | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.fromarray(pixels) as image:
            (image.convert(mode) if mode else image).save(path)
        return path

    return write


@pytest.fixture
def write_set(write_image: Writer, tmp_path: Path) -> Callable[..., Path]:
    """Write ``count`` random 4x6 gray images whose mask is 255 where the image is above 127."""

    def write(folder: str = "set", count: int = 4, start: int = 0) -> Path:
        for index in range(start, start + count):
            pixels = np.random.default_rng(index).integers(0, 256, (4, 6)).astype(np.uint8)
            write_image(f"{folder}/images/{index:02}.png", pixels)
            write_image(f"{folder}/masks/{index:02}.png", np.where(pixels > 127, 255, 0).astype(np.uint8))
        return tmp_path / folder

    return write


@pytest.fixture
def write_npz(tmp_path: Path) -> Writer:
    """Write arrays as an npz file below tmp_path."""

    def write(name: str = "data.npz", **arrays: NDArray[np.generic]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)
        return path

    return write

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from torchshrink.converters.rebuild.samples import MOST, Entry, described, read
from torchshrink.data.preparation import parse
from torchshrink.errors import DataError


def test_arrays_are_taken_as_they_are_one_or_many_in_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((2, 3), 7, np.float64))
    np.savez(tmp_path / "b.npz", anything=np.arange(18).reshape(3, 2, 3))
    found = read(tmp_path, [Entry("x", (2, 3))])
    assert [tuple(values.shape) for (values,) in found] == [(1, 2, 3)] * 4
    assert found[0][0].dtype.is_floating_point
    assert found[3][0].flatten().tolist() == [12, 13, 14, 15, 16, 17]


def test_several_inputs_go_by_their_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", ids=np.array([[1, 2]]), x=np.zeros((1, 2, 3)))
    ((x, ids),) = read(tmp_path / "a.npz", [Entry("x", (2, 3)), Entry("ids", (2,), "int64")])
    assert (tuple(x.shape), ids.tolist()) == ((1, 2, 3), [[1, 2]])
    with pytest.raises(DataError, match=r"a\.npz has no array 'y': it holds ids, x"):
        read(tmp_path, [Entry("x", (2, 3)), Entry("y", (2,))])


@pytest.mark.parametrize(("shape", "place"), [((3, 2, 2), (0, 1)), ((2, 2, 3), (0, -1))])
def test_pictures_are_scaled_and_laid_out(shape: tuple[int, ...], place: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", (8, 4), (255, 0, 51)).save(tmp_path / "a.png")
    ((values,),) = read(tmp_path, [Entry("x", shape)], mean=[0.5, 0.5, 0.0], std=[0.5, 0.25, 1.0])
    assert tuple(values.shape) == (1, *shape)
    channels = values.movedim(place[1], 1)[0, :, 0, 0].tolist()
    assert channels == pytest.approx([1.0, -2.0, 0.2])


def test_no_more_than_needed_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((MOST + 5, 2)))
    assert len(read(tmp_path, [Entry("x", (2,))])) == MOST


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.npy, \.npz or picture"):
        read(tmp_path, [Entry("x", (2,))])
    np.save(tmp_path / "a.npy", np.zeros((4, 5)))
    with pytest.raises(DataError, match=r"a\.npy holds \[4, 5\], but input 'x' .* takes \[2, 3\] per sample"):
        read(tmp_path, [Entry("x", (2, 3))])
    (tmp_path / "a.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"a\.npy cannot be read"):
        read(tmp_path, [Entry("x", (2, 3))])
    (tmp_path / "a.npy").unlink()
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        read(tmp_path, [Entry("x", (3, 4, 4))])
    with pytest.raises(DataError, match=r"a\.png is a picture, but the model takes \[\[2\]\]"):
        read(tmp_path, [Entry("x", (2,))])


def test_a_file_says_how_pictures_became_its_inputs(tmp_path: Path) -> None:
    """What a runner makes of a picture by these words is what the file was calibrated on."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7), np.uint8))
    picture.save(tmp_path / "a.png")
    mean, std = (0.4, 0.5, 0.6), (0.2,)
    ((taken,),) = read(tmp_path, [Entry("x", (3, 4, 6))], mean, std)
    found = described(tmp_path, Entry("x", (3, 4, 6)), mean, std)
    how = parse("data", dict(part.split("=") for part in found["prepared"].split("&")))
    kept, pixels = found["normalization"], np.asarray(how.image(picture.convert("RGB")), np.float32) / 255
    assert kept["raw"] == "uint8 / 255"
    assert np.allclose(taken[0].permute(1, 2, 0), (pixels - kept["mean"]) / kept["std"], atol=1e-6)
    assert (found["kind"], found["input_shape"]) == ("", [1, 3, 4, 6])


def test_a_file_says_nothing_of_inputs_that_are_no_signals_or_images(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 5)))
    assert described(tmp_path, Entry("x", (5,)), (0.0,), (1.0,)) == {}
    assert described(tmp_path, Entry("x", (2, 5), "int64"), (0.0,), (1.0,)) == {}
    assert described(tmp_path, Entry("x", (2, 5)), (0.0,), (1.0,))["normalization"]["std"] == [1.0, 1.0]


def test_what_another_program_would_run_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match=r"no PNG, TIFF, JPEG, BMP or WEBP"):  # Ghostscript would run it
        read(tmp_path, [Entry("x", (3, 4, 4))])


def test_pictures_and_arrays_are_checked_as_those_of_training(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[content.index(b"IDAT") + 6] ^= 1
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match="checksum"):
        read(tmp_path, [Entry("x", (3, 4, 4))])
    (tmp_path / "a.png").unlink()
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(600.0).reshape(100, 6))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[200] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz: x cannot be read"):
        read(tmp_path, [Entry("x", (6,))])
    (tmp_path / "a.npz").unlink()
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(DataError, match="a pipe"):
        read(tmp_path, [Entry("x", (6,))])

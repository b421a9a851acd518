from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from torchshrink.converters.rebuild.samples import MOST, Entry, described, entries, read
from torchshrink.data.preparation import parse
from torchshrink.errors import DataError, ModelError


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


def _graph(inputs: dict[str, list[int | str | None] | None]) -> onnx.ModelProto:
    items = [helper.make_tensor_value_info(name, 1, sides) for name, sides in inputs.items()]
    output = helper.make_tensor_value_info("y", 1, None)
    return helper.make_model(helper.make_graph([helper.make_node("Sum", [*inputs], ["y"])], "g", items, [output]))


def test_free_sizes_are_given_by_the_name_of_the_input_and_shared_by_their_own() -> None:
    graph = _graph({"a:0": ["N", "L"], "b": ["N", "L", "C"], "c": ["N", 3]})
    shapes = {"": [1, 5], "b": [1, 5, 2]}
    assert [each.shape for each in entries(graph, "m.onnx", shapes)] == [(5,), (5, 2), (3,)]
    assert [each.shape for each in entries(graph, "m.onnx", {"b": [1, 5, 2]})] == [(5,), (5, 2), (3,)]
    with pytest.raises(ModelError, match="input 'b' has the free sizes N,L,C: say which, such as --shape b:1"):
        entries(graph, "m.onnx", {"": [1, 5]})
    with pytest.raises(ModelError, match=r"input 'c' has the shape N,3, which \[1, 4\] does not fit"):
        entries(graph, "m.onnx", {"b": [1, 5, 2], "c": [1, 4]})


def test_a_size_without_a_name_is_shared_by_nothing() -> None:
    graph = _graph({"a": ["?", "?"], "b": ["?", "?"], "c": [None, 3]})
    assert [each.shape for each in entries(graph, "m.onnx", {"a": [1, 5], "b": [1, 7]})] == [(5,), (7,), (3,)]
    with pytest.raises(ModelError, match=r"input 'b' has the free sizes \?,\?"):
        entries(graph, "m.onnx", {"a": [1, 5]})


def test_an_input_of_which_the_file_says_no_size_takes_what_is_given() -> None:
    assert entries(_graph({"a": None}), "m.onnx", {"": [1, 5]})[0].shape == (5,)
    with pytest.raises(ModelError, match=r"has the free sizes \?: say which"):
        entries(_graph({"a": None}), "m.onnx")


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

"""Every form of data that `open_task` reads, as small as it can be, and what it says of each that cannot be used."""

import os
import pickle
import struct
import wave
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchshrink.data import LabelledArrays, flips_rotations_noise, from_xy, open_task, sounds, task_from_arrays
from torchshrink.data.inputs import files_in
from torchshrink.data.labelled import split
from torchshrink.data.preparation import Preparation
from torchshrink.errors import DataError

GRAY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


def failure(source, **settings) -> str:
    with pytest.raises(DataError) as caught:
        open_task(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def whole(task, part) -> tuple[torch.Tensor, torch.Tensor]:
    """All raw inputs, normalisation undone, and all truths."""
    samples = getattr(task, part)
    x, y = zip(*(samples[i] for i in range(len(samples))), strict=True)
    mean, std = (torch.tensor(values) for values in (task.normalization.mean, task.normalization.std))
    shape = (1, -1, *[1] * (x[0].dim() - 1))
    return torch.stack(x) * std.reshape(shape) + mean.reshape(shape), torch.stack(y)


def write_sound(path: Path, values, rate: int = 8000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.asarray(values, "<i2").tobytes())
    return path


def class_folders(write_image, root: str, count: int = 6, names=("cat", "dog"), **settings) -> None:
    for label, name in enumerate(names):
        for index in range(count):
            write_image(f"{root}/{name}/{index}.png", np.full((4, 6), 100 * label + index, np.uint8), **settings)


# Class folders.


def test_class_folders(tmp_path, write_image):
    class_folders(write_image, "set", 10)
    task = open_task(tmp_path / "set")
    assert (task.kind, task.class_names) == ("classification", ("cat", "dog"))
    assert (len(task.train), len(task.validation), len(task.test)) == (14, 2, 4)
    for part in ("train", "validation", "test"):
        x, y = whole(task, part)
        assert (x.shape[1:], y.shape, y.dtype) == ((1, 4, 6), (len(x),), torch.int64)
        assert torch.equal(y, (x[:, 0, 0, 0] * 255 > 50).long())


def test_links_to_folders_that_hold_them_are_not_followed_for_ever(tmp_path, write_image):
    class_folders(write_image, "set", 10)
    (tmp_path / "set/cat/all").symlink_to(tmp_path / "set/cat")
    (tmp_path / "set/cat/other").symlink_to(tmp_path / "set/dog")
    (tmp_path / "set/dog/other").symlink_to(tmp_path / "set/cat")
    found = [path.relative_to(tmp_path) for path in files_in(tmp_path / "set/cat")]
    assert len(found) == 20
    assert len({path.parts[:-1] for path in found}) == 2


@pytest.mark.parametrize("other", ["test", "val"])
def test_class_folders_with_parts(tmp_path, write_image, other):
    class_folders(write_image, "set/train", names=("b", "a", "c"))
    class_folders(write_image, f"set/{other}", 1, names=("c",))
    task = open_task(tmp_path / "set")
    assert task.class_names == ("a", "b", "c")
    assert [int(y) for _, y in (task.test[i] for i in range(len(task.test)))] == [2]


def test_three_parts_keep_their_validation(tmp_path, write_image):
    for part, count in (("train", 4), ("val", 3), ("test", 2)):
        class_folders(write_image, f"set/{part}", count)
    task = open_task(tmp_path / "set")
    assert (len(task.train), len(task.validation), len(task.test)) == (8, 6, 4)


def test_a_class_that_training_has_not(tmp_path, write_image):
    class_folders(write_image, "set/train")
    class_folders(write_image, "set/test", names=("cat", "owl"))
    assert f"{tmp_path}/set/test/owl is a class that {tmp_path}/set/train has not" in failure(tmp_path / "set")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda root: (root / "owl").mkdir(), "set/owl holds no image or sound"),
        (lambda root: Image.new("L", (6, 4)).save(root / "a.png"), "set/a.png lies beside folders"),
    ],
)
def test_class_folders_that_are_no_set(tmp_path, write_image, make, said):
    class_folders(write_image, "set")
    make(tmp_path / "set")
    assert said in failure(tmp_path / "set")


def test_one_folder_is_no_class(tmp_path, write_image):
    class_folders(write_image, "set", names=("pictures",))
    assert "set holds one folder only, pictures" in failure(tmp_path / "set")


# Sizes and colours.


def mixed(write_image) -> str:
    write_image("set/a/0.png", GRAY)
    write_image("set/a/1.png", np.stack([GRAY] * 3, -1))
    write_image("set/b/0.png", GRAY.T.copy())
    write_image("set/b/1.png", GRAY, "P")
    write_image("set/b/2.jpg", GRAY, "CMYK")
    return "set"


def test_different_colours_and_sizes_are_refused_with_the_cure(tmp_path, write_image):
    mixed(write_image)
    assert "say colour=rgb or colour=gray" in failure(tmp_path / "set")
    message = failure(f"{tmp_path}/set?colour=gray")
    assert "set/a/0.png measures 6x4" in message
    assert "say one, such as size=6x4&fit=resize" in message


@pytest.mark.parametrize("fit", ["resize", "crop", "cover"])
@pytest.mark.parametrize(("size", "shape"), [("8", (3, 8, 8)), ("3x5", (3, 5, 3))])
def test_different_colours_and_sizes_become_one(tmp_path, write_image, size, shape, fit):
    mixed(write_image)
    query = f"size={size}&fit={fit}&colour=rgb"
    task = open_task(f"folder:{tmp_path}/set?{query}")
    assert task.example_input.shape == (1, *shape)
    assert task.prepared == task.metadata["prepared"] == query
    again = open_task(tmp_path / "set", prepared=task.prepared, normalization=task.normalization)
    assert torch.equal(again.example_input, task.example_input)


def test_what_each_fit_does(tmp_path, write_image):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 200
    for index in range(4):
        write_image(f"set/{index}.png", pixels)
    rows = {
        "size=4&fit=crop": [200, 200, 200, 200],
        "size=10x4&fit=crop": [0, 0, 0, 200, 200, 200, 200, 0, 0, 0],
        "size=4&fit=cover": [200, 200, 200, 200],
        "size=16x8&fit=resize": None,
    }
    for query, expected in rows.items():
        x, _ = whole(open_task(f"{tmp_path}/set?{query}"), "train")
        row = (x[0, 0, 0] * 255).round().tolist()
        if expected is None:
            reference = Image.fromarray(pixels).resize((16, 8), Image.Resampling.BILINEAR)
            expected = np.asarray(reference)[0].tolist()
        assert row == expected


def test_sixteen_bits_are_resized_as_such(tmp_path, write_image):
    for index in range(4):
        write_image(f"set/{index}.png", np.full((4, 4), 1000 * (index + 1), np.uint16))
    task = open_task(f"{tmp_path}/set?size=8")
    x, _ = whole(task, "test")
    assert task.normalization.raw == "uint16 / 65535"
    assert x.shape[1:] == (1, 8, 8)
    assert (x * 65535 / 1000).unique().tolist() == pytest.approx([round(float(x.max()) * 65.535)], rel=1e-4)


def test_bits_are_no_colour(tmp_path, write_image):
    for index in range(3):
        write_image(f"set/{index}.png", np.full((4, 4), 1000 * (index + 1), np.uint16))
    assert "0.png is 16-bit gray, which colour=rgb leaves as it is" in failure(f"{tmp_path}/set?colour=rgb")
    write_image("set/3.png", np.zeros((4, 4), np.uint8))
    assert "or give all of them as many bits" in failure(f"{tmp_path}/set?colour=gray")


def test_masks_are_resized_with_their_images(tmp_path, write_image):
    for index in range(5):
        pixels = np.zeros((4 + index, 6), np.uint8)
        pixels[:, 3:] = 255
        write_image(f"set/images/{index}.png", pixels)
        write_image(f"set/masks/{index}.png", pixels)
    x, y = whole(open_task(f"{tmp_path}/set?size=12x8"), "train")
    assert y.shape[1:] == (1, 8, 12)
    assert torch.equal(y, (x > 0.5).to(torch.uint8))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("size=0", "cannot use size=0"),
        ("size=999999", "size=999999 is more than"),
        ("size=4x4x4", "cannot use size=4x4x4"),
        ("fit=crop", "fit=crop needs a size"),
        ("size=4&fit=squeeze", "no fit=squeeze"),
        ("colour=green", "no colour=green"),
        ("size=4&size=5", "size is said twice"),
        ("sice=4", "cannot use sice=4, the options are size, fit, colour"),
        ("kind=detection", "no kind=detection"),
        ("noise=0.1", "noise is for kind=reconstruction"),
        ("noise=loud&kind=reconstruction", "cannot use noise=loud"),
        ("target=age", "target does not apply to a folder"),
        ("kind=regression", "no regression: list files and targets in a .csv"),
        ("group=9", "has 1 parts between _ and -, so no group=9"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, write_image, query, said):
    class_folders(write_image, "set")
    assert said in failure(f"{tmp_path}/set?{query}")


def test_a_name_with_a_question_mark_is_a_name(tmp_path, write_image):
    class_folders(write_image, "what?size=3")
    assert open_task(f"{tmp_path}/what?size=3").example_input.shape == (1, 1, 4, 6)


# Masks of class numbers.


def numbered_masks(write_image, masks, mode: str | None = None) -> None:
    for index, mask in enumerate(masks):
        pixels = np.array(mask, np.uint8)
        write_image(f"set/images/{index}.png", pixels * 20)
        path = write_image(f"set/masks/{index}.png", pixels)
        if mode == "P":
            with Image.fromarray(pixels) as image:
                image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
                image.save(path)


@pytest.mark.parametrize("mode", [None, "P"])
def test_integer_and_palette_masks(tmp_path, write_image, mode):
    numbered_masks(write_image, [[[0, 1, 2], [2, 2, 0]], [[0, 0, 1], [1, 1, 1]], [[0, 0, 0], [0, 0, 0]]], mode)
    task = open_task(tmp_path / "set")
    assert (task.kind, task.class_names) == ("multiclass", ("class 0", "class 1", "class 2"))
    for part in ("train", "validation", "test"):
        x, y = whole(task, part)
        assert (y.shape[1:], y.dtype) == ((2, 3), torch.int64)
        assert torch.equal(y, (x[:, 0] * 255 / 20).round().long())


def test_classes_that_occur_nowhere_and_pixels_that_do_not_count(tmp_path, write_image):
    numbered_masks(write_image, [[[0, 4, 255]]] * 3)
    message = failure(tmp_path / "set")
    assert "holds the values 0, 4, 255" in message
    assert "classes=K" in message
    task = open_task(f"{tmp_path}/set?classes=21&ignore=255")
    assert len(task.class_names) == 21
    assert whole(task, "test")[1].tolist() == [[[0, 4, -100]]]
    assert "class 4, but classes=3 means the numbers 0 to 2" in failure(f"{tmp_path}/set?classes=3&ignore=255")


def test_two_classes_instead_of_a_mask(tmp_path, write_set):
    task = open_task(f"{write_set()}?kind=multiclass")
    assert (task.kind, len(task.class_names)) == ("multiclass", 2)
    assert whole(task, "train")[1].unique().tolist() == [0, 1]


# Unlabelled, and images whose truth is an image.


@pytest.mark.parametrize("inner", ["", "images/"])
def test_unlabelled(tmp_path, write_image, inner):
    for index in range(5):
        write_image(f"set/{inner}{index}.png", GRAY + index)
    task = open_task(tmp_path / "set")
    assert (task.kind, task.class_names, len(task.test)) == ("unlabelled", (), 1)
    assert whole(task, "train")[1].shape == (3, 0)


def test_labels_can_be_left_aside(tmp_path, write_image, write_set):
    class_folders(write_image, "classes")
    assert open_task(f"{tmp_path}/classes?kind=unlabelled").kind == "unlabelled"
    assert open_task(f"{write_set()}?kind=unlabelled").example_truth.shape == (1, 0)


def test_reconstruction_with_noise(tmp_path, write_image):
    for index in range(5):
        write_image(f"set/{index}.png", np.full((32, 32), 100 + index, np.uint8))
    task = open_task(f"{tmp_path}/set?kind=reconstruction&noise=0.1")
    x, y = whole(task, "train")
    assert (task.kind, task.class_names, y.dtype) == ("reconstruction", ("channel 0",), torch.float32)
    assert float((x - y).std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(task.test[0][0], task.test[0][0])
    assert (y[0] == y[0, 0, 0, 0]).all()


def test_targets_are_images(tmp_path, write_image):
    for index in range(5):
        write_image(f"set/images/{index}.png", GRAY + index)
        write_image(f"set/targets/{index}.png", np.stack([GRAY] * 3, -1))
    task = open_task(tmp_path / "set")
    assert (task.kind, len(task.class_names)) == ("reconstruction", 3)
    assert task.example_truth.shape == (1, 3, 4, 6)


# npz files.


def test_npz_of_classes(write_npz):
    x, y = np.arange(60).reshape(20, 1, 3), np.arange(20) % 4
    task = open_task(write_npz(x=x, y=y, class_names=np.array(list("abcd"))))
    assert (task.kind, task.class_names) == ("classification", ("a", "b", "c", "d"))
    for part in ("train", "validation", "test"):
        inputs, labels = whole(task, part)
        assert torch.equal(labels, (inputs[:, 0, 0] / 3).round().long() % 4)


@pytest.mark.parametrize(("columns", "names"), [((), 1), ((2,), 2)])
def test_npz_of_numbers(write_npz, columns, names):
    y = np.random.default_rng(0).random((20, *columns))
    task = open_task(write_npz(x=np.zeros((20, 3, 4, 4), np.uint8), y=y))
    assert (task.kind, len(task.class_names)) == ("regression", names)
    assert task.example_truth.shape == (1, names)
    assert task.example_truth.dtype == torch.float32


def test_npz_of_integer_masks(write_npz):
    y = np.random.default_rng(0).integers(0, 3, (20, 16, 16))
    task = open_task(write_npz(x=y[:, None] * 10.0, y=y))
    assert (task.kind, len(task.class_names)) == ("multiclass", 3)
    x, truth = whole(task, "test")
    assert torch.equal(truth, (x[:, 0] / 10).round().long())


def test_npz_parts_may_show_fewer_classes(write_npz, tmp_path):
    x, y = np.zeros((6, 1, 4)), np.array([[0, 1, 2, 3]] * 6)
    write_npz("set/train.npz", x=x, y=y)
    write_npz("set/test.npz", x=x, y=y.clip(0, 1))
    task = open_task(tmp_path / "set")
    assert (task.kind, len(task.class_names), whole(task, "test")[1].max()) == ("multiclass", 4, 1)


def test_npz_without_labels(write_npz):
    path = write_npz(x=np.random.default_rng(0).random((10, 1, 4)))
    assert open_task(path).kind == "unlabelled"
    task = open_task(f"{path}?kind=reconstruction")
    inputs, truth = whole(task, "test")
    torch.testing.assert_close(inputs, truth)


def test_npz_groups_stay_together(write_npz):
    speaker = np.repeat(["ann", "bob", "cy", "di", "ed"], 4)
    x = np.repeat(np.arange(5.0), 4)[:, None, None] * np.ones((1, 1, 3))
    task = open_task(f"{write_npz(x=x, y=np.arange(20) % 2, speaker=speaker)}?group=speaker")
    parts = [set(whole(task, part)[0][:, 0, 0].round().tolist()) for part in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 5
    assert "lacks who" in failure(f"{write_npz(x=x, y=np.arange(20) % 2, speaker=speaker)}?group=who")


@pytest.mark.parametrize(
    ("y", "query", "said"),
    [
        (np.array([1, 2, 3]), "", "classes are the numbers from 0 on, without gaps: say classes=4"),
        (np.array([0, 1, 3]), "?classes=3", "y holds class 3, but classes=3"),
        (np.array([0, 1, -1]), "", "y holds -1, 0, 1: number classes from 0 on"),
        (np.array([0.5, 1, 2]), "?kind=classification", "class numbers are whole: say kind=regression"),
        (np.array([0.5, np.nan, 2]), "", "y holds NaN or infinity"),
        (np.eye(3, dtype=int)[:, :2], "?kind=classification", "a class for each sample is [N]: store y.argmax(1)"),
        (np.array([0, 1]), "", "3 inputs but 2 truths"),
        (np.array([0, 1, 2]), "?size=8", "size does not apply to an npz file"),
    ],
)
def test_npz_labels_that_cannot_be_used(write_npz, y, query, said):
    assert said in failure(f"{write_npz(x=np.zeros((3, 2, 5)), y=y)}{query}")


def test_npz_values_that_are_no_numbers_are_found_before_training(write_npz):
    x = np.zeros((10, 1, 4))
    x[7, 0, 2] = np.nan
    message = failure(write_npz(x=x, y=np.arange(10) % 2))
    assert "holds 1 values that are NaN" in message
    assert "first at [0, 2]" in message


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 1, 4), }", b"{'descr': ("]
)
def test_npz_whose_header_claims_what_is_not_there(tmp_path, header):
    path = tmp_path / "data.npz"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(320)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)
        archive.writestr("y.npy", content)
    assert f"{path}: x cannot be read (its header" in failure(path)


def test_arrays_on_disk_are_not_loaded(write_npz):
    from torchshrink.data.arrays import read_npz

    samples = read_npz(write_npz(x=np.zeros((4, 1, 8)), y=np.arange(4)))[""]
    assert isinstance(samples.read_input.keywords["x"], np.memmap)


# Tables.


def table(tmp_path: Path, write_image, rows: list[str], name: str = "set.csv") -> Path:
    for index in range(10):
        write_image(f"pictures/{index}.png", np.full((2, 2), index * 10, np.uint8))
    (tmp_path / name).write_text("\n".join(rows) + "\n")
    return tmp_path / name


def test_table_of_words(tmp_path, write_image):
    rows = [f"pictures/{i}.png,{'odd' if i % 2 else 'even'}" for i in range(10)]
    task = open_task(table(tmp_path, write_image, ["file,label", *rows]))
    assert (task.kind, task.class_names, task.name) == ("classification", ("even", "odd"), "set")
    for part in ("train", "validation", "test"):
        x, y = whole(task, part)
        assert torch.equal(y, (x[:, 0, 0, 0] * 25.5).round().long() % 2)


def test_table_with_split_and_numbers(tmp_path, write_image):
    split = ["train"] * 5 + ["val"] * 3 + ["test"] * 2
    rows = [f"pictures/{i}.png,{i / 4},{split[i]},{-i}" for i in range(10)]
    task = open_task(f"csv:{table(tmp_path, write_image, ['file,age,split,depth', *rows])}?size=4")
    assert (task.kind, task.class_names) == ("regression", ("age", "depth"))
    assert (len(task.train), len(task.validation), len(task.test)) == (5, 3, 2)
    x, y = whole(task, "test")
    assert x.shape == (2, 1, 4, 4)
    assert y.tolist() == [[2.0, -8.0], [2.25, -9.0]]


def test_table_with_groups_and_chosen_target(tmp_path, write_image):
    rows = [f"pictures/{i}.png,{i % 2},{i // 2},x" for i in range(10)]
    path = table(tmp_path, write_image, ["file,label,person,note", *rows])
    task = open_task(f"{path}?group=person&target=label")
    people = [set((whole(task, part)[0][:, 0, 0, 0] * 25.5).round().long().div(2).floor().tolist()) for part in PARTS]
    assert sum(map(len, people)) == len(set.union(*people)) == 5
    assert task.kind == "classification"


PARTS = ("train", "validation", "test")


@pytest.mark.parametrize(
    ("rows", "query", "said"),
    [
        (["file,label", "pictures/0.png,a", "pictures/99.png,b"], "", "row 3 names 'pictures/99.png', but"),
        (["file,label", "pictures/0.txt,a"], "", "row 2 names 'pictures/0.txt', which is no .png"),
        (["file,label", "pictures/0.png"], "", "row 2 has more or fewer fields"),
        (["file,label"], "", "has no row"),
        (["file", "pictures/0.png"], "", "has the columns file"),
        (["file,label", "pictures/0.png,1.5", "pictures/1.png,?"], "", "row 3 has label '?', which is no number"),
        (["file,label", "pictures/0.png,cat", "pictures/1.png,"], "", "row 3 has no label"),
        (["file,label,split", "pictures/0.png,1.5,trian"], "", "row 2 has the split 'trian'"),
        (["file,label,split", "pictures/0.png,1.5,test"], "", "no row of split train"),
        (["file,label", "pictures/0.png,1.5"], "?target=age", "has no column age, it has file, label"),
        (["file,age", "pictures/0.png,20", "pictures/1.png,70"], "", "column age (kind=regression"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, write_image, rows, query, said):
    assert said in failure(f"{table(tmp_path, write_image, rows)}{query}")


# Sounds.


def test_sounds_in_class_folders(tmp_path):
    for label, name in enumerate(("no", "yes")):
        for index in range(6):
            write_sound(tmp_path / "set" / name / f"{name}_{'abc'[index % 3]}_{index}.wav", [label * 1000, -5, 7])
    task = open_task(f"{tmp_path}/set?group=2")
    assert (task.kind, task.class_names) == ("classification", ("no", "yes"))
    assert task.normalization.raw == "int16 at 8000 Hz"
    x, y = whole(task, "test")
    assert torch.equal(y, (x[:, 0, 0] / 1000).round().long())
    assert x[0, 0, 1:].round().tolist() == [-5, 7]
    assert len(task.test) == 4  # all of one speaker


def test_sounds_of_different_lengths(tmp_path):
    for index, values in enumerate(([1, 2, 3, 4, 5], [9, 8], [1, 2, 3], [6])):
        write_sound(tmp_path / "set" / f"{index}.wav", values)
    message = failure(tmp_path / "set")
    assert "set/0.wav has 5 samples but" in message
    assert "say a length, such as size=5" in message
    task = open_task(f"{tmp_path}/set?size=3")
    rows = {tuple(row) for part in PARTS for row in whole(task, part)[0][:, 0].round().long().tolist()}
    assert rows == {(2, 3, 4), (9, 8, 0), (1, 2, 3), (0, 6, 0)}


def test_sounds_that_differ_or_are_damaged(tmp_path):
    for index in range(3):
        write_sound(tmp_path / "set" / f"{index}.wav", [1, 2, 3, 4])
    write_sound(tmp_path / "set" / "3.wav", [1, 2, 3, 4], rate=16000)
    assert "set/3.wav 1 at 16000 Hz: convert them to one" in failure(tmp_path / "set")
    write_sound(tmp_path / "set" / "3.wav", [1, 2, 3, 4, 5, 6, 7, 8], channels=2)
    assert "set/3.wav 2 at 8000 Hz" in failure(tmp_path / "set")
    path = write_sound(tmp_path / "set" / "3.wav", [1, 2, 3, 4])
    path.write_bytes(path.read_bytes()[:-2])
    assert "set/3.wav holds 3 samples but says 4" in failure(tmp_path / "set")
    path.write_bytes(b"RIFF")
    assert "set/3.wav cannot be read" in failure(tmp_path / "set")
    assert "set/0.wav is a sound" in failure(f"{tmp_path}/set?colour=rgb")


def test_sounds_of_another_depth(tmp_path):
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(1)
        file.setframerate(8000)
        file.writeframes(bytes(8))
    assert "a.wav has 8 bits per sample: save it as 16-bit PCM" in failure(tmp_path)


def test_samples_travel_to_worker_processes(tmp_path, write_image):
    class_folders(write_image, "set")
    task = open_task(tmp_path / "set")
    there = pickle.loads(pickle.dumps(task.train))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(task.train[1], there[1], strict=True))


# What must not be believed.


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, packed: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def test_a_flipped_bit_in_the_pixels(tmp_path, write_image):
    """Stored, not packed, pixels: the stream stays valid, so Pillow reads the wrong value without a word."""
    for index in range(4):
        write_image(f"set/{index}.png", np.zeros((4, 4), np.uint8))
    rows = bytes(20)
    path = tmp_path / "set" / "2.png"
    content = bytearray(png(4, 4, zlib.compress(rows, 0)))
    place = content.index(b"IDAT") + 4 + 2 + 5 + 7
    content[place] ^= 64
    path.write_bytes(content)
    assert f"{path} is damaged, the checksum of its chunk 'IDAT' is wrong: copy it again" in failure(tmp_path / "set")


@pytest.mark.parametrize(("width", "height"), [(2**31 - 1, 2**31 - 1), (16, 2**31 - 1), (9000, 9000)])
def test_a_small_file_that_claims_a_huge_image(tmp_path, width, height):
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(png(width, height, zlib.compress(bytes(50))))
    message = failure(tmp_path)
    assert "0.png claims to" in message


@pytest.mark.parametrize("name", ["0.png", "data.npz", "data.csv", "0.wav"])
def test_a_pipe_is_never_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    source = tmp_path if name[0] == "0" else tmp_path / name
    assert f"{tmp_path / name} is a pipe, not a file" in failure(source)


# What is made of it.


def test_labels_stay_with_augmented_images():
    x, y = torch.rand(8, 1, 4, 4), torch.arange(8)
    augment = flips_rotations_noise(2, noise=0, brightness=0)
    same, labels = augment(x, y, torch.Generator().manual_seed(0))
    assert torch.equal(same, x)
    assert torch.equal(labels, y)
    numbers = (x[:, 0] * 9).long()
    turned, moved = augment(x, numbers, torch.Generator().manual_seed(0))
    assert torch.equal((turned[:, 0] * 9).long(), moved)
    assert not torch.equal(turned, x)


def test_arrays_of_any_kind():
    x = np.random.default_rng(0).random((8, 1, 16), np.float32)
    task = task_from_arrays("t", from_xy(x, np.arange(8) % 3), from_xy(x, np.arange(8) % 2))
    assert (task.kind, task.class_names) == ("classification", ("class 0", "class 1", "class 2"))
    assert from_xy(x, x, kind="reconstruction").truth.dtype == np.float32
    with pytest.raises(DataError, match="no kind 'detection'"):
        LabelledArrays(x, np.zeros(8, np.int64), kind="detection")
    with pytest.raises(DataError, match=r"holds a classification but .* a regression"):
        task_from_arrays("t", from_xy(x, np.arange(8)), from_xy(x, np.arange(8) / 3))


def test_groups_are_never_divided():
    x, groups = np.zeros((10, 1, 4), np.float32), np.array(list("aaabbbbccd"))
    samples = LabelledArrays(x, np.arange(10), kind="classification", groups=groups)
    for seed in range(5):
        rest, part = split(samples, 0.3, seed)
        assert not set(rest.groups) & set(part.groups)
        assert 0 < len(part) < 10
    with pytest.raises(DataError, match="one group only, a"):
        split(samples.take(np.arange(3)), 0.3, 0)


def test_class_numbers_that_python_does_not_read(tmp_path: Path, write_image) -> None:
    rows = [f"pictures/{i}.png,{'9' * 5000}{i % 2}" for i in range(8)]
    assert len(open_task(table(tmp_path, write_image, ["file,label", *rows])).class_names) == 2  # words, as any others


def test_a_sound_whose_chunk_reaches_beyond_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(64))
    content = bytearray(path.read_bytes())
    content[16:20] = (2**20).to_bytes(4, "little")  # of its format: Python's reader raises RuntimeError
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.wav cannot be read"):
        sounds.read(path, Preparation())

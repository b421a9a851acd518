import doctest
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torchshrink.data
from torchshrink.cli.shown import folder_name
from torchshrink.data import cells, open_task
from torchshrink.data.sources import located
from torchshrink.errors import DataError


def failure(source, **settings) -> str:
    with pytest.raises(DataError) as caught:
        open_task(source, **settings)
    assert type(caught.value) is DataError
    assert "\n" not in str(caught.value)
    return str(caught.value)


def inputs(dataset) -> list[bytes]:
    return [dataset[i][0].numpy().tobytes() for i in range(len(dataset))]


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Write a module into the current folder, which is tmp_path; forget it afterwards."""
    monkeypatch.chdir(tmp_path)
    written = []

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        written.append(name)

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_synthetic_cells_by_default():
    task = open_task("synthetic:cells")
    assert task.name == "cells"
    assert (len(task.train), len(task.validation), len(task.test)) == (288, 32, 80)
    assert task.example_input.shape == task.example_truth.shape == (1, 1, 64, 64)
    assert task.augment is not None


def test_synthetic_pulses_by_default():
    task = open_task("synthetic:pulses")
    assert (len(task.train), len(task.validation), len(task.test)) == (288, 32, 80)
    assert task.example_input.shape == (1, 1, 512)
    assert task.dims == 1


def test_synthetic_options():
    task = open_task("synthetic:cells?size=32&train=20&test=6", validation=0.25, augment=False)
    assert (len(task.train), len(task.validation), len(task.test)) == (15, 5, 6)
    assert task.example_input.shape == (1, 1, 32, 32)
    assert task.augment is None


def test_synthetic_parts_share_no_image():
    task = open_task("synthetic:cells?train=40&test=40&size=16")
    parts = [set(inputs(part)) for part in (task.train, task.validation, task.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 80


def test_synthetic_is_normalised_by_its_training_part():
    task = open_task("synthetic:cells?train=40&test=4&size=32")
    x = torch.stack([task.train[i][0] for i in range(len(task.train))])
    assert x.mean().item() == pytest.approx(0, abs=1e-4)
    assert x.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    raw = task.test[0][0] * task.normalization.std[0] + task.normalization.mean[0]
    np.testing.assert_allclose(raw, cells(4, 32, 1)[0][0], atol=1e-6)


def test_seed_decides():
    first, again, other = (open_task("synthetic:pulses?length=64&train=10&test=4", seed=seed) for seed in (5, 5, 6))
    assert inputs(first.train) == inputs(again.train)
    assert inputs(first.test) == inputs(again.test)
    assert not set(inputs(first.test)) & set(inputs(other.test))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("synthetic:nuclei", "no synthetic 'nuclei'"),
        ("synthetic:cells?length=64", "cannot use length=64, the options are size, train, test"),
        ("synthetic:pulses?length=-64", "cannot use length=-64"),
        ("synthetic:cells?size=", "cannot use size="),
        ("synthetic:cells?size=8", "size=8: size must be at least 16"),
        ("synthetic:cells?test=0", "cannot use test=0"),
        ("synthetic:cells?train=1", "leaves none to train on"),
    ],
)
def test_synthetic_mistakes(source, named):
    assert named in failure(source)


def test_one_folder_is_split(write_set):
    task = open_task(write_set("my set", count=20))
    assert task.name == "my set"
    assert (len(task.train), len(task.validation), len(task.test)) == (14, 2, 4)
    parts = [set(inputs(part)) for part in (task.train, task.validation, task.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    assert task.normalization.raw == "uint8 / 255"


def test_images_stay_with_their_masks(write_set):
    task = open_task(str(write_set(count=20)))
    for part in (task.train, task.validation, task.test):
        for x, y in (part[i] for i in range(len(part))):
            raw = x * task.normalization.std[0] + task.normalization.mean[0]
            assert torch.equal(raw > 127.5 / 255, y > 0)


def test_folder_with_train_and_test(write_set, tmp_path):
    write_set("set/train", count=6)
    write_set("set/test", count=3, start=6)
    task = open_task(tmp_path / "set")
    assert (len(task.train), len(task.validation), len(task.test)) == (5, 1, 3)
    assert not set(inputs(task.test)) & {*inputs(task.train), *inputs(task.validation)}


@pytest.mark.parametrize(("present", "absent"), [("train", "test"), ("test", "train")])
def test_folder_with_one_part_only(write_set, tmp_path, present, absent):
    write_set(f"set/{present}")
    assert f"{tmp_path / 'set' / absent} is missing" in failure(tmp_path / "set")


def test_folder_with_images_only(write_set):
    root = write_set()
    (root / "masks").rename(root / "labels")
    assert f"{root / 'masks'} is missing" in failure(root)


def test_npz_sources(write_npz, tmp_path):
    x, y = np.random.default_rng(0).random((10, 1, 8)), np.ones((10, 2, 8))
    write_npz("pair/train.npz", x=x, y=y, class_names=np.array(["P", "T"]))
    write_npz("pair/test.npz", x=x[:3], y=y[:3])
    task = open_task(tmp_path / "pair")
    assert task.name == "pair"
    assert (len(task.train), len(task.validation), len(task.test)) == (9, 1, 3)
    assert task.class_names == ("P", "T")
    single = open_task(write_npz("single.npz", x=x, y=y))
    assert single.name == "single"
    assert (len(single.train), len(single.validation), len(single.test)) == (7, 1, 2)
    assert single.class_names == ("class 0", "class 1")


def test_paths_that_lead_nowhere(tmp_path):
    missing = tmp_path / "nowhere"
    for source in (missing, str(missing)):
        message = failure(source)
        assert message.startswith(f"{missing} does not exist: expected synthetic:cells")
    assert f"{tmp_path} holds none of images, masks" in failure(tmp_path)
    (tmp_path / "table.tsv").write_text("1,2")
    assert f"{tmp_path / 'table.tsv'} is a .tsv file" in failure(tmp_path / "table.tsv")


def test_paths_that_the_system_rejects():
    assert "cannot be read: File name too long" in failure("x" * 5000)
    assert "does not exist" in failure("~nobody-of-this-name/set")


def test_folder_that_cannot_be_listed(write_set, monkeypatch):
    root = write_set()

    def refuse(path: Path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert f"{root} cannot be read: Permission denied" in failure(root)


def test_callable_in_the_current_folder(write_module):
    write_module(
        "my_task_good",
        "from torchshrink.data import open_task\n"
        "def make():\n    return open_task('synthetic:pulses?length=64&train=4&test=2')\n",
    )
    before = list(sys.path)
    assert len(open_task("my_task_good:make").test) == 2
    assert sys.path == before


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (
            "def make():\n    return {'x': 1}\n",
            "my_task_bad:make returned dict: it must return a torchshrink.task.Task, or datasets",
        ),
        ("def make():\n    raise KeyError('lost')\n", "my_task_bad:make stopped with KeyError ('lost')"),
        ("def make(path):\n    pass\n", "my_task_bad:make stopped with TypeError"),
        ("make = 3\n", "my_task_bad has no callable make"),
        ("", "my_task_bad has no callable make"),
        ("import no_such_thing\n", "importing my_task_bad failed with ModuleNotFoundError (No module named 'no_such"),
        ("def make(:\n", "importing my_task_bad failed with SyntaxError"),
    ],
)
def test_callable_mistakes(write_module, text, named):
    write_module("my_task_bad", text)
    before = list(sys.path)
    assert named in failure("my_task_bad:make")
    assert sys.path == before


def test_errors_of_the_callable_pass_unchanged(write_module):
    write_module(
        "my_task_own", "from torchshrink.errors import DataError\ndef make():\n    raise DataError('my own words')\n"
    )
    assert failure("my_task_own:make") == "my own words"


def test_misspelt_source_tells_what_is_expected():
    message = failure("synthetik:cells")
    assert "synthetik:cells" in message
    assert "expected synthetic:cells" in message


def test_negative_seed():
    assert "seed=-1" in failure("synthetic:cells", seed=-1)


def test_public_names():
    assert sorted(torchshrink.data.__all__) == [
        "LabelledArrays",
        "cells",
        "flips_rotations_noise",
        "from_xy",
        "open_task",
        "pulses",
        "task_from_arrays",
        "task_from_datasets",
    ]
    assert all(hasattr(torchshrink.data, name) for name in torchshrink.data.__all__)


@pytest.mark.parametrize("name", ["arrays", "augment", "build", "files", "labelled", "sources", "synthetic"])
def test_doctests(name):
    result = doctest.testmod(importlib.import_module(f"torchshrink.data.{name}"))
    assert result.failed == 0
    assert result.attempted > 0


def test_where_data_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    assert located("set") == (tmp_path / "set", f"{tmp_path}/set")
    assert located("folder:set?size=8") == (tmp_path / "set", f"{tmp_path}/set?size=8")
    for source in ("synthetic:cells?size=16", "my_module:make", "nowhere?size=8"):
        assert located(source) == (None, source)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("synthetic:cells?size=16", "synthetic-cells"),
        ("folder:/my/set?size=96", "set"),
        ("my/set.csv?group=speaker", "set"),
        ("package.module:make", "package.module-make"),
    ],
)
def test_name_of_a_run(data, name):
    assert folder_name(None, data) == name

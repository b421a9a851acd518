import importlib
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, TensorDataset

from torchshrink.data import open_task, task_from_datasets
from torchshrink.data.datasets import PlainSamples, _kind
from torchshrink.errors import DataError


def images(count: int = 10) -> torch.Tensor:
    return torch.rand(count, 3, 4, 4)


@pytest.mark.parametrize(
    ("truth", "kind", "names", "dtype"),
    [
        (torch.arange(10) % 3, "classification", 3, torch.int64),
        (torch.rand(10), "regression", 1, torch.float32),
        (torch.rand(10, 2, dtype=torch.float64), "regression", 2, torch.float32),
        (torch.arange(160).reshape(10, 4, 4) % 5, "multiclass", 5, torch.int64),
        (torch.rand(10, 2, 4, 4) > 0.5, "segmentation", 2, torch.uint8),
        (torch.rand(10, 3, 4, 4), "reconstruction", 3, torch.float32),
        (torch.arange(10, dtype=torch.int8)[:, None] % 3, "classification", 3, torch.int64),
        (torch.rand(10) > 0.5, "classification", 2, torch.int64),
        (torch.ones(10, 4, 4, dtype=torch.uint8), "multiclass", 2, torch.int64),
        (torch.rand(10, 4, 4) > 0.5, "segmentation", 1, torch.uint8),
    ],
)
def test_kind_of_the_first_sample(truth, kind, names, dtype):
    inputs = images()
    task = task_from_datasets(TensorDataset(inputs, truth), TensorDataset(inputs[:4], truth[:4]))
    assert (task.kind, len(task.class_names)) == (kind, names)
    assert (len(task.train), len(task.validation), len(task.test)) == (9, 1, 4)
    x, y = task.test[2]
    assert torch.equal(x, inputs[2])
    assert y.dtype == dtype
    assert torch.equal(y.flatten(), truth[2].to(dtype).flatten())
    assert task.augment is None
    assert task.normalization.mean == (0.0, 0.0, 0.0)


class Pairs:
    """What people write: no base class, NumPy bytes and Python numbers."""

    classes = ("cat", "dog")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return np.full((1, 4, 4), 51 * (index % 6), np.uint8), index % 2


def test_arrays_and_numbers_become_tensors():
    task = task_from_datasets(Pairs(), Pairs(), Pairs())
    x, y = task.validation[3]
    assert (task.kind, task.class_names) == ("classification", ("cat", "dog"))
    assert float(x[0, 0, 0]) == pytest.approx(0.6)
    assert (y.shape, y.dtype, int(y)) == ((), torch.int64, 1)


def test_inputs_alone_are_unlabelled():
    task = task_from_datasets(list(images(5)), list(images(2)))
    assert (task.kind, task.test[0][1].shape) == ("unlabelled", (0,))


def test_dictionaries_are_the_users_own():
    sample = (images(1)[0], {"box": torch.zeros(4), "label": torch.tensor(1)})
    assert _kind(sample) == "custom"
    assert PlainSamples([sample], "custom", "here")[0][1]["label"] == 1


def test_settings_of_the_task():
    loss = torch.nn.CrossEntropyLoss()
    assert task_from_datasets(Pairs(), Pairs(), loss=loss).loss is loss


class Stream(IterableDataset):
    def __iter__(self):
        yield images(1)[0], 0


class Broken(Pairs):
    def __getitem__(self, index):
        raise KeyError("lost")


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (Stream(), "train is a Stream: give a dataset with __len__"),
        ([], "train has no sample"),
        (Broken(), "stopped with KeyError ('lost')"),
        ([("picture", 1)] * 3, "the input of sample 0 is a str: return a tensor"),
    ],
)
def test_datasets_that_cannot_be_used(train, said):
    with pytest.raises(DataError) as caught:
        task_from_datasets(train, Pairs())
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text", ["(data, data)", "(data, data, data)", "{'train': data, 'test': data}", "[DataLoader(data, 3)] * 2"]
)
def test_callable_that_returns_datasets(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_sets.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
        f"data = TensorDataset(torch.rand(8, 1, 16), torch.arange(8))\ndef make():\n    return {text}\n"
    )
    importlib.invalidate_caches()
    try:
        task = open_task("my_sets:make")
    finally:
        sys.modules.pop("my_sets", None)
    assert (task.name, task.kind, len(task.class_names)) == ("make", "classification", 8)

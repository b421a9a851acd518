import numpy as np
import pytest
import torch
from PIL import Image

from torchshrink.data import LabelledArrays, from_xy, open_task, task_from_arrays
from torchshrink.data.labelled import split
from torchshrink.errors import DataError
from torchshrink.task import Normalization


def numbered(count: int, origin: str = "train", channels: int = 1, length: int = 2, **settings) -> LabelledArrays:
    x = np.repeat(np.arange(count, dtype=np.float32), channels * length).reshape(count, channels, length)
    return LabelledArrays(x, np.zeros((count, 1, length), np.uint8), origin, **settings)


def numbers(dataset, normalization) -> list[int]:
    mean, std = normalization.mean[0], normalization.std[0]
    return [round(dataset[i][0][0, 0].item() * std + mean) for i in range(len(dataset))]


def test_parts_share_no_sample_and_lose_none():
    task = task_from_arrays("numbers", numbered(50), numbered(7, "test"), validation=0.2)
    train, validation = (numbers(part, task.normalization) for part in (task.train, task.validation))
    assert (len(train), len(validation), len(task.test)) == (40, 10, 7)
    assert sorted(train + validation) == list(range(50))
    assert numbers(task.test, task.normalization) == list(range(7))


def test_seed_chooses_the_validation_part():
    parts = []
    for seed in (0, 0, 1):
        task = task_from_arrays("numbers", numbered(50), numbered(2, "test"), seed=seed)
        parts.append(numbers(task.validation, task.normalization))
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize(("fraction", "expected"), [(0, 1), (0.001, 1), (0.1, 2), (0.5, 10)])
def test_validation_has_at_least_one_sample(fraction, expected):
    assert len(split(numbered(20), fraction, 0)[1]) == expected


def test_normalization_by_hand_and_of_training_samples_only():
    x = np.zeros((3, 2, 2, 2), np.float32)
    x[:, 0] = [[1, 1], [3, 3]]
    x[:, 1] = 5
    y = np.ones((3, 1, 2, 2), np.uint8)
    far = np.full((4, 2, 2, 2), 1000, np.float32)
    task = task_from_arrays(
        "hand", LabelledArrays(x, y, raw="volts"), LabelledArrays(far, np.ones_like(y, shape=(4, 1, 2, 2)), raw="volts")
    )
    assert task.normalization.mean == (2, 5)
    assert task.normalization.std == (1, 1)  # of a constant channel: 1, not 0
    assert task.normalization.raw == "volts"
    inputs, truth = task.train[0]
    assert torch.equal(inputs, torch.tensor([[[-1.0, -1], [1, 1]], [[0, 0], [0, 0]]]))
    assert (inputs.dtype, truth.dtype) == (torch.float32, torch.uint8)
    assert torch.equal(task.test[0][0][:, 0, 0], torch.tensor([998.0, 995]))


def test_validation_sample_does_not_reach_the_normalization():
    x = np.array([[[0, 2]], [[100, 100]]], np.float32)
    seen = set()
    for seed in range(20):
        train = LabelledArrays(x, np.zeros_like(x, np.uint8))
        seen.add(task_from_arrays("hand", train, train, seed=seed).normalization.mean)
    assert seen == {(1.0,), (100.0,)}


def test_constant_channel_that_rounding_would_blur():
    x = np.full((100, 1, 7), 0.1, np.float32)
    train = LabelledArrays(x, np.zeros_like(x, np.uint8))
    task = task_from_arrays("constant", train, train)
    assert task.normalization.std == (1.0,)


def test_small_units_are_scaled():
    x = np.tile(np.array([1e-6, -1e-6], np.float32), (10, 1, 1))
    train = LabelledArrays(x, np.zeros_like(x, np.uint8))
    inputs = task_from_arrays("microvolts", train, train).train[0][0]
    assert inputs.flatten().tolist() == pytest.approx([1, -1])


@pytest.mark.parametrize(("shape", "turned"), [((4, 4), {(4, 4)}), ((4, 6), {(4, 6)}), ((6,), {(6,)})])
def test_augmentation_fits_the_data(shape, turned):
    x = np.random.default_rng(0).random((8, 1, *shape), np.float32)
    train = LabelledArrays(x, (x > 0.5).astype(np.uint8))
    augment = task_from_arrays("any", train, train).augment
    assert augment is not None
    inputs, truth = augment(torch.from_numpy(x), torch.from_numpy(train.truth), torch.Generator().manual_seed(0))
    assert {tuple(inputs.shape[2:]), tuple(truth.shape[2:])} == turned
    assert torch.equal(truth, torch.from_numpy(train.truth)) is (len(shape) == 1)


def test_augmentation_can_be_left_out():
    assert task_from_arrays("numbers", numbered(5), numbered(2), augment=False).augment is None


def test_class_names():
    assert task_from_arrays("n", numbered(5), numbered(2)).class_names == ("class 0",)
    assert task_from_arrays("n", numbered(5, class_names=("cell",)), numbered(2)).class_names == ("cell",)
    assert task_from_arrays("n", numbered(5), numbered(2, class_names=("cell",))).class_names == ("cell",)


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        pytest.param(
            numbered(2, "there", channels=2), "inputs of shape (1, 2) per sample but there of (2, 2)", id="channels"
        ),
        pytest.param(
            numbered(2, "there", length=3), "inputs of shape (1, 2) per sample but there of (1, 3)", id="size"
        ),
        pytest.param(numbered(2, "there", raw="int16"), "here holds float32 but there int16", id="scale"),
        pytest.param(
            numbered(2, "there", class_names=("b",)), "here names its classes ['a'] but there ['b']", id="names"
        ),
        pytest.param(
            LabelledArrays(numbered(2).inputs, np.zeros((2, 4, 2), np.uint8), "there"),
            "truth of shape (1, 2) per sample but there of (4, 2)",
            id="classes",
        ),
    ],
)
def test_train_and_test_that_do_not_fit(test, expected):
    with pytest.raises(DataError) as caught:
        task_from_arrays("n", numbered(5, "here", class_names=("a",)), test)
    assert expected in str(caught.value)


def test_too_few_samples():
    with pytest.raises(DataError, match="here: setting 1 of 1 samples aside leaves none"):
        task_from_arrays("n", numbered(1, "here"), numbered(1))


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_validation_fraction_out_of_range(fraction):
    with pytest.raises(DataError, match="fraction"):
        task_from_arrays("n", numbered(5), numbered(2), validation=fraction)


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        (np.zeros((2, 1, 3)), np.zeros((2, 1, 3), np.uint8), "float64"),
        (np.zeros((2, 1, 3), np.float32), np.zeros((2, 1, 3), np.int64), "int64"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8), r"\(2, 3\)"),
        (np.zeros((0, 1, 3), np.float32), np.zeros((0, 1, 3), np.uint8), "empty"),
    ],
)
def test_arrays_that_contradict_their_description(x, y, expected):
    with pytest.raises(DataError, match=f"here.*{expected}"):
        LabelledArrays(x, y, "here")


def test_read_only_arrays_are_welcome():
    x = np.random.default_rng(0).random((6, 1, 8), np.float32)
    y = np.ones(x.shape, bool)
    x.flags.writeable = y.flags.writeable = False
    direct = LabelledArrays(x, y.view(np.uint8))
    assert len(task_from_arrays("n", from_xy(x, y), direct).test) == 6


@pytest.mark.parametrize(("quiet", "what"), [("test", "test"), ("train", "training")])
def test_signals_of_another_loudness_are_spoken_of(quiet, what):
    x = np.random.default_rng(0).normal(size=(4, 1, 64)).astype(np.float32)
    y = np.arange(4) % 2
    parts = {name: from_xy(x / (10 if name == quiet else 1), y) for name in ("train", "test")}
    assert task_from_arrays("sounds", parts["train"], parts["test"], validation=0.25).note.startswith(
        f"half of the {what} signals are 10.0 times quieter"
    )
    assert task_from_arrays("sounds", from_xy(x, y), from_xy(x / 2, y)).note == ""


@pytest.mark.parametrize(("level", "by"), [("peak", 4.0), ("rms", np.sqrt((16 + 4) / 4))])
def test_a_level_is_of_every_signal_and_travels_with_the_task(tmp_path, level, by):
    """All channels of a signal by one factor; silence stays silent."""
    x = np.array([[[0, -400], [200, 0]], [[0, 0], [0, 0]], [[0, -4], [2, 0]]], np.int16)
    for part in ("train", "test"):
        np.savez(tmp_path / f"{part}.npz", x=x, y=[0, 1, 1])
    task = open_task(f"{tmp_path}?level={level}", augment=False, normalization=Normalization((0.0, 0.0), (1.0, 1.0)))
    assert task.metadata["prepared"] == f"level={level}"
    assert task.note == ""
    found = torch.stack([task.test[index][0] for index in range(3)])
    loud = torch.tensor([[0, -4], [2, 0]]) / by
    assert torch.allclose(found, torch.stack([loud, torch.zeros(2, 2), loud]))


def test_a_level_is_for_signals(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / label / "one.png")
    with pytest.raises(DataError, match="is an image, level=peak is for sounds and arrays"):
        open_task(f"{tmp_path}?level=peak")

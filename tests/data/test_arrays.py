import numpy as np
import pytest

from torchshrink.data.arrays import from_xy, read_npz
from torchshrink.data.labelled import split
from torchshrink.errors import DataError

rng = np.random.default_rng(0)


def ramp(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def whole(samples) -> tuple[np.ndarray, np.ndarray]:
    inputs, truths = zip(*(samples[i] for i in range(len(samples))), strict=True)
    return np.stack(inputs), np.stack(truths)


def failure(function, *arguments, **settings) -> str:
    with pytest.raises(DataError) as caught:
        function(*arguments, **settings)
    assert type(caught.value) is DataError
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("x", "y", "inputs", "truth"),
    [
        pytest.param((5, 2, 32), (5, 3, 32), (5, 2, 32), (5, 3, 32), id="signals"),
        pytest.param((5, 2, 8, 9), (5, 3, 8, 9), (5, 2, 8, 9), (5, 3, 8, 9), id="images"),
        pytest.param((5, 32, 20), (5, 32, 20), (5, 1, 32, 20), (5, 1, 32, 20), id="images without channels"),
        pytest.param((5, 3, 64), (5, 3, 64), (5, 3, 64), (5, 3, 64), id="as many leads as classes"),
        pytest.param((5, 1, 64), (5, 1, 64), (5, 1, 64), (5, 1, 64), id="one lead, one class"),
        pytest.param((5, 32), (5, 32), (5, 1, 32), (5, 1, 32), id="signals without channels"),
        pytest.param((5, 2, 32), (5, 32), (5, 2, 32), (5, 1, 32), id="signals, one class"),
        pytest.param((5, 32), (5, 2, 32), (5, 1, 32), (5, 2, 32), id="one lead, classes"),
        pytest.param((5, 3, 8, 9), (5, 8, 9), (5, 3, 8, 9), (5, 1, 8, 9), id="images, one class"),
        pytest.param((5, 8, 9), (5, 2, 8, 9), (5, 1, 8, 9), (5, 2, 8, 9), id="gray images, classes"),
    ],
)
def test_shapes(x, y, inputs, truth):
    samples = from_xy(ramp(*x), np.ones(y))
    assert samples.inputs.shape == inputs
    assert samples.truth.shape == truth
    np.testing.assert_array_equal(samples.inputs.ravel(), np.arange(np.prod(x)))


def test_uint8_is_scaled_and_other_types_are_not():
    y = np.zeros((2, 1, 3))
    scaled = from_xy(np.full((2, 1, 3), 51, np.uint8), y)
    np.testing.assert_allclose(scaled.inputs, 0.2, rtol=1e-6)
    assert scaled.raw == "uint8 / 255"
    kept = from_xy(np.full((2, 1, 3), -51, np.int16), y)
    assert (kept.inputs == -51).all()
    assert kept.raw == "int16"
    assert kept.inputs.dtype == scaled.inputs.dtype == np.float32


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("top", [1, 255])
def test_truth_types(dtype, top):
    y = np.array([[[0, 1, 1]], [[1, 0, 0]]]) * top
    samples = from_xy(ramp(2, 1, 3), y.astype(dtype))
    np.testing.assert_array_equal(samples.truth, [[[0, 1, 1]], [[1, 0, 0]]])
    assert samples.truth.dtype == np.uint8


def test_callers_arrays_are_copied():
    x, y = ramp(2, 1, 3), np.zeros((2, 1, 3), np.uint8)
    samples = from_xy(x, y)
    x[:] = -1
    y[:] = 1
    assert samples.inputs.max() == 5
    assert samples.truth.max() == 0


def test_not_finite_counts_and_points():
    x = ramp(4, 1, 8)
    x[2, 0, 5], x[3, 0, 0], x[3, 0, 1] = np.nan, np.inf, -np.inf
    message = failure(from_xy, x, np.zeros((4, 1, 8)), origin="here.npz")
    assert "here.npz: x holds 3 values that are NaN, infinite" in message
    assert "first at [2, 0, 5]" in message


def test_float64_beyond_float32():
    assert "x holds 4 values" in failure(from_xy, np.full((2, 1, 2), 1e300), np.zeros((2, 1, 2)))


@pytest.mark.parametrize(
    ("y", "shown"),
    [
        ([0, 1, 2.0], "0, 1, 2,"),
        ([0, 0.5, 1], "0, 0.5, 1,"),
        ([0, 1, -1.0], "-1, 0, 1,"),
        ([0, 1, 255.0], "0, 1, 255,"),
        ([0, 1, np.nan], "0, 1, nan,"),
        ([0, 1, 2, 3, 4, 5.0], "0, 1, 2, 3, 4, ...,"),
    ],
)
def test_truth_that_is_not_binary(y, shown):
    message = failure(from_xy, ramp(1, 1, len(y)), np.array([[y]]), origin="here.npz")
    assert f"here.npz: y holds {shown} expected only 0 and 1" in message


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        pytest.param((5, 1, 8), (4, 1, 8), "5 inputs but 4 truths", id="count"),
        pytest.param((5, 1, 8), (5, 1, 9), "inputs measure (8,) but truth (9,)", id="length"),
        pytest.param((5, 1, 8, 8), (5, 1, 8, 9), "inputs measure (8, 8) but truth (8, 9)", id="size"),
        pytest.param((0, 1, 8), (0, 1, 8), "x is empty (shape (0, 1, 8))", id="empty"),
        pytest.param((), (), "x has shape ()", id="a number"),
        pytest.param((2, 1, 3, 3, 3), (2, 1, 3, 3, 3), "inputs of shape (2, 1, 3, 3, 3)", id="volumes"),
    ],
)
def test_shapes_that_do_not_fit(x, y, expected):
    message = failure(from_xy, ramp(*x), np.zeros(y), origin="here.npz")
    assert message.startswith("here.npz")
    assert expected in message


@pytest.mark.parametrize("dtype", [np.complex64, str, object])
def test_types_that_are_not_numbers(dtype):
    assert "here.npz: x has type" in failure(
        from_xy, ramp(2, 1, 3).astype(dtype), np.zeros((2, 1, 3)), origin="here.npz"
    )


def test_single_file_is_split_into_disjoint_parts(write_npz):
    path = write_npz(x=ramp(20, 1, 4), y=np.ones((20, 1, 4)))
    train, test = split(read_npz(path)[""], 0.2, seed=0)
    assert (len(train), len(test)) == (16, 4)
    first = sorted([*whole(train)[0][:, 0, 0], *whole(test)[0][:, 0, 0]])
    assert first == list(range(0, 80, 4))
    again, other = (whole(split(read_npz(path)[""], 0.2, seed=seed)[1])[0] for seed in (0, 1))
    np.testing.assert_array_equal(again, whole(test)[0])
    assert not np.array_equal(other, whole(test)[0])


def test_file_with_both_parts(write_npz):
    y = np.ones((3, 1, 4))
    path = write_npz(
        x_train=ramp(3, 1, 4), y_train=y, x_test=ramp(1, 1, 4), y_test=y[:1], class_names=np.array(["QRS"])
    )
    parts = read_npz(path)
    train, test = parts["train"], parts["test"]
    assert (len(train), len(test)) == (3, 1)
    assert train.class_names == ("QRS",)


def test_two_files(write_npz, tmp_path):
    for name, count in (("train", 3), ("test", 2)):
        write_npz(f"{name}.npz", x=ramp(count, 1, 4), y=np.ones((count, 1, 4)))
    train, test = read_npz(tmp_path).values()
    assert (len(train), len(test)) == (3, 2)


@pytest.mark.parametrize("present", ["train", "test"])
def test_one_of_two_files(write_npz, tmp_path, present):
    write_npz(f"{present}.npz", x=ramp(3, 1, 4), y=np.ones((3, 1, 4)))
    absent = "test" if present == "train" else "train"
    assert f"{tmp_path / absent}.npz is missing" in failure(read_npz, tmp_path)


def test_missing_keys(write_npz):
    path = write_npz(images=ramp(2, 1, 4))
    assert f"{path} lacks x and y, it has images" in failure(read_npz, path)
    path = write_npz(x_train=ramp(2, 1, 4), y_train=ramp(2, 1, 4) > 0, x_test=ramp(2, 1, 4))
    assert f"{path} lacks y_test" in failure(read_npz, path)


def test_pickled_objects_are_never_loaded(write_npz):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    path = write_npz(x=np.array([Trap(), Trap()], object), y=np.ones((2, 1, 4)))
    assert f"{path}: x holds Python objects" in failure(read_npz, path)


def test_files_that_are_no_npz(tmp_path):
    path = tmp_path / "data.npz"
    path.write_bytes(b"text")
    assert f"{path} is not an npz file" in failure(read_npz, path)
    with path.open("wb") as file:
        np.save(file, ramp(2, 1, 4))
    assert f"{path} is not an npz file" in failure(read_npz, path)


def test_damaged_file(write_npz):
    path = write_npz(x=rng.random((20, 1, 64)), y=np.ones((20, 1, 64)))
    content = bytearray(path.read_bytes())
    content[3000:3100] = bytes(100)
    path.write_bytes(content)
    assert f"{path}: x cannot be read" in failure(read_npz, path)


def test_class_names_must_fit(write_npz):
    path = write_npz(x=ramp(5, 1, 4), y=np.ones((5, 2, 4)), class_names=np.array(["P", "QRS", "T"]))
    message = failure(read_npz, path)
    assert str(path) in message
    assert "3 class names ['P', 'QRS', 'T'] for 2 truth channels" in message

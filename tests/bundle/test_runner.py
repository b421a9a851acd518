"""What a bundle's runner reads, computes and writes, against NumPy, Pillow and `torchshrink predict`."""

from __future__ import annotations

import io
import random
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from described import spec, write_spec
from PIL import Image

from torchshrink.data.preparation import Preparation
from torchshrink.predict import tiles
from torchshrink.runtime._model_files import quantize

Part = Callable[..., Any]


def as_array(sample: tuple[Any, int, int], channels: int) -> np.ndarray:
    values, height, width = sample
    flat = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else np.array(values, np.float32)
    return flat.reshape(height, width, channels)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_png_as_pillow_reads_it(mode: str, part: Part) -> None:
    """Smooth and noisy rows: Pillow's encoder chooses all five filters for them."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:19, :23]
    smooth = np.stack([x * 5, y * 7, x * 3 + y * 2], -1).astype(np.uint8)
    pixels = np.concatenate([smooth, rng.integers(0, 256, smooth.shape, np.uint8)])
    image = Image.fromarray(pixels).convert(mode)
    if mode.endswith("A"):
        image.putalpha(255)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    formats, channels = part("formats"), 1 if mode[0] == "L" else 3
    (found,) = formats.read(stream.getvalue(), "a.png", spec(channels=channels))
    expected = np.asarray(image.convert(mode[: -1 if mode.endswith("A") else None])).reshape(38, 23, channels)
    assert np.array_equal(as_array(found, channels), expected)


@pytest.mark.parametrize("kind", range(5))
def test_every_filter_of_a_png(kind: int, part: Part) -> None:
    """Rows filtered by hand, by the formulas of the standard, come back."""
    pngs, rng = part("pngs"), random.Random(kind)
    above, row = (bytes(rng.randrange(256) for _ in range(12)) for _ in range(2))
    left, corner = bytes(3) + row[:-3], bytes(3) + above[:-3]

    def paeth(a: int, b: int, c: int) -> int:
        return min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]

    guesses = {
        0: bytes(12),
        1: left,
        2: above,
        3: bytes((a + b) // 2 for a, b in zip(left, above, strict=True)),
        4: bytes(paeth(*each) for each in zip(left, above, corner, strict=True)),
    }
    filtered = bytes((value - guess) % 256 for value, guess in zip(row, guesses[kind], strict=True))
    assert pngs.unfiltered(kind, filtered, above, 3) == row


def test_png_of_16_bits(part: Part) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7)).astype(np.uint16)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    (found,) = part("formats").read(stream.getvalue(), "a.png", spec(raw="uint16 / 65535"))
    assert np.array_equal(as_array(found, 1)[..., 0], pixels.astype(np.float32) / np.float32(65535))


def test_png_that_is_written(part: Part) -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (9, 4)).astype(np.uint8) * 255
    image = Image.open(io.BytesIO(part("pngs").written(pixels.tobytes(), 9, 4)))
    assert np.array_equal(np.asarray(image), pixels)


def damaged_png() -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "PNG")
    content = bytearray(stream.getvalue())
    content[45] ^= 1
    return bytes(content)


def transparent() -> bytes:
    stream = io.BytesIO()
    Image.new("LA", (8, 8), (3, 100)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.png", damaged_png(), "checksum"),
        ("a.png", transparent(), "transparent"),
        ("a.png", b"", "cannot be read"),
        ("a.npy", b"\x93NUMPY\x01\0", "cannot be read"),
        ("a.npz", b"PK", "cannot be read"),
        ("a.wav", b"RIFF", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_said(name: str, data: bytes, words: str, part: Part) -> None:
    formats = part("formats")
    with pytest.raises(formats.InputError, match=words):
        formats.read(data, name, spec())


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize(("dtype", "raw"), [(np.uint8, "uint8 / 255"), (np.float32, "float32"), (np.float64, "float64"),
                                           (np.int16, "int16"), (np.uint16, "uint16 / 65535")])  # fmt: skip
def test_arrays_as_numpy_writes_them(ending: str, dtype: Any, raw: str, part: Part) -> None:
    x = np.random.default_rng(0).uniform(0, 200, (3, 2, 4, 5)).astype(dtype)
    stream = io.BytesIO()
    np.save(stream, x) if ending == "npy" else np.savez_compressed(stream, x=x)
    found = part("formats").read(stream.getvalue(), f"a.{ending}", spec(channels=2, raw=raw))
    divisor = 65535 if dtype is np.uint16 else 1
    expected = x.transpose(0, 2, 3, 1).astype(np.float32) / np.float32(divisor)
    assert np.array_equal(np.stack([as_array(sample, 2) for sample in found]), expected)


@pytest.mark.parametrize(
    ("x", "changes", "words"),
    [
        (np.zeros((1, 3, 4, 4), np.uint8), {}, r"takes \[N, 1, H, W\]"),
        (np.zeros((1, 4, 4), np.float32), {}, "was trained on uint8 / 255"),
        (np.asfortranarray(np.zeros((1, 1, 4, 4), np.uint8)), {}, "Fortran"),
        (np.full((1, 4, 4), np.nan, np.float32), {"raw": "float32"}, "NaN"),
    ],
)
def test_arrays_that_do_not_fit(x: np.ndarray, changes: dict[str, Any], words: str, part: Part) -> None:
    formats, stream = part("formats"), io.BytesIO()
    np.save(stream, x)
    with pytest.raises(formats.InputError, match=words):
        formats.read(stream.getvalue(), "a.npy", spec(**changes))


@pytest.mark.parametrize("length", [0, 6, 30])
def test_sounds_have_the_length_that_training_gave_them(length: int, part: Part) -> None:
    values = np.random.default_rng(0).integers(-32768, 32768, (17, 2)).astype(np.int16)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(2), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(values.tobytes())
    prepared = {"size": [length]} if length else {}
    wanted = spec(channels=2, dims=1, raw="int16 at 8000 Hz", prepared=prepared)
    (found,) = part("formats").read(stream.getvalue(), "a.wav", wanted)
    expected = Preparation((length,) if length else ()).signal(values.T.astype(np.float32)).T
    assert np.array_equal(as_array(found, 2)[0], expected)


@pytest.mark.parametrize("fit", ["", "resize", "crop", "cover"])
@pytest.mark.parametrize("colour", ["", "gray"])
def test_images_are_fitted_as_in_training(fit: str, colour: str, part: Part) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (21, 33, 3), np.uint8))
    stream = io.BytesIO()
    image.save(stream, "PNG")
    prepared = {"size": [10, 12], **({"fit": fit} if fit else {}), **({"colour": colour} if colour else {})}
    channels = 1 if colour else 3
    (found,) = part("formats").read(stream.getvalue(), "a.png", spec(channels=channels, prepared=prepared))
    expected = Preparation((10, 12), fit, colour).image(image.convert("L") if colour else image)
    assert np.array_equal(as_array(found, channels), np.asarray(expected).reshape(12, 10, channels))


@pytest.mark.parametrize("tile", [1, 7, 8, 12, 32, 96, 128])
def test_tiles_are_those_of_predict(tile: int, part: Part) -> None:
    own = part("tiles")
    for overlap in {0, tile // 4, tile // 2}:
        for size in (1, 2, tile - 1, tile, tile + 1, 2 * tile + 3, 300):
            if size > 0:
                expected = [(each.start, each.keep_from, each.keep_to) for each in tiles.plan(size, tile, overlap)]
                assert own.plan(size, tile, overlap) == expected
    places = [own.mirrored(place, 5) for place in range(40)]
    assert places == tiles.reflected(0, 40, 5).tolist()


@pytest.mark.parametrize(("height", "width"), [(8, 8), (5, 3), (8, 9), (21, 30)])
@pytest.mark.parametrize("channels_first", [False, True])
def test_tiles_put_together_are_the_image(height: int, width: int, channels_first: bool, part: Part) -> None:
    """A model that gives what it takes: every value is back at its place."""
    run = part("run")
    folder = Path(run.HERE)
    write_spec(folder, channels=2, classes=["a", "b"], mean=[0, 0], std=[1, 1], raw="float32",
               channels_first=channels_first)  # fmt: skip
    x = np.random.default_rng(0).standard_normal((height, width, 2)).astype(np.float32)
    output = run.Model(str(folder))((run.array("f", x.ravel().tolist()), height, width))
    assert np.array_equal(np.array(output, np.float32).reshape(height, width, 2), x)


@pytest.mark.parametrize("code", ["b", "B"])
def test_codes_are_those_of_the_runtime(code: str, part: Part) -> None:
    """Normalised and quantized in float32, half to even, for every pixel and for floats."""
    run = part("run")
    scale, zero, dtype = float(np.float32(0.0173)), 3, np.int8 if code == "b" else np.uint8
    end = {"name": "x", "shape": [1, 8, 8, 1], "type": "int8", "code": code, "scale": scale, "zero_point": zero}
    write_spec(Path(run.HERE), mean=[0.2294951969776], std=[0.3301391369230], input=end, output=end)
    model = run.Model(run.HERE)
    mean, std = np.float32(0.2294951969776), np.float32(0.3301391369230)
    levels = np.arange(256).astype(np.float32) / np.float32(255)
    assert model.tables[0].tolist() == quantize((levels - mean) / std, dtype, scale, zero).tolist()
    floats = np.random.default_rng(0).standard_normal(2000).astype(np.float32)
    found = model.encoded(run.array("f", floats.tolist()), 0)
    assert found.tolist() == quantize((floats - mean) / std, dtype, scale, zero).tolist()
    assert np.array_equal(model.floats(found), (np.array(found, np.float32) - zero) * np.float32(scale))


def run_on(part: Part, x: np.ndarray, name: str, **changes: Any) -> dict[str, bytes]:
    run = part("run")
    write_spec(Path(run.HERE), raw="float32", **changes)
    stream = io.BytesIO()
    np.save(stream, x.astype(np.float32))
    model = run.Model(run.HERE)
    answers: dict[str, bytes] = run.answers(model, name, run.read(stream.getvalue(), "a.npy", model.spec))
    return answers


def array_of(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data))


def test_a_mask_is_what_exceeds_one_half(part: Part) -> None:
    x = np.random.default_rng(0).uniform(size=(2, 1, 9, 10))
    x[0, 0, 0, 0] = 0.5
    found = run_on(part, x, "a.npy")
    assert np.array_equal(array_of(found["a.npy"]), x.astype(np.float32) > 0.5)


def test_an_image_of_two_classes_gives_a_mask_in_a_folder_for_each(part: Part) -> None:
    x = np.random.default_rng(0).uniform(size=(1, 2, 9, 10))
    two = {"channels": 2, "classes": ["P wave", "b"], "folders": ["P-wave", "b"], "mean": [0, 0], "std": [1, 1]}
    found = run_on(part, x, "a.png", **two)
    assert set(found) == {"P-wave/a.png", "b/a.png"}
    for k, name in enumerate(found):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(found[name]))) == 255, x[0, k] > 0.5)


def test_one_class_for_each_pixel(part: Part) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 9, 10)).astype(np.float32)
    x[0, :, 0, 0] = 1  # the first of equals, as numpy.argmax
    three = {"channels": 3, "classes": list("abc"), "folders": list("abc"), "mean": [0] * 3, "std": [1] * 3}
    found = run_on(part, x, "a.png", kind="multiclass", **three)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(found["a.png"]))), x[0].argmax(0))


def test_a_classification_names_its_class(part: Part) -> None:
    x = np.array([[0.1, 2.5, -1.0]]).reshape(1, 3, 1, 1)
    three = {"channels": 3, "classes": list("abc"), "folders": list("abc"), "mean": [0] * 3, "std": [1] * 3}
    found = run_on(part, x, "a.png", kind="classification", tiles=False, tile=[1, 1], overlap=[0, 0], **three)
    assert b'"class": "b"' in found["a.json"]


def test_numbers_are_written_as_they_are(part: Part) -> None:
    """In the shape that PyTorch gives them, whatever the layout of the file."""
    x = np.random.default_rng(0).standard_normal((2, 2, 8, 8)).astype(np.float32)
    two = {"channels": 2, "classes": list("ab"), "folders": list("ab"), "mean": [0] * 2, "std": [1] * 2}
    found = run_on(part, x, "a.npy", kind="regression", tiles=False, **two)
    assert np.array_equal(array_of(found["a.npy"]), x)


def test_another_size_than_the_models_is_said(part: Part) -> None:
    run = part("run")
    with pytest.raises(run.InputError, match=r"measures 9 x 8: the model takes \[8, 8\]"):
        run_on(part, np.zeros((1, 1, 9, 8)), "a.npy", kind="regression", tiles=False)


def test_a_png_that_claims_more_than_it_holds_is_small_in_memory(part: Part) -> None:
    """What is unpacked is bounded by the size that the header states."""
    pngs = part("pngs")
    content = pngs.written(bytes(4), 2, 2)
    bomb = zlib.compress(bytes(10_000_000))
    length = len(bomb).to_bytes(4, "big")
    start = content[:33] + length + b"IDAT" + bomb + zlib.crc32(b"IDAT" + bomb).to_bytes(4, "big")
    values, height, width, _ = pngs.read(start + content[-12:])
    assert (len(values), height, width) == (4, 2, 2)

"""PNG images read by rows, against Pillow reading them whole."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from torchshrink.errors import DataError
from torchshrink.predict import png_rows, streams

CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}


def png(width: int, height: int, colour: int, part: int = 1 << 30) -> bytes:
    """Make an image of noise whose rows have each of the five filters, in IDAT chunks of ``part`` bytes."""
    rng = np.random.default_rng(colour)
    rows = rng.integers(0, 256, (height, 1 + width * CHANNELS[colour]), np.uint8)
    rows[:, 0] %= 5  # whatever follows, it is a valid row
    packed = zlib.compress(rows.tobytes())
    parts = [packed[start : start + part] for start in range(0, len(packed), part)]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"gAMA", struct.pack(">I", 45455)), *((b"IDAT", each) for each in parts)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, [*chunks, (b"IDAT", b""), (b"IEND", b"")]))


def chunk(item: tuple[bytes, bytes]) -> bytes:
    name, data = item
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pillow(content: bytes) -> NDArray[Any]:
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def opened(path: Path, channels: int) -> streams.Source:
    return png_rows.open_source(path, channels, 2, "uint8 / 255")


def read_all(path: Path, channels: int) -> NDArray[Any]:
    source = opened(path, channels)
    (read,) = source.samples()
    return read(0, source.height)


@pytest.mark.parametrize("part", [1 << 30, 1000, 1])
@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3)])
def test_rows_are_those_of_pillow(
    colour: int, channels: int, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png_rows, "_STRIP_BYTES", 500)  # a few rows, or a part of one
    content = png(61, 47, colour, part)
    (tmp_path / "a.png").write_bytes(content)
    source, expected = opened(tmp_path / "a.png", channels), pillow(content)
    assert isinstance(source, png_rows.PngSource)
    (read,) = source.samples()
    for first, end in [(0, 20), (10, 30), (10, 30), (29, 31), (40, 47), (45, 47)]:
        np.testing.assert_array_equal(read(first, end), expected[:, first:end])
    np.testing.assert_array_equal(read(3, 9), expected[:, 3:9])  # back again
    np.testing.assert_array_equal(np.concatenate(list(source.strips()), axis=1), expected)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_an_alpha_channel_must_be_opaque(mode: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, len(mode)), np.uint8)
    pixels[..., -1] = 255
    channels = len(mode) - 1
    Image.fromarray(pixels, mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_all(tmp_path / "a.png", channels), pixels[..., :channels].transpose(2, 0, 1))
    pixels[299, 0, -1] = 254
    Image.fromarray(pixels, mode).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png has transparent parts"):
        read_all(tmp_path / "a.png", channels)


def test_only_the_rows_asked_for_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(png_rows, "_STRIP_BYTES", 300 * 10)  # ten rows
    (tmp_path / "a.png").write_bytes(png(100, 400, 2))
    source = opened(tmp_path / "a.png", 3)
    assert isinstance(source, png_rows.PngSource)
    window = png_rows._Window(source)
    held = []
    for first in range(0, 380, 16):
        assert window.read(first, first + 20).shape == (3, 20, 100)
        held.append(window.held)
    assert max(held) <= 20 + 10


def interlaced() -> bytes:
    content = bytearray(png(8, 8, 0))
    content[28] = 1
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


def saved(image: Image.Image, kind: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "raw"),
    [
        (interlaced(), "uint8 / 255"),
        (saved(Image.new("1", (8, 8))), "uint8 / 255"),
        (saved(Image.fromarray(np.zeros((8, 8), np.uint16))), "uint16 / 65535"),
        (saved(Image.new("L", (8, 8)), "JPEG"), "uint8 / 255"),
    ],
    ids=["interlaced", "1 bit", "16 bits", "JPEG"],
)
def test_other_images_are_read_as_before(content: bytes, raw: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(content)
    assert type(png_rows.open_source(tmp_path / "a.png", 1, 2, raw)) is streams.ImageSource


def flipped(content: bytes) -> bytes:
    place = content.index(b"IDAT") + 40
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def wrong_checksum(content: bytes) -> bytes:
    """Change the checksum that stands between the pixels and the empty chunk after them."""
    place = content.rindex(b"IDAT") - 5
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:2000], "image file is truncated"),
        (lambda content: content[: content.index(b"IDAT") + 2], "."),
        (flipped, "."),
        (lambda content: content[:-30] + bytes(30), "."),
        (wrong_checksum, "checksum of a chunk IDAT is wrong"),
    ],
    ids=["truncated", "no pixels", "a bit flipped", "no end", "checksum"],
)
def test_damaged_files_are_one_clear_sentence(damage: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(damage(png(64, 64, 0)))
    with pytest.raises(DataError, match=rf"a\.png cannot be read \(.*{words}.*\): save it again"):
        read_all(path, 1)


def test_more_rows_than_a_file_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as in the process that predicts
    header = struct.pack(">IIBBBBB", 16, 2**31 - 1, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(17))), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, parts)))
    with pytest.raises(
        DataError, match=r"a\.png claims 2147483647 rows of 16 pixels, more than its \d+ bytes can hold"
    ):
        opened(tmp_path / "a.png", 1)
    Image.new("L", (4000, 4000)).save(tmp_path / "b.png")  # as dense as it gets
    assert opened(tmp_path / "b.png", 1).height == 4000

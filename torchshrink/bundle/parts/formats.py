"""Read PNG, NPY, NPZ and WAV files and write PNG and NPY, with nothing but Python.

A sample is ``(values, height, width)`` with its channels last: ``bytes`` of 8-bit pixels, or float32.
"""

from __future__ import annotations

import io
import struct
from array import array
from math import isfinite, prod
from typing import Any

import pngs  # type: ignore[import-not-found]

Sample = tuple[Any, int, int]
CODES = {"|b1": "B", "|u1": "B", "|i1": "b", "<i2": "h", "<u2": "H", "<i4": "i", "<u4": "I", "<i8": "q", "<f4": "f",
         "<f8": "d"}  # fmt: skip


FORMATS = ("PNG", "TIFF", "JPEG")  # Pillow would run programs for some others
most_pixels = 1 << 27  # of an image that Pillow reads; a server takes fewer


class InputError(ValueError):
    """An input that the model does not take; the text says what to do."""


def read(data: bytes, name: str, spec: dict[str, Any]) -> list[Sample]:
    """Return the samples of a file's content; the ending of its name says what it is."""
    ending = name.lower().rpartition(".")[2]
    try:
        if ending == "npz":
            import zipfile

            data = zipfile.ZipFile(io.BytesIO(data)).read("x.npy")
        if ending in ("npy", "npz"):
            return read_npy(data, spec)
        if ending == "wav":
            return [read_wav(data, spec)]
        if spec["prepared"] or not pngs.is_plain(data):
            return [read_picture(data, spec)]
        values, height, width, channels = pngs.read(data)
        if isinstance(values, bytes):
            return [checked(values, height, width, channels, "uint8 / 255", spec)]
        return [checked(values, height, width, channels, "uint16 / 65535", spec)]
    except InputError:
        raise
    except Exception as error:  # whatever the bytes happen to mean
        raise InputError(f"{name} cannot be read ({type(error).__name__}: {error}): write it again") from None


def read_picture(data: bytes, spec: dict[str, Any]) -> Sample:
    """Read an image of another kind, or of another size than the model's, with Pillow."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError("this image needs Pillow: pip install pillow, or save it as an 8-bit PNG") from None
    prepared = spec["prepared"]
    image: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > most_pixels:
        raise InputError(f"the image claims {image.width} x {image.height} pixels: cut it into tiles")
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() != (255, 255):
        raise InputError("the image has transparent parts: save it without an alpha channel")
    mode = {"gray": "L", "rgb": "RGB"}.get(prepared.get("colour", ""))
    image = image.convert(mode or {"1": "L", "LA": "L", "RGBA": "RGB"}.get(image.mode, image.mode))
    if image.mode not in ("L", "RGB"):
        raise InputError(f"the image has Pillow mode {image.mode}: save it as 8-bit gray or RGB")
    if wanted := prepared.get("size"):
        width, height = wanted[0], wanted[-1]
        method, fit = Image.Resampling.BILINEAR, prepared.get("fit", "")
        if fit == "cover":
            by = max(width / image.width, height / image.height)
            image = image.resize((max(width, round(image.width * by)), max(height, round(image.height * by))), method)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        box = (left, top, left + width, top + height)
        image = image.crop(box) if fit in ("crop", "cover") else image.resize((width, height), method)
    channels = len(image.getbands())
    return checked(image.tobytes(), image.height, image.width, channels, "uint8 / 255", spec)


def read_npy(data: bytes, spec: dict[str, Any]) -> list[Sample]:
    """Read an array ``[N, C, *size]``."""
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    header = data[start:end].decode()
    code = CODES[header.split("'descr': '")[1].split("'")[0]]
    sides = [int(side) for side in header.split("'shape': (")[1].split(")")[0].split(",") if side.strip()]
    if "'fortran_order': True" in header:
        raise InputError("the array is in Fortran order: write numpy.ascontiguousarray(x)")
    channels, dims = spec["channels"], spec["dims"]
    if len(sides) == dims + 1 and channels == 1:
        sides.insert(1, 1)
    if len(sides) != dims + 2 or sides[1] != channels or 0 in sides:
        raise InputError(f"the array is {sides}: the model takes [N, {channels}, {'L' if dims == 1 else 'H, W'}]")
    is_bytes, is_deep = header.split("'descr': '")[1].startswith("|u1"), spec["raw"] == "uint16 / 65535"
    if is_bytes != (spec["raw"] == "uint8 / 255") or is_deep != (code == "H"):
        raise InputError(f"the array holds {'uint8' if is_bytes else code}, the model was trained on {spec['raw']}")
    values: Any = array(code, data[end : end + prod(sides) * array(code).itemsize])
    if len(values) != prod(sides):
        raise InputError("the array ends too soon: write it again")
    values = array("f", [value / 65535 for value in values]) if is_deep else values
    height, width = ([1, *sides[2:]])[-2:]
    each = channels * height * width
    return [interleaved(values[n * each : (n + 1) * each], height, width, channels, is_bytes) for n in range(sides[0])]


def interleaved(values: Any, height: int, width: int, channels: int, is_bytes: bool) -> Sample:
    """Move the channels of ``[C, H, W]`` last."""
    moved = array("B" if is_bytes else "f", bytes(len(values) * (1 if is_bytes else 4)))
    for channel in range(channels):
        plane = values[channel * height * width : (channel + 1) * height * width]
        moved[channel::channels] = array(moved.typecode, plane)
    if not is_bytes and not isfinite(sum(moved)):
        raise InputError("the array holds NaN, infinity or values beyond float32: repair or drop them")
    return (moved.tobytes() if is_bytes else moved), height, width


def read_wav(data: bytes, spec: dict[str, Any]) -> Sample:
    """Read 16-bit PCM; a length that the model was trained with is cut from the middle, or filled with zeros."""
    import wave

    with wave.open(io.BytesIO(data)) as file:
        raw, channels, count = f"int16 at {file.getframerate()} Hz", file.getnchannels(), file.getnframes()
        if file.getsampwidth() != 2:
            raise InputError("the sound is not of 16 bits: save it as 16-bit PCM")
        values = array("f", array("h", file.readframes(count)))
    if wanted := spec["prepared"].get("size"):
        cut, before = max(0, (count - wanted[0]) // 2), max(0, (wanted[0] - count) // 2)
        part = values[cut * channels : (cut + wanted[0]) * channels]
        count, whole = wanted[0], array("f", bytes(4 * channels * wanted[0]))
        whole[before * channels : before * channels + len(part)] = part
        values = whole
    return checked(values, 1, count, channels, raw, spec)


def checked(values: Any, height: int, width: int, channels: int, raw: str, spec: dict[str, Any]) -> Sample:
    """Refuse what the model was not trained on."""
    if (channels, raw) != (spec["channels"], spec["raw"]):
        wanted = f"{spec['channels']} of {spec['raw']}"
        raise InputError(f"the file holds {channels} channels of {raw}, the model was trained on {wanted}: convert it")
    return values, height, width


def npy(data: bytes, code: str, shape: tuple[int, ...]) -> bytes:
    """Return an array in NumPy's format, version 1; ``code`` is such as ``<f4``."""
    header = f"{{'descr': '{code}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(11 + len(header)) % 64) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header.encode() + data

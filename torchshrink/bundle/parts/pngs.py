"""Read and write PNG files with nothing but Python (W3C PNG, third edition)."""

from __future__ import annotations

import struct
import zlib
from array import array
from typing import Any

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by the type of colour


def is_plain(data: bytes) -> bool:
    """Return whether it is a PNG of gray or RGB that is not interlaced."""
    return data[:8] == SIGNATURE and data[24] in (8, 16) and data[25] in CHANNELS and not data[28]


def read(data: bytes) -> tuple[Any, int, int, int]:
    """Return pixels with channels last, as bytes or float32 of 16 bits, then height, width and channels."""
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    step = CHANNELS[colour] * depth // 8
    length, packed, at = width * step, [], 8
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if struct.unpack_from(">I", data, at + 8 + size)[0] != zlib.crc32(data[at + 4 : at + 8 + size]):
            raise ValueError("a checksum is wrong")
        packed += [data[at + 8 : at + 8 + size]] if kind == b"IDAT" else []
        at += size + 12
    flat, rows, above = zlib.decompressobj().decompress(b"".join(packed), height * (length + 1)), [], bytes(length)
    for start in range(0, height * (length + 1), length + 1):
        rows.append(above := unfiltered(flat[start], flat[start + 1 : start + 1 + length], above, step))
    pixels, channels = opaque(b"".join(rows), colour, depth // 8)
    if depth == 8:
        return pixels, height, width, channels
    words = array("H", pixels)
    words.byteswap()
    return array("f", [word / 65535 for word in words]), height, width, channels


def opaque(pixels: bytes, colour: int, size: int) -> tuple[bytes, int]:
    """Return pixels without an alpha channel that hides nothing, and how many channels are left."""
    channels = CHANNELS[colour]
    if colour not in (4, 6):
        return pixels, channels
    kept = bytearray(len(pixels) // channels * (channels - 1))
    for byte in range(channels * size):
        part = pixels[byte :: channels * size]
        if byte < (channels - 1) * size:
            kept[byte :: (channels - 1) * size] = part
        elif part.strip(b"\xff"):
            raise ValueError("it has transparent parts")
    return bytes(kept), channels - 1


def unfiltered(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    """Undo the filter of a row of a PNG (section 9)."""
    if kind == 0:
        return row
    if kind == 2:
        return bytes([(a + b) & 255 for a, b in zip(row, above, strict=True)])
    out, above = bytearray(step) + row, bytes(step) + above
    for i in range(step, len(out)):
        left, up = out[i - step], above[i]
        if kind == 1:
            guess = left
        elif kind == 3:
            guess = (left + up) >> 1
        else:
            corner = above[i - step]
            off_left, off_up, off_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = left if off_left <= off_up and off_left <= off_corner else up if off_up <= off_corner else corner
        out[i] = (out[i] + guess) & 255
    return bytes(out[step:])


def written(pixels: bytes, height: int, width: int) -> bytes:
    """Return an 8-bit gray PNG."""
    rows = b"".join(b"\0" + pixels[y * width : (y + 1) * width] for y in range(height))
    found = SIGNATURE
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 6)), (b"IEND", b"")):
        found += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return found

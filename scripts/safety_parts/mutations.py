"""Files changed at random: bits, bytes, numbers, pieces, and for text the things that parsers stumble over."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_WORDS = [
    b"null", b"true", b"-1", b"0", b"1e999", b"NaN", b"9" * 30, b'""', b"[]", b"{}", b"[" * 200, b"&a [*a]", b"!!set",
    b"2020-01-01", b"../../x", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\n", b": ", b"- ", b"\\ud800", b"yes",
]  # fmt: skip
_NUMBERS = (0, 1, -1, 127, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, -(2**31), 2**32 - 1)
_MOST_CHANGES = 6
_LARGEST = 1 << 20


def mutated(content: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """Return a file with one to six changes; ``others`` are files that pieces are taken from."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, _MOST_CHANGES)):
        chance.choice(_CHANGES)(changed, others, chance)
    return bytes(changed[:_LARGEST])


def _flip(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _byte(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    if content:
        content[chance.randrange(len(content))] = chance.randrange(256)


def _number(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    place, size = chance.randrange(len(content) + 1), chance.choice((2, 4, 8))
    content[place : place + size] = (chance.choice(_NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")


def _cut(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    place = chance.randrange(len(content) + 1)
    del content[place : place + chance.choice((1, 4, 16, 256, len(content)))]


def _word(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    place = chance.randrange(len(content) + 1)
    content[place : place + chance.choice((0, 1, 4))] = chance.choice(_WORDS)


def _piece(content: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(others)
    begin = chance.randrange(len(other) + 1)
    place = chance.randrange(len(content) + 1)
    content[place : place + chance.choice((0, 8, 64))] = other[begin : begin + chance.choice((1, 8, 64, 512))]


def _again(content: bytearray, _: Sequence[bytes], chance: random.Random) -> None:
    begin = chance.randrange(len(content) + 1)
    content[begin:begin] = content[begin : begin + chance.choice((4, 32, 256))] * chance.choice((1, 2, 8))


_Change = Callable[[bytearray, Sequence[bytes], random.Random], None]
_CHANGES: tuple[_Change, ...] = (_flip, _byte, _number, _cut, _word, _piece, _again)

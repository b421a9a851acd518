"""Make a table as wide as there is room: words wrap at words, names at their parts, and figures never."""

from __future__ import annotations

import re
from collections.abc import Sequence

Table = tuple[list[str], list[list[str]]]
"""Headings, and cells by row."""

_GAP = 2  # between two columns
_READABLE = 24  # characters that the first column gets where others could do with more
_LEAST = 8  # characters that a folded word keeps side by side
_BREAKS = re.compile(r"(?<=\s)|(?<=/)|(?<=[._:-])(?=[^\W\d])")


def blocks(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[Table]:
    """Return the table, in pieces that each begin with the first column where the whole is wider than ``width``.

    A width of None is as much as is needed. Cells hold line breaks where they were wrapped.

    >>> [each[0] for each in blocks(["file", "MB", "ms"], [["a", "1.00000", "2.00000"]], 14)]
    [['file', 'MB'], ['file', 'ms']]
    """
    columns = [[heading, *(row[index] for row in rows)] for index, heading in enumerate(headings)]
    if width is None:
        return [_table(columns)]
    found: list[list[list[str]]] = []
    name = max(min(max(map(len, columns[0])), _READABLE) - max(map(_longest, columns[0])), 0)
    for column in columns[1:] or [[]]:
        if found and column and _least([*found[-1], column]) + name <= width:
            found[-1].append(column)
        else:
            found.append([columns[0], *([column] if column else [])])
    return [_table(_wrapped(block, width)) for block in found]


def few(headings: Sequence[str], rows: Sequence[Sequence[str]], wanted: Sequence[str]) -> Table:
    """Return the columns of the given headings, in the order of the table."""
    kept = [index for index, heading in enumerate(headings) if heading in wanted]
    return [headings[index] for index in kept], [[row[index] for index in kept] for row in rows]


def _table(columns: Sequence[Sequence[str]]) -> Table:
    return [column[0] for column in columns], [
        list(row) for row in zip(*(column[1:] for column in columns), strict=True)
    ]


def _least(columns: Sequence[Sequence[str]]) -> int:
    """Return the least width of a table that breaks at words only."""
    return sum(max(map(_longest, column)) for column in columns) + _GAP * (len(columns) - 1)


def _wrapped(columns: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Return the columns, the widest ones wrapped until all fit; where words are too long, the first one's fold."""
    widths = [max(map(len, column)) for column in columns]
    least = [max(map(_longest, column)) for column in columns]
    too_much = sum(widths) + _GAP * (len(columns) - 1) - width
    for _ in range(max(too_much, 0)):
        loose = [index for index, each in enumerate(widths) if each > least[index]]
        if not loose and widths[0] <= _LEAST:
            break
        widths[max(loose, key=lambda index: widths[index]) if loose else 0] -= 1
    return [[_wrap(cell, each) for cell in column] for column, each in zip(columns, widths, strict=True)]


def _longest(cell: str) -> int:
    return max(len(piece.strip()) for piece in _BREAKS.split(cell))


def _wrap(cell: str, width: int) -> str:
    """Return a cell with line breaks, none of its lines longer than ``width``."""
    if len(cell) <= width:
        return cell
    lines = [""]
    for piece in _BREAKS.split(cell):
        if lines[-1] and len((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
        while len(lines[-1].rstrip()) > width:
            lines[-1:] = [lines[-1][:width], lines[-1][width:]]
    return "\n".join(line.strip() for line in lines)

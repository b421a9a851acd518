"""A table of files and what they show: ``file,label,split`` as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchshrink.data import kinds
from torchshrink.data.files import with_labels
from torchshrink.data.images import check_regular
from torchshrink.data.inputs import ENDINGS
from torchshrink.data.labelled import LazySamples
from torchshrink.data.preparation import Preparation
from torchshrink.errors import DataError

PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
Row = dict[str, str]


def read_table(
    path: Path,
    preparation: Preparation,
    *,
    kind: str | None = None,
    target: str | None = None,
    group: str | None = None,
    classes: int | None = None,
) -> dict[str, LazySamples]:
    """Return the samples of a CSV file by part: all of them as ``""`` when it has no column ``split``.

    The first row names the columns. The first column holds names of images or sounds, beside the table unless they are
    absolute; ``split``, if there is one, holds train, validation or test. All others are targets: one of words is a
    class, one of class numbers from 0 on too, any others are numbers to be predicted.

    Args:
        path: Of the file, UTF-8.
        preparation: What is done to every file.
        kind: ``classification`` or ``regression``, when it does not follow from the values.
        target: The columns that are targets, separated by commas.
        group: A column whose values are never divided between parts.
        classes: How many classes there are, where some occur nowhere.

    Raises:
        DataError: Naming the row or column that cannot be used.
    """
    columns, rows = _rows(path)
    file, *others = columns
    targets = target.split(",") if target else [name for name in others if name not in ("split", group)]
    for name in [*targets, *([group] if group else [])]:
        if name not in columns:
            raise DataError(f"{path} has no column {name}, it has {', '.join(columns)}: choose one of them")
    if not targets:
        raise DataError(f"{path} has no column of targets beside {', '.join(columns)}: add one, such as label")
    paths = [_file(path, number, row[file]) for number, row in enumerate(rows, 2)]
    kind, names, labels = _labels(path, rows, targets, kind, classes)
    (whole,) = with_labels([list(zip(paths, labels, strict=True))], [path], kind, names, preparation)
    if group:
        groups = np.array([row[group] for row in rows])
        whole = replace(whole, groups=groups)
    if "split" not in columns:
        return {"": whole}
    parts = np.array([_part(path, number, row["split"]) for number, row in enumerate(rows, 2)])
    for needed in (("train",), ("test", "validation")):
        if not np.isin(parts, needed).any():
            raise DataError(f"{path} has no row of split {needed[0]}: mark some, or leave out the column")
    return {part: whole.take(np.flatnonzero(parts == part)) for part in dict.fromkeys(parts.tolist())}


def _rows(path: Path) -> tuple[list[str], list[Row]]:
    check_regular(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV file ({error}): save it as CSV in UTF-8") from error
    if len(columns) < 2 or len(set(columns)) < len(columns):
        raise DataError(f"{path} has the columns {', '.join(columns) or 'none'}: its first row names them, each once")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DataError(f"{path}: row {number} has more or fewer fields than the first row: mend it")
    if not rows:
        raise DataError(f"{path} has no row after its names of columns: add samples")
    return columns, rows


def _file(table: Path, number: int, name: str) -> Path:
    path = table.parent / name.strip()
    if path.suffix.lower() not in ENDINGS:
        raise DataError(f"{table}: row {number} names {name!r}, which is no {', '.join(ENDINGS)} file")
    if not path.exists():
        raise DataError(f"{table}: row {number} names {name!r}, but {path} does not exist: add it, or drop the row")
    return path


def _part(table: Path, number: int, text: str) -> str:
    part = PARTS.get(text.strip().lower())
    if part is None:
        raise DataError(f"{table}: row {number} has the split {text!r}: write train, validation or test")
    return part


def _labels(
    table: Path, rows: Sequence[Row], targets: Sequence[str], kind: str | None, classes: int | None
) -> tuple[str, tuple[str, ...], list[int] | list[tuple[float, ...]]]:
    """Return the kind, a name for each output, and each row's label."""
    texts = {name: [row[name].strip() for row in rows] for name in targets}
    kind = kind or ("classification" if len(targets) == 1 and _is_class(texts[targets[0]]) else "regression")
    if kind == "regression":
        numbers = [_number(table, 2 + i, name, text) for name in targets for i, text in enumerate(texts[name])]
        return kind, tuple(targets), list(zip(*np.array(numbers).reshape(len(targets), -1).tolist(), strict=True))
    if len(targets) > 1:
        raise DataError(f"{table} has the targets {', '.join(targets)}: a class is one column, say target=NAME")
    column = texts[targets[0]]
    if "" in column:
        raise DataError(f"{table}: row {column.index('') + 2} has no {targets[0]}: fill it in, or drop the row")
    if all(text.isdecimal() and len(text) < 19 for text in column):
        found = {int(text) for text in column}
        hint = f"{table}: column {targets[0]} (kind=regression, if it is to be predicted as a number) holds"
        count = kinds.count_classes(found, classes, hint)
        return kind, tuple(f"class {number}" for number in range(count)), [int(text) for text in column]
    words = {word: number for number, word in enumerate(sorted(set(column)))}
    return kind, tuple(words), [words[text] for text in column]


def _is_class(column: Sequence[str]) -> bool:
    """Return whether targets are words or whole numbers, rather than numbers with a point."""
    whole = [text.lstrip("+-").isdecimal() for text in column]
    return not any(_is_number(text) and not is_whole for text, is_whole in zip(column, whole, strict=True))


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _number(table: Path, row: int, name: str, text: str) -> float:
    if not _is_number(text):
        raise DataError(f"{table}: row {row} has {name} {text!r}, which is no number: mend it, or say target=NAME")
    return float(text)

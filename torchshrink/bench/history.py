"""A session of measuring as a file, and what got slower since an older one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchshrink.bench.ratio import Ratio
from torchshrink.errors import DataError
from torchshrink.files import atomic, read

SCHEMA = 1

Session = dict[str, Any]


@dataclass(frozen=True)
class Changes:
    """How a session differs from an older one.

    Attributes:
        regressions: A clause for each file that is slower beyond both spreads.
        notes: What could not be compared, or not fairly.
    """

    regressions: list[str]
    notes: list[str]


def save(session: Session, path: Path) -> None:
    """Write a session as JSON.

    Raises:
        OutputError: When the file cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(session, indent=1))


def load(path: Path) -> Session:
    """Read a session that `save` wrote.

    Raises:
        DataError: When there is none, it is damaged, or of another schema.
    """
    try:
        session = json.loads(read(path))
        if not isinstance(session, dict):
            raise ValueError("not an object")
        if session.get("schema") == SCHEMA:
            if not all(0 <= ratio.low <= ratio.median <= ratio.high for ratio in _ratios(session).values()):
                raise ValueError("a spread that does not hold its ratio")
            str(session["reference"]), str(session["environment"]["processor"])
    except OSError as error:
        raise DataError(f"{path} cannot be read: `torchshrink bench FILES --save {path}` makes it") from error
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise DataError(f"{path} is damaged: `torchshrink bench FILES --save {path}` makes it again") from error
    if session.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {session.get('schema')}, this version reads {SCHEMA}")
    return session


def check_reference(old: Session, reference: str, path: Path) -> None:
    """Refuse ratios to different files.

    Raises:
        DataError: When the older session's reference has another name.
    """
    if old["reference"] != reference:
        raise DataError(
            f"{path} holds ratios to {old['reference']}, these are to {reference}: pass --reference with the same file"
        )


def compare(new: Session, old: Session) -> Changes:
    """Compare every file's ratio to the reference with its older one, file by file and thread count by thread count.

    A file is slower when the upper end of its ratio's spread is below the lower end of the older spread. The machine
    and its load may differ: both cancel out in the ratio, as far as they slow down both files alike.
    """
    regressions, notes = [], []
    before = _ratios(old)
    for key, ratio in _ratios(new).items():
        name = f"{key[0]} on {key[1]} thread{'s' if key[1] > 1 else ''}"
        if key not in before:
            notes.append(f"{name} is not in the older measurement: nothing to compare it with")
        elif ratio.high < before[key].low:
            regressions.append(f"{name} was {before[key]} against {new['reference']} and is now {ratio}")
    if new["environment"]["processor"] != old["environment"]["processor"]:
        notes.append(f"the older measurement comes from another processor, {old['environment']['processor']}")
    return Changes(regressions, notes)


def _ratios(session: Session) -> dict[tuple[str, int], Ratio]:
    return {
        (str(row["name"]), int(row["threads"])): Ratio(*(float(row["ratio"][end]) for end in ("median", "low", "high")))
        for row in session["rows"]
    }

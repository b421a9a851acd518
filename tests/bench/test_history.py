"""Made-up histories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from torchshrink.bench import history
from torchshrink.errors import DataError


def session(*rows: tuple[str, int, tuple[float, float, float]], processor: str = "P") -> dict[str, Any]:
    return {
        "schema": 1,
        "environment": {"processor": processor},
        "reference": "dense.tflite",
        "rows": [
            {"name": name, "threads": threads, "ratio": dict(zip(("median", "low", "high"), ratio, strict=True))}
            for name, threads, ratio in rows
        ],
    }


def test_slower_beyond_both_spreads_is_a_regression() -> None:
    old = session(("a.tflite", 1, (3.5, 3.4, 3.6)), ("b.tflite", 1, (2.0, 1.9, 2.1)))
    new = session(("a.tflite", 1, (3.0, 2.9, 3.39)), ("b.tflite", 1, (2.0, 1.9, 2.1)))
    changes = history.compare(new, old)
    assert changes.regressions == [
        "a.tflite on 1 thread was 3.50x (3.40-3.60) against dense.tflite and is now 3.00x (2.90-3.39)"
    ]
    assert changes.notes == []


@pytest.mark.parametrize("ratio", [(3.0, 2.9, 3.4), (3.0, 2.0, 4.0), (3.5, 3.4, 3.6), (9.0, 8.9, 9.1)])
def test_spreads_that_touch_or_faster_files_are_none(ratio: tuple[float, float, float]) -> None:
    old, new = session(("a.tflite", 1, (3.5, 3.4, 3.6))), session(("a.tflite", 1, ratio))
    assert history.compare(new, old).regressions == []


def test_thread_counts_are_compared_apart() -> None:
    old = session(("a.tflite", 1, (1.0, 1.0, 1.0)), ("a.tflite", 2, (2.0, 2.0, 2.0)))
    new = session(("a.tflite", 1, (1.0, 1.0, 1.0)), ("a.tflite", 2, (1.0, 1.0, 1.0)))
    (clause,) = history.compare(new, old).regressions
    assert clause.startswith("a.tflite on 2 threads was 2.00x")


def test_a_file_that_the_older_one_lacks_is_named() -> None:
    old, new = session(("a.tflite", 1, (1.0, 1.0, 1.0))), session(("new.tflite", 2, (0.1, 0.1, 0.1)))
    changes = history.compare(new, old)
    assert changes.regressions == []
    assert changes.notes == ["new.tflite on 2 threads is not in the older measurement: nothing to compare it with"]


def test_another_processor_is_named() -> None:
    changes = history.compare(session(), session(processor="Abacus"))
    assert changes.notes == ["the older measurement comes from another processor, Abacus"]


def test_saved_and_loaded(tmp_path: Path) -> None:
    content = session(("a.tflite", 1, (3.5, 3.4, 3.6)))
    history.save(content, tmp_path / "deep" / "old.json")
    assert history.load(tmp_path / "deep" / "old.json") == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        (json.dumps({"schema": 1}), "is damaged"),
        (json.dumps(session() | {"rows": [{"name": "a", "threads": 1, "ratio": {"median": 1}}]}), "is damaged"),
        (json.dumps(session() | {"rows": None}), "is damaged"),
        (json.dumps(session(("a", 1, (float("nan"),) * 3))), "is damaged"),
        (json.dumps(session(("a", 1, (3.0, 3.5, 4.0)))), "is damaged"),
        (json.dumps(session() | {"environment": None}), "is damaged"),
        (json.dumps(session() | {"schema": 2}), "has schema 2, this version reads 1"),
        ("\x00\xff", "is damaged"),
    ],
)
def test_damaged_history_is_named(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        history.load(path)
    assert str(path) in str(caught.value)


def test_missing_history_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json cannot be read: `torchshrink bench FILES --save"):
        history.load(tmp_path / "absent.json")


def test_ratios_to_another_file_are_not_compared() -> None:
    history.check_reference(session(), "dense.tflite", Path("old.json"))
    with pytest.raises(DataError, match=r"old\.json holds ratios to dense\.tflite, these are to slim\.tflite: pass"):
        history.check_reference(session(), "slim.tflite", Path("old.json"))

"""The script of bad inputs: what it calls, and that what is no refusal is found."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from script import load

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "safety_parts"))

import badness  # noqa: E402

script = load("bad_inputs")


def outcome(tmp_path: Path, *words: str) -> str:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "given").write_text("as it was")
    return str(script.attempt(script.Case(words[0], "bad", words), tmp_path, 0).kind)


def test_every_command_has_good_calls_and_bad_ones(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "empty.onnx").touch()
    found = list(script.cases(tmp_path))
    assert {case.command for case in found} == {*badness.GOOD}
    assert len(found) > 500
    assert len({(case.command, case.what) for case in found}) == len(found)  # a second start tells them apart by these
    assert ("inspect", str(tmp_path / "bad" / "empty.onnx")) in {case.words for case in found}
    assert any(case.what.startswith("recipe variants.dense.train.epochs = -1") for case in found)


def test_a_sentence_is_a_refusal(tmp_path: Path) -> None:
    assert outcome(tmp_path, "report", "nowhere") == "refused"


def test_what_is_none_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchshrink.cli.app.main", lambda: print("internal error: KeyError", file=sys.stderr))
    assert outcome(tmp_path / "a", "report") == "internal error"
    monkeypatch.setattr("torchshrink.cli.app.main", lambda: sys.exit(7))
    assert outcome(tmp_path / "b", "report") == "internal error"
    monkeypatch.setattr("torchshrink.cli.app.main", lambda: None)
    assert outcome(tmp_path / "c", "report") == "accepted"
    monkeypatch.setattr("torchshrink.cli.app.main", lambda: Path("given").write_text("changed"))
    assert outcome(tmp_path / "e", "report") == "harm"
    monkeypatch.setattr("torchshrink.cli.app.main", lambda: Path(".out-0123abcd.onnx").touch())
    assert outcome(tmp_path / "f", "report") == "harm"
    monkeypatch.setattr(script, "LIMIT_S", 0.1)
    monkeypatch.setattr("torchshrink.cli.app.main", lambda: time.sleep(60))
    assert outcome(tmp_path / "d", "report") == "hang"


def test_a_second_start_goes_on(tmp_path: Path) -> None:
    case = script.Case("report", "runs 0", ("report", "0"))
    found = script.Outcome(case, "crash", "it said", 0.5)
    script.keep(tmp_path / "known.jsonl", "report: runs 0", found)
    known = script.read(tmp_path / "known.jsonl")["report: runs 0"]
    assert (known.kind, known.said, known.case.command) == ("crash", "it said", "report")
    assert "| report | 1 | 0 | 0 | 0 | 1 | 0 | 0 |" in script.table([known])
    assert script.read(None) == {}


def test_a_draw_is_the_same_every_time() -> None:
    every = [script.Case(command, str(number), ()) for command in ("report", "bench") for number in range(9)]
    drawn = list(script.drawn(every, ["bench"], 4))
    assert drawn == list(script.drawn(every, ["bench"], 4))
    assert {case.command for case in drawn} == {"bench"}
    assert len({case.what for case in drawn}) == 4
    assert list(script.drawn(every, None, None)) == every
    assert len(list(script.drawn(every, None, 20))) == 18

"""The fuzzer: each reader survives a few changed files, and a reader that stumbles is found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from script import load

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "safety_parts"))

import readers  # noqa: E402

script = load("fuzz")
IN_THIS_PROCESS = [name for name in readers.READERS if name not in ("onnxruntime", "litert")]


@pytest.mark.parametrize("name", IN_THIS_PROCESS)
def test_readers_use_or_refuse(name: str, tmp_path: Path) -> None:
    tally = script.fuzz(name, 20.0, 0, tmp_path, most=40)
    assert tally.found == {}, list(tmp_path.rglob("*"))
    assert tally.tried > 0


@pytest.mark.parametrize("name", readers.READERS)
def test_sound_files_are_used(name: str, tmp_path: Path) -> None:
    reader = readers.READERS[name]
    for number, content in enumerate(reader.seeds(tmp_path)):
        path = tmp_path / f"{number}{reader.ending}"
        path.write_bytes(content)
        reader.read(path)


def test_what_stumbles_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(path: Path) -> None:
        raise IndexError(path)

    monkeypatch.setitem(readers.READERS, "bad", readers.Reader(stumble, ".txt", lambda _: [b"seed"]))
    tally = script.fuzz("bad", 20.0, 0, tmp_path, most=3)
    assert (tally.tried, tally.found) == (3, {"IndexError": 3})
    assert len(list((tmp_path / "bad").iterdir())) == 3
    assert "| bad | 3 | 0 | 0 | IndexError 3 |" in script.table({"bad": tally})

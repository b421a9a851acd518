"""The terminal: what files are called and what they say of themselves is shown, never obeyed."""

import errno
import io
import json
import os
from pathlib import Path

import pytest
from program import call

from torchshrink.cli import app, console

HOSTILE = "\x1b]0;title\x07\x1b[31m[bold]:red_heart:[/bold][/nothing]\u202e\x9b2J"
SHOWN = r"\x1b]0;title\x07\x1b[31m[bold]:red_heart:[/bold][/nothing]\u202e\x9b2J"


def test_lines_tables_and_titles(capsys: pytest.CaptureFixture[str]) -> None:
    console.show(HOSTILE)
    console.show_table((HOSTILE, "b"), [("a", HOSTILE)], title=HOSTILE)
    assert capsys.readouterr().out.count(SHOWN) == 4


@pytest.mark.parametrize("is_terminal", [False, True])
def test_progress_and_errors(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    file = io.StringIO()
    monkeypatch.setattr(
        console, "errors", console.Plain(file=file, force_terminal=is_terminal, width=400, soft_wrap=True)
    )
    with console.Progress() as progress:
        progress.start(HOSTILE)
        progress.update(1, 2, HOSTILE)
        progress.note(HOSTILE)
    console.errors.print(HOSTILE, style="red")
    text = file.getvalue()
    assert text.count(SHOWN) >= 3
    assert not any(code in text for code in ("\x1b]0;", "\x07", "\u202e", "\x9b"))


class _Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_a_reader_that_has_enough_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """``| head -1``: typer ends without a word where EPIPE reaches it."""
    monkeypatch.setattr("sys.stdout", _Closed())
    for call_ in (lambda: console.show("a"), lambda: console.show_json({}), app.guarded(lambda: console.show("a"))):
        with pytest.raises(console.NoReaderError) as caught:
            call_()
        assert caught.value.errno == errno.EPIPE


def test_a_full_disk_for_what_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(app, "app", full)
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert caught.value.code == 3
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


def test_closed_standard_streams_are_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    free, closed = iter([0, 2, 3]), list[int]()
    monkeypatch.setattr(os, "open", lambda *_: next(free))
    monkeypatch.setattr(os, "close", closed.append)
    app._open_standard_streams()
    assert closed == [3]


def test_passwords_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    console.show("the store postgresql://me:hunter2@host/db cannot be used")
    assert capsys.readouterr().out == "the store postgresql://me@host/db cannot be used\n"


def test_a_file_of_a_hostile_name(tmp_path: Path) -> None:
    path = tmp_path / f"{HOSTILE.replace('/', '_')}.onnx"
    path.write_bytes(b"damaged")
    found = call("inspect", path)
    assert found.code == 3
    assert SHOWN.replace("/", "_") in found.stderr
    assert "\x1b" not in found.stderr


@pytest.mark.slow  # it converts before it needs the store
def test_a_password_ends_up_nowhere(tmp_path: Path) -> None:
    """Neither in what is shown nor in any file; by the environment it is not even on the command line."""
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/db"
    (tmp_path / "r.yaml").write_text(
        "data: 'synthetic:cells?size=32&train=16&test=4'\nmodel: {arguments: {widths: [4, 8]}}\n"
        "variants: {dense: {train: {epochs: 1}}}\nmeasure: {threads: 1, runs: 5}\n"
    )
    arguments = ("--target", "onnxruntime", "--max-size", "1MB", "--storage", url, "--out", "out")
    found = call("search", "r.yaml", *arguments, cwd=tmp_path)
    assert found.code in (3, 5)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(b"hunter2" in path.read_bytes() for path in files)
    assert "hunter2" not in found.stdout + found.stderr
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["data"].startswith("synthetic")

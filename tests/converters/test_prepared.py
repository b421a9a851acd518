"""The Python that runs scripts in forks of itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torchshrink.converters import environment, prepared
from torchshrink.converters.prepared import Host

# What a script prints of itself, as JSON.
ITSELF = """\
    import json, os, sys
    print(json.dumps({
        "process": os.getpid(), "host": os.getppid(), "folder": os.getcwd(), "arguments": sys.argv[1:],
        "word": os.environ.get("WORD"), "prepared": "colorsys" in sys.modules,
    }))
"""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host("colorsys")
    monkeypatch.setattr(prepared, "_HOST", host)
    yield host
    host.close()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return tmp_path / "script.py"


def run(script: Path, text: str) -> tuple[int, str]:
    script.write_text(textwrap.dedent(text))
    return prepared.run(script, Path("argument"), script.parent)


def itself(script: Path) -> dict[str, Any]:
    status, said = run(script, ITSELF)
    assert status == 0
    found: dict[str, Any] = json.loads(said)
    return found


def has_ended(process: int, within_s: float = 20.0) -> bool:
    """Whether a process, which need not be a child of ours, ends in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.usefixtures("host")
def test_scripts_are_forks_of_one_process(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = itself(script)
    monkeypatch.setenv("WORD", "said later")
    second = itself(script)
    assert first["host"] == second["host"]
    assert len({os.getpid(), first["host"], first["process"], second["process"]}) == 4
    assert first["arguments"] == ["argument"]
    assert first["folder"] == str(script.parent)
    assert first["prepared"]
    assert (first["word"], second["word"]) == (None, "said later")


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit()", 0, ""),
        ("raise ValueError('a reason')", 1, "ValueError: a reason"),
        ("import os; os.system('echo from below'); print('from Python')", 0, "from below\nfrom Python\n"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import os; os.abort()", -6, ""),
    ],
)
def test_how_a_script_ends(script: Path, text: str, status: int, words: str) -> None:
    host = itself(script)["host"]
    found, said = run(script, text)
    assert found == status
    assert words in said
    assert itself(script)["host"] == host


@pytest.mark.usefixtures("host")
def test_a_host_that_dies_takes_its_script_along(script: Path) -> None:
    note = script.with_name("note")
    status, _ = run(
        script,
        f"""\
        import os, pathlib, time
        pathlib.Path({str(note)!r}).write_text(str(os.getpid()))
        os.kill(os.getppid(), {signal.SIGKILL})
        time.sleep(600)
        """,
    )
    assert status == -9
    assert has_ended(int(note.read_text()))
    assert itself(script)["prepared"]


def test_one_that_was_idle_is_started_again(host: Host, script: Path) -> None:
    first = itself(script)["host"]
    assert host._process is not None
    os.kill(first, signal.SIGTERM)
    host._process.wait()
    assert itself(script)["host"] != first


def test_closing_ends_it(host: Host, script: Path) -> None:
    process = itself(script)["host"]
    host.close()
    assert has_ended(process)
    host.close()


def test_modules_that_are_missing(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "_HOST", Host("a_module_that_is_not_there"))
    status, said = run(script, ITSELF)
    assert status == 1
    assert "No module named 'a_module_that_is_not_there'" in said


@pytest.mark.usefixtures("host")
def test_another_python_is_another_process(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = itself(script)["host"]
    python = script.with_name("python")
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(environment, "python", lambda: str(python))
    assert itself(script)["host"] != first
    assert has_ended(first)


ASKER = """\
    import os, pathlib, signal, sys
    from torchshrink.converters import prepared
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell started in the background
    prepared._HOST = prepared.Host()
    folder = pathlib.Path(sys.argv[1])
    script = folder / "script.py"
    script.write_text("import os; print(os.getppid())")
    ask = lambda: int(prepared.run(script, folder, folder)[1])
    host = ask()
    if (fork := os.fork()) == 0:
        os._exit(0 if ask() != host else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) == 0, "a fork has a host of its own"
    assert ask() == host, "and leaves this one alone"
    script.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(600)")
    print("asking", flush=True)
    ask()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_who_asked(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-P", "-c", textwrap.dedent(ASKER), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asker:
        assert asker.stdout is not None
        assert asker.stderr is not None
        assert asker.stdout.readline() == "asking\n", asker.stderr.read()
        before, log = (tmp_path / "log").read_text(), tmp_path / "log"
        while (said := log.read_text()) in ("", before):
            time.sleep(0.02)
        asker.send_signal(number)
        assert has_ended(int(said))
        assert has_ended(int(before))

"""The torture script on a program that takes no time; and, slowly, its short form on the real one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from script import load

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "safety_parts"))

import forks  # noqa: E402
import ordeals  # noqa: E402

# Writes report.json in two steps, and says that a folder is in use while another does so.
PROGRAM = """\
import json, os, pathlib, sys, time
out = pathlib.Path(sys.argv[-1]); out.mkdir(exist_ok=True)
try:
    os.close(os.open(out / "lock", os.O_CREAT | os.O_EXCL)) if "--lock" in sys.argv else None
except FileExistsError:
    sys.exit(print("it is in use by another process", file=sys.stderr) or 3)
(out / ".half-0123abcd.json").write_text("{}")
time.sleep(0.5)
(out / ".half-0123abcd.json").replace(out / "half.json")
loss = 1 if "--wrong" in sys.argv and (out / "seen").exists() else 0
(out / "seen").touch()
(out / "report.json").write_text(json.dumps({"rows": [{"loss": loss, "latency_ms": time.time()}]}))
"""


def command(tmp_path: Path, *options: str) -> ordeals.Command:
    (tmp_path / "program.py").write_text(PROGRAM)
    return ordeals.Command(options, ("report.json",), (sys.executable, str(tmp_path / "program.py")))


def test_what_is_stood(tmp_path: Path) -> None:
    made = command(tmp_path)
    seconds = ordeals.finish(made, tmp_path / "a")
    found = [
        *ordeals.kill(made, tmp_path / "a", tmp_path / "b", 2, seconds, seed=0),
        *ordeals.crowd(command(tmp_path, "--lock"), tmp_path / "a", tmp_path / "c"),
        *ordeals.damage(made, tmp_path / "a", tmp_path / "d", 2),
    ]
    assert [ordeal.kind for ordeal in found] == ["SIGKILL", "SIGTERM", "two processes", *["a file cut in half"] * 2]
    outcomes = [(ordeal.kind, ordeal.attempt()) for ordeal in found]
    assert [problem for _, problem in outcomes] == [""] * 5
    assert "| SIGKILL | 1 | 1 | none |" in load("torture").table(outcomes)


def test_a_second_start_goes_on(tmp_path: Path) -> None:
    found = iter(["exit code 4"])
    ordeal = ordeals.Ordeal("SIGKILL", "0", lambda: next(found))
    for _ in range(2):
        record = load("torture").Record(tmp_path / "outcomes.jsonl")
        assert record.problem("run", ordeal) == "exit code 4"


def test_what_is_not(tmp_path: Path) -> None:
    ordeals.finish(command(tmp_path), tmp_path / "a")
    (two,) = ordeals.crowd(command(tmp_path), tmp_path / "a", tmp_path / "b")
    # Neither saw the other; the later one may miss its temporary file.
    assert (two.attempt() or "").startswith("exit codes")
    wrong = ordeals.damage(command(tmp_path, "--wrong"), tmp_path / "a", tmp_path / "c")[0]
    assert (wrong.attempt() or "").endswith("other report.json")
    (tmp_path / "a" / ".half-0123abcd.json").write_text("{")
    assert ordeals.different(command(tmp_path), tmp_path / "a", tmp_path / "a") == "left .half-0123abcd.json"
    with pytest.raises(RuntimeError, match="ended with 1"):
        ordeals.finish(ordeals.Command(("-c", "raise SystemExit(1)"), (), (sys.executable,)), tmp_path / "d")


def test_figures_of_the_moment_do_not_count(tmp_path: Path) -> None:
    for folder, latency in (("a", 1.0), ("b", 2.0)):
        (tmp_path / folder).mkdir()
        content = {"environment": {"command": folder}, "rows": [{"loss": 0.5, "latency_ms": latency}]}
        (tmp_path / folder / "report.json").write_text(json.dumps(content))
    assert ordeals.different(command(tmp_path), tmp_path / "a", tmp_path / "b") == ""


def test_a_fork_is_the_program(tmp_path: Path) -> None:
    made = ordeals.Command(["predict", "nowhere.onnx", "--data", "."], ())
    process = made.start(tmp_path / "out")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "no such model file: nowhere.onnx" in said


def test_a_fork_is_killed(tmp_path: Path) -> None:
    (tmp_path / "err").touch()
    process = forks.Fork(["train", "--data", "synthetic:cells", "--out", "a.safetensors"], tmp_path, tmp_path / "err")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.exhaustive
def test_the_short_form(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", SCRIPTS / "torture", "--short", "--work", tmp_path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| run: SIGKILL | 1 | 1 | none |" in done.stdout
    assert "| run: two processes | 1 | 1 | none |" in done.stdout

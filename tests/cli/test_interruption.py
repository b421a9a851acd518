"""Ctrl-C ends a command, whoever catches it on the way."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

SWALLOWS = """
import os, signal
from torchshrink.cli import app, console

def swallowing():
    with console.Progress() as progress:
        progress.start("begin")
        try:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):
                pass
        except BaseException:
            pass  # as some libraries do
        print("went on", flush=True)
        progress.{step}
        print("did not notice", flush=True)

app._add(swallowing, "")
import sys
sys.argv = ["torchshrink", "swallowing"]
app.main()
"""


def ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def default() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(step: str, before: Callable[[], None]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", SWALLOWS.format(step=step)]
    return subprocess.run(command, capture_output=True, text=True, preexec_fn=before, check=False, env=os.environ)


@pytest.mark.parametrize("step", ["update(1, 2)", "start('next')", "note('text')"])
def test_a_swallowed_interruption_comes_back(step: str) -> None:
    done = run(step, default)
    assert (done.returncode, done.stdout) == (130, "")
    assert "went on" in done.stderr  # what code prints inside a command is no result of it
    assert "did not notice" not in done.stderr
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_the_shell_ignores_interruptions_they_are_ignored() -> None:
    done = run("update(1, 2)", ignore)
    assert done.returncode == 0
    assert "went on\ndid not notice\n" in done.stderr

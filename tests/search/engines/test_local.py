"""Worker processes on this machine: what they answer, and what happens when they die."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stand import Stand, request

from torchshrink.search.engines import local, work
from torchshrink.search.engines.local import Local, Outcome, attempt

pytestmark = pytest.mark.slow


@pytest.fixture
def content(base: Any) -> dict[str, Any]:
    from torchshrink.pipeline import recipe

    return recipe.dump(base)


@pytest.fixture
def made(request: pytest.FixtureRequest) -> Iterator[Local]:
    local = Local(Stand(request.param))
    yield local
    local.close()


def answer(local: Local) -> Outcome:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if outcomes := local.wait(1.0):
            return outcomes[0]
    raise TimeoutError


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        ("dies", Outcome(3, None, "the worker died (signal 9)", is_lost=True)),
        ("refuses", Outcome(3, None, "this model cannot be exported")),
        ("breaks", Outcome(3, None, "ValueError: unexpected")),
        ("says how threads wait", Outcome(3, None, "10000")),
    ],
    indirect=["made"],
)
def test_what_goes_wrong_is_told(
    made: Local, outcome: Outcome, tmp_path: Path, content: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    made.submit(request(tmp_path, content))
    assert answer(made) == outcome
    assert made.wait(0.1) == []
    assert "GOMP_SPINCOUNT" not in os.environ  # of this process
    assert "chatter" not in "".join(capfd.readouterr())
    if outcome.error == "ValueError: unexpected":
        log = (tmp_path / "0003" / "log.txt").read_text()
        assert "chatter" in log
        assert "Traceback" in log


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def sleeper(place: Path) -> int:
    """Return the process of a worker that sleeps."""
    wait_for(lambda: place.exists() and place.read_text(), 600)  # a busy machine takes a minute to import PyTorch
    number = int(place.read_text())
    assert is_alive(number)
    return number


def test_closing_kills_what_is_under_way(tmp_path: Path, content: dict[str, Any]) -> None:
    local = Local(Stand("sleeps", tmp_path / "process"))
    local.submit(request(tmp_path, content))
    worker = sleeper(tmp_path / "process")
    local.close()
    wait_for(lambda: not is_alive(worker))


def test_what_is_under_way_ends_with_a_search_that_is_killed(tmp_path: Path, content: dict[str, Any]) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2] / "support")!r})
from pathlib import Path
from stand import Stand, request
from torchshrink.search.engines.local import Local
import json, time
folder = Path({str(tmp_path)!r})
local = Local(Stand("sleeps", folder / "process"))
local.submit(request(folder, json.loads({json.dumps(content)!r})))
time.sleep(3600)
"""
    with subprocess.Popen([sys.executable, "-P", "-c", script]) as process:
        try:
            worker = sleeper(tmp_path / "process")
        finally:
            process.kill()
        wait_for(lambda: not is_alive(worker))


def test_an_attempt_never_raises(tmp_path: Path, content: dict[str, Any]) -> None:
    assert attempt(request(tmp_path, content), Stand("refuses")) == (None, "this model cannot be exported")
    bad = request(tmp_path, {**content, "data": str(tmp_path / "nothing")})
    found, error = attempt(bad, dict)  # type: ignore[arg-type]  # it is never asked for anything
    assert found is None
    assert error is not None
    assert "nothing" in error


def test_a_search_never_sees_the_test_part(base: Any) -> None:
    from torchshrink.pipeline.assemble import make_task

    task = make_task(base)
    seen = work.validating(task)
    assert seen.test is task.validation
    assert seen.train is task.train
    assert local.do is work.do

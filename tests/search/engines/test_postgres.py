"""The record of a search in a real PostgreSQL server, as several machines share it."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import postgres, postgres_programs

from torchshrink.errors import DataError, OutputError
from torchshrink.search.space import Resolved
from torchshrink.search.study import Study, delete, state_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres_programs() is None, reason="PostgreSQL is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # a study keeps its connections until its process ends
]
ABOUT = {"target": "litert", "seed": 0}
COSTS = {"size": 1000.0, "latency": 0.5}
RUNGS = [{"epochs": 1, "loss": 0.25, "loss_increase": 0.0}]


@pytest.fixture(scope="module", autouse=True)
def driver() -> None:
    pytest.importorskip("psycopg", reason="the extra 'ray' is not installed")


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(autouse=True)
def without_connections() -> Iterator[None]:
    yield
    gc.collect()


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name


def opened(store: str, name: str, about: dict[str, object] = ABOUT) -> Study:
    return Study(store, name, ("size", "latency"), "tpe", 0, about)


def test_another_process_goes_on(store: str, name: str, space: Resolved) -> None:
    first = opened(store, name)
    number, settings = first.ask(space)
    first.note(number, begun=1, rungs=RUNGS)
    second = opened(store, name)
    (trial,) = second.trials()
    assert trial.user_attrs["settings"] == settings
    assert trial.user_attrs["rungs"] == RUNGS
    assert state_of(trial) == "open"
    second.finish(number, COSTS, {"rss": 0.5})
    (trial,) = first.trials()
    assert state_of(trial) == "finished"
    assert trial.values == [1000.0, 0.5]
    assert trial.user_attrs["violations"] == {"rss": 0.5}


def test_numbers_are_given_once(store: str, name: str, space: Resolved) -> None:
    studies = [opened(store, name), opened(store, name)]
    numbers = [study.ask(space)[0] for _ in range(3) for study in studies]
    assert sorted(numbers) == [0, 1, 2, 3, 4, 5]


def test_another_search_is_refused(store: str, name: str) -> None:
    opened(store, name)
    with pytest.raises(DataError, match=r"other seed"):
        opened(store, name, {**ABOUT, "seed": 1})
    delete(store, name)
    opened(store, name, {**ABOUT, "seed": 1})


def test_what_was_kept_survives_a_killed_process(store: str, name: str, tmp_path: Path) -> None:
    program = f"""
import os, signal
from torchshrink.search.study import Study
study = Study({store!r}, {name!r}, ("size", "latency"), "tpe", 0, {ABOUT!r})
study.keep("seconds", 12.5)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, timeout=300, check=False)
    assert done.returncode == -9
    assert opened(store, name).kept("seconds") == 12.5


def test_a_server_that_is_not_there_is_named_without_the_password(space: Resolved) -> None:
    with pytest.raises(
        OutputError, match=r"the store postgresql\+psycopg://me@127.0.0.1:1/db cannot be used: "
    ) as found:
        opened("postgresql+psycopg://me:secret@127.0.0.1:1/db", "x")
    assert "secret" not in str(found.value)

"""What fixtures make for long is made once on this machine, for all processes and runs, until a source changes."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import inspect
import pickle
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torchshrink

TESTS = Path(__file__).parents[1]
VALUE = "value.pickle"


def keep(store: Path, name: str, make: Callable[[Path], Any], copy: Path) -> Any:
    """Return what ``make(folder)`` returned when it was last called, and copy the files that it wrote.

    Args:
        store: The folder of all that is kept.
        name: What is made; the newest of each name is kept.
        make: Writes into the folder that it is given and returns something that can be pickled.
        copy: A folder of the caller's own for the files; paths in the returned value are in it.
    """
    place = store / name / key(make)
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(store / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / VALUE).is_file():
            for old in place.parent.iterdir():
                shutil.rmtree(old)
            (place / "files").mkdir(parents=True)
            _save(make(place / "files"), place)  # last: what was interrupted before is made again
        shutil.copytree(place / "files", copy, dirs_exist_ok=True)
        return _load(place, copy)


def key(make: Callable[[Path], Any]) -> str:
    """Return a digest of what decides what ``make`` makes: its own file, the product, what tests share, packages."""
    return hashlib.sha256(Path(inspect.getfile(inspect.unwrap(make))).read_bytes() + _world().encode()).hexdigest()[:16]


@functools.cache
def _world() -> str:
    product = Path(torchshrink.__file__).parent.rglob("*.*")
    paths = [*product, *(path for path in TESTS.rglob("*.py") if not path.name.startswith("test_"))]
    packages = sorted(f"{each.name} {each.version}" for each in distributions())
    sources = [
        (path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in sorted(paths) if path.suffix != ".pyc"
    ]
    return repr((sys.version, packages, sources))


class _Pickler(pickle.Pickler):
    """Paths in the folder that is kept are stored relative to it."""

    folder: Path

    def persistent_id(self, value: Any) -> str | None:
        is_ours = isinstance(value, Path) and value.is_relative_to(self.folder)
        return value.relative_to(self.folder).as_posix() if is_ours else None


class _Unpickler(pickle.Unpickler):
    folder: Path

    def persistent_load(self, name: str) -> Path:
        return self.folder / name


def _save(value: Any, place: Path) -> None:
    temporary = place / f"{VALUE}.new"
    with temporary.open("wb") as file:
        pickler = _Pickler(file)
        pickler.folder = place / "files"
        pickler.dump(value)
    temporary.rename(place / VALUE)


def _load(place: Path, folder: Path) -> Any:
    with (place / VALUE).open("rb") as file:
        unpickler = _Unpickler(file)
        unpickler.folder = folder
        return unpickler.load()

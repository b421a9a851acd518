"""Run a bundle's self-test in a clean process, and say what its image weighs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from torchshrink.bundle import library
from torchshrink.errors import MissingExtraError, ModelError, ParityError
from torchshrink.files import is_inside, link_out, read, real, sha256
from torchshrink.runtime import external_data
from torchshrink.runtime.limits import limit_memory

_TIMEOUT_S = 600.0
_FOLDERS = ("lib", "micro", "selftest", "snippets", "__pycache__")
_PREPARE = limit_memory if os.name == "posix" else None
_CODE = (".py", ".pyc", ".so", ".pyd", ".dll", ".dylib")  # what Python imports


def is_bundle(folder: Path) -> bool:
    """Return whether `write.bundle` made a folder."""
    return (folder / "model.json").is_file() and (folder / "selftest.py").is_file()


def self_test(folder: Path) -> dict[str, Any]:
    """Return what the self-test of a bundle prints: ``passed``, and what it measured.

    Raises:
        ModelError: When the folder is no bundle, or the self-test says nothing.
        ParityError: When its code is not ours, see `check_code`, or it names files outside of it.
        MissingExtraError: When what it needs is not installed here.
    """
    if not is_bundle(folder):
        raise ModelError(f"{folder} is no bundle: make one with torchshrink bundle FILE --out {folder}")
    check_code(folder)
    _check_names(folder)
    _check_library(folder)
    # No byte code that lies in the folder is read, whatever it was made of.
    command = [sys.executable, "-I", "-B", "-X", f"pycache_prefix={os.devnull}", str(real(folder) / "selftest.py")]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, preexec_fn=_PREPARE
        )
        found: dict[str, Any] = json.loads((done.stdout.strip().splitlines() or [""])[-1])
    except subprocess.TimeoutExpired:
        raise ModelError(f"the self-test of {folder} gave no answer in {_TIMEOUT_S:g} s: make it again") from None
    except ValueError:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        missing = last.removeprefix("ModuleNotFoundError: ")
        if missing != last and f"'{folder.name}'" not in missing:
            raise MissingExtraError(
                f"{folder} cannot be run here ({missing}): pip install --no-deps -r {folder / 'requirements.txt'}"
            ) from None
        raise ModelError(f"the self-test of {folder} stopped ({last}): make the bundle again") from None
    return found


def check_code(folder: Path) -> str:
    """Refuse a folder that holds other code than this version writes: its self-test would run it. Return its runtime.

    Raises:
        ParityError: Naming the file, or a folder that could be imported.
    """
    parts = Path(str(files("torchshrink.bundle").joinpath("parts")))
    engines = {path.read_bytes(): path.stem.removeprefix("engine_") for path in parts.glob("engine_*.py")}
    runtime = ""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            is_ours = path.name in _FOLDERS and not any(path.glob("__init__.*"))  # it would hide selftest.py
        elif path.name == "engine.py":
            runtime = engines.get(read(path), "")
            is_ours = bool(runtime)
        else:
            own = parts / path.name
            is_ours = path.suffix not in _CODE or (own.is_file() and read(path) == own.read_bytes())
        if not is_ours:
            raise ParityError(
                f"{path} is not what this version of torchshrink writes, and is not run: make the bundle again; if you "
                "trust its author, run selftest.py in it"
            )
    return runtime.replace("_", "-")


def reason(found: dict[str, Any]) -> str:
    """Return why a self-test did not pass."""
    if "error" in found:
        return str(found["error"])
    if found["damaged"]:
        return f"{', '.join(found['damaged'])} is missing or was changed"
    return (
        f"the recorded output differs by {found['max_difference']:g} (allowed: {found['allowed']:g}), "
        f"{found['equal']:.2%} of its values are equal"
    )


def _check_names(folder: Path) -> None:
    """Refuse a folder whose self-test would read, or whose runner would write, what lies outside of it.

    Raises:
        ParityError: Naming what is not in the folder, or is no file; also when what it names cannot be read.
    """
    try:
        spec, lines = json.loads(read(folder / "model.json")), read(folder / "SHA256SUMS").decode().splitlines()
        model, names = spec["file"], [*spec["folders"], *(line.partition("  ")[2] for line in lines)]
    except (OSError, ValueError, RecursionError, LookupError, TypeError) as error:
        raise ParityError(f"{folder} is damaged ({type(error).__name__}: {error}): make the bundle again") from error
    others = [name for name in (model, *names) if not is_inside(folder, name)]
    others += [path for path in folder.rglob("*") if not (path.is_file() or path.is_dir())]
    if others or (link := link_out(folder)):
        raise ParityError(
            f"{folder} names {str(others[0] if others else link)!r}, which is no file in it: somebody changed it"
        )
    if model.endswith(".onnx") and (folder / model).is_file():
        try:
            external_data.check(folder / model)
        except ModelError as error:
            raise ParityError(str(error)) from error


def _check_library(folder: Path) -> None:
    """Refuse to load a TFLite C library that is not the pinned one."""
    for place in sorted((folder / "lib").glob(f"*/{library.NAME}")):
        build = library.BUILDS.get(place.parent.name)
        if build is None or sha256(place) != build.library:
            raise ModelError(f"{place} does not have the checksum that is pinned for it: make the bundle again")

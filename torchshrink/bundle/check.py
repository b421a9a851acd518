"""Run a bundle's self-test in a clean process, and say what its image weighs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from torchshrink.bundle import library
from torchshrink.errors import MissingExtraError, ModelError
from torchshrink.files import sha256

_TIMEOUT_S = 600.0


def is_bundle(folder: Path) -> bool:
    """Return whether `write.bundle` made a folder."""
    return (folder / "model.json").is_file() and (folder / "selftest.py").is_file()


def self_test(folder: Path) -> dict[str, Any]:
    """Return what the self-test of a bundle prints: ``passed``, and what it measured.

    Raises:
        ModelError: When the folder is no bundle, or the self-test says nothing.
        MissingExtraError: When what it needs is not installed here.
    """
    if not is_bundle(folder):
        raise ModelError(f"{folder} is no bundle: make one with torchshrink bundle FILE --out {folder}")
    _check_library(folder)
    command = [sys.executable, "-I", "-B", str(folder.resolve() / "selftest.py")]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
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


def _check_library(folder: Path) -> None:
    """Refuse to load a TFLite C library that is not the pinned one."""
    for place in sorted((folder / "lib").glob(f"*/{library.NAME}")):
        build = library.BUILDS.get(place.parent.name)
        if build is None or sha256(place) != build.library:
            raise ModelError(f"{place} does not have the checksum that is pinned for it: make the bundle again")

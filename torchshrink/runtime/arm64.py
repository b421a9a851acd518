"""A Python for arm64 with the runtimes, in a folder of its own, for qemu to run.

Debian's packages come through apt, which checks them against the distribution's signed lists; the runtimes through pip,
which checks them against its index's hashes. Nothing is installed, no program of theirs runs while they are unpacked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from torchshrink.errors import MissingExtraError, OutputError
from torchshrink.runtime.processors import READY, arm64_root

_PYTHONS = ("3.11", "3.12", "3.13")
_LIBRARIES = ("libc6", "libstdc++6", "libgomp1")
_WHEELS = ("numpy", "onnxruntime", "ai-edge-litert")
_PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64", "manylinux_2_34_aarch64")


def prepare() -> Path:
    """Make the folder that files for arm64 run in, and return it; one that is there already is left alone.

    Raises:
        MissingExtraError: When this is no system with apt and dpkg.
        OutputError: When something cannot be downloaded or unpacked, in the words of who refused.
    """
    root = arm64_root()
    if (root / READY).is_file():
        return root
    missing = [program for program in ("apt-get", "dpkg") if shutil.which(program) is None]
    if missing:
        raise MissingExtraError(f"arm64 is prepared with the packages of Debian or Ubuntu: {missing[0]} is not here")
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".arm64-") as folder:
        made = Path(folder, "root")
        python = _unpack_system(Path(folder), made)
        _unpack_runtimes(Path(folder, "wheels"), made / "site", python)
        (made / READY).write_text(python)
        shutil.rmtree(root, ignore_errors=True)
        made.rename(root)
    return root


def _unpack_system(folder: Path, made: Path) -> str:
    """Unpack a Python and what it needs into ``made`` and return its version."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()  # nothing is installed there yet
    settings = ["-oAPT::Architecture=arm64", "-oAPT::Architectures=arm64", f"-oDir::State::Lists={folder / 'lists'}",
                f"-oDir::State::status={folder / 'status'}", f"-oDir::Cache={folder / 'cache'}",
                "-oAPT::Sandbox::User=root", "-oDebug::NoLocking=1"]  # fmt: skip
    _call(["apt-get", *settings, "-qq", "update"])
    python = next((each for each in _PYTHONS if _is_known(settings, f"python{each}")), None)
    if python is None:
        raise MissingExtraError(f"this distribution has no Python {' or '.join(_PYTHONS)} for arm64")
    packages = (f"python{python}", *_LIBRARIES)
    _call(["apt-get", *settings, "-qq", "--yes", "--no-install-recommends", "--download-only", "install", *packages])
    for package in sorted((folder / "cache" / "archives").glob("*.deb")):
        _call(["dpkg", "-x", str(package), str(made)])
    return python


def _is_known(settings: Sequence[str], package: str) -> bool:
    done = subprocess.run(["apt-cache", *settings, "show", package], capture_output=True)
    return done.returncode == 0


def _unpack_runtimes(wheels: Path, site: Path, python: str) -> None:
    """Unpack the runtimes in the versions that are installed here."""
    wanted = [f"{name}=={version(name)}" for name in _WHEELS]
    platforms = [part for name in _PLATFORMS for part in ("--platform", name)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms]
    _call([*pip, "--python-version", python, "--dest", str(wheels), *wanted])
    for wheel in sorted(wheels.glob("*.whl")):
        shutil.unpack_archive(wheel, site, "zip")


def _call(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise OutputError(f"arm64 cannot be prepared: {' '.join(command[:1])} says {reason}")

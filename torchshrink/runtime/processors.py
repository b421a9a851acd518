"""Which processor this is, and how to run a file on others: qemu's user-mode emulation, in the file's real runtime."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from functools import cache
from pathlib import Path

from torchshrink.errors import MissingExtraError

# What a processor must have for int8 to be computed in other ways than everywhere else, or faster; by /proc/cpuinfo's
# names, those of x86 before those of ARM.
_INSTRUCTIONS = {
    "sse4_1": "SSE4.1",
    "avx2": "AVX2",
    "avx512bw": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
}
_DOT_PRODUCTS = ("AVX-512 VNNI", "AVX-VNNI", "AMX", "dotprod", "i8mm")

# Each kind of processor, the emulator and its settings.
_EMULATED = {
    "x86-avx2": ("qemu-x86_64", "-cpu", "Haswell"),  # no VNNI: ONNX Runtime's kernels add in 16 bits here
    "x86-sse4": ("qemu-x86_64", "-cpu", "Nehalem"),
    "arm64": ("qemu-aarch64",),
}
HERE = "here"
READY = "ready"  # the file of a finished folder for arm64, which says its Python's version
KINDS = (HERE, *_EMULATED)


@cache
def instructions() -> tuple[str, ...]:
    """Return the vector and integer instructions of this processor that decide how int8 is computed, and how fast."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux: every 64-bit ARM processor that runs macOS has them
        return ("NEON", "dotprod") if platform.machine() == "arm64" else ()
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(text for flag, text in _INSTRUCTIONS.items() if flag in flags)


def has_dot_products() -> bool:
    """Return whether this processor multiplies and adds int8 in 32 bits at once, which is what makes int8 fast."""
    return any(name in instructions() for name in _DOT_PRODUCTS)


def launcher(processor: str) -> list[str]:
    """Return the beginning of a command that runs a Python script on a kind of processor.

    Args:
        processor: One of `KINDS`.

    Raises:
        RecipeError: When there is no such kind.
        MissingExtraError: When its emulator is not installed, or nothing that it could run.
    """
    from torchshrink.settings import check  # which loads pydantic: help must be there at once

    check("processor", processor, KINDS)
    if processor == HERE:
        return [sys.executable]
    program, *settings = _EMULATED[processor]
    emulator = shutil.which(program)
    if emulator is None:
        raise MissingExtraError(
            f"{processor} needs the emulator {program}: install qemu-user (apt-get install qemu-user)"
        )
    if processor == "arm64":
        root = arm64_root()
        if not (root / READY).is_file():
            raise MissingExtraError("arm64 needs a Python and runtimes made for it: torchshrink doctor --prepare arm64")
        python = root / "usr" / "bin" / f"python{(root / READY).read_text()}"
        return [emulator, "-L", str(root), "-E", f"PYTHONPATH={_import_path(root)}", str(python)]
    if platform.machine() not in ("x86_64", "AMD64"):
        raise MissingExtraError(
            f"{processor} is emulated on x86 machines only: this Python is for {platform.machine()}"
        )
    return [emulator, *settings, sys.executable]


def arm64_root() -> Path:
    """Return the folder that holds, or would hold, a Python with the runtimes for arm64."""
    return cache_folder() / "arm64"


def cache_folder() -> Path:
    """Return the user's folder for what torchshrink fetches or makes once."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "torchshrink")


def _import_path(root: Path) -> str:
    """Return where the emulated Python finds its packages, and this one."""
    return f"{root / 'site'}{os.pathsep}{Path(__file__).parents[2]}"

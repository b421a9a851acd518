"""The TFLite C library: taken from a published wheel, whose checksum and whose library's checksum are pinned here.

The wheel is pymicro-wakeword of the Open Home Foundation (Apache-2.0), which ships TensorFlow Lite 2.17.1 with XNNPACK
as one shared object; of its Python nothing is used. Google's own wheels (ai-edge-litert, tensorflow) export no
``TfLiteInterpreterCreate``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from torchshrink.errors import MissingExtraError
from torchshrink.files import atomic, sha256
from torchshrink.runtime.processors import cache_folder

PACKAGE = "pymicro-wakeword==2.5.0"
VERSION = "2.17.1"
NAME = "libtensorflowlite_c.so"
BYTES = 5_142_220  # of the wheel, unpacked, for x86-64


class Build(NamedTuple):
    """SHA-256 of a machine's wheel and of the library in it."""

    wheel: str
    library: str


BUILDS = {
    "linux-x86_64": Build(
        "3869f536402b1254e3be3549d3a462ecd6ed21ce2c3e77ec8eb501c3c700417c",
        "25465edb5cd7aadd00249d4d28f1d922ce5cc90195ad4403458111dd63493bae",
    ),
    "linux-aarch64": Build(
        "6c75b77c936efd19b8c35a094cb7e3fdbd4ebcd0f63635a0851ce591990829f2",
        "12062437bfde367b1be592ebc4a9fe64b8453f90b3b7dc21fade002c38e1ac1a",
    ),
}


def machine() -> str:
    """Return this system and processor, as ``linux-x86_64``."""
    return f"{sys.platform}-{os.uname().machine}" if hasattr(os, "uname") else sys.platform


def requirement() -> str:
    """Return the wheel as a line of requirements.txt, with its checksums."""
    return " ".join([PACKAGE, *(f"--hash=sha256:{build.wheel}" for build in BUILDS.values())])


def fetch() -> Path:
    """Return the library in the cache folder, downloaded once; a file with another checksum is never used.

    Raises:
        MissingExtraError: When there is none for this machine, or it cannot be downloaded.
    """
    build = BUILDS.get(machine())
    if build is None:
        raise MissingExtraError(
            f"there is no TFLite C library for {machine()}, only for {', '.join(BUILDS)}: choose --runtime litert"
        )
    path = cache_folder() / f"tflite-c-{VERSION}-{machine()}" / NAME
    if not path.is_file() or sha256(path) != build.library:
        _download(path)
        if sha256(path) != build.library:
            path.unlink()
            raise MissingExtraError(f"the library in {PACKAGE} has another checksum than the pinned one: do not use it")
    return path


def _download(path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(requirement())
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", "--dest", folder, "--requirement", str(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no answer"]
            raise MissingExtraError(
                f"the TFLite C library ({PACKAGE}) cannot be downloaded ({said[-1].strip()[:200]}): where there is a "
                "network, torchshrink doctor --prepare tflite-c does it ahead; or choose --runtime litert"
            )
        with zipfile.ZipFile(wheels[0]) as archive, atomic(path) as temporary:
            temporary.write_bytes(archive.read(f"pymicro_wakeword/lib/{NAME}"))

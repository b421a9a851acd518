"""The Python that TensorFlow, onnx2tf and ai-edge-quantizer run in.

They pin what they need exactly and weigh more than all the rest, so they stay out of the user's environment unless
asked for (the extra ``tflite``): otherwise they live in one of their own in the cache folder, made by the first
conversion.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

from torchshrink.errors import MissingExtraError
from torchshrink.runtime.processors import cache_folder

VARIABLE = "TORCHSHRINK_CONVERTER"
SECOND_VARIABLE = "TORCHSHRINK_SECOND_CONVERTER"
SECOND_PACKAGES = ("litert-torch==0.10.0",)

_MODULES = ("onnx2tf", "tensorflow", "ai_edge_quantizer")
_READY = "ready"


def is_here() -> bool:
    """Return whether the converter's packages are installed beside torchshrink, and no other Python is named."""
    return VARIABLE not in os.environ and all(find_spec(module) is not None for module in _MODULES)


def python() -> str:
    """Return the Python that has the converter's packages: named, this one, or one that is made now.

    Raises:
        MissingExtraError: When there is none and it cannot be made, such as without a network.
    """
    if (named := os.environ.get(VARIABLE)) is not None:
        return _checked(named)
    return sys.executable if is_here() else str(prepare() / "bin" / "python")


def second() -> str:
    """Return the Python that has litert-torch: named, or the one that `prepare_second` made; none is made unasked.

    Raises:
        MissingExtraError: When there is none.
    """
    if named := os.environ.get(SECOND_VARIABLE):
        return named
    target = folder(SECOND_PACKAGES)
    if not (target / _READY).is_file():
        raise MissingExtraError(
            "litert-torch may convert it: torchshrink doctor --prepare litert-torch installs that, or name a Python "
            f"that has it in {SECOND_VARIABLE}"
        )
    return str(target / "bin" / "python")


def prepare_second() -> Path:
    """Make the environment of the second converter, which reads this one's torch too; Raises as `prepare`."""
    return _prepare(SECOND_PACKAGES, shared=[path for path in sys.path if path.endswith("site-packages")])


def prepare() -> Path:
    """Make the converter's environment in the cache folder and return it; one that is there already is left alone.

    Raises:
        MissingExtraError: When its packages cannot be installed, in pip's words.
    """
    return _prepare(packages())


def _prepare(wanted: Sequence[str], shared: Sequence[str] = ()) -> Path:
    target = folder(wanted)
    if (target / _READY).is_file():
        return target
    print(f"installing {', '.join(wanted)} in {target}, once: minutes", file=sys.stderr)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".converter-") as temporary:
        made = Path(temporary, "environment")
        _call([sys.executable, "-m", "venv", str(made)])
        for site in made.glob("lib/python*/site-packages") if shared else ():
            (site / "shared.pth").write_text("\n".join(shared))  # behind its own packages
        # -I: what PYTHONPATH names is not part of it
        _call([str(made / "bin" / "python"), "-I", "-m", "pip", "install", "--quiet", *wanted])
        (made / _READY).touch()
        if not (target / _READY).is_file():  # another process may have been faster
            shutil.rmtree(target, ignore_errors=True)
            made.rename(target)
    return target


def folder(wanted: Sequence[str] | None = None) -> Path:
    """Return where the converter's environment is, or would be: another place for other packages or another Python."""
    key = "\n".join([*(wanted or packages()), sys.version.split()[0]])
    return cache_folder() / f"converter-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def packages() -> list[str]:
    """Return what the extra ``tflite`` installs on this Python, as pip takes it."""
    from packaging.requirements import Requirement

    items = [Requirement(line) for line in requires("torchshrink") or []]
    wanted = [item for item in items if item.marker is not None and item.marker.evaluate({"extra": "tflite"})]
    for item in wanted:
        item.marker = None
    return [str(item) for item in wanted]


@cache
def _checked(named: str) -> str:
    """Return the Python that the variable names, once it was seen to have the packages."""
    script = f"from importlib.util import find_spec; print([m for m in {_MODULES} if find_spec(m) is None])"
    try:
        found = subprocess.run([named, "-P", "-c", script], capture_output=True, text=True, check=False)
        reason = f"lacks {found.stdout.strip()}" if found.returncode == 0 else "does not start"
    except OSError as error:
        reason = f"cannot be started ({error.strerror})"
    if reason != "lacks []":
        raise MissingExtraError(f"{VARIABLE}={named} {reason}: name a Python with {' '.join(packages())}")
    return named


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
        raise MissingExtraError(
            f"the TFLite converter cannot be installed ({lines[-1].strip()[:200]}): where there is a network, "
            f"torchshrink doctor --prepare tflite does it ahead; or name a Python that has it in {VARIABLE}"
        )

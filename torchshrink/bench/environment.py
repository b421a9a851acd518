"""Where figures were measured: versions, processor, system."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torchshrink.harmless import without_passwords
from torchshrink.runtime.processors import has_dot_products, instructions

_PACKAGES = ("torchshrink", "torch", "torchao", "onnx", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert",
             "ai-edge-quantizer", "numpy")  # fmt: skip


def environment() -> dict[str, Any]:
    """Return where the figures were measured: versions, processor, system."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "instructions": list(instructions()),
        "int8_dot_products": has_dot_products(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "command": shlex.join(["torchshrink", *map(without_passwords, sys.argv[1:])]),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

"""``torchshrink doctor``: what is installed, and what would not work together."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires, version

import typer
from torchshrink.cli import console, options

_SHOWN = ("torch", "torchao", "onnx", "onnxscript", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert",
          "ai-edge-quantizer", "accelerate", "safetensors", "numpy", "pydantic", "typer")  # fmt: skip
# Whose own pins decide whether a conversion works: a wrong neighbour breaks them at run time, not at installation.
_CHECKED = ("torchshrink", "onnx2tf", "ai-edge-quantizer")


def doctor(as_json: options.Json = False) -> None:
    """Show what is installed and what would not work together; exit code 5 when something is missing."""
    installed = {name: _version(name) for name in _SHOWN}
    problems = _problems()
    if as_json:
        console.show_json({"python": sys.version.split()[0], "packages": installed, "problems": problems})
    else:
        rows = [("python", sys.version.split()[0])] + [(name, found or "MISSING") for name, found in installed.items()]
        console.show_table(("package", "version"), rows)
        for problem in problems:
            console.show(f"problem: {problem}")
        if not problems:
            console.show("everything fits together")
    if problems:
        raise typer.Exit(5)


def _problems() -> list[str]:
    """Return every requirement of the checked packages that what is installed does not meet."""
    from packaging.requirements import Requirement

    found = []
    for package in _CHECKED:
        if _version(package) is None:
            found.append(f"{package} is not installed: pip install --force-reinstall torchshrink")
            continue
        for line in requires(package) or []:
            requirement = Requirement(line)
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
            has, wanted = _version(requirement.name), f"{requirement.name}{requirement.specifier}"
            if has is None or not requirement.specifier.contains(has, prereleases=True):
                found.append(
                    f"{package} {_version(package)} needs {wanted}, found {has or 'none'}: pip install '{wanted}'"
                )
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None

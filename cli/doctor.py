"""``torchshrink doctor``: what is installed, and what would not work together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from torchshrink.cli import console, options
from torchshrink.errors import EXTRAS
from torchshrink.runtime.processors import has_dot_products, instructions

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_SHOWN = ("torch", "torchao", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "onnx2tf", "tensorflow",
          "ai-edge-litert", "ai-edge-quantizer", "accelerate", "safetensors", "numpy", "pydantic", "typer")  # fmt: skip
# Whose own pins decide whether a conversion works: a wrong neighbour breaks them at run time, not at installation.
_CHECKED = ("onnx2tf", "ai-edge-quantizer")
# Packages that are made for certain versions of each other: a wrong one is put right together with the others.
_TOGETHER = (
    frozenset({"torch", "torchao"}),
    frozenset({"onnx2tf", "ai-edge-quantizer", "ai-edge-litert", "tensorflow"}),
)


def doctor(
    prepare: Annotated[
        Literal["tflite", "litert-torch", "arm64", "tflite-c"] | None,
        typer.Option(
            help="tflite: install the converter to TFLite ahead; litert-torch: the second one, for what that one "
            "refuses; arm64: fetch what `verify --on arm64` needs; "
            "tflite-c: the library that `bundle` runs TFLite files with."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what is installed, what would not work together, and the machine; exit code 5 when something is missing."""
    if prepare is not None:
        _prepare(prepare, as_json)
        return
    installed = {name: _version(name) for name in _SHOWN}
    problems = _problems()
    gain = {} if problems or not (installed["onnxruntime"] and installed["ai-edge-litert"]) else _int8_gain()
    if as_json:
        console.show_json(
            {
                "python": sys.version.split()[0],
                "packages": installed,
                "instructions": list(instructions()),
                "int8_gain": gain,
                "machine": _machine(),
                "extras": _extras(),
                "problems": problems,
            }
        )
    else:
        rows = [("python", sys.version.split()[0])] + [
            (name, found or "not installed") for name, found in installed.items()
        ]
        console.show_table(("package", "version"), rows)
        machine = _machine()
        console.show(
            f"processor: {machine['processor']}, {machine['cores']} cores, {', '.join(instructions()) or 'unknown'}; "
            f"{_int8_here(gain)}"
        )
        console.show(f"memory: {machine['memory_gb']} GB; disk: {machine['disk_free_gb']} GB free in this folder")
        console.show(f"GPU: {', '.join(machine['gpus']) or 'none found'}")
        extras = _extras()
        console.show(f"extras: {', '.join(name for name, lacks in extras.items() if not lacks) or 'none'}")
        for name, lacks in extras.items():
            if lacks:
                console.show(f"extra {name} lacks {', '.join(lacks)}: pip install 'torchshrink[{name}]'")
        for problem in problems:
            console.show(f"problem: {problem}")
        if not problems:
            console.show("everything that is installed fits together")
            console.show(f"TFLite converter: {_converter()}")
    if problems:
        raise typer.Exit(5)


def _machine() -> dict[str, Any]:
    """Return what there is to compute with."""
    from torchshrink.bench.environment import environment
    from torchshrink.runtime.limits import memory_bytes

    found = environment()
    return {
        "processor": found["processor"],
        "cores": found["cores"],
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "gpus": _gpus(),
    }


def _gpus() -> list[str]:
    """Return the names of NVIDIA's GPUs: torch would take seconds to say the same."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in found.stdout.splitlines() if line.strip()] if found.returncode == 0 else []


def _extras() -> dict[str, list[str]]:
    """Return what each extra lacks here, nothing for one that is there."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    found: dict[str, list[str]] = {}
    for line in requires("torchshrink") or []:
        item = Requirement(line)
        for extra in EXTRAS:
            if item.name != "torchshrink" and _is_for(item, extra):
                found.setdefault(extra, []).extend([] if _version(item.name) else [item.name])
    return found


def _is_for(item: Requirement, extra: str) -> bool:
    """Return whether a requirement is an extra's own."""
    marker = item.marker
    return marker is not None and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})


def _prepare(what: str, as_json: bool) -> None:
    with console.Progress() as progress:
        if what == "tflite":
            from torchshrink.converters import environment

            progress.start("prepare the converter to TFLite")
            place, use = str(environment.python()), "convert"
        elif what == "litert-torch":
            from torchshrink.converters import environment

            progress.start("prepare the second converter to TFLite")
            place, use = str(environment.prepare_second()), "convert"
        elif what == "tflite-c":
            from torchshrink.bundle import library

            progress.start("fetch the TFLite C library")
            place, use = str(library.fetch()), "bundle --runtime tflite-c"
        else:
            from torchshrink.runtime import arm64

            progress.start("fetch a Python and the runtimes for arm64")
            place, use = str(arm64.prepare()), "verify --on arm64"
    if as_json:
        console.show_json({"path": place})
    else:
        console.show(f"{place}: ready for torchshrink {use}")


def _converter() -> str:
    from torchshrink.converters import environment

    if environment.is_here():
        return "in this environment"
    named = os.environ.get(environment.VARIABLE)
    made = environment.folder()
    return named or (f"in {made}" if made.is_dir() else "installed by the first conversion, or --prepare tflite")


def _int8_gain() -> dict[str, float]:
    from torchshrink.converters.probe import int8_gain

    with console.Progress() as progress:
        progress.start("time a convolution in float and in int8")
        return int8_gain()


def _int8_here(gain: dict[str, float]) -> str:
    from torchshrink.converters.probe import WORTH_IT

    kernels = "has int8 dot products" if has_dot_products() else "has no int8 dot products"
    if not gain:
        return kernels
    timed = " and ".join(f"{ratio:.1f}x in {runtime}" for runtime, ratio in gain.items())
    saves = "time" if min(gain.values()) > WORTH_IT else "bytes and memory rather than time"
    return f"{kernels}: a convolution in int8 is {timed} as fast as in float, so int8 saves {saves} here"


def _problems() -> list[str]:
    """Return every requirement of torchshrink and of the checked packages that what is installed does not meet."""
    own = list(_requirements("torchshrink"))
    extras = {item.name: tuple(item.extras) for item in own}
    found = [_unmet("torchshrink", item, own) for item in own]
    for package in _CHECKED:
        if _version(package) is not None:
            found += [_unmet(package, item, own) for item in _requirements(package, extras.get(package, ()))]
    return [problem for problem in found if problem is not None]


def _requirements(package: str, extras: tuple[str, ...] = ()) -> Iterator[Requirement]:
    """Yield what a package needs on this Python, with what its ``extras`` add; of torchshrink's own what is there."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    for line in requires(package) or []:
        item = Requirement(line)
        own = EXTRAS if package == "torchshrink" and _version(item.name) else ()
        if item.marker is None or any(item.marker.evaluate({"extra": extra}) for extra in ("", *extras, *own)):
            yield item


def _unmet(package: str, needed: Requirement, own: list[Requirement]) -> str | None:
    """Return what is wrong with an installed package, and the command that puts it right."""
    has = _version(needed.name)
    if has is not None and needed.specifier.contains(has, prereleases=True):
        return None
    group = next((names for names in _TOGETHER if needed.name in names), frozenset({needed.name}))
    wanted = [_text(item) for item in own if item.name in group] or [_text(needed)]
    advice = "pip install " + " ".join(f"'{item}'" for item in wanted)
    return f"{package} {_version(package)} needs {needed.name}{needed.specifier}, found {has or 'none'}: {advice}"


def _text(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version  # help must be there at once

    try:
        return version(package)
    except PackageNotFoundError:
        return None

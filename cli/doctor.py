"""``torchshrink doctor``: what is installed, and what would not work together."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from torchshrink.cli import console, options
from torchshrink.errors import EXTRAS
from torchshrink.runtime.processors import has_dot_products, instructions

if TYPE_CHECKING:
    from packaging.requirements import Requirement

_SHOWN = ("torch", "torchao", "torch-pruning", "onnx", "onnxscript", "onnxruntime", "onnx2tf", "tensorflow",
          "ai-edge-litert", "ai-edge-quantizer", "accelerate", "safetensors", "numpy", "pydantic", "typer")  # fmt: skip
_WORTH_IT = 1.5  # times as fast as float, from which on int8 is said to save time
# Whose own pins decide whether a conversion works: a wrong neighbour breaks them at run time, not at installation.
_CHECKED = ("onnx2tf", "ai-edge-quantizer")
# Packages that are made for certain versions of each other: a wrong one is put right together with the others.
_TOGETHER = (
    frozenset({"torch", "torchao"}),
    frozenset({"onnx2tf", "ai-edge-quantizer", "ai-edge-litert", "tensorflow"}),
)


def doctor(
    prepare: Annotated[
        Literal["tflite", "arm64", "tflite-c"] | None,
        typer.Option(
            help="tflite: install the converter to TFLite ahead; arm64: fetch what `verify --on arm64` needs; "
            "tflite-c: the library that `bundle` runs TFLite files with."
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Show what is installed and what would not work together; exit code 5 when something is missing."""
    if prepare is not None:
        _prepare(prepare)
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
                "problems": problems,
            }
        )
    else:
        rows = [("python", sys.version.split()[0])] + [
            (name, found or "not installed") for name, found in installed.items()
        ]
        console.show_table(("package", "version"), rows)
        console.show(f"processor: {', '.join(instructions()) or 'unknown'}; {_int8_here(gain)}")
        for problem in problems:
            console.show(f"problem: {problem}")
        if not problems:
            console.show("everything that is installed fits together")
            console.show(f"TFLite converter: {_converter()}")
    if problems:
        raise typer.Exit(5)


def _prepare(what: str) -> None:
    with console.Progress() as progress:
        if what == "tflite":
            from torchshrink.converters import environment

            progress.start("prepare the converter to TFLite")
            console.show(f"{environment.python()}: ready for torchshrink convert")
        elif what == "tflite-c":
            from torchshrink.bundle import library

            progress.start("fetch the TFLite C library")
            console.show(f"{library.fetch()}: ready for torchshrink bundle --runtime tflite-c")
        else:
            from torchshrink.runtime import arm64

            progress.start("fetch a Python and the runtimes for arm64")
            console.show(f"{arm64.prepare()}: ready for torchshrink verify --on arm64")


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
    kernels = "has int8 dot products" if has_dot_products() else "has no int8 dot products"
    if not gain:
        return kernels
    timed = " and ".join(f"{ratio:.1f}x in {runtime}" for runtime, ratio in gain.items())
    saves = "time" if min(gain.values()) > _WORTH_IT else "bytes and memory rather than time"
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
    try:
        return version(package)
    except PackageNotFoundError:
        return None

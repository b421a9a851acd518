"""A TFLite file in TensorFlow Lite Micro's own interpreter: whether it computes the same, and the memory it needs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from torchshrink.converters import tflite_file
from torchshrink.converters.tflite_file import graphs
from torchshrink.errors import MissingExtraError, ParityError
from torchshrink.files import atomic, sha256
from torchshrink.runtime import apart

_SAMPLES = 4
_MOST_ARENA = 1 << 30
_STEP = 16  # bytes: what the interpreter aligns to


@dataclass(frozen=True)
class Micro:
    """What a microcontroller needs for a file.

    Attributes:
        arena_bytes: The smallest arena that the interpreter accepts, within 16 bytes, on this machine: pointers of 64
            bits; one of 32 bits needs a little less.
        operators: What its resolver has to register.
        samples: How many random inputs were compared with LiteRT's reference kernels, bit for bit.
        version: Of the package tflite-micro.
        sha256: Of the file, which may be made anew without this.
    """

    arena_bytes: int
    operators: tuple[str, ...]
    samples: int
    version: str
    sha256: str


def sidecar(path: Path) -> Path:
    """Return where `examine` writes what it found of a file."""
    return path.with_suffix(".micro.json")


def check_installed() -> None:
    """Raise MissingExtraError when tflite-micro is not there, before any work begins."""
    if find_spec("tflite_micro") is None:
        raise MissingExtraError("this needs tflite_micro, which is not installed: pip install 'torchshrink[micro]'")


def examine(path: Path) -> Micro:
    """Run an integer-only file in TensorFlow Lite Micro, find its arena by bisection, and write both beside it.

    Raises:
        MissingExtraError: When tflite-micro is not installed.
        ModelError: When the interpreter cannot run the file.
        ParityError: When it computes something else than LiteRT's reference kernels.
    """
    check_installed()
    operators = tuple(
        sorted({graph.kind(each) for graph in graphs(tflite_file.read(path)) for each in graph.operators})
    )
    arena, differing, version = apart.call(run, path)
    if differing:
        raise ParityError(
            f"{path} computes something else in TensorFlow Lite Micro than in LiteRT's reference kernels: "
            f"{differing} values of {_SAMPLES} random inputs differ"
        )
    found = Micro(arena, operators, _SAMPLES, version, sha256(path))
    with atomic(sidecar(path)) as temporary:
        temporary.write_text(json.dumps(asdict(found), indent=1) + "\n")
    return found


def run(path: Path, threads: int = 1) -> tuple[int, int, str]:  # noqa: ARG001  # `apart` says it to all
    """Return the arena in bytes, how many output values differ from the reference kernels, and the version."""
    from importlib.metadata import version

    from tflite_micro.python.tflite_micro import runtime

    content = path.read_bytes()

    def fits(size: int) -> bool:
        try:
            runtime.Interpreter.from_bytes(content, arena_size=size)
        except RuntimeError:
            return False
        return True

    arena = smallest(fits)
    micro = runtime.Interpreter.from_bytes(content, arena_size=arena)
    reference = _reference(path)
    entry, end = reference.get_input_details()[0], reference.get_output_details()[0]
    rng, limits, differing = np.random.default_rng(0), np.iinfo(entry["dtype"]), 0
    for _ in range(_SAMPLES):
        codes = rng.integers(limits.min, limits.max, entry["shape"], entry["dtype"], endpoint=True)
        micro.set_input(codes, 0)
        micro.invoke()
        reference.set_tensor(entry["index"], codes)
        reference.invoke()
        differing += int((micro.get_output(0) != reference.get_tensor(end["index"])).sum())
    return arena, differing, version("tflite-micro")


def smallest(fits: Callable[[int], bool]) -> int:
    """Return the smallest size that fits, a multiple of 16 bytes.

    Raises:
        RuntimeError: When not even 1 GiB does.
    """
    high = 1024
    while not fits(high):
        high *= 2
        if high > _MOST_ARENA:
            raise RuntimeError("TensorFlow Lite Micro does not run it, in whatever memory: it may lack an operator")
    low = 0 if high == 1024 else high // 2
    while high - low > _STEP:
        middle = (low + high) // 2 // _STEP * _STEP
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _reference(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter

"""Which tests take long: as measured by a whole run, and of new ones by what they ask for and call.

So no mark has to be remembered. ``scripts/costs`` writes down what was measured.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from pathlib import Path
from types import FunctionType
from xml.etree import ElementTree

import pytest

# Fixtures that are kept because making them takes long, files that torch opens in a process, and functions that train
# with quantization, start TensorFlow or a new Python.
COSTLY = {
    *("keep", "pt2_file", "quantized_pt2_file", "nodes"),
    *("prepare_qat", "float_files", "to_tflite", "launch", "executable", "Popen"),
}


MEASURED = Path(__file__).parents[1] / "costs.txt"
LONG_S = 0.1


def is_costly(item: pytest.Function) -> bool:
    """Whether a test took long, or names what is costly, itself, in a fixture or in a function of its module."""
    if item.nodeid.split("[")[0] in long():
        return True
    fixtures = [each.func for defined in item._fixtureinfo.name2fixturedefs.values() for each in defined]
    used = {name for function in (item.function, *fixtures) for name in names(function)} | set(item.fixturenames)
    return item.get_closest_marker("exhaustive") is not None or not COSTLY.isdisjoint(used)


@functools.cache
def long() -> frozenset[str]:
    """Return the test functions that took long, as pytest names them without parameters."""
    lines = MEASURED.read_text().splitlines()
    return frozenset(line.split()[1] for line in lines if not line.startswith("#"))


def slowest_case(files: Iterable[Path]) -> dict[str, float]:
    """Return the seconds of each test function's slowest case, by JUnit files; of several, a case's shortest counts."""
    cases: dict[tuple[str, str], float] = {}
    for file in files:
        for case in ElementTree.parse(file).getroot().iter("testcase"):
            key = case.attrib["classname"], case.attrib["name"]
            cases[key] = min(cases.get(key, float("inf")), float(case.attrib["time"]))
    found: dict[str, float] = {}
    for (module, name), seconds in cases.items():
        function = f"{module.replace('.', '/')}.py::{name.split('[')[0]}"
        found[function] = max(found.get(function, 0.0), seconds)
    return found


@functools.cache
def names(function: FunctionType) -> frozenset[str]:
    """Return the names that a function uses, and those that functions of its own module use for it."""
    found: set[str] = set()
    waiting = [inspect.unwrap(function)]
    while waiting:
        current = waiting.pop()
        if isinstance(current, FunctionType):
            new = set(current.__code__.co_names) - found
            found |= new
            called = (current.__globals__.get(name) for name in new)
            waiting += [each for each in called if getattr(each, "__module__", None) == current.__module__]
    return frozenset(found)

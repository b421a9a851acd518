"""Which tests take seconds: found by what they ask for and call, so that no mark has to be remembered."""

from __future__ import annotations

import functools
import inspect
from types import FunctionType

import pytest

# Fixtures that are kept because making them takes long, files that torch opens in a process, and functions that train
# with quantization, start TensorFlow or a new Python.
COSTLY = {
    *("keep", "pt2_file", "quantized_pt2_file", "nodes"),
    *("prepare_qat", "float_files", "to_tflite", "launch", "executable", "Popen"),
}


def is_costly(item: pytest.Function) -> bool:
    """Whether a test, a fixture of it, or a function of their own modules that they call names what is costly."""
    fixtures = [each.func for defined in item._fixtureinfo.name2fixturedefs.values() for each in defined]
    used = {name for function in (item.function, *fixtures) for name in names(function)} | set(item.fixturenames)
    return item.get_closest_marker("exhaustive") is not None or not COSTLY.isdisjoint(used)


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

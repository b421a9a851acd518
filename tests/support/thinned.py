"""Products of parameters: a few combinations stand for all, the others are run by ``scripts/test --exhaustive``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def product(*axes: Iterable[Any], often: Callable[..., bool]) -> list[Any]:
    """Return every combination for ``parametrize``; those that ``often`` does not choose are exhaustive."""
    return [
        pytest.param(*values, marks=() if often(*values) else pytest.mark.exhaustive)
        for values in itertools.product(*axes)
    ]

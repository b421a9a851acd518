"""Tests whose defect is known and open are listed in known_failures.txt and reported as expected failures."""

from __future__ import annotations

from pathlib import Path

import pytest

KNOWN = {
    line
    for line in Path(__file__).with_name("known_failures.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid in KNOWN:
            item.add_marker(pytest.mark.xfail(reason="open defect, see tests/known_failures.txt", strict=True))

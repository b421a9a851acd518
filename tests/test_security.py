"""SECURITY.md promises nothing that no test holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()
TESTS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_the_test_exists(path: str, name: str) -> None:
    body = ast.parse((ROOT / path).read_text()).body
    assert name in [statement.name for statement in body if isinstance(statement, ast.FunctionDef)]


def test_every_promise_names_a_test() -> None:
    section = TEXT.partition("## Promises")[2].partition("## What is not promised")[0]
    promises = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    assert len(promises) > 8
    assert all("::test_" in promise for promise in promises)

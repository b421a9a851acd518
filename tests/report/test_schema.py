"""report.json as a contract: what is published, what older versions wrote, and what is refused by its key."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from html_page import make_content, make_rows, search

from torchshrink.errors import DataError
from torchshrink.report import document, schema, text

ROOT = Path(__file__).parents[2]
WRITTEN = ROOT / "tests" / "written_by_0_1_0" / "run"


def whole() -> dict[str, Any]:
    content: dict[str, Any] = {"schema": 1, **make_content(make_rows()), "search": search()}
    return json.loads(json.dumps(content))  # type: ignore[no-any-return]


def places(value: Any, *keys: str | int) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to every value, objects and lists too."""
    if keys:
        yield keys
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, *keys, key)


def changed(content: Any, keys: tuple[str | int, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    at = content
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return content


def test_the_published_schema_is_this_one() -> None:
    published = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    assert published == schema.json_schema(), "scripts/report_schema writes it"
    assert published["$defs"]["Row"]["properties"]["peak_rss_mb"]["description"].startswith("Of a fresh process")


def test_a_report_of_0_1_0_is_what_it_was() -> None:
    assert document.load(WRITTEN) == json.loads((WRITTEN / "report.json").read_text())


def test_keys_of_a_later_version_are_kept() -> None:
    content = whole() | {"new": [1]}
    content["rows"][0]["verified_on"] = content["search"]["trials"][0]["watts"] = {"AVX2": True}
    assert schema.parse(content, Path("report.json")) == content


@pytest.mark.parametrize(
    ("keys", "value", "words"),
    [
        (("rows", 0, "bytes"), 0, "rows[0].bytes should be greater than 0, found 0"),
        (("rows", 1, "bytes"), 10**400, "rows[1].bytes should be less than 9223372036854775808"),
        (("rows", 1, "bytes"), True, "rows[1].bytes should be a valid integer, found True"),
        (("rows", 1, "latency_ms", "median"), None, "rows[1].latency_ms.median should be a valid number, found None"),
        (("rows", 1, "latency_ms", "median"), float("inf"), "rows[1].latency_ms.median should be a finite number"),
        (("rows", 1, "format"), "gguf", "rows[1].format should be 'torch', 'onnx', 'tflite' or 'h5', found 'gguf'"),
        (("rows", 1, "metrics"), {"dice": None}, "rows[1].metrics.dice should be a valid number, found None"),
        (("rows",), {}, "rows should be a valid list, found {}"),
        (("rows", 0), 3, "rows[0] should be a valid object, found 3"),
        (("task",), None, "task should be a valid object, found None"),
        (("layers", "dense", 0), {"name": "conv", "params": 1, "nonzero": 1}, "layers.dense[0].macs is missing"),
        (("search", "trials"), [{}], "search.trials[0].number is missing"),
        (("search", "limits", "size"), 0, "search.limits.size should be greater than 0, found 0"),
        (("search",), [], "search should be a valid object, found []"),
    ],
)
def test_what_is_wrong_is_named(keys: tuple[str | int, ...], value: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(changed(whole(), keys, value)))
    expected = rf"{tmp_path}/report.json: {re.escape(words)}.*: `torchshrink run --out {tmp_path}` makes it again"
    with pytest.raises(DataError, match=expected):
        document.load(tmp_path)


@pytest.mark.parametrize("content", ["null", "3", "[]", '"x"'])
def test_reports_that_are_no_objects(content: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(content)
    with pytest.raises(DataError, match=r"report\.json: the report should be a valid object"):
        document.load(tmp_path)


def test_no_value_at_any_place_is_an_internal_error() -> None:
    content = whole()
    content["rows"], content["search"]["trials"] = content["rows"][:2], content["search"]["trials"][::3]
    content["environment"]["packages"] = {"torch": "2"}
    refused, taken = 0, 0
    for keys in places(content):
        for value in (None, 0, -1, float("nan"), "x", [], {}, True):
            try:
                report = schema.parse(changed(content, keys, value), Path("report.json"))
            except DataError:
                refused += 1
            else:
                text.markdown(report)
                text.table_csv(report["rows"])
                taken += 1
    assert refused > 800
    assert taken > 100

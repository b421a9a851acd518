"""What a report says of how far int8 graphs are from their modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from html_page import Page, make_content, make_rows, section

from torchshrink.report import html, noise, text

GOOD: list[Any] = [
    {"name": "stem", "is_output": False, "snr_db": 31.26, "reason": "", "cure": ""},
    {"name": "head", "is_output": False, "snr_db": None, "reason": "", "cure": ""},
    {"name": "output", "is_output": True, "snr_db": 28.0, "reason": "", "cure": ""},
]
BAD: list[Any] = [
    GOOD[0],
    {"name": "join", "is_output": False, "snr_db": 9.0, "reason": "an outlier", "cure": "keep_float"},
    {"name": "output", "is_output": True, "snr_db": 4.0, "reason": "depth", "cure": "train"},
]
SAID = "the int8 graph against its module: signal to noise output 28.0 dB; least in stem 31.3 dB, head exact"
WARNING = (
    "the int8 graph is far from its module: output 4.0 dB; the first tensor with too little is join 9.0 dB, likely for "
    "an outlier: keep_float"
)


ALONE: list[Any] = [GOOD[0] | {"alone_db": 33.0}, BAD[1] | {"alone_db": None}, GOOD[2]]


def test_cells_and_the_sentence_tell_alone_from_accumulated() -> None:
    assert noise.cells(ALONE) == [
        ("stem", "33.0 dB", "31.3 dB", "", ""),
        ("join", "exact", "9.0 dB", "an outlier", "keep_float"),
        ("output (output)", "", "28.0 dB", "", ""),
    ]
    assert noise.said_of_graph(ALONE).endswith(
        "; least in join 9.0 dB, stem 31.3 dB; alone least in stem 33.0 dB, join exact"
    )


def test_sentences() -> None:
    assert noise.said_of_graph(GOOD) == SAID
    assert noise.said_of_low(GOOD) == noise.said_of_low([GOOD[0], BAD[1], GOOD[2]]) == ""
    assert noise.said_of_low(BAD) == WARNING


@pytest.mark.parametrize(("found", "warnings"), [(GOOD, 0), (BAD, 1)])
def test_a_report_says_it_once_for_each_graph(found: list[Any], warnings: int) -> None:
    rows: Any = make_rows()
    assert noise.conditions(rows) == {}
    for row in [row for row in rows if row["name"].startswith("dense/")][:2]:
        row["graph_noise"] = found
    report: Any = {"schema": 1, **make_content(rows)}
    assert text.conditions(report)["Quantization"] == f"dense: {noise.said_of_graph(found)}."
    assert sum(WARNING in line for line in text.recommendations(report)) == warnings
    assert noise.worst_db(rows[0]) == found[-1]["snr_db"]


def test_the_page_lists_every_tensor(tmp_path: Path) -> None:
    rows: Any = make_rows()
    rows[0]["graph_noise"] = [BAD[0] | {"alone_db": 47.25}, *BAD[1:]]
    page = html.page({"schema": 1, **make_content(rows)}, tmp_path)  # type: ignore[typeddict-item]
    assert f"dense: {WARNING}." in Page(section(page, "recommended") + "</section>").texts["p"]
    cells = Page(section(page, "verification") + "</section>").texts["td"]
    (figure,) = Page(section(page, "noise") + "</section>").figures.values()
    assert [trace["name"] for trace in figure["data"]] == ["accumulated", "alone"]
    assert figure["data"][1]["y"] == [47.25]
    assert {"31.3 dB", "47.2 dB", "9.0 dB", "an outlier: keep_float"} <= set(cells)

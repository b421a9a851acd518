"""The search of a report on content written by hand: as a sentence, as tables, and as a section of the page."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from html_page import EVIL, Page, make_content, make_rows, said, search, section, trial

from torchshrink.report import document, html, trials
from torchshrink.report import text as report
from torchshrink.report.html import search as page_search


def shown(tmp_path: Path, **values: Any) -> tuple[str, Page]:
    text = html.page(make_content(make_rows()) | {"search": search(**values)}, tmp_path)
    whole = Page(text)
    assert len(whole.ids) == len(set(whole.ids))
    assert len(whole.attributes("script")) == 3
    part = section(text, "search")
    return part, Page(f"{part}</section>")


def test_what_was_asked_and_found() -> None:
    assert trials.summary(search()) == (
        "Asked for: at most 0.120 MB, 0.2x the latency of the dense file, 60 MB of RAM and 0.01 more validation loss "
        "than the dense model; size and loss increase as small as possible; in LiteRT. "
        "5 trials: 2 finished, 1 stopped early, 1 infeasible and 1 failed (21 min, tpe sampler, seed 0). "
        "Recommended: trial 3, 0.050 MB, 0.1x the latency, 56 MB of RAM, loss +0.0080."
    )


def test_nothing_found_says_which_limit_binds() -> None:
    near = trial(4, violations={"size": 0.125, "latency": 1.5}, latency=2.5)
    found = search(trials=[near], front=[], recommended=None, nearest=4, binding="size", latency_unit="ms")
    assert trials.summary(found).endswith(
        "1 trial: 1 finished (21 min, tpe sampler, seed 0). No trial is within every limit: size is the limit that "
        "binds. The nearest is trial 4, 0.100 MB, 2.5 ms, 56 MB of RAM, loss +0.0040 "
        "(size 12 % over its limit, latency 2.5x its limit)."
    )
    unknown = search(trials=[trial(1, "stopped"), trial(2, "open")], recommended=None, seconds=90.0, seed=None)
    assert "2 trials: 1 stopped early and 1 still open (90 s, tpe sampler)." in trials.summary(unknown)
    assert trials.summary(unknown).endswith("No trial is within every limit.")


def test_a_search_of_which_little_is_known(tmp_path: Path) -> None:
    numbers = ("recommended", "nearest", "binding")
    empty = {key: type(value)() for key, value in search().items() if isinstance(value, (dict, list))}
    nothing = search() | empty | dict.fromkeys(numbers)
    assert trials.summary(nothing) == "Asked for: no limits; in LiteRT. No trial ran. No trial is within every limit."
    part, page = shown(tmp_path, **nothing)
    assert not page.figures
    assert not page.attributes("table")
    assert "No trial ran." in part
    assert "## Search" in trials.markdown(nothing)


def test_trials_are_a_table(tmp_path: Path) -> None:
    headings, lines = trials.table(search())
    settings = ["channels", "pattern", "distillation", "lr"]
    assert headings == ["trial", "state", "MB", "x latency", "RAM MB", "loss +", *settings, "epochs", "s", "note"]
    assert [[cell.text for cell in line] for line in lines] == [
        ["0 (front)", "finished", "0.100", "0.15", "56.0", "0.0040", "0.55", "magnitude", "yes", "", "8", "61", ""],
        ["1", "stopped early", "~0.090", "", "", "~0.0200", "0.55", "magnitude", "yes", "", "8", "61", ""],
        ["2", "infeasible", "~0.180", "", "", "", "0.55", "magnitude", "yes", "", "", "61", "size 50 % over its limit"],
        ["3 (recommended)", "finished", "0.050", "0.1", "56.0", "0.0080", "0.55", "magnitude", "yes", "", "8", "61",
         ""],
        ["10", "failed", "", "", "", "", "", "", "", "0.002", "", "61", "the loss is not finite: lower lr"],
    ]  # fmt: skip
    assert [line[0].number for line in lines] == [0, 1, 2, 3, 10]  # not sorted as text
    assert [line[2].number for line in lines[:4]] == [0.1, 0.09, 0.18, 0.05]
    assert math.isnan(lines[4][2].number or 0.0)
    assert {line[7].number for line in lines} == {None}  # text sorts as text, missing ones too
    assert trials.table(search(latency_unit="ms"))[0][3] == "ms"
    page = shown(tmp_path)[1]
    assert page.texts["button"] == headings
    assert [item.get("data-value") for item in page.attributes("td")][:3] == [None, "0.1", "0.15"]
    assert page.attributes("table")[0]["class"] == "sortable trials"


def test_pictures_of_a_search(tmp_path: Path) -> None:
    page = shown(tmp_path)[1]
    assert page.texts["h3"] == [
        "Size and loss", "Latency and loss", "RAM and loss", "Best so far", "What explains the loss increase",
        "What explains the size", "All trials",
    ]  # fmt: skip
    labels, figures = list(page.figures), list(page.figures.values())
    names = [trace["name"] for trace in figures[0]["data"]]
    assert names == ["finished", "stopped", "infeasible", "front", "recommended"]  # the failed one has no size
    assert labels[0] == "size of the file [MB] against loss increase of 4 trials. On the front: 0, 3"  # one has no size
    assert labels[1] == "latency / that of the dense file against loss increase of 2 trials. On the front: 0, 3"
    assert labels[3] == "Hypervolume of the front over time, 0.31 after 121 s"
    assert labels[4] == "What explains the loss increase: channels 80%, lr 20%"
    assert "trial 1, stopped: 0.090 MB, loss +0.0200 after 8 epochs" in said(figures[0])
    assert "trial 2, infeasible: 0.180 MB" in said(figures[0])
    assert "trial 3, finished: 0.1x the latency, loss +0.0080" in said(figures[1])
    recommended = figures[0]["data"][-1]
    assert (recommended["x"], recommended["y"]) == ([0.05], [0.008])
    assert [len(figure["layout"]["shapes"]) for figure in figures[:3]] == [2, 2, 2]  # limits
    lone = shown(tmp_path, limits={"size": 120_000})[1].figures
    assert sum(len(figure["layout"].get("shapes", [])) for figure in lone.values()) == 1


def test_only_what_is_known_is_drawn(tmp_path: Path) -> None:
    infeasible = [trial(0, "infeasible"), trial(1, "failed", estimated=None)]
    nothing: dict[str, Any] = {"front": [], "recommended": None, "importance": {}, "hypervolume": []}
    page = shown(tmp_path, trials=infeasible, **nothing)[1]
    assert page.texts["h3"] == ["Size and loss", "All trials"]
    page = shown(tmp_path, trials=[trial(1, "failed", estimated=None, settings={}, rungs=[])], **nothing)[1]
    assert page.texts["h3"] == ["All trials"]
    page = shown(tmp_path, trials=[trial(0, loss_increase=math.nan, size=0, violations={})], **nothing)[1]
    assert "All trials" in page.texts["h3"]


def test_a_loss_far_above_does_not_hide_the_others() -> None:
    def top(losses: list[float], limit: float | None) -> float:
        points = [page_search._Point(trial(0), 1.0, loss, is_final=index == 0) for index, loss in enumerate(losses)]
        return page_search._range(points, limit)[1]

    assert top([0.01, 0.7], None) == pytest.approx(0.016 + 0.16 * 0.016)  # 1.6 times what is final, and some room
    assert top([0.01, 0.012], None) == pytest.approx(0.012 + 0.16 * 0.012)
    assert top([0.01], 0.05) == pytest.approx(0.05 + 0.16 * 0.05)
    pale = page_search._Point(trial(0, "stopped"), 1.0, 0.3, is_final=False)
    assert page_search._range([pale], None)[1] > 0.3
    assert page_search._range([page_search._Point(trial(0, "infeasible"), 1.0, math.nan, is_final=False)], None)[1] > 0


def test_names_of_users_are_escaped(tmp_path: Path) -> None:
    evil = trial(0, settings={EVIL: EVIL, "$\\frac{$": 1}, reason=EVIL)
    values = {"trials": [evil], "importance": {"size": {EVIL: 0.5, "$\\frac{$": 0.5}}, "target": EVIL, "binding": EVIL}
    part, page = shown(tmp_path, **values, recommended=None, sampler=EVIL)
    assert "<script" not in part
    assert EVIL in page.texts["td"]
    lines = trials.markdown(search(trials=[trial(0, reason="a|b\nc")]))
    assert any(line.endswith("| a\\|b c |") for line in lines)


def test_reports_with_and_without_a_search(tmp_path: Path) -> None:
    content = make_content(make_rows())
    assert "#search" not in html.page(content, tmp_path)
    assert "## Search" not in report.markdown(content)
    content["search"] = search()
    document.save(content, tmp_path)
    assert document.load(tmp_path)["search"] == search()
    text = (tmp_path / "report.md").read_text()
    assert trials.summary(search()) in text
    assert "| 3 (recommended) | finished | 0.050 | 0.1 |" in text
    assert "| setting | loss increase | size |" in text
    assert "| lr | 20% |  |" in text
    assert '<a href="#search">' in (tmp_path / "report.html").read_text()


def test_the_table_without_settings_has_every_cost() -> None:
    headings, lines = trials.table(search(), with_settings=False)
    assert headings == ["trial", "state", "MB", "x latency", "RAM MB", "loss +", "epochs", "s", "note"]
    wide, all_lines = trials.table(search())
    kept = [wide.index(heading) for heading in headings]
    assert [[cell.text for cell in line] for line in lines] == [[line[at].text for at in kept] for line in all_lines]

"""The page of searches, from lines that nothing had to be searched for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from script import load

from torchshrink.pipeline.recipe import parse
from torchshrink.search.engines.local import Outcome
from torchshrink.search.engines.work import Request
from torchshrink.search.space import Resolved

script = load("search_results")


def line(sampler: str, seed: int, end: float, half: float = 0.0) -> dict[str, object]:
    known = {"task": "cells", "hours": 0.1, "processor": "a processor", "trained": 5, "measured": 3, "within": 2}
    return {**known, "for": script.FREE, "sampler": sampler, "seed": seed, "front": [], "half": half, "end": end}


def limited(sampler: str, seed: int, least: float | None) -> dict[str, object]:
    return {**line(sampler, seed, 0.0), "for": script.LIMITED, "least_at_half": None, "least": least}


def test_samplers_are_ranked_by_their_means_with_the_spread_of_seeds() -> None:
    found = [line("random", 0, 0.1), line("random", 1, 0.3), line("tpe", 0, 0.2, 0.1), line("tpe", 1, 0.3, 0.2)]
    assert list(script.means(found)) == [
        "| cells | 6.0 | tpe | 2 | 0.2500 | 0.0707 | 0.1500 | 2 |",
        "| cells | 6.0 | random | 2 | 0.2000 | 0.1414 | 0.0000 | 1 |",
    ]
    assert "| cells | 6.0 | 1 | tpe | 5 | 3 | 2 | 0 | 0.3000 |" in script.page(found)


def test_within_limits_the_least_loss_counts_and_what_found_more_often_is_first() -> None:
    found = [limited("random", 0, 0.01), limited("random", 1, None), limited("tpe", 0, 0.02), limited("tpe", 1, 0.04)]
    assert list(script.within(found)) == [
        "| cells | tpe | 2 of 2 | +0.0300 | 0.0100 | +0.0400 |  (0 of 2) | 1 |",
        "| cells | random | 1 of 2 | +0.0100 | 0.0000 | +0.0100 |  (0 of 2) | 1 |",
    ]
    assert script.least_of_all(found) == "random in 1 of 2 seeds, tpe in 1 of 2 seeds"
    assert "| cells | tpe | 2 of 2 |" in script.page([*found, line("tpe", 0, 0.1)])


@pytest.mark.parametrize(("lead", "said"), [(0.05, "a tie"), (0.3, "tpe wins")])
def test_a_lead_that_is_less_than_seeds_differ_is_a_tie(lead: float, said: str) -> None:
    ends = {"random": (0.1, 0.3), "tpe": (0.1 + lead, 0.3 + lead)}
    found = [line(name, seed, end) for name, pair in ends.items() for seed, end in enumerate(pair)]
    (told,) = script.verdicts(found)
    assert told == f"- cells, 6.0 minutes: tpe is {lead:.4f} above random, seeds differ by 0.1414: {said}."
    assert list(script.verdicts(found[:3])) == []


def test_a_search_is_told_as_it_stood_when_its_time_was_up() -> None:
    row = {"state": "finished", "violations": {}, "size": 1e4, "latency": 0.1, "loss_increase": 0.01, "rungs": [{}]}
    trials = [{**row, "number": number, "at": at} for number, at in enumerate((10.0, 60.0, 110.0))]
    search = {"trials": trials, "front": [1, 2], "hypervolume": [[10.0, 0.1], [60.0, 0.2], [110.0, 0.9]]}
    found = script.told(search, seconds=100.0)
    assert (found["half"], found["end"], found["measured"], found["trained"]) == (0.1, 0.2, 2, 3)
    assert found["front"] == [[1e4, 0.1, 0.01]]
    assert (found["least_at_half"], found["least"]) == (0.01, 0.01)
    search["trials"] = [{**row, "violations": {"size": 0.1}} for row in trials]
    assert script.told(search, seconds=100.0)["least"] is None


@pytest.mark.parametrize("task", script.TASKS)
def test_recipes_of_tasks_are_read(task: str) -> None:
    settings = yaml.safe_load((script.ROOT / "scripts" / "search-comparison.yaml").read_text())
    assert parse({**settings, "data": "somewhere", **script.TASKS[task].recipe}).search is not None


def test_settings_go_to_the_nearest_place_of_the_grid() -> None:
    settings = {"channels": 0.52, "student_growth": 1.3, "lr": 0.0029, "family": "pruned"}
    assert script.rounded(settings) == {**settings, "channels": 0.5, "student_growth": 1.5, "lr": 0.00316}


class Counting:
    slots = 1

    def __init__(self) -> None:
        self.seen: list[Request] = []

    def submit(self, request: Request) -> None:
        self.seen.append(request)

    def wait(self, seconds: float) -> list[Outcome]:
        return [Outcome(self.seen[-1].number, {"loss": 0.5, "seconds": 7.0})]

    def close(self) -> None:
        pass


def test_a_rung_is_trained_once_and_charged_to_every_search(tmp_path: Path) -> None:
    engine = Counting()

    def done(number: int, seed: int, *variants: str) -> Outcome:
        shared = script.Shared(tmp_path, engine)
        recipe = {"data": "somewhere", "seed": seed}
        shared.submit(Request(number, tmp_path / str(number), recipe, variants, None, tmp_path))
        (found,) = shared.wait(0.0)
        return found

    first, again = done(3, 1, "dense", "slim"), done(5, 2, "dense", "slim")
    assert (first.number, again.number, len(engine.seen)) == (3, 5, 1)
    assert first.result == again.result == {"loss": 0.5, "seconds": 7.0}
    done(5, 2, "dense", "slim", "tuned")
    assert [request.recipe["seed"] for request in engine.seen] == [0, 0]
    assert len({request.folder for request in engine.seen}) == 1


def test_data_are_made_coarse_with_their_truth(tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / "all" / "train" / folder).mkdir(parents=True)
        for name in "abc":
            picture = np.arange(16, dtype=np.uint8).reshape(4, 4)
            Image.fromarray(picture).save(tmp_path / "all" / "train" / folder / f"{name}.png")
    np.savez(tmp_path / "all" / "test.npz", x=np.arange(8.0).reshape(2, 1, 4), y=np.arange(8).reshape(2, 1, 4))
    made = script.coarse(tmp_path / "all", tmp_path / "few", every=2)
    assert sorted(path.name for path in made.rglob("*.png")) == ["a.png", "a.png", "c.png", "c.png"]
    assert np.asarray(Image.open(made / "train" / "images" / "a.png")).tolist() == [[2, 4], [10, 12]]
    assert np.asarray(Image.open(made / "train" / "masks" / "a.png")).tolist() == [[0, 2], [8, 10]]
    signals = np.load(made / "test.npz")
    assert (signals["x"].tolist(), signals["y"].tolist()) == ([[[0.5, 2.5]]], [[[0, 2]]])


def test_no_search_tries_a_place_of_the_grid_twice(tmp_path: Path) -> None:
    space = Resolved.model_validate(
        {"channels": (0.0, 0.2), "stages": [], "round_to": (4,), "sparsity": (0, 0), "pattern": ("magnitude",),
         "int8": ("qat",), "kept": [], "distillation": (0.0,), "length": (1.0,), "lr": (0.01, 0.01)}
    )  # fmt: skip
    study = script.OnGrid(f"sqlite:///{tmp_path / 'study.db'}", "s", ("size",), "random", 0, {})
    found = [study.ask(space)[1]["channels"] for _ in range(3)]
    assert sorted(found) == [0.0, 0.1, 0.2]

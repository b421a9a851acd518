"""The page of searches, from lines that nothing had to be searched for."""

from __future__ import annotations

import pytest
from script import load

script = load("search_results")


def line(sampler: str, seed: int, end: float, half: float = 0.0) -> dict[str, object]:
    known = {"task": "cells", "hours": 0.1, "processor": "a processor", "trained": 5, "measured": 3, "within": 2}
    return {**known, "sampler": sampler, "seed": seed, "front": [], "half": half, "end": end}


def test_samplers_are_ranked_by_their_means_with_the_spread_of_seeds() -> None:
    found = [line("random", 0, 0.1), line("random", 1, 0.3), line("tpe", 0, 0.2, 0.1), line("tpe", 1, 0.3, 0.2)]
    assert list(script.means(found)) == [
        "| cells | 6.0 | tpe | 2 | 0.2500 | 0.0707 | 0.1500 | 2 |",
        "| cells | 6.0 | random | 2 | 0.2000 | 0.1414 | 0.0000 | 1 |",
    ]
    assert "| cells | 6.0 | 1 | tpe | 5 | 3 | 2 | 0 | 0.3000 |" in script.page(found)


def test_a_search_is_told_as_it_stood_when_its_time_was_up() -> None:
    row = {"state": "finished", "violations": {}, "size": 1e4, "latency": 0.1, "loss_increase": 0.01, "rungs": [{}]}
    trials = [{**row, "number": number, "at": at} for number, at in enumerate((10.0, 60.0, 110.0))]
    search = {"trials": trials, "front": [1, 2], "hypervolume": [[10.0, 0.1], [60.0, 0.2], [110.0, 0.9]]}
    found = script.told(search, seconds=100.0)
    assert (found["half"], found["end"], found["measured"], found["trained"]) == (0.1, 0.2, 2, 3)
    assert found["front"] == [[1e4, 0.1, 0.01]]


@pytest.mark.parametrize("task", script.TASKS)
def test_recipes_of_tasks_are_read(task: str) -> None:
    assert (script.ROOT / "scripts" / script.TASKS[task].recipe).is_file()

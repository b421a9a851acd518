"""What is trained next, where only the loss is unknown."""

import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchshrink.errors import RecipeError
from torchshrink.search.bayesian import Bayesian, encoded, predicted
from torchshrink.search.estimate import Estimator
from torchshrink.search.hypervolume import hypervolume, place
from torchshrink.search.limits import Limits
from torchshrink.search.outlook import Forecast
from torchshrink.search.space import Choices, Resolved
from torchshrink.search.study import Study

DENSE = {"size": 40_000.0, "latency": 1.0, "latency_ms": 2.0, "rss": 60.0, "loss": 0.2, "int8_latency": 0.5}
LIMITS = Limits(rss=100.0)


class Estimates(Estimator):
    """Knows the size of a candidate without its model."""

    def __init__(self, is_made: Callable[[Choices], bool] = lambda _: True) -> None:
        object.__setattr__(self, "is_made", is_made)
        object.__setattr__(self, "dense", DENSE)

    def __call__(self, settings: Choices) -> dict[str, float]:
        if not self.is_made(settings):  # type: ignore[attr-defined]
            raise RecipeError("the channels cannot be removed")
        left = 1 - settings["channels"]
        return {"size": 40_000 * left**2, "macs": left**2, "latency": left, "arena": 1e3}


def costs_of(settings: Choices) -> dict[str, float]:
    """Return what a candidate costs: its loss grows with what it lost, and with a learning rate that is not 0.003."""
    left = 1 - settings["channels"]
    loss = 0.02 / left + 0.1 * abs(np.log(settings["lr"] / 0.003)) + 0.1 * (settings["int8"] == "ptq")
    return {"size": 4000 + 40_000 * left**2, "latency": 0.1 + left / 2, "rss": 50.0, "loss_increase": float(loss)}


def add(
    study: Study,
    space: Resolved,
    start: Choices | None,
    estimate: Estimator,
    *,
    is_open: bool = False,
    limits: Limits = LIMITS,
    change: Callable[[dict[str, float]], dict[str, float]] = dict,
) -> Choices:
    number, settings = study.ask(space, start=start)
    study.note(number, estimated=estimate(settings), begun=1)
    if not is_open:
        costs = change(costs_of(settings))
        study.note(number, costs=costs)
        study.finish(number, costs, limits.violations(costs, DENSE))
    return settings


def opened(seed: int = 0, store: str = "sqlite://", limits: Limits = LIMITS) -> Study:
    return Study(store, "torchshrink", limits.objectives, "bayesian", seed, {"seed": seed})


def proposal(study: Study, space: Resolved, limits: Limits = LIMITS, estimate: Estimator | None = None) -> Any:
    proposed = Bayesian(study, space, estimate or Estimates(), limits, DENSE)(Forecast(study.trials(), DENSE))
    assert proposed is not None
    return proposed


def found(space: Resolved, seed: int, count: int, is_learning: bool) -> float:
    """Return the hypervolume of a search."""
    study, estimate = opened(seed), Estimates()
    propose = Bayesian(study, space, estimate, LIMITS, DENSE)
    for _ in range(count):
        add(study, space, propose(Forecast(study.trials(), DENSE)) if is_learning else None, estimate)
    return hypervolume([place(each.user_attrs["costs"], LIMITS.objectives, DENSE) for each in study.trials()])


def test_searches_that_learn_are_ahead_of_those_that_draw(space: Resolved) -> None:
    learned, drawn = ([found(space, seed, 12, learns) for seed in range(3)] for learns in (True, False))
    assert statistics.fmean(learned) > statistics.fmean(drawn) + statistics.stdev(drawn)


def test_at_first_candidates_are_drawn(space: Resolved) -> None:
    study = opened()
    propose = Bayesian(study, space, Estimates(), LIMITS, DENSE)
    for _ in range(4):
        assert propose(Forecast(study.trials(), DENSE)) is None
        add(study, space, None, Estimates())
    assert propose(Forecast(study.trials(), DENSE)) is not None


def test_another_process_proposes_the_same_and_nothing_twice(space: Resolved, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'study.db'}"
    study = opened(store=store)
    propose = Bayesian(study, space, Estimates(), LIMITS, DENSE)
    tried = [add(study, space, None, Estimates()) for _ in range(4)]
    for _ in range(3):
        proposed = propose(Forecast(study.trials(), DENSE))
        assert proposed == proposal(opened(store=store), space)
        tried.append(add(study, space, proposed, Estimates()))
        assert tried[-1] == proposed
        assert tried[-1] not in tried[:-1]


def test_candidates_under_way_are_taken_for_what_is_expected_of_them(
    space: Resolved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several workers would otherwise train neighbours of one candidate at the same time."""
    study = opened()
    for _ in range(6):
        add(study, space, None, Estimates())
    line = [{**proposal(study, space), "channels": at / 40} for at in range(33)]
    monkeypatch.setattr(study, "drawn", lambda *_: line)
    near = proposal(study, space)
    line.remove(near)
    assert abs(proposal(study, space)["channels"] - near["channels"]) < 0.05
    add(study, space, near, Estimates(), is_open=True)
    assert abs(proposal(study, space)["channels"] - near["channels"]) > 0.05


TIGHT = Limits(rss=100.0, size=9_000.0, latency=0.3)  # what one candidate in three meets


def least_loss(space: Resolved, seed: int, count: int, is_learning: bool) -> float:
    """Return the least loss increase within limits that a search finds, or 1."""
    study, estimate = opened(seed, limits=TIGHT), Estimates()
    propose = Bayesian(study, space, estimate, TIGHT, DENSE)
    for _ in range(count):
        proposed = propose(Forecast(study.trials(), DENSE)) if is_learning else None
        add(study, space, proposed, estimate, limits=TIGHT)
    kept = [each.user_attrs for each in study.trials()]
    return min((each["costs"]["loss_increase"] for each in kept if not each["violations"]), default=1.0)


def test_within_limits_too_searches_that_learn_find_less_loss(space: Resolved) -> None:
    learned, drawn = ([least_loss(space, seed, 14, learns) for seed in range(4)] for learns in (True, False))
    assert max(learned) < statistics.fmean(drawn)


def test_what_exceeds_a_limit_is_not_proposed(space: Resolved) -> None:
    limits = Limits(rss=100.0, size=12_000.0)
    study = opened(limits=limits)
    for _ in range(6):
        add(study, space, None, Estimates(), limits=limits)
    proposed = proposal(study, space, limits)
    assert costs_of(proposed)["size"] < 1.1 * 12_000


@pytest.mark.parametrize(("cost", "limit", "seen"), [("size", 12_000.0, 5000.0), ("latency", 0.4, 0.1)])
def test_what_obviously_exceeds_a_limit_is_not_proposed_though_files_seem_to_allow_it(
    space: Resolved, cost: str, limit: float, seen: float
) -> None:
    """As where only students were measured, whose costs say nothing of those of pruned models."""
    limits, estimate = replace(LIMITS, **{"size": 50_000.0, "latency": 2.0, cost: limit}), Estimates()
    study = opened(limits=limits)
    for at in range(10):
        proposed = proposal(study, space, limits) if at >= 6 else None
        assert proposed is None or not estimate.violations(estimate(proposed), limits)
        add(study, space, proposed, estimate, limits=limits, change=lambda costs: {**costs, cost: seen})


def test_more_gain_does_not_outweigh_that_a_limit_is_missed(space: Resolved) -> None:
    """The larger, the less loss; and files take three times what weights let expect."""
    limits = replace(LIMITS, size=36_000.0)
    study = opened(limits=limits)
    for at in range(12):
        proposed = proposal(study, space, limits) if at >= 6 else None
        add(
            study,
            space,
            proposed,
            Estimates(),
            limits=limits,
            change=lambda costs: {**costs, "size": 3 * costs["size"]},
        )
    assert sum(not each.user_attrs["violations"] for each in study.trials()[6:]) >= 4


def test_a_few_files_that_miss_the_limits_do_not_end_a_search_but_a_dozen_do(space: Resolved) -> None:
    limits = Limits(rss=100.0, size=4_500.0)  # less than any file's, though not than weights alone
    study = opened(limits=limits)
    propose = Bayesian(study, space, Estimates(), limits, DENSE)
    for _ in range(4):
        add(study, space, None, Estimates(), limits=limits)
    while (proposed := propose(Forecast(study.trials(), DENSE))) is not None:
        add(study, space, proposed, Estimates(), limits=limits)
    sizes = [each.user_attrs["costs"]["size"] for each in study.trials()]
    assert 12 <= len(sizes) < 30
    assert statistics.fmean(sizes[4:]) < statistics.fmean(sizes[:4]) / 1.5  # it went where they are nearest


def test_what_cannot_be_made_is_not_proposed(space: Resolved) -> None:
    study = opened()
    for _ in range(6):
        add(study, space, None, Estimates())
    estimate = Estimates(lambda settings: settings["channels"] < 0.2)
    assert proposal(study, space, estimate=estimate)["channels"] < 0.2
    nothing = Bayesian(study, space, Estimates(lambda _: False), LIMITS, DENSE)
    assert nothing(Forecast(study.trials(), DENSE)) is None


def test_settings_become_numbers() -> None:
    estimated = {"size": 100, "macs": 0.1}
    rows = encoded(
        [
            ({"family": "pruned", "channels": 0.2, "lr": 1e-3}, estimated),
            ({"family": "student", "width": 8, "lr": 1e-2}, estimated),
            ({"family": "student", "width": 16, "lr": 10**-2.5}, {"size": 10_000, "macs": 0.1}),
        ]
    )
    of_all, channels, pruned, student, lr, width, size, macs = rows.T.tolist()
    assert of_all == [1, 1, 1]
    assert channels == [0, 0, 0]  # one value tells nothing
    assert (pruned, student) == ([1, 0, 0], [0, 1, 1])
    assert lr == pytest.approx([-1, 1, 0])
    assert width == [0, -1, 1]
    assert size == pytest.approx([-2 / 3, -2 / 3, 4 / 3])
    assert macs == [0, 0, 0]


def test_the_process_goes_through_what_is_known_and_is_unsure_elsewhere() -> None:
    known = np.linspace(-1, 1, 9)[:, None]
    values = np.sin(3 * known[:, 0]) + 5
    means, deviations = predicted(known, values, np.array([[0.1], [-0.6], [4.0]]))
    assert means[:2] == pytest.approx(np.sin([0.3, -1.8]) + 5, abs=0.1)
    assert deviations[2] > 4 * deviations[:2].max()
    assert deviations[2] < 3 * values.std()


def test_equal_values_are_expected_everywhere() -> None:
    means, _ = predicted(np.array([[0.0], [1.0]]), np.array([2.0, 2.0]), np.array([[0.5]]))
    assert means == pytest.approx([2.0])

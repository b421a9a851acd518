"""What is expected of candidates that are not finished."""

from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial

from torchshrink.search.limits import Limits
from torchshrink.search.outlook import Forecast, Outlook, outlooks

DENSE = {"size": 40_000.0, "latency": 2.0, "rss": 60.0, "loss": 0.2}
LIMITS = Limits(size=3000.0)


def trial(number: int, increases: list[float], size: float = 1000.0, **facts: Any) -> FrozenTrial:
    rungs = [{"epochs": 3 * (index + 1), "loss_increase": value} for index, value in enumerate(increases)]
    estimated = {"size": size, "latency": 0.1, "macs": 0.2}
    found = optuna.trial.create_trial(values=[0.0], user_attrs={"rungs": rungs, "estimated": estimated, **facts})
    found.number = number
    return found


def finished(number: int, increases: list[float], size: float, latency: float, rss: float, loss: float) -> FrozenTrial:
    costs = {"size": size, "latency": latency, "rss": rss, "loss_increase": loss}
    return trial(number, increases, costs=costs)


def looked_at(trials: list[FrozenTrial]) -> dict[int, Outlook]:
    return outlooks(trials, Forecast(trials, DENSE), LIMITS, DENSE)


def test_nothing_is_finished() -> None:
    found = looked_at([trial(4, [0.3, 0.2])])
    assert list(found) == [4]
    assert found[4].costs == {"size": 1000.0, "latency": pytest.approx(0.2), "rss": 60.0, "loss_increase": 0.2}
    assert found[4].violations == {}


def test_an_arena_is_as_much_larger_than_its_widest_layer() -> None:
    done = finished(0, [0.3], 1000.0, 0.3, 50.0, 0.1)
    done.user_attrs["estimated"] = {**done.user_attrs["estimated"], "arena": 1000.0}
    done.user_attrs["costs"]["arena"] = 1500.0
    waiting = trial(1, [0.3])
    waiting.user_attrs["estimated"] = {**waiting.user_attrs["estimated"], "arena": 200.0}
    assert looked_at([done, waiting])[1].costs["arena"] == 300.0
    assert looked_at([waiting])[1].costs["arena"] == 200.0


def test_what_was_never_trained_has_no_outlook() -> None:
    assert looked_at([trial(0, [])]) == {}


def test_a_candidate_goes_the_way_of_those_that_are_finished() -> None:
    done = [
        finished(0, [0.3, 0.2], 3500.0, 0.3, 50.0, 0.1),
        finished(1, [0.4, 0.2], 3600.0, 0.5, 52.0, 0.15),
        finished(2, [0.5, 0.1], 3700.0, 0.4, 54.0, 0.1),
    ]
    found = looked_at([*done, trial(3, [0.6]), trial(4, [0.6, 0.3], size=200.0)])
    assert found[0].costs["loss_increase"] == 0.1  # as it is
    assert found[3].costs["loss_increase"] == pytest.approx(0.6 - 0.25)  # the median of 0.2, 0.25 and 0.4
    assert found[4].costs["loss_increase"] == pytest.approx(0.3 - 0.05)  # of 0.1, 0.05 and 0
    assert found[3].costs["size"] == 1000 + 2600
    assert found[3].costs["latency"] == pytest.approx(0.1 * 2 * 2)  # 0.4 where 0.2 was expected
    assert found[3].costs["rss"] == 52.0
    assert found[3].violations == {"size": pytest.approx(0.2)}
    assert found[4].violations == {}


def test_latency_lies_on_the_line_of_what_was_measured() -> None:
    """The estimate expects twice the latency for twice the MACs; what was measured grows from 0.2 by 0.1."""
    done = []
    for number, macs in enumerate((0.1, 0.2, 0.3, 0.4)):
        done.append(finished(number, [0.3], 3500.0, 0.2 + macs, 50.0, 0.1))
        done[-1].user_attrs["estimated"]["macs"] = macs
    open_ = trial(9, [0.6])
    open_.user_attrs["estimated"]["macs"] = 0.6
    assert looked_at([*done, open_])[9].costs["latency"] == pytest.approx(0.8)
    # Noise that falls with the MACs is no line to go by.
    for one in done:
        one.user_attrs["costs"]["latency"] = 0.5 - 0.1 * one.user_attrs["estimated"]["macs"]
    assert looked_at([*done, open_])[9].costs["latency"] == pytest.approx(0.475)

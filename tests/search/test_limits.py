"""Limits as people write them, and what exceeds them."""

from typing import Any

import pytest

from torchshrink.errors import RecipeError
from torchshrink.search.limits import Limits

DENSE = {"size": 2_000_000.0, "latency": 1.0, "latency_ms": 12.0, "rss": 64.0, "loss": 0.2}


def test_units() -> None:
    limits = Limits.parse("120kB", "2ms", "60MB", 0.01)
    assert limits == Limits(120_000, 2.0, "ms", 60.0, 0.01)
    assert Limits.parse("1KiB").size == 1024
    assert Limits.parse("1.5 MB").size == 1_500_000
    assert Limits.parse("77").size == 77
    assert Limits.parse(latency="0.2x").latency_unit == "ratio"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "12 parsecs"}, "--max-size 12 parsecs: expected a unit of B"),
        ({"size": "-3kB"}, "--max-size -3kB: expected a positive number"),
        ({"size": "0kB"}, "--max-size 0kB: expected a positive number"),
        ({"latency": "2"}, "--max-latency 2: give 2ms, or 0.2x"),
        ({"latency": "fast"}, "--max-latency fast: expected a positive number"),
        ({"rss": "60 mJ"}, "--max-rss 60 mJ: expected a unit"),
        ({"arena": "200kB"}, "--max-arena 200kB is of a microcontroller: add --target micro, or give --max-rss"),
        ({"arena": "much", "is_micro": True}, "--max-arena much: expected a positive number"),
        ({"rss": "60MB", "is_micro": True}, "--max-rss 60MB: a microcontroller has no processes, give --max-arena"),
        ({"loss_increase": float("nan")}, "--max-loss-increase nan: expected a number"),
    ],
)
def test_what_cannot_be_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Limits.parse(**arguments)


def test_what_has_no_limit_is_minimised() -> None:
    assert Limits().objectives == ("size", "latency", "rss", "loss_increase")
    assert Limits.parse("1kB", rss="60MB").objectives == ("latency", "loss_increase")
    assert Limits.parse("1kB", "1ms", "60MB", 0.01).objectives == ("loss_increase",)
    assert Limits(is_micro=True).objectives == ("size", "latency", "arena", "loss_increase")
    assert Limits.parse("1kB", arena="200kB", is_micro=True).objectives == ("latency", "loss_increase")


def test_an_arena_has_a_limit() -> None:
    limits = Limits.parse(arena="200kB", is_micro=True)
    assert limits.violations({"arena": 300_000.0, "rss": 50.0}, DENSE) == {"arena": 0.5}
    assert limits.violations({"arena": 200_000.0}, DENSE) == {}


def test_violations_are_shares_of_the_limit() -> None:
    limits = Limits.parse("100kB", "0.2x", "60MB", 0.01)
    costs = {"size": 150_000.0, "latency": 0.2, "rss": 66.0, "loss_increase": 0.03}
    found = limits.violations(costs, DENSE)
    assert found == pytest.approx({"size": 0.5, "rss": 0.1, "loss_increase": 2.0})
    assert limits.violations({"size": 100_000.0, "latency": None}, DENSE) == {}
    assert Limits().violations(costs, DENSE) == {}


def test_a_loss_that_must_fall() -> None:
    found = Limits(loss_increase=-0.01).violations({"loss_increase": 0.0}, DENSE)
    assert found == pytest.approx({"loss_increase": 0.05})


def test_a_loss_may_rise_by_a_share_of_the_dense_models() -> None:
    """Also of a metric that is better when higher, whose cost is its negative."""
    found = Limits.parse(loss_increase="2%")
    assert found.resolved({"loss": 0.5}).limited == {"loss_increase": pytest.approx(0.01)}
    assert found.resolved({"loss": -0.9}).limited == {"loss_increase": pytest.approx(0.018)}
    assert Limits.parse(loss_increase="0.02") == Limits.parse(loss_increase=0.02).resolved({"loss": 0.5})
    with pytest.raises(RecipeError, match=r"--max-loss-increase a lot: expected a number such as 0.01, or a share"):
        Limits.parse(loss_increase="a lot")

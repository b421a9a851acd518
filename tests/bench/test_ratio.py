"""Ratios of made-up rounds."""

import doctest

import numpy as np
import pytest

from torchshrink.bench import ratio
from torchshrink.bench.ratio import Ratio, paired, unsure


def test_identical_rounds_have_no_spread() -> None:
    assert paired([8.0] * 5, [2.0] * 5) == Ratio(4.0, 4.0, 4.0)


def test_drift_of_the_machine_cancels() -> None:
    drift = np.array([1.0, 1.7, 0.6, 2.9, 1.1])
    found = paired(drift * 10, drift * 5)
    assert (found.median, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


def test_spread_is_the_10th_to_90th_percentile_of_rounds() -> None:
    # Ratios 1 to 11 in some order: percentile 10 is the second smallest, 50 the middle, 90 the second largest.
    ratios = np.array([7, 1, 11, 4, 2, 9, 3, 10, 5, 8, 6])
    assert paired(ratios * 3.0, [3.0] * 11) == Ratio(6.0, 2.0, 10.0)


def test_noise_of_one_file_shows() -> None:
    found = paired([10.0] * 11, [10.0, 5.0] * 5 + [10.0])
    assert (found.low, found.high) == (1.0, 2.0)


def test_ratio_is_written_with_its_spread() -> None:
    assert str(Ratio(3.5151, 3.4751, 3.5651)) == "3.52x (3.48-3.57)"


def test_a_sure_ranking_is_silent() -> None:
    rounds = {"slow": [10.0, 11.0, 12.0], "fast": [5.0, 5.4, 6.1], "middle": [7.0, 7.7, 8.4]}
    assert unsure(rounds, "slow") == []


def test_unsure_names_the_two_files_and_how_close_they_are() -> None:
    rounds = {"a": [10.0, 10.0, 10.0, 10.0], "b": [9.0, 11.0, 9.0, 11.0], "c": [20.0, 20.0, 20.0, 20.0]}
    ((faster, slower, spread),) = unsure(rounds, "c")
    assert {faster, slower} == {"a", "b"}
    assert spread.low < 1 < spread.high


def test_overlapping_latencies_with_common_drift_are_sure() -> None:
    drift = np.array([1.0, 2.0, 3.0, 4.0])
    assert unsure({"a": list(drift * 10), "b": list(drift * 9)}, "a") == []


def test_equal_files_are_unsure() -> None:
    assert unsure({"a": [1.0, 1.0], "b": [1.0, 1.0]}, "a") == [("a", "b", Ratio(1.0, 1.0, 1.0))]


def test_neighbours_are_those_of_the_ratios_shown() -> None:
    # Ratios to a by round: b 2, 0.5, 2 (median 2); c 1.1 always. By their latencies c would come before b.
    rounds = {"a": [10.0, 1.0, 100.0], "b": [5.0, 2.0, 50.0], "c": [10 / 1.1, 1 / 1.1, 100 / 1.1]}
    ((faster, slower, spread),) = unsure(rounds, "a")
    assert (faster, slower, round(spread.median, 3)) == ("b", "c", 1.818)


def test_one_file_has_no_ranking() -> None:
    assert unsure({"a": [1.0]}, "a") == []


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(ratio).failed == 0

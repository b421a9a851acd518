"""How much faster one file is than another, and how sure that is.

The files take turns, so round 7 of one file and round 7 of another met the same machine: each round gives a ratio of
its own in which a machine that slows down cancels out. The ratio is the median of these, its spread their 10th to 90th
percentile. That is the range in which a *single round* lies, not a confidence interval of the median, which would
shrink with more rounds and leave out what differs from one process to the next: measured again, the ratio should lie
within the spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

METHOD = "median of the ratios of paired rounds, reference / file; spread: their 10th to 90th percentile"


@dataclass(frozen=True)
class Ratio:
    """How many times faster than the reference, with the 10th and the 90th percentile of its rounds.

    >>> print(Ratio(3.519, 3.476, 3.57))
    3.52x (3.48-3.57)
    """

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.low:.2f}-{self.high:.2f})"


def paired(reference_ms: Sequence[float], rounds_ms: Sequence[float]) -> Ratio:
    """Return the ratio of a reference's latency to a file's, above 1 where the file is faster.

    Args:
        reference_ms: The latency of the reference in each round.
        rounds_ms: That of the file in the same rounds.

    >>> paired([10, 20, 30], [5, 10, 15])  # the machine slowed down, for both
    Ratio(median=2.0, low=2.0, high=2.0)
    """
    ratios = np.asarray(reference_ms, float) / np.asarray(rounds_ms, float)
    low, median, high = np.percentile(ratios, [10, 50, 90]).tolist()
    return Ratio(median, low, high)


def unsure(rounds_ms: Mapping[str, Sequence[float]], reference: str) -> list[tuple[str, str, Ratio]]:
    """Return the neighbours in the ranking by ratio that could be the other way round.

    Args:
        rounds_ms: The latency in each round, by the file's name.
        reference: The name of the file that the ratios of the ranking compare with.

    Returns:
        ``(faster, slower, ratio of the slower's latency to the faster's)`` where that ratio's spread holds 1.
    """
    ranking = sorted(rounds_ms, key=lambda name: -paired(rounds_ms[reference], rounds_ms[name]).median)
    pairs = [(a, b, paired(rounds_ms[b], rounds_ms[a])) for a, b in pairwise(ranking)]
    return [(faster, slower, ratio) for faster, slower, ratio in pairs if ratio.low <= 1 <= ratio.high]

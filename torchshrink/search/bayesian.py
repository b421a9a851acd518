"""Which candidate is worth training: Bayesian optimization over what is unknown before that, the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import ShrinkError
from torchshrink.search.estimate import Estimator
from torchshrink.search.hypervolume import hypervolume, place
from torchshrink.search.limits import Limits
from torchshrink.search.outlook import Estimate, Forecast
from torchshrink.search.space import Choices, Resolved
from torchshrink.search.study import Study, state_of

_DRAWN = 16  # candidates that are looked at for each that is trained
_REMEMBERED = 256  # that were drawn, or trained, at most
_LEAST_KNOWN = 4  # losses before which candidates are drawn at random
_LOGARITHMIC = ("lr",)
_LENGTHS = (0.5, 1.0, 2.0, 4.0)  # of the process; the likeliest is taken, and the likeliest noise
_NOISES, _NOISES_OF_COSTS = (0.03, 0.1, 0.3), (0.001, 0.01, 0.1)
_LEARNED = ("size", "latency", "rss", "arena")  # costs that settings decide
_WORST = 1.2  # a loss increase, in dense losses: all above are as bad
_EIGHTHS = [NormalDist().inv_cdf((part + 0.5) / 8) for part in range(8)]
_HOPED = 2.0  # standard deviations below its mean that a loss is thought possible, where none promises a gain
_LEAST_DEVIATION = 0.02  # of a cost's logarithm: a file that was measured again differs by as much
_HOPELESS = 0.01  # chance of meeting the limits that is none, once a dozen files were measured
_DOZEN = 12
Floats = NDArray[np.float64]
Look = tuple[Choices, Estimate]  # settings, and what `torchshrink.search.estimate` says of them


class Bayesian:
    """Proposes the candidate that the front is expected to gain the most hypervolume from.

    Size and latency follow from the architecture, so that of what is gained only the loss is uncertain; it counts by
    the chance that the limits are met. The same study leads to the same proposals, whichever process asks.

    Args:
        study: The record of the search.
        space: What candidates are drawn from.
        estimate: Looks at them.
        limits: What the model may cost.
        dense: The dense model's costs, latency in the unit of the limits.

    Source: the improvement as Emmerich et al., "Single- and multiobjective evolutionary optimization assisted by
    Gaussian random field metamodels", 2006, where only one objective is random; its product with the chance as Gardner
    et al., "Bayesian optimization with inequality constraints", 2014.
    """

    def __init__(
        self,
        study: Study,
        space: Resolved,
        estimate: Estimator,
        limits: Limits,
        dense: Mapping[str, float],
    ) -> None:
        self._study, self._space, self._estimate = study, space, estimate
        self._limits, self._dense = limits, dense
        self._pool: list[Look] = []
        self._drawn = 0

    def __call__(self, forecast: Forecast) -> Choices | None:
        """Return the settings to train next; nothing while too little is known, or where nothing meets the limits."""
        trials = self._study.trials()
        kept = [trial.user_attrs for trial in trials]
        known = [each for each in kept if "costs" in each][-_REMEMBERED:]
        if len(known) < _LEAST_KNOWN:
            return None
        tried = [each.get("settings") for each in kept]
        pool = [look for look in self._looks(len(trials)) if look[0] not in tried]
        if not pool:
            return None
        under_way = [trial.user_attrs for trial in trials if state_of(trial) == "open" and "begun" in trial.user_attrs]
        looks = [(each["settings"], each["estimated"]) for each in (*known, *under_way)]
        places = encoded([*looks, *pool])
        first, others = places[: len(known)], places[len(known) :]
        worst = _WORST * (abs(self._dense["loss"]) or 1.0)
        increases = np.array([min(each["costs"]["loss_increase"], worst) for each in known])
        means, deviations = predicted(first, increases, others)
        looked_at: list[Look] = [*looks[len(known) :], *pool]
        costs, chances = self._costs(known, first, looked_at, others, forecast)
        front = [self._place(each["costs"]) for each in known if not self._excess(each["costs"])]
        believed = list(zip(costs, means, chances, strict=True))[: len(under_way)]  # so that others are tried too
        front += [self._place({**cost, "loss_increase": mean}) for cost, mean, chance in believed if chance > 0.5]
        base = hypervolume(front)

        def worth(at: int) -> tuple[float, bool, float]:
            """Return the gain to be expected, whether limits are likely met, and the least loss that it may have."""
            possible = [{**costs[at], "loss_increase": means[at] + part * deviations[at]} for part in _EIGHTHS]
            points = [self._place(each) for each in possible if not self._loss_excess(each)]
            gain = sum(hypervolume([*front, point]) - base for point in points)
            return gain * chances[at], chances[at] > 0.5, _HOPED * deviations[at] - means[at]

        least = _HOPELESS if len(known) >= _DOZEN else 0.0
        able = [at for at in range(len(under_way), len(looked_at)) if chances[at] >= least]
        return looked_at[max(able, key=worth)][0] if able else None

    def _costs(
        self,
        known: Sequence[Mapping[str, Any]],
        first: Floats,
        looks: Sequence[Look],
        others: Floats,
        forecast: Forecast,
    ) -> tuple[list[dict[str, float]], Floats]:
        """Return what files will cost, by those that were measured, and each one's chance to meet the limits."""
        found, chances = [forecast.of_file(estimated) for _, estimated in looks], np.ones(len(looks))
        for name in (name for name in _LEARNED if name in known[0]["costs"]):
            logarithms = np.log([each["costs"][name] for each in known])
            means, deviations = predicted(first, logarithms, others, _NOISES_OF_COSTS)
            if name == "size":  # weights alone take no less
                means = np.maximum(means, np.log([max(estimated["size"], 1) for _, estimated in looks]))
            for cost, mean in zip(found, means, strict=True):
                cost[name] = math.exp(mean)
            if (limit := self._limits.limited.get(name)) is not None:
                margins = (math.log(limit) - means) / np.maximum(deviations, _LEAST_DEVIATION)
                chances *= [NormalDist().cdf(margin) for margin in margins]
        return found, chances

    def _looks(self, until: int) -> list[Look]:
        """Return the candidates that were drawn so far, the newest ones."""
        for number in range(self._drawn, until):
            for settings in self._study.drawn(self._space, number, _DRAWN):
                if settings not in [each for each, _ in self._pool]:
                    with suppress(ShrinkError):  # it cannot be made
                        estimated = self._estimate(settings)
                        if not self._estimate.violations(estimated, self._limits):
                            self._pool.append((settings, estimated))
        self._drawn, self._pool = max(until, self._drawn), self._pool[-_REMEMBERED:]
        return self._pool

    def _place(self, costs: Mapping[str, float]) -> tuple[float, ...]:
        return place(costs, self._limits.objectives, self._dense)

    def _loss_excess(self, costs: Mapping[str, float]) -> float:
        return self._limits.violations(costs, self._dense).get("loss_increase", 0.0)

    def _excess(self, costs: Mapping[str, float]) -> float:
        return sum(self._limits.violations(costs, self._dense).values())


def encoded(looks: Sequence[Look]) -> Floats:
    """Return candidates as rows of numbers: 1, each setting, and the logarithms of weights and operations.

    Numbers go from -1 to 1 and what a candidate has no setting for is 0; of settings that are words, each has a column.

    >>> encoded([({"width": 8}, {"size": 10, "macs": 1.0}), ({"width": 16}, {"size": 10, "macs": 1.0})])
    array([[ 1., -1.,  0.,  0.],
           [ 1.,  1.,  0.,  0.]])
    """
    columns = [np.ones(len(looks))]
    for name in sorted({name for settings, _ in looks for name in settings}):
        values = [settings.get(name) for settings, _ in looks]
        if all(value is None or _is_number(value) for value in values):
            columns.append(_scaled(values, is_logarithmic=name in _LOGARITHMIC))
        else:
            words = [str(value) for value in values]
            columns += [np.array([word == one for word in words], dtype=float) for one in sorted(set(words))]
    for name in ("size", "macs"):
        logarithms = np.log10([max(estimated[name], 1e-9) for _, estimated in looks])
        columns.append(logarithms - logarithms.mean())
    return np.stack(columns, axis=1)


def predicted(
    known: Floats, values: Floats, others: Floats, noises: Sequence[float] = _NOISES
) -> tuple[Floats, Floats]:
    """Return means and standard deviations that a Gaussian process has at others, given values at known places.

    Its kernel is a Matérn one of order 5/2, for what settings do together, and a linear one.

    Args:
        known: One row for each value.
        values: At least one.
        others: As `known`.
        noises: Shares of the values' variance that nothing may explain.

    Source: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, algorithm 2.1; length and noise
    are those of the greatest marginal likelihood among a few.
    """
    centre, spread = values.mean(), values.std() or 1.0
    wanted = (values - centre) / spread
    best: tuple[float, float, Floats, Floats] | None = None
    for length in _LENGTHS:
        alike = _kernel(known, known, length)
        for noise in noises:
            root = np.linalg.cholesky(alike + noise * np.eye(len(known)))
            solved = np.linalg.solve(root, wanted)
            likelihood = float(-solved @ solved / 2 - np.log(np.diag(root)).sum())
            if best is None or likelihood > best[0]:
                best = likelihood, length, root, solved
    assert best is not None
    _, length, root, solved = best
    across = np.linalg.solve(root, _kernel(known, others, length))
    alone = np.array([_kernel(row[None], row[None], length)[0, 0] for row in others])
    variance = np.maximum(alone - (across**2).sum(0), 1e-9)
    return across.T @ solved * spread + centre, np.sqrt(variance) * spread


def _kernel(one: Floats, other: Floats, length: float) -> Floats:
    distance = np.linalg.norm(one[:, None] - other[None], axis=2) * math.sqrt(5) / length
    matern = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return np.asarray(0.7 * matern + 0.06 * one @ other.T, dtype=np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _scaled(values: Sequence[Any], is_logarithmic: bool) -> Floats:
    """Return numbers as shares of their range, from -1 to 1."""
    numbers = np.array([math.nan if value is None else float(value) for value in values])
    numbers = np.log(numbers) if is_logarithmic else numbers
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    if low == high:
        return np.zeros(len(numbers))
    return np.asarray(np.nan_to_num(2 * (numbers - low) / (high - low) - 1, nan=0.0), dtype=np.float64)

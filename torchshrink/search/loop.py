"""Which candidate is trained next, and what is kept of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from optuna.trial import FrozenTrial

from torchshrink.errors import ShrinkError
from torchshrink.pipeline.recipe import dump
from torchshrink.progress import Progress
from torchshrink.search.bayesian import Bayesian
from torchshrink.search.candidates import Candidate, Plan
from torchshrink.search.engines.local import Engine, Outcome
from torchshrink.search.engines.work import Request
from torchshrink.search.estimate import Estimator
from torchshrink.search.halving import Standing, front, next_up
from torchshrink.search.limits import Limits
from torchshrink.search.outlook import Forecast, Outlook, outlooks
from torchshrink.search.space import Choices
from torchshrink.search.study import Study, state_of

MOST_LOST = 2  # how often a candidate whose worker died is given to another
MOST_DROPPED = 100  # candidates in a row that cannot meet the limits
_TURN = 1.0  # seconds between two looks at the clock
_KNOWN = ("size", "latency", "arena")  # costs that candidates differ in long before they are measured
_DOUBT = 0.05  # share of a limit by which a forecast may exceed it
_LEARNING = ("bayesian", "tpe")  # samplers that let what others cost decide
_TO_THE_END = ("bayesian", "random", "evolution")  # samplers whose candidates are all trained to the end
_FINISHING = 0.7  # share of the time after which hopeful candidates are finished before new ones begin


@dataclass(frozen=True)
class Budget:
    """When to stop: after so many candidates that were trained, or so many hours of processor time for each worker.

    On a machine that does nothing else, hours of the clock are at most that; a busy one takes longer, for the same.
    """

    trials: int | None
    hours: float | None


class Loop:
    """Keeps an engine busy until a budget is used up.

    All that it knows is in the study, so that another process can go on at any time.
    """

    def __init__(
        self,
        study: Study,
        limits: Limits,
        plan: Plan,
        estimate: Estimator,
        dense: dict[str, float],
        folder: Path,
        progress: Progress,
        starts: Sequence[Choices] = (),
    ) -> None:
        self.starts = starts
        self.study, self.limits, self.plan = study, limits, plan
        self.estimate, self.dense = estimate, dense
        self._propose = Bayesian(study, plan.space, estimate, limits, dense)
        self.folder, self.progress = folder, progress
        self._under_way: set[int] = set()
        self._plans: dict[int, Candidate] = {}
        self._spent = study.kept("seconds", 0.0)
        self._begun: dict[int, float] = {}

    def run(self, engine: Engine, budget: Budget) -> None:
        """Train candidates until the budget is used up; what is under way then is finished."""
        self.progress.start("search")
        for trial in self.study.trials():
            if state_of(trial) == "open" and "settings" not in trial.user_attrs:
                self.study.fail(trial.number, "the search was interrupted before it began")
        while True:
            while len(self._under_way) < engine.slots and (number := self._next(budget)) is not None:
                self._submit(engine, number)
            if not self._under_way:
                break
            for outcome in engine.wait(_TURN):
                self._take(outcome, engine.slots)
            self.study.keep("seconds", self._elapsed())
            self._show(budget)
        for trial in self.study.trials():
            if state_of(trial) == "open":
                self.study.stop(trial.number, "stopped", {})

    def _next(self, budget: Budget) -> int | None:
        """Return the candidate to go on with, a new one perhaps; nothing when the search is over."""
        trials = self.study.trials()
        for trial in trials:  # a rung that was begun by a process that is gone
            begun, done = trial.user_attrs.get("begun", 0), len(trial.user_attrs.get("rungs", []))
            if state_of(trial) == "open" and trial.number not in self._under_way and begun > done:
                return trial.number
        is_over, used = self._is_over(trials, budget), self._used(budget)
        if used >= 1 and any(state_of(trial) == "finished" for trial in trials):
            return None
        forecast = Forecast(trials, self.dense)
        known = outlooks(trials, forecast, self.limits, self.dense)
        chosen = self._promoted(trials, known, used >= _FINISHING, is_over)
        if chosen is not None or is_over:
            return chosen
        begun = time.process_time()
        drawn = self._new(known, forecast)
        self._spent += time.process_time() - begun
        return drawn

    def _used(self, budget: Budget) -> float:
        """Return the share of the time that is used up."""
        return 0.0 if budget.hours is None else self._elapsed() / (3600 * budget.hours)

    def _promoted(
        self, trials: list[FrozenTrial], known: dict[int, Outlook], is_closing: bool, is_last_call: bool
    ) -> int | None:
        """Return the candidate to train further.

        Args:
            trials: All of them.
            known: Their outlooks.
            is_closing: Whether time runs out, so that what may be on the front is finished first.
            is_last_call: Whether no new candidate will come.
        """
        standings, hopeful = [], {}
        for trial in trials:
            if trial.number not in known or state_of(trial) == "failed":
                continue
            outlook, losses = known[trial.number], tuple(rung["loss"] for rung in trial.user_attrs["rungs"])
            is_waiting = state_of(trial) == "open" and trial.number not in self._under_way
            costs = tuple(outlook.costs[name] for name in self.limits.objectives)
            excess = sum(outlook.violations.values())
            if excess == 0:
                hopeful[trial.number] = costs
            apart = tuple(cost for name, cost in zip(self.limits.objectives, costs, strict=True) if name in _KNOWN)
            standings.append(Standing(trial.number, losses, apart, is_waiting, excess))
        waiting = [standing for standing in standings if standing.is_waiting]
        if self.plan.search.sampler in _TO_THE_END:
            return waiting[0].number if waiting else None
        best = set(front(hopeful)) if is_closing else set()
        if closing := [standing for standing in waiting if standing.number in best]:
            return max(closing, key=lambda standing: (len(standing.losses), -standing.losses[-1])).number
        rungs = max((len(self._plan(standing.number).rungs) for standing in waiting), default=0)
        return next_up(standings, rungs, self.plan.search.reduction, is_last_call)

    def _is_over(self, trials: list[FrozenTrial], budget: Budget) -> bool:
        trained = sum("begun" in trial.user_attrs for trial in trials)
        dropped = 0
        for trial in reversed(trials):
            if state_of(trial) != "infeasible":
                break
            dropped += 1
        return (
            self._used(budget) >= 1
            or dropped >= MOST_DROPPED
            or (budget.trials is not None and trained >= budget.trials)
        )

    def _new(self, known: dict[int, Outlook], forecast: Forecast) -> int | None:
        """Draw candidates until one is worth training."""
        for _ in range(MOST_DROPPED):
            begun = len(self.study.trials())
            start = self.starts[begun] if begun < len(self.starts) else None
            proposed = self._propose(forecast) if start is None and self.plan.search.sampler == "bayesian" else None
            number, settings = self.study.ask(self.plan.space, known, start or proposed)
            try:
                estimated = self.estimate(settings)
            except ShrinkError as error:
                self.study.fail(number, str(error))
                continue
            self.study.note(number, estimated=estimated)
            violations = self.estimate.violations(estimated, self.limits)
            if proposed is None and self.plan.search.sampler in _LEARNING and forecast.is_sure:
                expected = self.limits.violations(forecast.of_file(estimated), self.dense)
                violations |= {name: excess for name, excess in expected.items() if excess > _DOUBT}
            if not violations:
                return number
            self.study.stop(number, "infeasible", violations)
        return None

    def _submit(self, engine: Engine, number: int) -> None:
        kept = self.study.trials()[number].user_attrs
        candidate = self._plan(number)
        rung = len(kept.get("rungs", []))
        is_last = rung == len(candidate.rungs) - 1
        names = tuple(name for names in candidate.rungs[: rung + 1] for name in names)
        self.study.note(number, begun=rung + 1)
        self._under_way.add(number)
        self._begun[number] = time.monotonic()
        engine.submit(
            Request(
                number=number,
                folder=self.folder / f"{number:04d}",
                recipe=dump(candidate.recipe),
                variants=names,
                ships=candidate.name if is_last else None,
                reference=self.plan.reference,
                costs=self.plan.costs,
                is_micro=self.limits.is_micro,
            )
        )

    def _take(self, outcome: Outcome, slots: int) -> None:
        """Keep what became of a rung; what failed has taken the time since it began."""
        number = outcome.number
        self._under_way.discard(number)
        begun = self._begun.pop(number)
        self._spent += (outcome.result["seconds"] if outcome.result else time.monotonic() - begun) / slots
        kept = self.study.trials()[number].user_attrs
        if outcome.result is None:
            lost = kept.get("lost", 0) + 1
            if outcome.is_lost and lost <= MOST_LOST:
                self.study.note(number, lost=lost)
                self.progress.note(f"candidate {number}: {outcome.error}; it goes on from its last finished step")
                return
            self.study.fail(number, outcome.error or "no reason is known")
            self.progress.note(f"candidate {number} failed: {outcome.error}")
            return
        found, candidate = outcome.result, self._plan(number)
        rungs = list(kept.get("rungs", []))
        increase = found["loss"] - self.dense["loss"]
        epochs = candidate.epochs[len(rungs)]
        rungs.append({"epochs": epochs, "loss": found["loss"], "loss_increase": increase})
        facts = {"rungs": rungs, "spent": kept.get("spent", 0.0) + found["seconds"], "at": self._elapsed()}
        if "size" not in found:
            self.study.note(number, **facts)
            return
        latency = found["latency_ms"] if self.limits.latency_unit == "ms" else found["latency"]
        costs = {"size": found["size"], "latency": latency, "rss": found["rss"], "loss_increase": increase}
        costs |= {name: found[name] for name in ("arena",) if name in found}
        self.study.note(number, **facts, costs=costs, file=found["name"])
        self.study.finish(number, costs, self.limits.violations(costs, self.dense))

    def _plan(self, number: int) -> Candidate:
        if number not in self._plans:
            self._plans[number] = self.plan(self.study.trials()[number].user_attrs["settings"])
        return self._plans[number]

    def _elapsed(self) -> float:
        """Return the processor seconds of each worker so far, those of earlier calls included."""
        return float(self._spent)

    def _show(self, budget: Budget) -> None:
        trials = self.study.trials()
        states = [state_of(trial) for trial in trials]
        feasible = [trial for trial in trials if trial.user_attrs.get("costs") and not trial.user_attrs["violations"]]
        best = ""
        if feasible:
            name = self.limits.objectives[0]
            value = min(trial.user_attrs["costs"][name] for trial in feasible)
            best = f", best {name} {value / 1e3:.1f} kB" if name == "size" else f", best {name} {value:.4g}"
        trained = sum("begun" in trial.user_attrs for trial in trials)
        shares = [trained / budget.trials] if budget.trials else []
        if budget.hours:
            shares.append(self._used(budget))
        note = (
            f"{states.count('finished')} measured, {len(self._under_way)} under way, {trained} trained, "
            f"{states.count('failed')} failed{best}"
        )
        self.progress.update(round(100 * min(1.0, max(shares, default=0.0))), 100, note)

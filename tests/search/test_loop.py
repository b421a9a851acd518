"""The order of work, with an engine that computes nothing."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from torchshrink.errors import RecipeError
from torchshrink.pipeline.recipe import Recipe, Search
from torchshrink.progress import SILENT
from torchshrink.report.trials import summary, table
from torchshrink.search.candidates import Plan
from torchshrink.search.engines.local import Outcome
from torchshrink.search.engines.work import Request
from torchshrink.search.estimate import Estimator
from torchshrink.search.limits import Limits
from torchshrink.search.loop import MOST_LOST, Budget, Loop
from torchshrink.search.result import collect
from torchshrink.search.space import Resolved
from torchshrink.search.study import Study, state_of

DENSE = {"size": 40_000.0, "latency": 1.0, "latency_ms": 2.0, "rss": 60.0, "loss": 0.2, "int8_latency": 0.5}
Answer = Callable[[Request, int], Outcome]


def loss_of(request: Request) -> float:
    """Candidates differ by their number, and get better with each rung."""
    return 0.3 + 0.01 * request.number - 0.02 * len(request.variants)


def answer(request: Request, _: int) -> Outcome:
    found: dict[str, Any] = {"loss": loss_of(request), "seconds": 1.0}
    if request.ships is not None:
        found |= {"size": 1000.0, "latency": 0.1, "latency_ms": 0.2, "rss": 50.0, "name": "int8/tflite-int8"}
    return Outcome(request.number, found)


class Engine:
    """Answers at once, in order, and remembers what it was asked."""

    def __init__(self, answer: Answer = answer, slots: int = 1, ends_after: int | None = None) -> None:
        self.slots, self.answer, self.ends_after = slots, answer, ends_after
        self.requests: list[Request] = []
        self.waiting: list[Request] = []
        self.most = 0

    def submit(self, request: Request) -> None:
        self.requests.append(request)
        self.waiting.append(request)
        self.most = max(self.most, len(self.waiting))
        if self.ends_after is not None and len(self.requests) > self.ends_after:
            raise KeyboardInterrupt

    def wait(self, seconds: float) -> list[Outcome]:
        request = self.waiting.pop(0)
        times = sum(one.number == request.number and one.variants == request.variants for one in self.requests)
        return [self.answer(request, times)]

    def close(self) -> None:
        self.waiting.clear()


class Estimates(Estimator):
    """Takes every candidate for one of half the MACs, or drops those of which it is told to."""

    def __init__(self, dropped: Callable[[dict[str, Any]], bool] = lambda _: False) -> None:
        object.__setattr__(self, "dropped", dropped)

    def __call__(self, settings: dict[str, Any]) -> dict[str, float]:
        return {"size": 500.0, "macs": 0.5, "latency": 0.2, "arena": 1e3, "is_dropped": float(self.dropped(settings))}  # type: ignore[attr-defined]

    def violations(self, estimated: dict[str, float], limits: Limits) -> dict[str, float]:
        return {"size": 0.5} if estimated["is_dropped"] else {}


Make = Callable[..., Loop]


@pytest.fixture
def make(tmp_path: Path, base: Recipe, space: Resolved) -> Make:
    def make_loop(
        estimates: Estimator | None = None, limits: Limits | None = None, store: str = "sqlite://", **settings: Any
    ) -> Loop:
        search = Search(**{"epochs": 9, "reduction": 3, "sampler": "tpe", **settings})
        limits = limits or Limits(latency=0.5, rss=60.0, loss_increase=0.2)
        about = {"target": "litert"}
        study = Study(store, "torchshrink", limits.objectives, search.sampler, 0, about)
        plan = Plan(base, space, search, "litert", Path("dense.safetensors"), Path("dense.tflite"))
        return Loop(study, limits, plan, estimates or Estimates(), DENSE, tmp_path / "trials", SILENT)

    return make_loop


def states(loop: Loop) -> list[str]:
    return [state_of(trial) for trial in loop.study.trials()]


def test_the_better_third_goes_on(make: Make) -> None:
    loop, engine = make(), Engine()
    loop.run(engine, Budget(9, None))
    rungs = [len(trial.user_attrs["rungs"]) for trial in loop.study.trials()]
    assert len(rungs) == 9
    # Candidate 0 is the best of the first three, and no later one is better than it, 1 and 2.
    assert rungs[:3] == [3, 2, 2]
    assert sum(rung > 1 for rung in rungs) == 3
    assert states(loop).count("finished") == rungs.count(3)
    assert set(states(loop)) == {"finished", "stopped"}


def test_rungs_go_on_from_their_own_folder(make: Make, tmp_path: Path) -> None:
    loop, engine = make(), Engine()
    loop.run(engine, Budget(3, None))
    of_first = [request for request in engine.requests if request.number == 0]
    assert [request.variants[: len(of_first[0].variants)] for request in of_first] == [of_first[0].variants] * 3
    assert len({request.folder for request in of_first}) == 1
    assert [request.ships is not None for request in of_first] == [False, False, True]
    assert of_first[0].folder == tmp_path / "trials" / "0000"


def test_costs_are_judged_by_the_limits(make: Make) -> None:
    loop = make(limits=Limits(size=800.0, rss=60.0))
    loop.run(Engine(), Budget(3, None))
    found = next(trial for trial in loop.study.trials() if state_of(trial) == "finished")
    assert found.user_attrs["violations"] == {"size": pytest.approx(0.25)}
    assert found.values == [pytest.approx(0.1), pytest.approx(found.user_attrs["rungs"][-1]["loss"] - 0.2)]


def test_a_microcontroller_has_an_arena_and_no_process(make: Make) -> None:
    def with_arena(request: Request, times: int) -> Outcome:
        outcome = answer(request, times)
        if request.ships is not None and outcome.result is not None:
            outcome.result["arena"] = 3000.0
        return outcome

    loop, engine = make(limits=Limits(arena=2000.0, is_micro=True)), Engine(with_arena)
    loop.run(engine, Budget(3, None))
    assert all(request.is_micro for request in engine.requests)
    found = next(trial for trial in loop.study.trials() if state_of(trial) == "finished")
    assert found.user_attrs["violations"] == {"arena": pytest.approx(0.5)}
    content = collect(loop.study, loop.limits, {"target": "micro", "sampler": "tpe", "seed": 0}, DENSE)
    assert content["binding"] == "arena"
    assert "at most 2.0 kB of arena" in summary(content)
    assert "3.0 kB of arena, loss" in summary(content)
    assert "MB of RAM" not in summary(content)
    assert "arena kB" in table(content)[0]


def test_latency_in_milliseconds(make: Make) -> None:
    loop = make(limits=Limits(latency=0.1, latency_unit="ms"))
    loop.run(Engine(), Budget(3, None))
    found = next(trial for trial in loop.study.trials() if state_of(trial) == "finished")
    assert found.user_attrs["costs"]["latency"] == 0.2
    assert found.user_attrs["violations"] == {"latency": pytest.approx(1.0)}


def test_several_at_once(make: Make) -> None:
    loop, engine = make(), Engine(slots=3)
    loop.run(engine, Budget(9, None))
    assert engine.most == 3
    assert len(loop.study.trials()) == 9


def test_hopeless_candidates_are_never_trained(make: Make) -> None:
    loop, engine = make(Estimates(lambda settings: settings["channels"] > 0.3)), Engine()
    loop.run(engine, Budget(5, None))
    for trial in loop.study.trials():
        is_hopeless = trial.user_attrs["settings"]["channels"] > 0.3
        assert (state_of(trial) == "infeasible") == is_hopeless
        assert is_hopeless == (trial.number not in {request.number for request in engine.requests})
    assert sum("begun" in trial.user_attrs for trial in loop.study.trials()) == 5


def test_a_search_without_hope_ends(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchshrink.search.loop.MOST_DROPPED", 5)
    loop, engine = make(Estimates(lambda _: True)), Engine()
    loop.run(engine, Budget(5, None))
    assert engine.requests == []
    assert states(loop) == ["infeasible"] * 5


def test_dead_workers_are_replaced(make: Make) -> None:
    def dies_once(request: Request, times: int) -> Outcome:
        return Outcome(request.number, error="killed", is_lost=True) if times == 1 else answer(request, times)

    loop, engine = make(), Engine(dies_once)
    loop.run(engine, Budget(1, None))
    assert states(loop) == ["failed"]  # three rungs die once each: one too many
    assert loop.study.trials()[0].user_attrs["lost"] == MOST_LOST

    def first_dies(request: Request, times: int) -> Outcome:
        is_first = request.ships is None and len(request.variants) == 2 and times == 1
        return Outcome(request.number, error="killed", is_lost=True) if is_first else answer(request, times)

    loop.study.fail(loop.study.ask(loop.plan.space)[0], "not of this test")
    engine = Engine(first_dies)
    loop.run(engine, Budget(2, None))
    assert states(loop)[2] == "finished"
    assert [request.number for request in engine.requests[:2]] == [2, 2]


def test_failures_are_kept_and_not_repeated(make: Make) -> None:
    def breaks(request: Request, times: int) -> Outcome:
        return Outcome(request.number, error="no int8 file was verified") if request.number == 0 else answer(request, 1)

    loop, engine = make(), Engine(breaks)
    loop.run(engine, Budget(4, None))
    assert states(loop)[0] == "failed"
    assert loop.study.trials()[0].user_attrs["reason"] == "no int8 file was verified"
    assert sum(request.number == 0 for request in engine.requests) == 1
    assert "finished" in states(loop)


def test_settings_that_contradict_the_model_fail_alone(make: Make) -> None:
    class Broken(Estimates):
        def __call__(self, settings: dict[str, Any]) -> dict[str, float]:
            if settings["sparsity"] > 0.5:
                raise RecipeError("the channels cannot be removed")
            return super().__call__(settings)

    loop = make(Broken())
    loop.run(Engine(), Budget(4, None))
    assert "failed" in states(loop)
    assert "finished" in states(loop)


@pytest.mark.parametrize("ends_after", [0, 3, 7])
def test_an_interrupted_search_goes_on(make: Make, ends_after: int, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'study.db'}"
    loop, engine = make(store=store), Engine(ends_after=ends_after)
    with pytest.raises(KeyboardInterrupt):
        loop.run(engine, Budget(9, None))
    under_way = engine.requests[-1]
    again, engine = make(store=store), Engine()
    again.run(engine, Budget(9, None))
    assert engine.requests[0].number == under_way.number
    assert engine.requests[0].variants == under_way.variants
    assert sum("begun" in trial.user_attrs for trial in again.study.trials()) == 9
    assert set(states(again)) == {"finished", "stopped"}
    done = [len(trial.user_attrs["rungs"]) for trial in again.study.trials()]
    assert max(done) == 3


@pytest.mark.parametrize("sampler", ["bayesian", "random", "evolution"])
def test_some_samplers_train_everything_to_the_end(make: Make, sampler: str) -> None:
    loop = make(sampler=sampler)
    loop.run(Engine(), Budget(4, None))
    assert states(loop) == ["finished"] * 4


def test_halving_draws_at_random_and_trains_only_the_better_ones_on(make: Make) -> None:
    loop = make(sampler="halving")
    loop.run(Engine(), Budget(9, None))
    assert set(states(loop)) == {"finished", "stopped"}
    assert states(loop).count("finished") < 4


def test_processor_time_ends_a_search(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Engine):
        def wait(self, seconds: float) -> list[Outcome]:
            found = super().wait(seconds)
            return [replace(each, result={**each.result, "seconds": 300.0}) for each in found if each.result]

    monkeypatch.setattr("torchshrink.search.loop.time.monotonic", lambda: 0.0)  # the clock does not count
    loop = make()
    loop.run(Slow(), Budget(None, 2.0))
    assert "finished" in states(loop)
    assert "open" not in states(loop)
    assert len(states(loop)) < 24
    assert 7200 <= loop.study.kept("seconds") < 9000


def test_more_candidates_can_be_asked_for_later(make: Make, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'study.db'}"
    loop = make(store=store)
    loop.run(Engine(), Budget(3, None))
    before = [trial.number for trial in loop.study.trials() if state_of(trial) == "finished"]
    loop = make(store=store)
    loop.run(Engine(), Budget(9, None))
    assert len(loop.study.trials()) == 9
    assert set(before) <= {trial.number for trial in loop.study.trials() if state_of(trial) == "finished"}


def test_a_search_begins_with_its_starts(make: Make, space: Resolved) -> None:
    first, second = (make().study.ask(space)[1], {**make().study.ask(space)[1], "sparsity": 0.25})
    loop = make()
    loop.starts = [first, second]
    loop.run(Engine(), Budget(4, None))
    settings = [trial.user_attrs["settings"] for trial in loop.study.trials()]
    assert settings[:2] == [first, second]
    assert settings[2] not in (first, second)


def test_as_time_runs_out_the_hopeful_are_finished_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 0.7 of the time a candidate on the expected front goes on, although fewer than three have come as far."""
    loop, engine = make(limits=Limits(latency=0.5, rss=60.0)), Engine()
    used = (0.0, 0.0, 0.8, 0.8, 1.0)  # by the number of rungs that were begun
    monkeypatch.setattr(Loop, "_used", lambda self, budget: used[min(len(engine.requests), 4)])
    loop.run(engine, Budget(None, 1.0))
    numbers = [request.number for request in engine.requests]
    assert numbers[:2] == [0, 1]
    assert numbers[2:4] == [0, 0]  # as long as there is time, two are too few for one of them to go on
    assert states(loop)[0] == "finished"


def test_what_was_learned_from_files_decides_and_no_forecast_by_operations(make: Make, space: Resolved) -> None:
    """Latency falls where operations do not: a quarter is within the limit, and all have as many MACs."""

    def answered(request: Request, times: int) -> Outcome:
        found = answer(request, times)
        kept = loop.study.trials()[request.number].user_attrs["settings"]
        assert found.result is not None
        return Outcome(request.number, {**found.result, "latency": 0.1 if kept["channels"] > 0.6 else 0.9})

    loop = make(sampler="bayesian", limits=Limits(latency=0.3, rss=60.0))
    loop.run(Engine(answered), Budget(14, None))
    assert states(loop) == ["finished"] * 14
    assert space.channels == (0.0, 0.8)
    assert sum(not trial.user_attrs["violations"] for trial in loop.study.trials()[4:]) >= 5


def test_measured_files_tell_which_candidates_to_drop(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """MACs let expect 0.2 of the dense latency; four files that take 0.9 are enough to know better."""
    monkeypatch.setattr("torchshrink.search.loop.MOST_DROPPED", 5)

    def slow(request: Request, times: int) -> Outcome:
        found = answer(request, times)
        assert found.result is not None
        return Outcome(request.number, {**found.result, "latency": 0.9})

    loop = make(rungs=1)
    loop.run(Engine(slow), Budget(20, None))
    assert states(loop) == ["finished"] * 4 + ["infeasible"] * 5
    assert loop.study.trials()[-1].user_attrs["violations"]["latency"] == pytest.approx(0.8)

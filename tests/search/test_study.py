"""What is kept of a search, across processes."""

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import TypeAdapter

from torchshrink.errors import DataError, MissingExtraError, OutputError
from torchshrink.report.schema import Search
from torchshrink.report.trials import summary
from torchshrink.search.limits import Limits
from torchshrink.search.outlook import Outlook
from torchshrink.search.result import collect
from torchshrink.search.space import Resolved
from torchshrink.search.study import (
    _POPULATION,
    _REMEMBERED,
    NAME,
    Study,
    _telling,
    check_store,
    delete,
    file_store,
    state_of,
)

ABOUT = {"target": "litert", "sampler": "tpe", "seed": 0}
DENSE = {"size": 40_000.0, "latency": 1.0, "rss": 60.0, "loss": 0.2}


def opened(folder: Path, **changes: Any) -> Study:
    arguments = {"objectives": ("size", "loss_increase"), "sampler": "tpe", "seed": 0, "about": ABOUT} | changes
    return Study(f"sqlite:///{folder / 'study.db'}", "torchshrink", **arguments)


def finish(study: Study, number: int, size: float, loss: float, violations: dict[str, float] | None = None) -> None:
    costs = {"size": size, "latency": 0.5, "rss": 50.0, "loss_increase": loss}
    study.note(number, costs=costs, at=float(number))
    study.finish(number, costs, violations or {})


def test_every_state_survives(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path)
    for _ in range(5):
        study.ask(space)
    finish(study, 0, 1000.0, 0.01)
    study.stop(1, "stopped", {})
    study.stop(2, "infeasible", {"size": 0.5})
    study.fail(3, "it exploded")
    again = opened(tmp_path)
    assert [state_of(trial) for trial in again.trials()] == ["finished", "stopped", "infeasible", "failed", "open"]
    assert again.trials()[0].values == [1000.0, 0.01]
    assert again.trials()[2].constraints == {"limits": 0.5}
    assert again.trials()[3].user_attrs["reason"] == "it exploded"
    assert again.trials()[4].user_attrs["settings"]["int8"] in ("qat", "ptq")
    again.keep("seconds", 12.5)
    assert opened(tmp_path).kept("seconds") == 12.5


def test_the_store_is_optunas_own(tmp_path: Path, space: Resolved) -> None:
    number, settings = opened(tmp_path).ask(space)
    found = optuna.load_study(study_name="torchshrink", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert found.trials[number].state == TrialState.RUNNING
    assert found.trials[number].params["lr"] == settings["lr"]
    assert found.metric_names == ["size", "loss_increase"]


def test_another_search_is_not_mixed_in(tmp_path: Path) -> None:
    opened(tmp_path)
    with pytest.raises(DataError, match=r"another search named 'torchshrink' \(other target\).*--fresh"):
        opened(tmp_path, about={**ABOUT, "target": "onnxruntime"})
    delete(f"sqlite:///{tmp_path / 'study.db'}", "torchshrink")
    opened(tmp_path, about={**ABOUT, "target": "onnxruntime"})
    delete(f"sqlite:///{tmp_path / 'study.db'}", "no such study")


def test_a_store_that_says_something_else_of_its_search(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(storage=storage, study_name=NAME).set_user_attr("about", ["no", "mapping"])
    with pytest.raises(DataError, match="holds another search"):
        Study(storage, NAME, ("size",), "random", 0, {"seed": 0})


def test_a_store_that_cannot_be_reached_hides_its_password(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the store sqlite:///.*/missing/study.db cannot be used"):
        opened(tmp_path / "missing")
    with pytest.raises(OutputError) as caught:
        Study("nosuchdialect://me:secret@host/db", "torchshrink", ("size",), "tpe", 0, ABOUT)
    assert "nosuchdialect://me@host/db" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(
        MissingExtraError, match=r"postgresql\+psycopg://me@host/db needs a driver: .*torchshrink\[ray\]"
    ):
        Study("postgresql+psycopg://me:secret@host/db", "torchshrink", ("size",), "tpe", 0, ABOUT)


def test_the_same_seed_draws_the_same(tmp_path: Path, space: Resolved) -> None:
    drawn = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        study = opened(tmp_path / name)
        drawn.append([study.ask(space)[1] for _ in range(3)])
    assert drawn[0] == drawn[1]
    assert opened(tmp_path / "a").ask(space)[1] not in drawn[0]


@pytest.mark.parametrize("sampler", ["random", "evolution", "tpe"])
def test_searches_of_neighbouring_seeds_share_no_candidate(tmp_path: Path, space: Resolved, sampler: str) -> None:
    """Seed 1 once drew what seed 0 did, from its second candidate on: five searches of five seeds were one."""
    drawn = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        study = opened(tmp_path / str(seed), sampler=sampler, seed=seed)
        drawn.append([study.ask(space)[1]["lr"] for _ in range(4)])
    assert not set(drawn[0]) & set(drawn[1])


def test_what_a_start_leaves_open_is_drawn_anew_each_time(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path)
    found = [study.ask(space, start={"channels": 0.5})[1] for _ in range(3)]
    assert len({settings["lr"] for settings in found}) == 3


def test_the_front_holds_what_meets_the_limits(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path)
    costs = [(30_000.0, 0.001), (20_000.0, 0.005), (25_000.0, 0.006), (10_000.0, 0.05)]
    for size, loss in costs:
        number, _ = study.ask(space)
        finish(study, number, size, loss, {"rss": 0.2} if size == 10_000.0 else {})
    found = collect(study, Limits(latency=0.5, rss=60.0), ABOUT, DENSE)
    assert found["front"] == [0, 1]
    assert found["recommended"] == 1
    assert found["nearest"] is None
    assert [seconds for seconds, _ in found["hypervolume"]] == [0.0, 1.0, 2.0]
    volumes = [volume for _, volume in found["hypervolume"]]
    assert volumes[2] == pytest.approx(volumes[1])
    assert volumes[1] > volumes[0]
    assert TypeAdapter(Search).validate_python(found) == found
    assert "Recommended: trial 1, 0.020 MB, 0.5x the latency" in summary(found)


def test_nothing_within_the_limits(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path, objectives=("latency", "loss_increase"))
    for size, violations in ((30_000.0, {"size": 2.0, "rss": 0.1}), (20_000.0, {"size": 1.0, "rss": 0.2})):
        number, _ = study.ask(space)
        finish(study, number, size, 0.0, violations)
    found = collect(study, Limits(size=10_000.0, rss=45.0), ABOUT, DENSE)
    assert (found["recommended"], found["nearest"], found["binding"]) == (None, 1, "size")
    assert TypeAdapter(Search).validate_python(found) == found
    assert "size is the limit that binds. The nearest is trial 1, 0.020 MB" in summary(found)


def test_nothing_was_worth_training(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path, objectives=("size", "rss", "loss_increase"))
    for excess in (0.5, 0.2):
        number, _ = study.ask(space)
        study.stop(number, "infeasible", {"latency": excess})
    found = collect(study, Limits(latency=0.01), ABOUT, DENSE)
    assert (found["recommended"], found["nearest"], found["binding"]) == (None, None, "latency")
    assert "2 trials: 2 infeasible" in summary(found)
    assert "latency is the limit that binds" in summary(found)


def test_importance_finds_what_decides(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path, sampler="random")
    for _ in range(24):
        number, settings = study.ask(space)
        finish(study, number, 1000 * (1 - settings["channels"]), settings["sparsity"])
    assert max(study.importance("size").items(), key=lambda item: item[1])[0] == "channels"
    assert max(study.importance("loss_increase").items(), key=lambda item: item[1])[0] == "sparsity"
    assert sum(study.importance("size").values()) == pytest.approx(1)
    (tmp_path / "empty").mkdir()
    assert opened(tmp_path / "empty").importance("size") == {}


def test_a_start_is_taken_as_it_is(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path)
    _, drawn = study.ask(space)
    number, settings = study.ask(space, start=drawn)
    assert settings == drawn
    assert study.trials()[number].params["lr"] == drawn["lr"]
    assert study.ask(space)[1] != drawn


@pytest.mark.parametrize("is_small_better", [True, False])
def test_the_sampler_learns_from_what_is_not_finished(tmp_path: Path, space: Resolved, is_small_better: bool) -> None:
    """No candidate ever ends, as in the first hour of a search; their outlooks say which settings do well."""
    study = opened(tmp_path)
    known = {}
    for _ in range(30):
        number, settings = study.ask(space)
        quality = settings["channels"] if is_small_better else 1 - settings["channels"]
        known[number] = Outlook({"size": 1000 * quality, "loss_increase": quality}, {})
    proposed = []
    for _ in range(10):
        number, settings = study.ask(space, known)
        proposed.append(settings["channels"])
    mean = sum(proposed) / len(proposed)  # of 0 to 0.8
    assert mean < 0.3 if is_small_better else mean > 0.5


@pytest.mark.parametrize("is_small_better", [True, False])
def test_evolution_crosses_the_best(tmp_path: Path, space: Resolved, is_small_better: bool) -> None:
    """Also in another process than the one that measured them: what an uninterrupted search would have drawn."""
    study = opened(tmp_path, sampler="evolution")
    for _ in range(5 * _POPULATION):
        number, settings = study.ask(space)
        quality = settings["channels"] if is_small_better else 1 - settings["channels"]
        finish(study, number, 1000 * quality, quality)
    proposed = [opened(tmp_path, sampler="evolution").ask(space)[1]["channels"] for _ in range(8)]
    mean = sum(proposed) / len(proposed)  # of 0 to 0.8
    assert mean < 0.25 if is_small_better else mean > 0.55


def test_evolution_keeps_to_the_limits(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path, sampler="evolution")
    for _ in range(5 * _POPULATION):
        number, settings = study.ask(space)
        excess = max(0.0, 0.5 - settings["channels"])
        finish(study, number, 1000.0, 0.0, {"latency": excess} if excess else {})
    proposed = [study.ask(space)[1]["channels"] for _ in range(10)]
    assert sum(value > 0.45 for value in proposed) >= 8


def test_the_sampler_avoids_what_will_break_the_limits(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path)
    known = {}
    for _ in range(30):
        number, settings = study.ask(space)
        excess = max(0.0, 0.5 - settings["channels"])
        known[number] = Outlook({"size": 1000.0, "loss_increase": 0.0}, {"latency": excess} if excess else {})
    proposed = [study.ask(space, known)[1]["channels"] for _ in range(10)]
    assert sum(value > 0.4 for value in proposed) >= 8


def test_a_store_that_is_damaged_later(tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path)
    study.ask(space)
    (tmp_path / "study.db").write_bytes(b"\0" * 4096)
    for use in (study.trials, lambda: study.ask(space), lambda: study.keep("seconds", 1.0)):
        with pytest.raises(OutputError, match=r"study\.db cannot be used"):
            use()


@pytest.mark.parametrize(
    ("part", "value", "place"),
    [
        ("costs", {"size": 1.0}, "costs.latency"),
        ("costs", True, "costs"),
        ("estimated", {"size": [], "macs": 1.0, "latency": 1.0}, "estimated.size"),
        ("rungs", [{"epochs": 1, "loss": None, "loss_increase": 0.0}], "rungs.0.loss"),
        ("violations", [1, 2], "violations"),
        ("settings", {}, "settings.sparsity"),
        ("begun", "x", "begun"),
    ],
)
def test_a_store_that_was_changed(part: str, value: Any, place: str, tmp_path: Path, space: Resolved) -> None:
    study = opened(tmp_path)
    study.ask(space)
    study.note(0, **{part: value})
    with pytest.raises(OutputError, match=rf"is damaged: {place} of candidate 0 cannot be used; put a copy"):
        opened(tmp_path)


def test_the_sampler_models_the_newest_and_the_best() -> None:
    def finished(size: float, violation: float = 0.0) -> FrozenTrial:
        return create_trial(values=[size, size], params={}, distributions={}, constraints={"limits": violation})

    few = [finished(float(size)) for size in range(_REMEMBERED)]
    assert _telling(few) == few
    newest = [finished(9e9)] * (_REMEMBERED // 2)
    older = [finished(float(-size), violation=float(size % 3 == 0)) for size in range(3000)]
    found = _telling([*older, *newest])
    assert found[_REMEMBERED // 2 :] == newest
    wanted = [-float(size) for size in range(3000) if size % 3][-(_REMEMBERED // 2) :]
    assert [trial.values[0] for trial in found[: _REMEMBERED // 2]] == wanted  # within the limits, smallest last


@pytest.mark.parametrize("name", ["plain", "what?", "a#b %41", "what? %41#b"])
def test_a_folder_of_any_name_holds_its_study(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    check_store(file_store(tmp_path / name / "study.db"))
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")] == [Path(name, "study.db")]

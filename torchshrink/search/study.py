"""The record of a search: an Optuna study, in which everything that happened is kept as soon as it happened."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast
from urllib.parse import quote

import numpy as np
import optuna
from optuna.samplers import PartialFixedSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy import URL, make_url

from torchshrink.errors import DataError, MissingExtraError, OutputError, ShrinkError
from torchshrink.harmless import without_passwords
from torchshrink.search import kept
from torchshrink.search.outlook import Outlook
from torchshrink.search.space import Choices, Resolved, draw
from torchshrink.settings import Sampler

State = Literal["open", "finished", "stopped", "infeasible", "failed"]
NAME = "torchshrink"
_LIMITS = "limits"  # the name of the constraint
_NOTHING: Mapping[int, Outlook] = MappingProxyType({})
_LEAST_FINISHED = 4  # the best quarter is compared with all
_REMEMBERED = 400  # candidates that the sampler models at most
_STARTUP = 10  # candidates that are drawn at random before the sampler models them
_POPULATION = 8  # candidates of a generation: a search measures dozens, where Optuna's 50 would all be the first
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _stored(method: _Method) -> _Method:
    """Let what a store fails with, whenever that is, be an OutputError that names it."""

    @functools.wraps(method)
    def call(study: Study, *arguments: Any, **named: Any) -> Any:
        with _usable(study.storage):
            return method(study, *arguments, **named)

    return cast(_Method, call)


@contextmanager
def _usable(storage: str) -> Iterator[None]:
    try:
        yield
    except ShrinkError:
        raise
    except ImportError as error:
        hint = "pip install 'torchshrink[ray]' for PostgreSQL"
        raise MissingExtraError(f"the store {without_passwords(storage)} needs a driver: {error}; {hint}") from error
    except Exception as error:  # of SQLAlchemy and of every driver below it, and what damaged values lead to
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise OutputError(
            f"the store {without_passwords(storage)} cannot be used: {reason}; free its disk, or put a copy of it back"
        ) from error


def file_store(path: Path) -> str:
    """Return the URL of a file, whatever its folders are called.

    Raises:
        OutputError: When SQLAlchemy's URLs cannot write the name: its versions differ in that.
    """
    whole = str(path.absolute())
    plain = f"sqlite:///{whole}"
    for url in (plain, f"sqlite:///{quote(whole)}", URL.create("sqlite", database=whole).render_as_string()):
        if make_url(url).database == whole:
            return url
    raise OutputError(f"{path.parent} cannot hold the record of a search: choose an --out without ? and %")


def check_store(storage: str) -> None:
    """Refuse a store that cannot be opened, before any work is done for it.

    Raises:
        OutputError: When it is no URL, cannot be reached, or is damaged.
        MissingExtraError: When it needs a driver.
    """
    with _usable(storage):
        optuna.storages.get_storage(storage)


class Study:
    """Candidates, what they were, and what became of them.

    Args:
        storage: A URL, such as ``sqlite:///study.db`` or ``postgresql+psycopg://user@host/database``.
        name: Of the study in it.
        objectives: Names of the costs that are minimised.
        sampler: As a recipe names it; all but ``"tpe"`` and ``"evolution"`` draw alike.
        seed: Of the sampler.
        about: What identifies the search; kept in a new study, compared with that of an old one.

    Raises:
        OutputError: When the store cannot be opened, or what it holds cannot be used.
        MissingExtraError: When its driver is not installed.
        DataError: When it holds another search of this name.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        objectives: Sequence[str],
        sampler: Sampler,
        seed: int,
        about: Mapping[str, Any],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.objectives = tuple(objectives)
        self._opened: dict[int, Trial] = {}
        self.storage = storage
        with _usable(storage):
            self._study = optuna.create_study(
                storage=storage, study_name=name, directions=["minimize"] * len(objectives), load_if_exists=True
            )
            known = self._study.user_attrs.get("about")
            if known is None:
                self._study.set_user_attr("about", dict(about))
                with _quiet():
                    self._study.set_metric_names(list(objectives))
        if known is not None and known != dict(about):
            old = known if isinstance(known, dict) else {}
            changed = sorted(key for key in {*old, *about} if old.get(key) != about.get(key))
            raise DataError(
                f"the store {without_passwords(storage)} holds another search named {name!r} "
                f"(other {', '.join(changed)}): choose another --out, or pass --fresh to replace it"
            )
        self._kind, self._seed = sampler, seed
        for trial in self.trials():
            if found := kept.fault(trial.user_attrs):
                raise OutputError(
                    f"the store {without_passwords(storage)} is damaged: {found} of candidate {trial.number} cannot be "
                    "used; put a copy of it back, or pass --fresh to begin again"
                )

    @_stored
    def ask(
        self, space: Resolved, outlooks: Mapping[int, Outlook] = _NOTHING, start: Choices | None = None
    ) -> tuple[int, Choices]:
        """Return the number and the settings of a new candidate.

        Args:
            space: What it is drawn from.
            outlooks: Of earlier candidates, by their numbers: the sampler takes them for finished.
            start: Settings to take instead of drawing them.
        """
        with _quiet():
            fixed = start if start is not None else self._advised(space, outlooks)
            self._study.sampler = PartialFixedSampler(fixed, RandomSampler(seed=self._drawn_by(len(self.trials()))))
        trial = self._study.ask()
        self._opened[trial.number] = trial
        settings = draw(trial, space)
        trial.set_user_attr("settings", settings)
        return trial.number, settings

    def drawn(self, space: Resolved, number: int, count: int) -> list[Choices]:
        """Return the settings of random candidates, the same for the same number."""
        draws = optuna.create_study(sampler=RandomSampler(seed=self._drawn_by(number)))
        return [draw(draws.ask(), space) for _ in range(count)]

    @_stored
    def note(self, number: int, **values: Any) -> None:
        """Keep JSON-like facts about a candidate."""
        trial = self._open(number)
        for key, value in values.items():
            trial.set_user_attr(key, value)

    @_stored
    def finish(self, number: int, costs: Mapping[str, float], violations: Mapping[str, float]) -> None:
        """Close a candidate that was trained to the end and measured."""
        self._close(number, violations)
        self._study.tell(number, [costs[name] for name in self.objectives])

    @_stored
    def stop(self, number: int, state: Literal["stopped", "infeasible"], violations: Mapping[str, float]) -> None:
        """Close a candidate that others were better than, or that cannot meet the limits."""
        self.note(number, state=state)
        self._close(number, violations)
        self._study.tell(number, state=TrialState.PRUNED)

    @_stored
    def fail(self, number: int, reason: str) -> None:
        """Close a candidate that went wrong."""
        self.note(number, reason=reason)
        self._study.tell(number, state=TrialState.FAIL)

    @_stored
    def keep(self, key: str, value: Any) -> None:
        """Keep a JSON-like fact about the whole search."""
        self._study.set_user_attr(key, value)

    @_stored
    def kept(self, key: str, default: Any = None) -> Any:
        """Return a fact about the whole search."""
        return self._study.user_attrs.get(key, default)

    @_stored
    def trials(self) -> list[FrozenTrial]:
        """Return every candidate."""
        return self._study.get_trials(deepcopy=False)

    @_stored
    def importance(self, objective: str) -> dict[str, float]:
        """Return how much each setting decides a cost, adding up to 1; nothing when too few candidates finished.

        Source: PED-ANOVA (Watanabe et al., arXiv:2304.10255), as Optuna computes it.
        """
        finished = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        if len(finished) < _LEAST_FINISHED:
            return {}
        index = self.objectives.index(objective)
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=1 / _LEAST_FINISHED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a target was given, and what is experimental
            found = optuna.importance.get_param_importances(
                self._study, evaluator=evaluator, target=lambda trial: float(trial.values[index])
            )
        return {name: float(value) for name, value in found.items()}

    def _advised(self, space: Resolved, outlooks: Mapping[int, Outlook]) -> dict[str, Any]:
        """Return what the sampler proposes when it takes outlooks for results: most candidates never have others."""
        trials = self.trials()
        sampler = _sampler(self._kind, self._drawn_by(len(trials)))
        advisor = optuna.create_study(directions=self._study.directions, sampler=sampler)
        if self._kind == "tpe":
            known = [self._seen(trial, outlooks) for trial in trials if trial.state != TrialState.FAIL]
            advisor.add_trials(_telling(known))
        if self._kind == "evolution":
            advisor.add_trials(_generations(trials))
        proposal = advisor.ask()
        draw(proposal, space)
        return proposal.params

    def _drawn_by(self, number: int) -> int:
        """Return the seed of a candidate: going on with a study repeats none, and studies of other seeds share none."""
        return int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])

    def _seen(self, trial: FrozenTrial, outlooks: Mapping[int, Outlook]) -> FrozenTrial:
        """Return a candidate as the sampler takes it: with its outlook for a result, where it has one."""
        if (outlook := outlooks.get(trial.number)) is None:
            return trial
        return optuna.trial.create_trial(
            values=[outlook.costs[name] for name in self.objectives],
            params=trial.params,
            distributions=trial.distributions,
            constraints={_LIMITS: sum(outlook.violations.values())},
        )

    def _open(self, number: int) -> Trial:
        if number not in self._opened:  # of an earlier process
            self._opened[number] = Trial(self._study, self.trials()[number]._trial_id)
        return self._opened[number]

    def _close(self, number: int, violations: Mapping[str, float]) -> None:
        trial = self._open(number)
        trial.set_constraint(_LIMITS, sum(violations.values()))
        trial.set_user_attr("violations", dict(violations))


def _telling(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return what a sampler learns from, of any number of candidates a bounded one: the newest and the best.

    TPE compares its 25 best with the others, which a few hundred stand for; a proposal then takes as long after
    thousands of candidates as after hundreds.
    """
    older, newest = trials[: -_REMEMBERED // 2], trials[-_REMEMBERED // 2 :]
    if len(older) <= _REMEMBERED // 2:
        return trials
    measured = [trial for trial in older if trial.state == TrialState.COMPLETE]
    columns = zip(*(trial.values for trial in measured), strict=True)
    ranks = [sum(places) for places in zip(*map(_places, columns), strict=True)]
    best = sorted(range(len(measured)), key=lambda at: (sum(measured[at].constraints.values()), ranks[at]))
    return [measured[at] for at in sorted(best[: _REMEMBERED // 2])] + newest


def _generations(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return the candidates that were measured, in the generations that they came in, as Optuna notes them."""
    key = optuna.samplers.NSGAIISampler._get_generation_key()
    measured = _telling([trial for trial in trials if trial.state == TrialState.COMPLETE])
    return [
        optuna.trial.create_trial(
            values=trial.values,
            params=trial.params,
            distributions=trial.distributions,
            constraints=trial.constraints,
            system_attrs={key: place // _POPULATION},
        )
        for place, trial in enumerate(measured)
    ]


def _places(values: Sequence[float]) -> list[int]:
    """Return the place of each value among all, from the least."""
    places = [0] * len(values)
    for place, at in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        places[at] = place
    return places


def delete(storage: str, name: str) -> None:
    """Remove a study from its store; nothing happens when there is none."""
    with _usable(storage), suppress(KeyError):
        optuna.delete_study(study_name=name, storage=storage)


def state_of(trial: FrozenTrial) -> State:
    """Return what became of a candidate."""
    if trial.state == TrialState.COMPLETE:
        return "finished"
    if trial.state == TrialState.PRUNED:
        return "infeasible" if trial.user_attrs.get("state") == "infeasible" else "stopped"
    return "failed" if trial.state == TrialState.FAIL else "open"


def _sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name == "evolution":  # Deb et al., "A fast and elitist multiobjective genetic algorithm: NSGA-II", 2002
        return optuna.samplers.NSGAIISampler(population_size=_POPULATION, seed=seed)
    if name != "tpe":
        return RandomSampler(seed=seed)
    with _quiet():  # joint modelling of all settings
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_STARTUP, multivariate=True, constant_liar=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Do not pass on to users what Optuna says of its own experimental parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield

"""The search itself: from a recipe and limits to one recommended, verified, measured model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from torchshrink.errors import RecipeError, ShrinkError
from torchshrink.files import atomic, sha256
from torchshrink.pipeline.artefacts import Bridge
from torchshrink.pipeline.assemble import make_task
from torchshrink.pipeline.claim import MARKER, claimed, stored
from torchshrink.pipeline.job import Job
from torchshrink.pipeline.recipe import Recipe, Search, dump, save
from torchshrink.pipeline.run import run
from torchshrink.pipeline.steps import Steps, digest
from torchshrink.progress import SILENT, Progress
from torchshrink.report import document
from torchshrink.report.trials import summary
from torchshrink.search.candidates import FORMATS, Plan
from torchshrink.search.engines.local import Engine, Local
from torchshrink.search.engines.work import MakeBridge, Request, arena, do, measure, smallest, validating
from torchshrink.search.estimate import Estimator
from torchshrink.search.limits import Limits
from torchshrink.search.loop import Budget, Loop
from torchshrink.search.result import collect
from torchshrink.search.space import Choices, Resolved, derive
from torchshrink.search.starts import starts
from torchshrink.search.study import NAME, Study, check_store, delete, file_store
from torchshrink.task import Task

Target = Literal["litert", "onnxruntime", "micro"]
_NARROW = (0.5, 0.75)  # shares of the channels, for the latency that MACs lead to
RESULT, RECOMMENDED, FRONT = "search.json", "recommended", "front"


def search(
    recipe: Recipe,
    limits: Limits,
    out: Path,
    make_bridge: MakeBridge,
    *,
    target: Target = "litert",
    trials: int | None = None,
    hours: float | None = None,
    costs: Path | None = None,
    storage: str | None = None,
    make_engine: Callable[[Path], Engine] | None = None,
    is_fresh: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Find a small model within limits; return the report of the recommended one, with the search in it.

    The recipe's first variant is the dense model. Candidates remove channels and weights from it, are fine-tuned and
    quantized, exported for the target and measured there in fresh processes, in parts: only the better ones go on
    after each. Losses are of the validation part; the test part is used once, for the report of
    the recommended model, which is trained again for longer from ``out/recommended.yaml``. ``out/front`` holds the
    same recipe of every other candidate on the front.

    Everything that is finished is kept in the store and in ``out``: the same call goes on where an earlier one ended,
    whatever ended it.

    Args:
        recipe: Data, model, loss, the dense variant, and how to search (``recipe.search``).
        limits: What the model may cost; what has no limit is minimised.
        out: A folder that is new, empty, or holds the same search.
        make_bridge: Returns what exports and compares: `torchshrink.converters.bridge.Bridge`. Called in workers too.
        target: Which runtime the file is for; ``"micro"``: of microcontrollers, in integers alone.
        trials: Candidates to train at most, those dropped untrained not counted; 40 when no time is given either.
        hours: Processor time of each worker for the search at most, without the training of the recommended model.
        costs: What ``torchshrink bench --save`` wrote of TFLite files on another machine: latency is then what a file's
            operators cost there.
        storage: URL of a database for the record; by default a SQLite file in ``out``.
        make_engine: Given the folder of the candidates, returns where they are trained and how many at once; by
            default on this machine, one at a time.
        is_fresh: Begin again.
        progress: Told about everything.

    Returns:
        The report as `torchshrink.pipeline.run.run` returns it, with the key ``"search"``; only that key when nothing
        meets the limits.

    Raises:
        RecipeError: When the settings contradict each other.
        DataError: When the data cannot be used, or ``out`` or the store hold something else.
        OutputError: When the store or the folder cannot be used, or another process uses the folder.
        ShrinkError: What the dense model failed with.
    """
    settings = recipe.search or Search()
    if (trials is not None and trials < 1) or (hours is not None and hours <= 0):
        raise RecipeError(f"trials={trials}, hours={hours}: a search needs some of each")
    if limits.arena is not None and target != "micro":
        raise RecipeError(f"a limit of the arena is of the target micro, not of {target}")
    if costs is not None and target != "litert":
        raise RecipeError(f"{costs} holds the costs of TFLite's operators: leave out the target {target}")
    if target == "micro":
        limits, settings = replace(limits, is_micro=True), _for_micro(settings)
    with claimed(out, recipe, is_fresh):
        store = file_store(out / "study.db") if storage is None else storage
        name = NAME if storage is None else f"{NAME}-{digest([dump(recipe), str(out.absolute())])[:12]}"
        if is_fresh:
            for folder in ("trials", RECOMMENDED):
                shutil.rmtree(out / folder, ignore_errors=True)
            if storage is None:
                (out / "study.db").unlink(missing_ok=True)  # also when it is damaged
            else:
                delete(store, name)
        check_store(store)
        searched = recipe.model_copy(update={"search": settings})
        ground = prepare(searched, limits, out, make_bridge, target, costs, progress)
        plan, limits, dense = ground.plan, ground.limits, ground.dense
        about = {"target": target, "sampler": settings.sampler, "seed": recipe.seed}
        identity = {**about, **limits.to_dict(), "search": _plain(settings), "dense": ground.key}
        study = Study(store, name, limits.objectives, settings.sampler, recipe.seed, identity)
        loop = Loop(study, limits, plan, ground.estimate, dense, out / "trials", progress, ground.starts)
        engine = make_engine(out / "trials") if make_engine is not None else Local(make_bridge)

        def collected() -> Any:
            found = collect(study, limits, about, dense)
            with atomic(out / RESULT) as temporary:
                temporary.write_text(json.dumps({**found, "space": plan.space.model_dump(mode="json")}, indent=1))
            return found

        try:
            loop.run(engine, Budget(trials if trials or hours else 40, hours))
        finally:
            engine.close()
            found = collected()
        progress.note(summary(found))
        finals = {
            row["number"]: plan.final(row["settings"]).recipe
            for row in found["trials"]
            if row["number"] in found["front"]
        }
        _save_front(finals, out / FRONT)
        if found["recommended"] is None:
            return {"search": found}
        final = finals[found["recommended"]]
        return _recommend(final, found, out, make_bridge(), is_fresh, limits.is_micro, progress)


@dataclass(frozen=True)
class Ground:
    """What every search of a dense model starts from, whatever draws its candidates.

    Attributes:
        plan: Makes candidates.
        limits: In the dense model's units.
        estimate: Looks at candidates before they are trained.
        dense: The dense model's costs, latency in the unit of the limits.
        starts: The settings that the search begins with.
        key: Of the dense model and its costs.
    """

    plan: Plan
    limits: Limits
    estimate: Estimator
    dense: dict[str, float]
    starts: list[Choices]
    key: str


def prepare(
    recipe: Recipe,
    limits: Limits,
    out: Path,
    make_bridge: MakeBridge,
    target: Target = "litert",
    costs: Path | None = None,
    progress: Progress = SILENT,
) -> Ground:
    """Train and measure the dense model and narrow ones, and complete the space; all is kept in ``out``.

    Takes and raises what `search` does.
    """
    settings = recipe.search or Search()
    dense = _dense(recipe, out, make_bridge, target, progress, costs)
    limits = limits.resolved(dense.costs)
    space = _space(settings, dense, out, progress)
    own = {**dense.costs, "latency": dense.costs["latency_ms"] if limits.latency_unit == "ms" else 1.0}
    plan = Plan(_only_dense(recipe), space, settings, target, dense.path, dense.reference, costs)
    measured = _measured(plan, dense, out, make_bridge, progress)
    estimate = Estimator(dense.model, dense.task, space, dense.costs, measured)
    return Ground(plan, limits, estimate, own, _starts(plan, dense, out), dense.key)


@dataclass(frozen=True)
class _Dense:
    """The dense model: what candidates start from and are compared with."""

    path: Path
    reference: Path
    model: nn.Module
    task: Task
    costs: dict[str, float]
    lr: float
    key: str


def _for_micro(settings: Search) -> Search:
    """Return a search without float layers and sparse files, in which students may keep less from their top level."""
    taught = settings.space.student
    if taught is not None and taught.factory is None and "skips_from" not in taught.model_fields_set:
        taught = taught.model_copy(update={"skips_from": (0, 1)})
    space = settings.space.model_copy(update={"keep_float": 0, "sparsity": (0.0, 0.0), "student": taught})
    return settings.model_copy(update={"space": space})


def _plain(settings: Search) -> dict[str, Any]:
    """Return settings as a store keeps them; stores of a version without students have no key for them."""
    found = settings.model_dump(mode="json")
    if found["space"]["student"] is None:
        del found["space"]["student"]
    return found


def _key(costs: Path | None) -> list[str]:
    return [] if costs is None else [sha256(costs)]


def _only_dense(recipe: Recipe) -> Recipe:
    first = next(iter(recipe.variants))
    return recipe.model_copy(update={"variants": {first: recipe.variants[first]}, "search": None})


def _dense(
    recipe: Recipe, out: Path, make_bridge: MakeBridge, target: Target, progress: Progress, elsewhere: Path | None
) -> _Dense:
    """Train the dense model, and measure its float and int8 files."""
    name, variant = next(iter(recipe.variants.items()))
    if variant.train is None:
        raise RecipeError(f"the first variant, {name!r}, is what a search starts from: it must be trained")
    is_micro = target == "micro"
    changed = {"formats": (FORMATS[target],), "precisions": ("fp32", "int8")}
    plan = _only_dense(recipe).model_copy(update=changed)
    progress.start(f"data {recipe.data}")
    task = validating(make_task(recipe))
    if task.kind == "unlabelled":
        raise RecipeError(f"{recipe.data} has no labels, by which a search ranks channels: run a recipe of your own")
    steps = Steps(out / "dense")
    job = Job(plan, out / "dense", make_bridge(), steps, progress, task)
    job.make(name, variant)
    job.export(name)
    job.check(name)
    made = job.made[name]
    reference = out / "dense" / smallest(job, name, "fp32")["path"]

    def measured() -> tuple[dict[str, Any], list[Path]]:
        progress.start(f"{name}: measure")
        row, int8 = smallest(job, name, "fp32"), smallest(job, name, "int8", is_micro)
        found, quantized = (measure(job, each, reference, elsewhere) for each in (row, int8))
        found |= arena(job, int8, is_micro)
        return {**found, "int8_size": quantized["size"], "int8_latency": quantized["latency"]} | {"macs": made.macs}, []

    costs, key, _ = steps.run("cost", [made.stamp, *_key(elsewhere), *(["micro"] if is_micro else [])], measured)
    return _Dense(made.path, reference, job.load(made.path), job.task, costs, variant.train.lr, key)


def _space(settings: Search, dense: _Dense, out: Path, progress: Progress) -> Resolved:
    """Return the complete space, the same for every call."""

    def derived() -> tuple[dict[str, Any], list[Path]]:
        return derive(settings.space, dense.model, dense.task, progress).model_dump(mode="json"), []

    inputs = [settings.space.model_dump(mode="json"), dense.key]
    return Resolved.model_validate(Steps(out).run("space", inputs, derived)[0])


def _starts(plan: Plan, dense: _Dense, out: Path) -> list[Choices]:
    """Return the settings that the search begins with, the same for every call."""
    if plan.search.sampler != "tpe":
        return []

    def found() -> tuple[dict[str, Any], list[Path]]:
        return {"starts": starts(plan.space, dense.model, dense.task, dense.lr)}, []

    inputs = [plan.space.model_dump(mode="json"), dense.key, dense.lr]
    return list(Steps(out).run("starts", inputs, found)[0]["starts"])


def _measured(
    plan: Plan, dense: _Dense, out: Path, make_bridge: MakeBridge, progress: Progress
) -> list[tuple[float, float]]:
    """Return the MACs and the int8 latency of the dense model and of narrow ones, untrained: training changes neither.

    Raises:
        ShrinkError: What a narrow model failed with: every candidate would.
    """
    found = [(1.0, dense.costs["int8_latency"])]
    for share in _NARROW if any(stage.layers for stage in plan.space.stages) else ():
        candidate, folder = plan.narrow(share), out / "narrow" / f"{share:.2f}"
        (names,) = candidate.rungs
        recipe, is_micro = dump(candidate.recipe), plan.target == "micro"
        request = Request(0, folder, recipe, names, names[-1], plan.reference, plan.costs, is_micro)
        progress.start(f"measure the dense model without {share:.0%} of its channels")

        def measured(request: Request = request) -> tuple[dict[str, Any], list[Path]]:
            return do(request, make_bridge, progress), []

        cost = Steps(folder).run("cost", [dense.key, request.recipe, *_key(plan.costs)], measured)[0]
        found.append((cost["macs"] / dense.costs["macs"], cost["latency"]))
    return found


def _save_front(finals: dict[int, Recipe], folder: Path) -> None:
    """Write the recipe of every candidate on the front, trained for as long as the recommended one, and no others."""
    folder.mkdir(exist_ok=True)
    for number, recipe in finals.items():
        save(recipe, folder / f"{number:04d}.yaml")
    for path in folder.glob("[0-9][0-9][0-9][0-9].yaml"):
        if int(path.stem) not in finals:  # of an earlier call
            path.unlink()


def _recommend(
    final: Recipe,
    found: dict[str, Any],
    out: Path,
    bridge: Bridge,
    is_fresh: bool,
    is_micro: bool,
    progress: Progress,
) -> dict[str, Any]:
    """Train the recommended candidate for as long as the recipe allows and report it, the test part included."""
    path = out / f"{RECOMMENDED}.yaml"
    save(final, path)
    folder = out / RECOMMENDED
    progress.note(f"train the recommended model: {path}")
    if (folder / MARKER).is_file() and stored(folder / MARKER) != dump(final):
        is_fresh = True  # an earlier call, with fewer candidates, recommended another
    try:
        content = run(final, folder, bridge, is_fresh=is_fresh, progress=progress)
    except ShrinkError as error:
        if error.is_reported:
            document.save({**document.load(folder), "search": found}, folder)
        raise
    for row in content["rows"] if is_micro else ():
        if row["precision"] == "int8" and not row["name"].endswith("-sparse"):
            row["arena_bytes"] = bridge.arena_bytes(folder / row["path"])
    content = {**content, "search": found}
    document.save(content, folder)
    return content

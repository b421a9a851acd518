"""The whole job: a recipe becomes verified, measured files and a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torchshrink.checkpoint import Factory
from torchshrink.errors import ConversionError, ModelError, ParityError, RecipeError, ShrinkError
from torchshrink.pipeline.artefacts import Bridge
from torchshrink.pipeline.assemble import make_model
from torchshrink.pipeline.claim import claim as claim  # under the name that it had
from torchshrink.pipeline.claim import claimed
from torchshrink.pipeline.clock import Clock
from torchshrink.pipeline.job import Job
from torchshrink.pipeline.layers import check_layers, names_layers
from torchshrink.pipeline.recipe import Recipe
from torchshrink.pipeline.steps import Steps
from torchshrink.progress import SILENT, Progress
from torchshrink.report import document
from torchshrink.task import Task


def run(
    recipe: Recipe,
    out: Path,
    bridge: Bridge,
    *,
    is_fresh: bool = False,
    progress: Progress = SILENT,
    task: Task | None = None,
    factory: Factory | None = None,
) -> dict[str, Any]:
    """Do what a recipe says and return the report, which is also written into ``out``.

    Finished steps of the same recipe are not done again.

    Args:
        recipe: What to do.
        out: A folder that is new, empty, or holds the same run.
        bridge: Exports and compares (`torchshrink.converters.bridge.Bridge`).
        is_fresh: Do every step again, also over another run.
        progress: Told about every step.
        task: The data, when it is not the recipe's.
        factory: Makes the model with its weights, when it is not the recipe's; pass ``is_fresh`` too, since nothing
            tells finished steps of another model apart.

    Raises:
        OutputError: When the folder cannot be written, or another process uses it.
        DataError: When ``out`` holds something else, or the data cannot be used.
        MissingExtraError: When a processor of the recipe cannot be emulated.
        ParityError: When a file failed verification; the others are in the report.
        ShrinkError: What a variant failed with; the others are in the report (``is_reported``).
    """
    with claimed(out, recipe, is_fresh):
        clock = progress = Clock(recipe, progress)
        job = Job(recipe, out, bridge, Steps(out, is_fresh), progress, task, factory)
        if names_layers(recipe):
            check_layers(recipe, factory() if factory is not None else make_model(recipe, job.task))
        try:
            return _run(job, recipe, out, progress)
        finally:
            clock.finish()


def _run(job: Job, recipe: Recipe, out: Path, progress: Progress) -> dict[str, Any]:
    errors: dict[str, ShrinkError] = {}
    for name, variant in recipe.variants.items():
        try:
            job.make(name, variant)
            if variant.export:
                job.score(name)
                job.export(name)
                job.check(name)
        except (ConversionError, ModelError, ParityError, RecipeError) as error:
            if not job.made:
                raise
            errors[name] = error  # the other variants are worth having without this one
            progress.note(f"{name} failed: {error}")
    if (failure := _failure(errors, [])) and not job.rows:
        raise failure
    result = job.report(errors)
    document.save(result, out)
    if failure := _failure(errors, result["failed"]):
        failure.is_reported = True
        raise failure
    return result


def _failure(errors: dict[str, ShrinkError], failed: list[dict[str, Any]]) -> ShrinkError | None:
    """Return what a run that is over says of what did not work in it."""
    if errors:
        name, error = next(iter(errors.items()))
        others = f" (and {', '.join(list(errors)[1:])})" if len(errors) > 1 else ""
        return type(error)(f"{name}{others} failed: {error}")
    if failed:
        reasons = "; ".join(f"{item['name']}: {item['reason']}" for item in failed)
        return ParityError(f"{len(failed)} files failed verification and were deleted: {reasons}")
    return None

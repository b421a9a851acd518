"""``torchshrink run``: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from torchshrink.cli import console, options
from torchshrink.errors import RecipeError, ShrinkError

if TYPE_CHECKING:
    from torchshrink.pipeline.recipe import Recipe

RecipeFile = Annotated[Optional[Path], typer.Argument(help="A recipe; without one, the built-in U-Net and data.")]  # noqa: UP045


def run(
    recipe: RecipeFile = None,
    out: Annotated[Optional[Path], typer.Option(help="Folder of the run; by default runs/NAME.")] = None,  # noqa: UP045
    data: Annotated[Optional[str], typer.Option(help="Data instead of the recipe's.")] = None,  # noqa: UP045
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Keep finished steps, or do all again.")] = True,
    track: options.Track = None,
    init: Annotated[bool, typer.Option("--init", help="Only write a commented recipe to start from.")] = False,
    trust: options.Trust = False,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Train, prune, quantize, export, verify and measure: from data to files that production can run.

    A recipe is code of its author: what it names as module:callable is imported and called.
    """
    if init:
        _write_template(recipe or Path("recipe.yaml"), overwrite)
        return
    with console.Progress() as progress:
        progress.start("load PyTorch")
        from torchshrink.converters.bridge import Bridge
        from torchshrink.pipeline.run import run
        from torchshrink.report import document

        check_tracker(track)
        settings = load_recipe(recipe, data, trust, allow_pickle)
        folder = out or Path("runs", folder_name(recipe, settings.data))
        try:
            run(settings, folder, Bridge(), is_fresh=not resume, progress=progress)
        except ShrinkError as error:
            if error.is_reported:
                show_report(document.load(folder), folder, as_json)
                log(folder, track)
            raise
    show_report(document.load(folder), folder, as_json)
    log(folder, track)


def sweep(
    model_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="A trained checkpoint to start from; without one, a dense model is trained first."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the ladder.")] = Path("runs/sweep"),
    data: options.Data = "synthetic:cells",
    sparsity: Annotated[str, typer.Option(help="Shares of weights to set to zero, in percent.")] = (
        "10,20,30,40,50,60,70,80,90,95"
    ),
    channels: Annotated[str, typer.Option(help="Shares of channels to remove, in percent.")] = "25,50,75",
    epochs: options.Epochs = 20,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    seed: options.Seed = 0,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Keep finished steps, or do all again.")] = True,
    as_json: options.Json = False,
) -> None:
    """Prune one dense model to many degrees, fine-tune, export and measure each: the ladder."""
    sparsities, widths = _percents(sparsity, "--sparsity"), _percents(channels, "--channels")
    with console.Progress() as progress:
        progress.start("load PyTorch")
        from torchshrink.converters.bridge import Bridge
        from torchshrink.pipeline.ladder import ladder
        from torchshrink.pipeline.recipe import Model, Recipe, trust_pickle
        from torchshrink.pipeline.run import run
        from torchshrink.report import document
        from torchshrink.report.plot import plot_ladder

        checkpoint = str(model_file) if model_file else None
        model = Model(factory=factory or "unet", checkpoint=checkpoint)
        recipe = Recipe(data=data, seed=seed, model=model)
        recipe = trust_pickle(recipe) if allow_pickle else recipe
        recipe = ladder(recipe, sparsities, widths, epochs, dense_epochs=0 if model_file else 30)
        try:
            found = run(recipe, out, Bridge(), is_fresh=not resume, progress=progress)
        except ShrinkError as error:
            if error.is_reported:
                found = document.load(out)
                plot_ladder(found["rows"], out / "ladder.png")
                show_report(found, out, as_json)
            raise
        plot_ladder(found["rows"], out / "ladder.png")
    show_report(found, out, as_json)


def load_recipe(path: Path | None, data: str | None, trust: bool, allow_pickle: bool) -> Recipe:
    """Return the recipe of a command, with what the command line says instead of it.

    Raises:
        RecipeError: When it is wrong, or names code that nobody said to trust.
    """
    from torchshrink.pipeline import recipe as recipes
    from torchshrink.pipeline import trust as trusted

    recipe = recipes.load(path) if path is not None else recipes.Recipe()
    if not trust:
        its_own = recipe if data is None else recipe.model_copy(update={"data": "synthetic:cells"})
        trusted.check(its_own, str(path))
    recipe = recipe if data is None else recipe.model_copy(update={"data": data})
    return recipes.trust_pickle(recipe) if allow_pickle else recipe


def check_tracker(track: str | None) -> None:
    """Refuse a tracker that is unknown or not installed, before the work begins."""
    if track is not None:
        from torchshrink.report import tracking

        if track not in tracking.TRACKERS:
            raise typer.BadParameter(f"{track!r} is not one of {', '.join(tracking.TRACKERS)}", param_hint="--track")
        tracking.check(track)  # type: ignore[arg-type]


def log(folder: Path, track: str | None) -> None:
    """Log a finished run where the user asked for."""
    if track is not None:
        from torchshrink.report import tracking

        console.errors.print(f"look at it with: {tracking.log(folder, track)}")  # type: ignore[arg-type]


def _percents(text: str, option: str) -> list[float]:
    try:
        values = [float(part) / 100 for part in text.split(",") if part.strip()]
    except ValueError:
        values = [-1.0]
    if any(not 0 < value < 1 for value in values):
        raise typer.BadParameter(f"{text!r}: expected percentages such as 50,80,90", param_hint=option)
    return values


def show_report(content: dict[str, Any], folder: Path, as_json: bool = False) -> None:
    """Show what a run made, and where its report is."""
    from torchshrink.report import text

    if as_json:
        console.show_json(content)
        return
    console.show_table(*text.table(content["rows"]))
    console.show(text.verdict(content["rows"]))
    console.show(f"report: {folder / 'report.html'}")


def folder_name(recipe: Path | None, data: str) -> str:
    """Return what the folder of a run is called."""
    if recipe is not None:
        return recipe.stem
    name = data.partition("?")[0].replace(":", "-") if ":" in data else Path(data).stem
    return name or "run"


def _write_template(path: Path, overwrite: bool) -> None:
    from torchshrink.files import atomic
    from torchshrink.pipeline import recipe as recipes

    if path.exists() and not overwrite:
        raise RecipeError(f"{path} exists: choose another name, or pass --overwrite")
    with atomic(path) as temporary:
        temporary.write_text(recipes.template(path))
    console.show(f"wrote {path}; run it with: torchshrink run {path}")

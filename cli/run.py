"""``torchshrink run``: the whole job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from torchshrink.cli import console, options
from torchshrink.cli.inputs import load_recipe
from torchshrink.cli.shown import log, show_report, told
from torchshrink.errors import RecipeError, ShrinkError


def run(
    recipe: options.RecipeFile = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/NAME.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Data instead of the recipe's.", rich_help_panel=options.MODEL)
    ] = None,
    set_: options.Set = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Keep finished steps, or do all again.")] = True,
    track: options.Track = None,
    init: Annotated[bool, typer.Option("--init", help="Only write a commented recipe to start from.")] = False,
    trust: options.Trust = False,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Train, prune, quantize, export, verify and measure: from data to files that production can run.

    A recipe is code of its author: what it names as module:callable is imported and called.
    """
    if init:
        _write_template(recipe or Path("recipe.yaml"), overwrite, as_json)
        return
    with console.Progress() as progress:
        progress.start("load PyTorch")
        settings = load_recipe(recipe, data, trust, allow_pickle, set_)  # what is wrong in it is said at once
        from torchshrink.converters.bridge import Bridge
        from torchshrink.pipeline.chosen import folder_name
        from torchshrink.pipeline.run import run
        from torchshrink.report import document

        folder = out or Path("runs", folder_name(recipe, settings.data))

        def show() -> None:
            show_report(document.load(folder), folder, as_json, wide)
            log(folder, track)

        try:
            with told(track, folder):
                run(settings, folder, Bridge(), is_fresh=not resume, progress=progress)
        except ShrinkError as error:
            if error.is_reported:
                show()
            raise
    show()


def sweep(
    model_file: Annotated[
        Path | None,
        typer.Argument(help="A trained checkpoint to start from; without one, a dense model is trained first."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the ladder.")] = Path("runs/sweep"),
    data: options.NamedData = None,
    sparsity: Annotated[str, typer.Option(help="Shares of weights to set to zero, in percent.")] = (
        "10,20,30,40,50,60,70,80,90,95"
    ),
    channels: Annotated[str, typer.Option(help="Shares of channels to remove, in percent.")] = "25,50,75",
    epochs: options.Epochs = 20,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    seed: options.Seed = 0,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Keep finished steps, or do all again.")] = True,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Prune one dense model to many degrees, fine-tune, export and measure each: the ladder."""
    sparsities, widths = _percents(sparsity, "--sparsity"), _percents(channels, "--channels")
    with console.Progress() as progress:
        progress.start("load PyTorch")
        from torchshrink.pipeline.chosen import choose
        from torchshrink.pipeline.ladder import ladder
        from torchshrink.pipeline.recipe import Recipe
        from torchshrink.pipeline.run import run
        from torchshrink.pipeline.subject import Model
        from torchshrink.report import document
        from torchshrink.report.plot import plot_ladder

        def show() -> None:
            report = document.load(out)
            plot_ladder(report["rows"], out / "ladder.png")
            show_report(report, out, as_json, wide)

        checkpoint = str(model_file) if model_file else None
        model = Model(factory=factory or "unet", checkpoint=checkpoint)
        named = {} if data is None else {"data": data}
        recipe = choose(Recipe(**named, seed=seed, model=model), None, trust=True, allow_pickle=allow_pickle)
        from torchshrink.converters.bridge import Bridge

        recipe = ladder(recipe, sparsities, widths, epochs, dense_epochs=0 if model_file else 30)
        try:
            run(recipe, out, Bridge(), is_fresh=not resume, progress=progress)
        except ShrinkError as error:
            if error.is_reported:
                show()
            raise
    show()


def _percents(text: str, option: str) -> list[float]:
    try:
        values = [float(part) / 100 for part in text.split(",") if part.strip()]
    except ValueError:
        values = [-1.0]
    if any(not 0 < value < 1 for value in values):
        raise typer.BadParameter(f"{text!r}: expected percentages such as 50,80,90", param_hint=option)
    return values


def _write_template(path: Path, overwrite: bool, as_json: bool) -> None:
    from torchshrink.files import atomic
    from torchshrink.pipeline import recipe as recipes

    if path.exists() and not overwrite:
        raise RecipeError(f"{path} exists: choose another name, or pass --overwrite")
    with atomic(path) as temporary:
        temporary.write_text(recipes.template(path))
    if as_json:
        console.show_json({"path": str(path)})
        return
    console.show(f"wrote {path}; run it with: torchshrink run {path}")

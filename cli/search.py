"""``torchshrink search``: find a small model within limits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from torchshrink.cli import console, options
from torchshrink.cli.inputs import load_recipe
from torchshrink.cli.shown import show_cells, show_report
from torchshrink.errors import RecipeError

if TYPE_CHECKING:
    from torchshrink.search.engines.local import Engine

_LIMITS, _CLUSTER = "Limits", "On a cluster"


def search(
    context: typer.Context,
    recipe: options.RecipeFile = None,
    max_size: Annotated[str | None, typer.Option(help="Of the file, such as 120kB.", rich_help_panel=_LIMITS)] = None,
    max_latency: Annotated[
        str | None,
        typer.Option(
            help="Of one inference: 2ms, or 0.2x for a share of the dense float file's.", rich_help_panel=_LIMITS
        ),
    ] = None,
    max_rss: Annotated[
        str | None,
        typer.Option(help="Peak memory of a fresh process with the file, such as 60MB.", rich_help_panel=_LIMITS),
    ] = None,
    max_arena: Annotated[
        str | None,
        typer.Option(help="Memory beside the file, with --target micro, such as 200kB.", rich_help_panel=_LIMITS),
    ] = None,
    max_loss_increase: Annotated[
        str | None,
        typer.Option(
            help="Validation loss (or the metric that decides) worse than the dense model's: 0.01, or 2%.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    target: Annotated[
        Literal["litert", "onnxruntime", "micro"],
        typer.Option(
            help="The runtime that the file is for; micro: TensorFlow Lite Micro, in integers alone.",
            rich_help_panel=_LIMITS,
        ),
    ] = "litert",
    costs: Annotated[
        Path | None,
        typer.Option(
            "--costs",
            "--on",
            help="The processor that latency is of: what `torchshrink bench --save` wrote "
            "of TFLite files there; by default this one.",
            rich_help_panel=_LIMITS,
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Candidates to train at most; 40 when --hours is not given either.")
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.0, help="Processor time of each worker at most, without the recommended model."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates trained at once; by default 1, with ray as many as fit the cluster."),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Where candidates are trained; ray for a cluster.", rich_help_panel=_CLUSTER),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of the Ray cluster: auto, or HOST:PORT of its head; by default Ray on this machine.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    artefacts: Annotated[
        str | None,
        typer.Option(
            help="URL that all machines reach, such as file:///shared/folder or s3://bucket/prefix; or set "
            "TORCHSHRINK_ARTEFACTS, or TORCHSHRINK_ARTEFACTS_FILE to a file with it, which no list of processes shows.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    cpus_per_trial: Annotated[
        int, typer.Option(min=1, help="Of each candidate on a Ray cluster.", rich_help_panel=_CLUSTER)
    ] = 1,
    gpus_per_trial: Annotated[
        float, typer.Option(min=0.0, help="Of each candidate on a Ray cluster.", rich_help_panel=_CLUSTER)
    ] = 0.0,
    out: Annotated[Path | None, typer.Option(help="Folder of the search; by default runs/search-NAME.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Data instead of the recipe's.", rich_help_panel=options.MODEL)
    ] = None,
    set_: options.Set = None,
    storage: Annotated[
        str | None,
        typer.Option(
            help="URL of a database for the record, such as postgresql+psycopg://me@host/db; or set "
            "TORCHSHRINK_STORAGE, or TORCHSHRINK_STORAGE_FILE to a file with it, which no list of processes shows; "
            "else a file of its own.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    trust: options.Trust = False,
    allow_pickle: options.AllowPickle = False,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on with a search, or begin again.")] = True,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Search pruning, quantization and precision for the smallest model within limits; what has none is minimised.

    Candidates are judged by the validation data and by files that were exported and measured here. The recommended one
    is trained for longer and reported with the test data; its recipe repeats it.
    """
    of_ray = ("address", "artefacts", "cpus_per_trial", "gpus_per_trial")
    if engine == "local" and (needless := options.given(context, of_ray)):
        raise typer.BadParameter(f"{' and '.join(needless)} are for --engine ray", param_hint="--engine")
    with console.Progress() as progress:
        progress.start("load PyTorch")
        from torchshrink.search import Limits
        from torchshrink.search import search as run_search

        limits = Limits.parse(max_size, max_latency, max_rss, max_loss_increase, max_arena, target == "micro")
        if target == "micro":
            from torchshrink.converters import micro

            micro.check_installed()
        settings = load_recipe(recipe, data, trust, allow_pickle, set_)
        from torchshrink.converters.bridge import Bridge
        from torchshrink.pipeline.chosen import folder_name

        if costs is not None:
            from torchshrink.converters.anatomy.op_costs import Costs

            known = Costs.load(costs)
            progress.note(f"latency is that of {known.processor}{told(known.error())}")

        def make_engine(trials_folder: Path) -> Engine:
            from torchshrink.search.engines.local import Local
            from torchshrink.search.engines.ray_cluster import RayEngine

            url = artefacts or _secret("TORCHSHRINK_ARTEFACTS")
            if engine == "local":
                return Local(Bridge, workers or 1)
            return RayEngine(Bridge, trials_folder, url, address, workers, cpus_per_trial, gpus_per_trial)

        folder = out or Path("runs", f"search-{folder_name(recipe, settings.data)}")
        content = run_search(
            settings,
            limits,
            folder,
            Bridge,
            target=target,
            trials=trials,
            hours=hours,
            costs=costs,
            storage=_secret("TORCHSHRINK_STORAGE") if storage is None else storage,
            make_engine=make_engine,
            is_fresh=not resume,
            progress=progress,
        )
    _show(content, folder, as_json, wide)


def told(error: float | None) -> str:
    """Return how far off latencies from operators' costs were, in words."""
    return (
        ""
        if error is None
        else f", from its operators: each file measured there is a median of {error:.0%} off what the others tell"
    )


def _secret(name: str) -> str | None:
    """Return a URL that may hold a password, from the environment or from the file that ``NAME_FILE`` names there."""
    path = os.environ.get(f"{name}_FILE")
    if name in os.environ or path is None:
        return os.environ.get(name)
    from torchshrink.files import read

    try:
        text = read(Path(path)).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{name}_FILE: {path} cannot be read: {error}") from error
    if not text or len(text.splitlines()) > 1:
        raise RecipeError(f"{name}_FILE: {path} must hold one line, the URL")
    return text


def _show(content: Any, folder: Path, as_json: bool, wide: bool) -> None:
    from torchshrink.report import trials

    if as_json:
        console.show_json(content)
        return
    found = content["search"]
    headings, rows = trials.table(found, with_settings=wide)
    shown = {*found["front"], found["nearest"]}
    lines = [row for row, trial in zip(rows, found["trials"], strict=True) if trial["number"] in shown]
    if lines:
        show_cells(headings, lines, title="The front")
    console.show(trials.summary(found))
    if "rows" in content:
        show_report(content, folder / "recommended", wide=wide)
        console.show(f"repeat it with: torchshrink run {folder / 'recommended.yaml'}")
        if len(found["front"]) > 1:
            console.show(f"the others on the front, trained as long: torchshrink run {folder / 'front'}/NUMBER.yaml")

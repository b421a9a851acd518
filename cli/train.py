"""The commands that make a model from data or from another model: train, student, prune, qat, ptq."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from torchshrink.cli import console, options
from torchshrink.cli.inputs import check_output, load_network, load_task
from torchshrink.digits import written
from torchshrink.errors import ModelError, RecipeError
from torchshrink.parallel.launch import is_main
from torchshrink.progress import SILENT, Progress

if TYPE_CHECKING:
    from torch import nn

    from torchshrink.task import Task

_CHANNELS, _SHAPE = "Channels instead of weights", "Its shape"
Out = Annotated[Path, typer.Option(help="The checkpoint to write, .safetensors.")]


def train(
    out: Out,
    data: options.Data = "synthetic:cells",
    factory: options.Factory = None,
    widths: Annotated[str, typer.Option(help="Channels of the U-Net's levels.")] = "16,32,64,128",
    epochs: options.Epochs = 30,
    lr: options.Rate = 3e-3,
    batch_size: options.Batch = 16,
    seed: options.Seed = 0,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Train a model from scratch."""
    check_output(out, overwrite, (".safetensors",))
    with _watched() as progress:
        progress.start("load data")
        from torchshrink import stages
        from torchshrink.pipeline import assemble
        from torchshrink.pipeline.origin import stated
        from torchshrink.pipeline.recipe import Recipe
        from torchshrink.pipeline.subject import Model

        arguments = {} if factory else {"widths": _numbers(widths)}
        recipe = Recipe(data=data, seed=seed, model=Model(factory=factory or "unet", arguments=arguments))
        task = assemble.make_task(recipe)
        model = assemble.make_model(recipe, task)
        progress.start("train")
        history = stages.train(model, task, _settings(epochs, lr, batch_size, seed), progress=progress)
        content = _save(model, out, task, stated(data, seed), history.to_dict())
    _show(content, as_json)


def prune(
    model_file: options.ModelFile,
    out: Out,
    data: options.NamedData = None,
    amount: Annotated[
        float | None, typer.Option(min=0.0, max=0.99, help="Share of the weights to set to zero; by default 0.8.")
    ] = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Prune each layer as far as it can bear, as torchshrink inspect suggests.")
    ] = False,
    method: Annotated[
        str, typer.Option(help="magnitude, layer, lamp, random, N:M such as 2:4, or RxC blocks such as 1x4.")
    ] = "magnitude",
    schedule: Annotated[
        Literal["polynomial", "constant", "one_shot", "rewind"],
        typer.Option(help="polynomial, constant: while fine-tuning; one_shot: before it; rewind: in the middle."),
    ] = "polynomial",
    channels: Annotated[
        float | None,
        typer.Option(min=0.0, max=0.99, help="Remove this share of the channels instead.", rich_help_panel=_CHANNELS),
    ] = None,
    target_macs: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Remove channels until this many multiply-accumulates (or this share) remain.",
            rich_help_panel=_CHANNELS,
        ),
    ] = None,
    target_params: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Remove channels until this many parameters (or this share) remain.",
            rich_help_panel=_CHANNELS,
        ),
    ] = None,
    importance: Annotated[
        Literal["l1", "l2", "bn", "taylor"], typer.Option(help="Of a channel.", rich_help_panel=_CHANNELS)
    ] = "l2",
    round_to: Annotated[
        int, typer.Option(min=1, help="Channels that remain are a multiple of this.", rich_help_panel=_CHANNELS)
    ] = 1,
    rounds: Annotated[
        int, typer.Option(min=1, help="Remove channels in this many rounds of fine-tuning.", rich_help_panel=_CHANNELS)
    ] = 1,
    ignore: Annotated[
        list[str] | None, typer.Option(help="Layers to leave alone, by name, type or pattern; can be repeated.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A checkpoint whose outputs make half of the loss: knowledge distillation.")
    ] = None,
    epochs: options.Epochs = 20,
    lr: options.Rate = 2e-3,
    batch_size: options.Batch = 16,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Set weights to zero, or remove channels, and fine-tune the rest."""
    check_output(out, overwrite, (".safetensors",), sources=(model_file, teacher))
    goals = {"--channels": channels, "--target-macs": target_macs, "--target-params": target_params}
    given = [option for option, goal in goals.items() if goal is not None]
    if len(given) > 1:
        raise typer.BadParameter("one goal at a time", param_hint=" and ".join(given))
    removes = bool(given)
    if removes and amount is not None:
        raise typer.BadParameter("weights and channels are two steps: prune twice", param_hint="--amount")
    if auto and (removes or amount is not None or method != "magnitude"):
        raise typer.BadParameter("chooses each layer's amount: leave out the other ways to prune", param_hint="--auto")
    with _watched() as progress:
        task, model = _load(progress, model_file, data, seed, factory, allow_pickle)
        from torchshrink import stages

        guide = load_network(teacher, factory, allow_pickle) if teacher is not None else None
        guide, share = _imitated(task, model, guide)
        settings = _settings(epochs, lr, batch_size, seed, distillation=share)
        if removes:
            progress.start("remove channels and fine-tune")
            model, history = stages.channels(
                model, task, settings, channels, target_macs=target_macs, target_params=target_params,
                importance=importance, round_to=round_to, rounds=rounds, ignore=ignore or (), teacher=guide,
                progress=progress,
            )  # fmt: skip
        else:
            amounts = _bearable(model, task, ignore or (), progress) if auto else None
            progress.start("prune and fine-tune")
            kept = None if auto else ignore
            model, history = stages.prune(
                model, task, settings, amount, method, schedule,
                amounts=amounts, ignore=kept, teacher=guide, progress=progress,
            )  # fmt: skip
        content = _save(model, out, task, _origin(model_file, data, seed), history.to_dict())
    _show(content, as_json)


def qat(
    model_file: options.ModelFile,
    out: Out,
    data: options.NamedData = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 10,
    lr: options.Rate = 5e-4,
    batch_size: options.Batch = 16,
    keep_float: options.KeepFloat = None,
    portable: options.Portable = True,
    weights: Annotated[
        Literal["int8", "int4"],
        typer.Option(
            help="int4 halves the bytes of TFLite files and takes longer there.", rich_help_panel=options.INT8
        ),
    ] = "int8",
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Train a model to be int8: its ranges are learned, its pruned zeros kept."""
    check_output(out, overwrite, (".safetensors",), sources=(model_file,))
    with _watched() as progress:
        task, model = _load(progress, model_file, data, seed, factory, allow_pickle)
        from torchshrink import stages
        from torchshrink.sensitivity.room import room_cost

        kept = _kept(keep_float, model, task, progress)
        if weights == "int8":
            progress.note(room_cost(model, kept, portable))
        progress.start("quantization-aware training")
        guide, share = _imitated(task, model)
        settings = _settings(epochs, lr, batch_size, seed, distillation=share)
        graph, history = stages.qat(
            model, task, settings,
            keep_float=kept, portable=portable, weights=weights, teacher=guide, progress=progress,
        )  # fmt: skip
        content = _save(graph, out, task, _origin(model_file, data, seed), history.to_dict(), kept)
    _show(content, as_json)


def ptq(
    model_file: options.ModelFile,
    out: Out,
    data: options.NamedData = None,
    samples: Annotated[int, typer.Option(min=1, help="Training inputs to calibrate on.")] = 64,
    effort: options.Effort = "none",
    budget_db: options.Budget = 30.0,
    keep_float: options.KeepFloat = None,
    portable: options.Portable = True,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Make a model int8 without training: its ranges are calibrated."""
    check_output(out, overwrite, (".safetensors",), sources=(model_file,))
    with _watched() as progress:
        task, model = _load(progress, model_file, data, seed, factory, allow_pickle)
        from torchshrink import stages
        from torchshrink.sensitivity.room import room_cost

        kept = _kept(keep_float, model, task, progress)
        progress.note(room_cost(model, kept, portable))
        progress.start("calibrate")
        graph = stages.ptq(
            model,
            task,
            samples,
            keep_float=kept,
            portable=portable,
            effort=effort,
            budget_db=budget_db,
            progress=progress,
        )
        content = _save(graph, out, task, _origin(model_file, data, seed), {}, kept)
    _show(content, as_json)


def student(
    model_file: options.ModelFile,
    out: Out,
    data: options.NamedData = None,
    widths: Annotated[
        str, typer.Option(help="Channels of the levels: equal for a flat network.", rich_help_panel=_SHAPE)
    ] = "8,12,16,24",
    convolutions: Annotated[int, typer.Option(min=1, max=8, help="In each level.", rich_help_panel=_SHAPE)] = 2,
    convolution: Annotated[
        Literal["full", "separable", "ghost"], typer.Option(help="Of the levels.", rich_help_panel=_SHAPE)
    ] = "full",
    merge: Annotated[
        Literal["concat", "add"], typer.Option(help="How levels take what the encoder had.", rich_help_panel=_SHAPE)
    ] = "concat",
    stem: Annotated[
        Literal["none", "stride", "space_to_depth"],
        typer.Option(help="Whether the first convolution halves the size.", rich_help_panel=_SHAPE),
    ] = "none",
    up: Annotated[
        Literal["transpose", "nearest"], typer.Option(help="What doubles the size again.", rich_help_panel=_SHAPE)
    ] = "transpose",
    kernel_size: Annotated[
        int | None, typer.Option(min=1, max=63, help="By default 3, for signals 9.", rich_help_panel=_SHAPE)
    ] = None,
    own: Annotated[
        str | None, typer.Option("--student", help="module:factory that builds your own architecture instead.")
    ] = None,
    distillation: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the loss that the model's outputs make.")
    ] = 0.5,
    features: Annotated[float, typer.Option(min=0.0, help="Weight of the distance between features.")] = 0.0,
    epochs: options.Epochs = 60,
    lr: options.Rate = 3e-3,
    batch_size: options.Batch = 16,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Teach another, smaller architecture what a model does."""
    check_output(out, overwrite, (".safetensors",), sources=(model_file,))
    with _watched() as progress:
        task, teacher = _load(progress, model_file, data, seed, factory, allow_pickle)
        from torchshrink.pipeline.teaching import stated_step, teach

        shape: dict[str, Any] = {
            "widths": _numbers(widths),
            "convolutions": convolutions,
            "convolution": convolution,
            "merge": merge,
            "stem": stem,
            "up": up,
            "kernel_size": kernel_size,
        }
        step = stated_step({"factory": own} if own else shape, features)
        share = 1.0 if task.kind == "unlabelled" else distillation
        settings = _settings(epochs, lr, batch_size, seed, distillation=share)
        progress.start("teach a student")
        model, history = teach(teacher, task, settings, step, progress)
        content = _save(model, out, task, _origin(model_file, data, seed), history.to_dict())
    _show(content, as_json)


def _watched() -> AbstractContextManager[Progress]:
    """Return what shows progress; of several processes that train together, only the main one does."""
    return console.Progress() if is_main() else nullcontext(SILENT)


def _load(
    progress: Progress, path: Path, data: str | None, seed: int, factory: str | None, allow_pickle: bool
) -> tuple[Task, nn.Module]:
    """Return data and a model that is still float."""
    progress.start("load model and data")
    from torchshrink.model.checked import check_answer
    from torchshrink.quantize import is_quantized
    from torchshrink.unlabelled import taught

    task, model = load_task(path, data, seed, factory, allow_pickle)
    if is_quantized(model):
        raise ModelError(f"{path} is quantized already: start from the float model that it was made from")
    check_answer(model, task.example_input, None, task.scores)
    return taught(task, model), model


def _imitated(task: Task, model: nn.Module, guide: nn.Module | None = None) -> tuple[nn.Module | None, float]:
    """Return the teacher and its share of the loss: without labels, the model as it was makes all of it."""
    if task.kind == "unlabelled":
        return guide or model, 1.0
    return guide, 0.5 if guide else 0.0


def _kept(keep_float: str | None, model: nn.Module, task: Task, progress: Progress) -> list[str]:
    """Return the names of the modules that stay float."""
    from torchshrink.sensitivity.keep_float import layers_to_keep

    names = [name.strip() for name in (keep_float or "").split(",") if name.strip()]
    return layers_to_keep("auto" if names == ["auto"] else names, model, task, progress)


def _bearable(model: nn.Module, task: Task, ignore: Sequence[str], progress: Progress) -> dict[str, float]:
    """Return the sparsity that each layer can bear, as `inspect` suggests it."""
    from torchshrink import sensitivity

    costs = sensitivity.measure(model, task, ignore=ignore, progress=progress)
    amounts = sensitivity.suggest(model, task, costs, progress=progress).amounts
    if not any(amounts.values()):
        raise RecipeError(
            f"no layer can be pruned before fine-tuning at a loss of {sensitivity.BUDGET:g}: choose an --amount"
        )
    return amounts


def _settings(epochs: int, lr: float, batch_size: int, seed: int, distillation: float = 0.0) -> Any:
    from torchshrink.training import Settings

    return Settings(epochs, lr, batch_size, seed=seed, distillation=distillation)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected numbers such as 16,32,64,128", param_hint="--widths") from None


def _origin(path: Path, data: str | None, seed: int) -> dict[str, Any]:
    """Return what a checkpoint says of its data: what it was given, or what the one that it comes from says."""
    from torchshrink.pipeline.origin import data_of, stated

    return stated(*((data, seed) if data is not None else data_of(path)))


def _save(
    model: nn.Module,
    out: Path,
    task: Task,
    origin: dict[str, Any],
    history: dict[str, Any],
    keep_float: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the model and return what to tell about it; nothing in a process that is not the main one."""
    if not is_main():
        return {}
    from torchshrink import checkpoint
    from torchshrink.metrics import outputs, score, stack

    inputs, truths = stack(task.test)
    scores = score(outputs(model, inputs), truths, task.loss, task.metrics)
    checkpoint.save(model, out, {**task.metadata, **origin, "history": history, "keep_float": list(keep_float)})
    scores.check(task, "file is written, but its test")
    return {"path": str(out), "bytes": out.stat().st_size, "keep_float": list(keep_float),
            "loss": scores.loss, **scores.metrics}  # fmt: skip


def _show(content: dict[str, Any], as_json: bool) -> None:
    if not content:
        return
    if as_json:
        console.show_json(content)
        return
    figures = [
        f"{name} {written(value)}" for name, value in content.items() if isinstance(value, float) and name != "loss"
    ]
    parts = [f"{content['bytes'] / 1e6:.3f} MB", f"test loss {written(content['loss'])}", *figures]
    console.show(f"{content['path']}: {', '.join(parts)}")

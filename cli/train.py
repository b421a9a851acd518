"""The commands that make a model from data or from another model: train, prune, qat, ptq."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from torchshrink.cli import console, options

from torchshrink.errors import ModelError, OutputError

if TYPE_CHECKING:
    from torch import nn

    from torchshrink.task import Task

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
    check_output(out, overwrite)
    with console.Progress() as progress:
        progress.start("load data")
        from torchshrink import pipeline, stages
        from torchshrink.recipe import Model, Recipe

        arguments = {} if factory else {"widths": _numbers(widths)}
        recipe = Recipe(data=data, seed=seed, model=Model(factory=factory or "unet", arguments=arguments))
        task = pipeline.make_task(recipe)
        model = pipeline.make_model(recipe, task)
        progress.start("train")
        history = stages.train(model, task, _settings(epochs, lr, batch_size, seed), progress)
        content = _save(model, out, task, history.to_dict())
    _show(content, as_json)


def prune(
    model_file: options.ModelFile,
    out: Out,
    data: options.Data = "synthetic:cells",
    amount: Annotated[float, typer.Option(min=0.0, max=0.99, help="Share of the weights to set to zero.")] = 0.8,
    scope: Annotated[str, typer.Option(help="global: compare weights across layers; layer: each alike.")] = "global",
    gradual: Annotated[bool, typer.Option(help="Prune while fine-tuning, or all at once before it.")] = True,
    epochs: options.Epochs = 20,
    lr: options.Rate = 2e-3,
    batch_size: options.Batch = 16,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Set the smallest weights to zero and fine-tune the rest."""
    check_output(out, overwrite)
    with console.Progress() as progress:
        task, model = _load(progress, model_file, data, seed, factory, allow_pickle)
        from torchshrink import stages

        progress.start(f"prune to {amount:.0%} and fine-tune")
        settings = _settings(epochs, lr, batch_size, seed)
        model, history = stages.prune(model, task, settings, amount, scope, gradual, progress)  # type: ignore[arg-type]
        content = _save(model, out, task, history.to_dict())
    _show(content, as_json)


def qat(
    model_file: options.ModelFile,
    out: Out,
    data: options.Data = "synthetic:cells",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 10,
    lr: options.Rate = 5e-4,
    batch_size: options.Batch = 16,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Train a model to be int8: its ranges are learned, its pruned zeros kept."""
    check_output(out, overwrite)
    with console.Progress() as progress:
        task, model = _load(progress, model_file, data, seed, factory, allow_pickle)
        from torchshrink import stages

        progress.start("quantization-aware training")
        graph, history = stages.qat(model, task, _settings(epochs, lr, batch_size, seed), progress)
        content = _save(graph, out, task, history.to_dict())
    _show(content, as_json)


def ptq(
    model_file: options.ModelFile,
    out: Out,
    data: options.Data = "synthetic:cells",
    samples: Annotated[int, typer.Option(min=1, help="Training inputs to calibrate on.")] = 64,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Make a model int8 without training: its ranges are calibrated."""
    check_output(out, overwrite)
    with console.Progress() as progress:
        task, model = _load(progress, model_file, data, seed, factory, allow_pickle)
        from torchshrink import stages

        progress.start("calibrate")
        content = _save(stages.ptq(model, task, samples), out, task, {})
    _show(content, as_json)


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse to replace a file that nobody said to replace."""
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another --out, or pass --overwrite")


def load_task(path: Path, data: str, seed: int, factory: str | None, allow_pickle: bool) -> tuple[Task, nn.Module]:
    """Return the data, normalised as the model was trained with, and the model."""
    from torchshrink import checkpoint, recipe
    from torchshrink.data import open_task
    from torchshrink.task import Normalization

    model = checkpoint.load(path, recipe.resolve(factory, "model") if factory else None, allow_pickle)
    description = checkpoint.describe(path) if path.suffix == ".safetensors" else {}
    stored = description.get("normalization")
    normalization = Normalization(tuple(stored["mean"]), tuple(stored["std"]), stored["raw"]) if stored else None
    return open_task(data, seed=seed, normalization=normalization), model


def _load(
    progress: console.Progress, path: Path, data: str, seed: int, factory: str | None, allow_pickle: bool
) -> tuple[Task, nn.Module]:
    """Return data and a model that is still float."""
    progress.start("load model and data")
    from torchshrink.quantize import is_quantized

    task, model = load_task(path, data, seed, factory, allow_pickle)
    if is_quantized(model):
        raise ModelError(f"{path} is quantized already: start from the float model that it was made from")
    return task, model


def _settings(epochs: int, lr: float, batch_size: int, seed: int) -> Any:
    from torchshrink.training import Settings

    return Settings(epochs, lr, batch_size, seed=seed)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected numbers such as 16,32,64,128", param_hint="--widths") from None


def _save(model: nn.Module, out: Path, task: Task, history: dict[str, Any]) -> dict[str, Any]:
    """Write the model and return what to tell about it."""
    from torchshrink import checkpoint
    from torchshrink.metrics import outputs, score, stack

    inputs, truths = stack(task.test)
    scores = score(outputs(model, inputs), truths, task.loss)
    checkpoint.save(model, out, {**task.metadata, "history": history})
    return {"path": str(out), "bytes": out.stat().st_size, **asdict(scores)}


def _show(content: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.show_json(content)
        return
    console.show(
        f"{content['path']}: {content['bytes'] / 1e6:.3f} MB, test loss {content['loss']:.4f}, "
        f"dice {content['dice']:.4f}, iou {content['iou']:.4f}"
    )

"""The command that looks into a model: inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from torchshrink.cli import console, file_inspection, options
from torchshrink.cli.convert import load_model
from torchshrink.cli.train import check_output, load_task
from torchshrink.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchshrink.sensitivity.layer_table import Inspection
    from torchshrink.task import Task

_PICTURES = (".png", ".svg", ".pdf")
_FILES = (".onnx", ".tflite")


def inspect(
    context: typer.Context,
    model_file: Annotated[
        Path,
        typer.Argument(help="A checkpoint: .safetensors (or .pt with --allow-pickle); or an .onnx or .tflite file."),
    ],
    data: Annotated[
        Optional[str],  # noqa: UP045  # typer evaluates it
        typer.Option(help="Measure how sensitive each layer is on the validation part of this data, as in train."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Validation samples to measure on, at most.")] = 64,
    budget: Annotated[
        float, typer.Option(min=0.0, help="Loss that the suggested sparsities may cost before fine-tuning.")
    ] = 0.01,
    out: Annotated[Optional[Path], typer.Option(help="A JSON file to write.")] = None,  # noqa: UP045
    plot: Annotated[Optional[Path], typer.Option(help="A picture to write: .png, .svg or .pdf.")] = None,  # noqa: UP045
    runs: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(min=1, help="Timed inferences of an .onnx or .tflite file; 30 unless given."),
    ] = None,
    shape: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Input shape such as 1,1,128,128, for checkpoints that do not know theirs and .onnx files that take "
            "any size."
        ),
    ] = None,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """List what a model is made of, or say where an .onnx or .tflite file is slow and why.

    A checkpoint: the parameters, MACs and zeros of its layers; with --data, which of them pruning and int8 hurt.

    A file: what computes in int8 and what in float, where the time goes, and what would make it faster.
    """
    if model_file.suffix in _FILES:
        file_inspection.inspect_file(context, model_file, runs, shape, out, overwrite, as_json)
        return
    if runs is not None:
        raise typer.BadParameter(
            f"{model_file} is a checkpoint: only .onnx and .tflite files are timed", param_hint="--runs"
        )
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise typer.BadParameter(f"{plot}: expected a name ending in {', '.join(_PICTURES)}", param_hint="--plot")
    for path in (out, plot):
        if path is not None:
            check_output(path, overwrite)
    with console.Progress() as progress:
        progress.start(f"inspect {model_file.name}")
        task: Task | None = None
        if data is None:
            model, example, _ = load_model(model_file, shape, factory, allow_pickle)
        else:
            task, model = load_task(model_file, data, seed, factory, allow_pickle)
            example = task.example_input
        found = _inspect(model_file, model, example, task, samples, budget, progress)
    from torchshrink.sensitivity import layer_table

    content = {"path": str(model_file), **layer_table.to_dict(found)}
    file_inspection.write_json(content, out)
    if plot is not None:
        layer_table.plot(found, plot)
    if as_json:
        console.show_json(content)
        return
    console.show_table(*layer_table.table(found))
    if found.suggestion is not None:
        console.show(layer_table.verdict(found))


def _inspect(
    path: Path,
    model: nn.Module,
    example: Tensor,
    task: Task | None,
    samples: int,
    budget: float,
    progress: console.Progress,
) -> Inspection:
    from torchshrink import sensitivity
    from torchshrink.bench import count_macs, count_parameters
    from torchshrink.quantize import is_quantized
    from torchshrink.sensitivity.layer_table import Inspection

    if is_quantized(model):
        raise ModelError(f"{path} is quantized already: inspect the float model that it was made from")
    layers = sensitivity.layers(model, example)
    parameters, macs = count_parameters(model)[0], count_macs(model, example)
    if task is None:
        return Inspection(layers, parameters, macs)
    costs = sensitivity.measure(model, task, samples=samples, progress=progress)
    return Inspection(
        layers, parameters, macs, costs, sensitivity.suggest(model, task, costs, budget, progress=progress)
    )

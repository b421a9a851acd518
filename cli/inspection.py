"""The command that looks into a model: inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchshrink.cli import console, options
from torchshrink.cli.inputs import check_output, load_model, load_task, parse_shape
from torchshrink.cli.shown import write_json
from torchshrink.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchshrink.converters.anatomy.inspect import Anatomy
    from torchshrink.converters.anatomy.operations import Detour, Operation
    from torchshrink.sensitivity.layer_table import Inspection
    from torchshrink.task import Task

_PICTURES = (".png", ".svg", ".pdf")
_FILES = (".onnx", ".tflite")
_FOR_CHECKPOINTS = ("data", "samples", "budget", "plot", "seed", "factory", "allow_pickle")
_MOST_DETOURS = 6
_MOST_STEPS = 8
_RUNS = 30


def inspect(
    context: typer.Context,
    model_file: Annotated[
        Path,
        typer.Argument(help="A checkpoint, as in prune; or an .onnx or .tflite file."),
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Measure how sensitive each layer is on the validation part of this data, as in train."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Validation samples to measure on, at most.")] = 64,
    budget: Annotated[
        float, typer.Option(min=0.0, help="Loss that the suggested sparsities may cost before fine-tuning.")
    ] = 0.01,
    out: Annotated[Path | None, typer.Option(help="A JSON file to write.")] = None,
    plot: Annotated[Path | None, typer.Option(help="A picture to write: .png, .svg or .pdf.")] = None,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Timed inferences of an .onnx or .tflite file; 30 unless given.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Input shape such as 1,1,128,128, for checkpoints that do not know theirs and .onnx files that take "
            "any size."
        ),
    ] = None,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """List what a model is made of, or say where an .onnx or .tflite file is slow and why.

    A checkpoint: the parameters, MACs and zeros of its layers; with --data, which of them pruning and int8 hurt.

    A file: what computes in int8 and what in float, where the time goes, and what would make it faster.
    """
    if model_file.suffix in _FILES:
        _inspect_file(context, model_file, runs, shape, out, overwrite, as_json)
        return
    if runs is not None:
        raise typer.BadParameter(
            f"{model_file} is a checkpoint: only .onnx and .tflite files are timed", param_hint="--runs"
        )
    if out is not None:
        check_output(out, overwrite, (".json",))
    if plot is not None:
        check_output(plot, overwrite, _PICTURES, "--plot")
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
    write_json(content, out)
    if plot is not None:
        layer_table.plot(found, plot)
    if as_json:
        console.show_json(content)
        return
    few = ("layer", "type", "parameters", "million MACs", "sparse", "int8", "suggested")
    console.show_table(*layer_table.table(found), None, few, wide)
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


def _inspect_file(
    context: typer.Context,
    path: Path,
    runs: int | None,
    shape: str | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Take a file apart and show it, the times and what would help."""
    _refuse_options(context, path)
    if out is not None:
        check_output(out, overwrite, (".json",))
    with console.Progress() as progress:
        progress.start(f"inspect {path.name}")
        from torchshrink.converters.anatomy.inspect import inspect, to_dict

        found = inspect(path, runs=runs or _RUNS, shape=parse_shape(shape) if shape else None)
    content = to_dict(found)
    write_json(content, out)
    if as_json:
        console.show_json(content)
    else:
        _show_anatomy(found)


def _refuse_options(context: typer.Context, path: Path) -> None:
    """Raise a usage error for options that were given and mean nothing for a file."""
    meaningless = [*_FOR_CHECKPOINTS, *(["shape"] if path.suffix == ".tflite" else [])]
    given = [
        option
        for parameter in context.command.params
        for option in parameter.opts
        if parameter.name in meaningless and _was_given(context, parameter.name)
    ]
    if given:
        raise typer.BadParameter(f"{path} is no checkpoint, so leave out {', '.join(given)}")


def _was_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _show_anatomy(found: Anatomy) -> None:
    from torchshrink.converters.anatomy.findings import share

    total = found.operations_ms
    console.show_table(*_operation_table(found), title=f"{found.path.name} in {found.runtime}")
    console.show(
        f"int8: {found.share_of_macs('int8'):.1%} of {found.macs / 1e6:,.4g} million MACs, "
        f"{found.share_of_time('int8'):.1%} of the time; float {found.share_of_time('float'):.1%}, conversions "
        f"{found.share_of_time('conversion'):.1%}"
    )
    detours = () if found.is_float else sorted(found.detours, key=lambda detour: -detour.ms)
    for detour in detours[:_MOST_DETOURS]:
        console.show(f"detour ({share(detour.ms, total)} of the time): {_route(detour)}")
    if len(detours) > _MOST_DETOURS:
        console.show(f"{len(detours) - _MOST_DETOURS} more detours: --json lists all of them")
    for line in (found.verdict, *found.findings):
        console.show(line)
    console.show(
        f"times: {found.method}; together {total:.3f} ms, {share(total, found.file_ms)} of the whole file's "
        f"{found.file_ms:.3f} ms; {found.runs} runs on {found.threads} thread{'s' * (found.threads > 1)}"
    )
    if found.unmeasured:
        kinds = ", ".join(sorted({operation.kind for operation in found.unmeasured}))
        console.show(f"not timed: {len(found.unmeasured)} operations that do not run alone ({kinds})")


def _route(detour: Detour) -> str:
    """Return the way through a detour, along the first tensor where there are several."""
    from torchshrink.converters.anatomy.findings import short

    steps = [*detour.sources[:1], *detour.entries[:1], *detour.operations, *detour.exits[:1], *detour.targets[:1]]
    names = [f"{step.kind} {short(step.name)}" for step in steps]
    if len(names) > _MOST_STEPS + 1:  # "1 more" would take the place of what it stands for
        half = _MOST_STEPS // 2
        names = [*names[:half], f"{len(names) - 2 * half} more", *names[-half:]]
    return " -> ".join(names)


def _operation_table(found: Anatomy) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return a line for each kind of operation and what it computes in, the most expensive first."""
    from torchshrink.converters.anatomy.findings import share, total_ms

    groups: dict[tuple[str, str], list[Operation]] = {}
    for operation in found.operations:
        groups.setdefault((operation.kind, operation.precision), []).append(operation)
    ordered = sorted(groups.items(), key=lambda item: -total_ms(item[1]))
    cells: list[tuple[str, ...]] = [
        (
            kind,
            precision,
            str(len(group)),
            _macs_share(group, found.macs),
            f"{total_ms(group):.3f}",
            share(total_ms(group), found.operations_ms),
        )
        for (kind, precision), group in ordered
    ]
    return ("operation", "computes in", "count", "MACs", "ms", "time"), cells


def _macs_share(group: list[Operation], total: int) -> str:
    macs = sum(operation.macs for operation in group)
    return f"{macs / total:.1%}" if macs else ""

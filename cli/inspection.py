"""The command that looks into a model: inspect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchshrink.cli import console, noise, options
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
_FOR_FILES = ("runs", "against", "overlay")
_FOR_FLOAT = ("data", "samples", "budget", "plot", "seed")
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
        int | None,
        typer.Option(
            min=1, max=options.MOST_RUNS, help="Timed inferences of an .onnx or .tflite file; 30 unless given."
        ),
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Input shape such as 1,1,128,128, for checkpoints that do not know theirs and .onnx files that take "
            "any size."
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="The int8 checkpoint that an .onnx or .tflite file was made from: what its modules lose."),
    ] = None,
    overlay: Annotated[
        Path | None,
        typer.Option(
            help="With --against, a .json file to write: what each operation loses, in dB, for Model Explorer to lay "
            "over the graph; one that ends in .alone.json is written beside it."
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

    An int8 checkpoint: what each module loses by int8, alone and with all before it, in dB.

    A file: what computes in int8 and what in float, where the time goes, and what would make it faster.
    """
    if model_file.suffix in _FILES:
        _inspect_file(context, model_file, runs, shape, out, against, overlay, overwrite, wide, as_json)
        return
    if given := options.given(context, _FOR_FILES):
        raise typer.BadParameter(
            f"{model_file} is a checkpoint: only .onnx and .tflite files are timed and compared with one",
            param_hint=given[0],
        )
    if out is not None:
        check_output(out, overwrite, (".json",))
    if plot is not None:
        check_output(plot, overwrite, _PICTURES, "--plot")
    if noise.is_int8(model_file):
        if given := options.given(context, _FOR_FLOAT):
            raise ModelError(
                f"{model_file} is quantized already: inspect the float model that it was made from, or leave out "
                f"{', '.join(given)}"
            )
        _inspect_int8(model_file, out, wide, as_json)
        return
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


def _inspect_int8(path: Path, out: Path | None, wide: bool, as_json: bool) -> None:
    """Show what each module of an int8 checkpoint loses."""
    rows = noise.to_rows(noise.load(path))
    content = {"path": str(path), "graph_noise": rows}
    write_json(content, out)
    if as_json:
        console.show_json(content)
    else:
        noise.show(rows, f"{path.name}: signal to noise of int8 against the float module", wide)


def _inspect_file(
    context: typer.Context,
    path: Path,
    runs: int | None,
    shape: str | None,
    out: Path | None,
    against: Path | None,
    overlay: Path | None,
    overwrite: bool,
    wide: bool,
    as_json: bool,
) -> None:
    """Take a file apart and show it, the times and what would help; and what its modules lose."""
    _refuse_options(context, path, against, overlay)
    beside = None if overlay is None else overlay.with_suffix(".alone.json")
    for option, target in (("--out", out), ("--overlay", overlay), ("--overlay", beside)):
        if target is not None:
            check_output(target, overwrite, (".json",), option, (path, against))
    with console.Progress() as progress:
        progress.start(f"inspect {path.name}")
        from torchshrink.converters.anatomy.inspect import inspect, to_dict

        lost = None if against is None else noise.of_file(path, against, overlay)
        found = inspect(path, runs=runs or _RUNS, shape=parse_shape(shape) if shape else None)
    content = to_dict(found) | ({} if lost is None else {"against": str(against), "graph_noise": lost.rows})
    write_json(content, out)
    if as_json:
        console.show_json(content)
        return
    _show_anatomy(found)
    if lost is not None:
        noise.show(lost.rows, f"signal to noise of int8, as {against} has it", wide, lost.operations)
    if overlay is not None:
        console.show(f"for Model Explorer: {overlay}, and of each module alone {beside}")


def _refuse_options(context: typer.Context, path: Path, against: Path | None, overlay: Path | None) -> None:
    """Raise a usage error for options that were given and mean nothing for a file."""
    given = options.given(context, [*_FOR_CHECKPOINTS, *(["shape"] if path.suffix == ".tflite" else [])])
    if given:
        raise typer.BadParameter(f"{path} is no checkpoint, so leave out {', '.join(given)}")
    if overlay is not None and against is None:
        raise typer.BadParameter(
            "say with --against which int8 checkpoint the file was made from", param_hint="--overlay"
        )


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

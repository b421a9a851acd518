"""What inspect shows of an ONNX or TFLite file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from torchshrink.cli import console
from torchshrink.cli.convert import parse_shape
from torchshrink.cli.train import check_output

if TYPE_CHECKING:
    from torchshrink.converters.anatomy.inspect import Anatomy
    from torchshrink.converters.anatomy.operations import Detour, Operation

_FOR_CHECKPOINTS = ("data", "samples", "budget", "plot", "seed", "factory", "allow_pickle")
_MOST_DETOURS = 6
_MOST_STEPS = 8
_RUNS = 30


def inspect_file(
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
        check_output(out, overwrite)
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


def write_json(content: dict[str, Any], out: Path | None) -> None:
    """Write ``content`` to a file, if one is wanted."""
    from torchshrink.files import atomic

    if out is not None:
        with atomic(out) as temporary:
            temporary.write_text(json.dumps(content, indent=1))

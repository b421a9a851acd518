"""The command that holds a file against what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from torchshrink.cli import console, options
from torchshrink.cli.inputs import load_task
from torchshrink.cli.shown import verify_folder
from torchshrink.errors import ParityError

_MOST_LAYERS = 5  # that are named


def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The ONNX or TFLite file, or a folder that bundle wrote.")],
    against: Annotated[Path | None, typer.Option(help="The checkpoint that it was made from.")] = None,
    ranges: Annotated[Path | None, typer.Option(help="The learned ranges that it was made from, JSON.")] = None,
    data: options.NamedData = None,
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "int8"], typer.Option(help="Which limits hold; auto: guessed.")
    ] = "auto",
    samples: Annotated[int, typer.Option(min=1, help="Test inputs to compare.")] = 32,
    on: Annotated[str, typer.Option(help="Processors: here, x86-avx2, x86-sse4, arm64, with commas.")] = "here",
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Run a file in its runtime, compare it with its PyTorch source, and print learned scales beside shipped ones.

    With --on, it also runs on emulated processors, on one test input each: a file can be right on one and wrong on
    another. Without --against, what it computes there is compared with what it computes here. With --ranges alone, or
    with FILE.ranges.json beside the file, the scales are compared and nothing is run, without torch. Of a folder that
    bundle wrote, the self-test runs in a clean process. With --debug, an operation that computes something else is
    written to a folder, as a model of its own with its inputs and what both sides make of them.
    """
    if file.is_dir():
        verify_folder(file, as_json)
        return
    others = _other_processors(on)
    beside = file.with_suffix(".ranges.json")
    if against is None and ranges is None and beside.is_file():
        ranges = beside
    if against is None and ranges is None and not others and file.suffix != ".onnx":
        raise typer.BadParameter("pass the checkpoint, or the learned --ranges, or both", param_hint="--against")
    elsewhere: dict[str, Any] = {}
    parity, rows = None, []
    with console.Progress() as progress:
        progress.start(f"verify {file.name}")
        if ranges is not None:
            from torchshrink.converters import ranges as range_store
            from torchshrink.converters.proof import range_check

            rows = range_check.compare(file, range_store.load(ranges))
        if against is not None:
            _check_runs(file)
            is_debug = bool(context.params.get("debug"))
            parity, paired, elsewhere = _compare(
                progress, file, against, data, precision, samples, seed, factory, allow_pickle, is_debug, others
            )
            rows = [*rows, *paired]
        elif others:
            elsewhere = _compare_with_here(file, others)
    saturating = _saturating(file)
    _show_verdict(file, parity, rows, elsewhere, saturating, as_json, wide)
    if parity is not None and not parity["passed"]:
        where = parity["first_divergence"] or "none"
        raise ParityError(f"{file} failed verification: {parity['reason']}; first diverging operation: {where}")
    for kind, found in elsewhere.items():
        if not found.passed:
            raise ParityError(f"{file} computes something else on {kind}: {found.reason}")
    if wrong := _said_of_wrong(rows):
        raise ParityError(f"{file}: {wrong}")


def _said_of_wrong(rows: list[Any]) -> str:
    if not rows:
        return ""
    from torchshrink.converters.proof.scales import said_of_wrong

    return said_of_wrong(rows)


def _check_runs(file: Path) -> None:
    """Refuse a file that its runtime dies of, which is opened here too to look inside."""
    from torchshrink.runtime import apart

    if file.suffix == ".tflite":
        from torchshrink.converters import runtimes, tflite_file

        tflite_file.read(file)  # whose words on a damaged file are better
        apart.call(runtimes.check_tflite, file)


def _compare(
    progress: console.Progress,
    file: Path,
    against: Path,
    data: str | None,
    precision: str,
    samples: int,
    seed: int,
    factory: str | None,
    allow_pickle: bool,
    is_debug: bool,
    others: Sequence[str],
) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
    """Return the parity of a file with its checkpoint, the scales of both side by side, and parity elsewhere."""
    import tempfile

    from torch.fx import GraphModule

    from torchshrink.converters import contents
    from torchshrink.converters.export.to_onnx import export
    from torchshrink.converters.proof import divergence, repro, scales
    from torchshrink.converters.proof import verify as checks
    from torchshrink.quantize import is_quantized, noise
    from torchshrink.quantize.noise import to_rows
    from torchshrink.task import batches

    done, total = iter(range(5 + len(others))), 5 + len(others)

    def begin(step: str) -> None:
        progress.update(next(done), total, step)

    begin(f"read {against.name}")
    task, model = load_task(against, data, seed, factory, allow_pickle, sized=True)
    is_int8 = is_quantized(model)
    if precision == "auto":
        stored = {str(array.dtype) for array in contents.read_weights(file)}
        precision = "int8" if is_int8 else "fp16" if "float16" in stored else "fp32"
    inputs, _ = next(batches(task.test, samples, samples))
    begin("compute in PyTorch and in the file's runtime")
    parity = checks.verify(file, model, inputs, precision, str(against))
    begin("measure the noise of quantization")
    made = noise(model) if isinstance(model, GraphModule) and is_int8 else []
    begin("export the graph again")
    graph = export(model, inputs)
    begin("compare the scales")
    rows = scales.compare(file, graph, inputs) if is_int8 else []
    found = None if parity.passed else divergence.first(file, graph, inputs, model)
    where = parity.operation if found is None else str(found)
    if found is not None and is_debug:
        folder = Path(tempfile.mkdtemp(prefix=f"{file.stem}-repro-"))
        if repro.write(found, graph, inputs, folder):
            where = f"{where}; it is cut out in {folder}"
    elsewhere = {}
    for kind in others:
        begin(f"compute on {kind}")
        elsewhere[kind] = checks.verify(file, model, inputs[:1], precision, str(against), kind)
    return asdict(parity) | {"first_divergence": where, "graph_noise": to_rows(made)}, rows, elsewhere


def _other_processors(on: str) -> list[str]:
    """Return the processors of --on that have to be emulated, all of which can be."""
    from torchshrink.runtime.processors import HERE, KINDS, launcher

    kinds = [kind.strip() for kind in on.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise typer.BadParameter(f"{kind!r} is not one of {', '.join(KINDS)}", param_hint="--on")
        launcher(kind)
    return [kind for kind in dict.fromkeys(kinds) if kind != HERE]


def _saturating(file: Path) -> list[Any]:
    """Return the layers of an int8 ONNX file that come out wrong on some processors."""
    if file.suffix != ".onnx":
        return []
    from torchshrink.converters.onnx_file import load
    from torchshrink.converters.proof.saturation import find_saturation

    return find_saturation(load(file))


def _compare_with_here(file: Path, others: Sequence[str]) -> dict[str, Any]:
    """Return the parity of a file on other processors with itself on this one, on one input of noise."""
    import torch

    from torchshrink.converters import contents
    from torchshrink.converters.proof import verify as checks

    noise = torch.randn(contents.input_shape(file), generator=torch.Generator().manual_seed(0))
    return checks.compare_processors(file, noise, others)


def _show_verdict(
    file: Path,
    parity: dict[str, Any] | None,
    rows: list[Any],
    elsewhere: dict[str, Any],
    saturating: list[Any],
    as_json: bool,
    wide: bool,
) -> None:
    equal, matched = sum(row.is_equal for row in rows), sum(row.trained is not None for row in rows)
    if as_json:
        listed = [asdict(row) | {"equal": row.is_equal} for row in rows]
        console.show_json(
            {
                "path": str(file),
                "parity": parity,
                "scales": listed,
                "matched_scales": matched,
                "equal_scales": equal,
                "processors": {kind: asdict(found) for kind, found in elsewhere.items()},
                "saturation": [asdict(layer) for layer in saturating],
            }
        )
        return
    if rows:
        cells = [(row.tensor, row.source or "?", *_numbers(row), "yes" if row.is_equal else "NO") for row in rows]
        few = ("tensor", "learned", "shipped", "equal")
        console.show_table(("tensor", "source", "learned", "shipped", "equal"), cells, None, few, wide)
        console.show(f"{matched} of {len(rows)} tensors matched, {equal} carry the learned scale and zero point")
    for kind, found in elsewhere.items():
        verdict = "verified" if found.passed else "FAILED"
        console.show(f"on {kind}: {verdict} against {found.reference}, largest difference {found.max_abs:.3g}")
    if file.suffix == ".onnx":
        console.show(_said_of_saturation(saturating))
    if parity is None:
        return
    within = f", {parity['lsb_match']:.2%} of outputs within 1 step" if parity["lsb_match"] is not None else ""
    verdict = "verified" if parity["passed"] else "FAILED"
    console.show(f"{file}: {verdict} against {parity['reference']}, largest difference {parity['max_abs']:.3g}{within}")
    if parity["noise_db"] is not None:
        own = "exact" if parity["file_noise_db"] is None else f"{parity['file_noise_db']:.1f} dB"
        console.show(
            f"signal to noise: the file against the graph {own}; the graph against itself with no activation rounded "
            f"{parity['noise_db']:.1f} dB"
        )
    if found := parity["graph_noise"]:
        from torchshrink.report.noise import said_of_graph, said_of_low

        console.show(said_of_graph(found))
        if low := said_of_low(found):
            console.errors.print(f"warning: {low}", style="yellow")


def _said_of_saturation(layers: list[Any]) -> str:
    if not layers:
        return "no layer can saturate on x86 without VNNI"
    named = ", ".join(f"{each.layer} ({each.channels} of {each.of} channels)" for each in layers[:_MOST_LAYERS])
    more = f" and {len(layers) - _MOST_LAYERS} more (--json lists all)" if len(layers) > _MOST_LAYERS else ""
    count = "1 layer can saturate, and comes" if len(layers) == 1 else f"{len(layers)} layers can saturate, and come"
    return (
        f"{count} out wrong, on x86 without VNNI: {named}{more}; quantize the model with torchshrink, or with 7-bit "
        "weights (reduce_range)"
    )


def _numbers(row: Any) -> tuple[str, str]:
    def text(range_: Any) -> str:
        if range_ is None:
            return "?"
        if len(range_.scale) == 1:
            return f"{range_.scale[0]:.9g}, {range_.zero_point[0]}"
        return f"{min(range_.scale):.6g}..{max(range_.scale):.6g} ({len(range_.scale)})"

    return text(row.trained), text(row.shipped)

"""The commands between formats: export, convert, verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from torchshrink.cli import console, options
from torchshrink.cli.train import check_output
from torchshrink.errors import ModelError, ParityError

if TYPE_CHECKING:
    from torch import Tensor, nn

Precision = Annotated[str, typer.Option(help="fp32, fp16 (weights) or int8 (of a quantized model).")]
Shape = Annotated[
    Optional[str],  # noqa: UP045  # typer evaluates it
    typer.Option(help="Input shape such as 1,1,128,128, for checkpoints that do not know theirs."),
]


def export(
    model_file: options.ModelFile,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    precision: Precision = "fp32",
    target: Annotated[str, typer.Option(help="int8: onnxruntime, or generic to keep the model's operations.")] = (
        "onnxruntime"
    ),
    batch: Annotated[str, typer.Option(help="Samples that the file takes at once: a number, or any.")] = "1",
    shape: Shape = None,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Export a PyTorch model to ONNX."""
    _check_choice(precision, ("fp32", "fp16", "int8"), "--precision")
    _check_choice(target, ("onnxruntime", "generic"), "--target")
    if batch != "any" and not (batch.isdecimal() and int(batch) > 0):
        raise typer.BadParameter(f"{batch!r}: expected a number such as 4, or any", param_hint="--batch")
    count = None if batch == "any" else int(batch)
    check_output(out, overwrite)
    with console.Progress() as progress:
        progress.start(f"export {model_file.name}")
        model, example, metadata = load_model(model_file, shape, factory, allow_pickle)
        from torchshrink.converters import to_onnx

        to_onnx(model, example, out, precision, target, metadata, count)  # type: ignore[arg-type]
    _show_file(out, as_json)


def convert(
    source: Annotated[Path, typer.Argument(help="An ONNX file, of this or another tool, or a checkpoint.")],
    out: Annotated[Optional[Path], typer.Option(help="The file to write; the source's name by default.")] = None,  # noqa: UP045
    precision: Annotated[
        str, typer.Option(help="fp32, fp16 (weights) or int8; auto is int8 for what is quantized, fp32 otherwise.")
    ] = "auto",
    to: Annotated[str, typer.Option("--to", help="tflite, the only format so far.")] = "tflite",
    target: Annotated[
        str, typer.Option(help="litert; integer-only: refuse a file with any float in it; edgetpu: its operators only.")
    ] = "litert",
    ends: Annotated[str, typer.Option("--io", help="What an int8 file takes and gives: int8 codes or float.")] = "int8",
    is_sparse: Annotated[bool, typer.Option("--sparse", help="Leave pruned zeros out of the file.")] = False,
    ranges: Annotated[Optional[Path], typer.Option(help="Learned ranges of a float ONNX file, JSON.")] = None,  # noqa: UP045
    shape: Shape = None,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Convert an ONNX file or a checkpoint to TFLite; learned scales arrive exactly, and are listed beside the file."""
    _check_choice(precision, ("auto", "fp32", "fp16", "int8"), "--precision")
    _check_choice(to, ("tflite",), "--to")
    _check_choice(target, ("litert", "integer-only", "edgetpu"), "--target")
    _check_choice(ends, ("int8", "float"), "--io")
    if ends == "float" and target != "litert":
        raise typer.BadParameter(f"float: {target} has no floats", param_hint="--io")
    out = out or source.with_suffix(".tflite")
    check_output(out, overwrite)
    import tempfile

    with console.Progress() as progress, tempfile.TemporaryDirectory() as folder:
        progress.start(f"convert {source.name}")
        from torchshrink.converters import qdq, to_onnx, to_tflite
        from torchshrink.converters.onnx_file import load

        metadata: dict[str, Any] | None = None
        origin = "imported"
        if source.suffix == ".onnx":
            is_int8 = ranges is not None or qdq.is_quantized(load(source))
        else:
            from torchshrink import checkpoint, quantize

            is_trained = source.suffix == ".safetensors" and checkpoint.describe(source).get("history")
            origin = "trained" if is_trained else "calibrated"
            model, example, metadata = load_model(source, shape, factory, allow_pickle)
            is_int8 = quantize.is_quantized(model)
        if precision == "auto":
            precision = "int8" if is_int8 else "fp32"
        has_ranges = precision == "int8" and ranges is None
        if has_ranges:
            check_output(out.with_suffix(".ranges.json"), overwrite)
        if source.suffix != ".onnx":
            kind = "int8" if precision == "int8" else "fp32"
            source = to_onnx(model, example, Path(folder, f"{source.stem}.onnx"), kind, "generic", metadata)  # type: ignore[arg-type]
        to_tflite(source, out, precision, ranges, is_sparse, metadata, target, ends)  # type: ignore[arg-type]
        if has_ranges:
            _save_ranges(source, out.with_suffix(".ranges.json"), origin)
    _show_file(out, as_json)


def verify(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The ONNX or TFLite file.")],
    against: Annotated[Optional[Path], typer.Option(help="The checkpoint that it was made from.")] = None,  # noqa: UP045
    ranges: Annotated[Optional[Path], typer.Option(help="The learned ranges that it was made from, JSON.")] = None,  # noqa: UP045
    data: options.Data = "synthetic:cells",
    precision: Annotated[str, typer.Option(help="Which limits hold: fp32, fp16 or int8; guessed by default.")] = "auto",
    samples: Annotated[int, typer.Option(min=1, help="Test inputs to compare.")] = 32,
    seed: options.Seed = 0,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    as_json: options.Json = False,
) -> None:
    """Run a file in its runtime, compare it with its PyTorch source, and print learned scales beside shipped ones.

    With --ranges alone, the scales are compared and nothing is run. With --debug, an operation that computes something
    else is written to a folder, as a model of its own with its inputs and what both sides make of them.
    """
    _check_choice(precision, ("auto", "fp32", "fp16", "int8"), "--precision")
    if against is None and ranges is None:
        raise typer.BadParameter("pass the checkpoint, or the learned --ranges, or both", param_hint="--against")
    parity, rows = None, []
    with console.Progress() as progress:
        progress.start(f"verify {file.name}")
        if ranges is not None:
            from torchshrink.converters import ranges as range_store
            from torchshrink.converters.proof import range_check

            rows = range_check.compare(file, range_store.load(ranges))
        if against is not None:
            is_debug = bool(context.params.get("debug"))
            parity, paired = _compare(file, against, data, precision, samples, seed, factory, allow_pickle, is_debug)
            rows = [*rows, *paired]
    _show_verdict(file, parity, rows, as_json)
    if parity is not None and not parity["passed"]:
        where = parity["first_divergence"] or "none"
        raise ParityError(f"{file} failed verification: {parity['reason']}; first diverging operation: {where}")
    wrong = [row.tensor for row in rows if not row.is_equal]
    if wrong:
        raise ParityError(
            f"{file}: {len(wrong)} of {len(rows)} tensors do not carry the learned scale, first {wrong[0]}"
        )


def _save_ranges(source: Path, path: Path, origin: Any) -> None:
    """Write the learned ranges of a QDQ file, from which its TFLite file was made, beside that."""
    from torchshrink.converters import foreign, qdq
    from torchshrink.converters import ranges as range_store
    from torchshrink.converters.onnx_file import load

    _, found = qdq.split(foreign.normalise(load(source), source.name))
    range_store.save(range_store.learned(found, origin), path)


def _compare(
    file: Path,
    against: Path,
    data: str,
    precision: str,
    samples: int,
    seed: int,
    factory: str | None,
    allow_pickle: bool,
    is_debug: bool,
) -> tuple[dict[str, Any], list[Any]]:
    """Return the parity of a file with its checkpoint, and the scales of both side by side."""
    import tempfile

    from torchshrink.cli.train import load_task
    from torchshrink.converters import contents
    from torchshrink.converters.export.to_onnx import export
    from torchshrink.converters.proof import divergence, repro, scales
    from torchshrink.converters.proof import verify as checks
    from torchshrink.metrics import stack
    from torchshrink.quantize import is_quantized

    task, model = load_task(against, data, seed, factory, allow_pickle)
    is_int8 = is_quantized(model)
    if precision == "auto":
        stored = {str(array.dtype) for array in contents.read_weights(file)}
        precision = "int8" if is_int8 else "fp16" if "float16" in stored else "fp32"
    inputs = stack(task.test)[0][:samples]
    parity = checks.verify(file, model, inputs, precision, str(against))
    graph = export(model, inputs)
    rows = scales.compare(file, graph, inputs) if is_int8 else []
    found = None if parity.passed else divergence.first(file, graph, inputs, model)
    where = parity.operation if found is None else str(found)
    if found is not None and is_debug:
        folder = Path(tempfile.mkdtemp(prefix=f"{file.stem}-repro-"))
        if repro.write(found, graph, inputs, folder):
            where = f"{where}; it is cut out in {folder}"
    return asdict(parity) | {"first_divergence": where}, rows


def load_model(
    path: Path, shape: str | None, factory: str | None, allow_pickle: bool
) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Return a checkpoint's model, an example input and the metadata that travels with it."""
    import torch

    from torchshrink import checkpoint
    from torchshrink.pipeline.assemble import resolve

    model = checkpoint.load(path, resolve(factory, "model") if factory else None, allow_pickle)
    description = checkpoint.describe(path) if path.suffix == ".safetensors" else {}
    sizes = parse_shape(shape) if shape else description.get("input_shape")
    if sizes is None:
        raise ModelError(f"{path} does not say what shape its input has: pass --shape, such as --shape 1,1,128,128")
    kept = ("normalization", "class_names", "input_shape")
    return model, torch.zeros(sizes), {key: description[key] for key in kept if key in description}


def parse_shape(shape: str) -> list[int]:
    """Return the sizes that --shape names."""
    parts = shape.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{shape!r}: expected sizes such as 1,1,128,128", param_hint="--shape")
    return [int(part) for part in parts]


def _show_file(path: Path, as_json: bool) -> None:
    if as_json:
        console.show_json({"path": str(path), "bytes": path.stat().st_size})
    else:
        console.show(f"{path}: {path.stat().st_size / 1e6:.3f} MB")


def _show_verdict(file: Path, parity: dict[str, Any] | None, rows: list[Any], as_json: bool) -> None:
    equal, matched = sum(row.is_equal for row in rows), sum(row.trained is not None for row in rows)
    if as_json:
        listed = [asdict(row) | {"equal": row.is_equal} for row in rows]
        console.show_json(
            {"path": str(file), "parity": parity, "scales": listed, "matched_scales": matched, "equal_scales": equal}
        )
        return
    if rows:
        cells = [(row.tensor, row.source or "?", *_numbers(row), "yes" if row.is_equal else "NO") for row in rows]
        console.show_table(("tensor", "source", "learned", "shipped", "equal"), cells)
        console.show(f"{matched} of {len(rows)} tensors matched, {equal} carry the learned scale and zero point")
    if parity is None:
        return
    within = f", {parity['lsb_match']:.2%} of outputs within 1 step" if parity["lsb_match"] is not None else ""
    verdict = "verified" if parity["passed"] else "FAILED"
    console.show(f"{file}: {verdict} against {parity['reference']}, largest difference {parity['max_abs']:.3g}{within}")
    if parity["noise_db"] is not None:
        added = "nothing" if parity["file_noise_db"] is None else f"{parity['file_noise_db']:.1f} dB"
        console.show(f"signal to noise: {parity['noise_db']:.1f} dB by rounding in the graph; the file adds {added}")


def _numbers(row: Any) -> tuple[str, str]:
    def text(range_: Any) -> str:
        if range_ is None:
            return "?"
        if len(range_.scale) == 1:
            return f"{range_.scale[0]:.9g}, {range_.zero_point[0]}"
        return f"{min(range_.scale):.6g}..{max(range_.scale):.6g} ({len(range_.scale)})"

    return text(row.trained), text(row.shipped)


def _check_choice(value: str, allowed: tuple[str, ...], option: str) -> None:
    if value not in allowed:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}", param_hint=option)

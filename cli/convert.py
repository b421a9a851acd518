"""The commands between formats: export and convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from torchshrink.cli import calibrated, console, options
from torchshrink.cli.inputs import check_output, load_model
from torchshrink.cli.shown import examine_micro, show_file, sidecar_of, write_sidecar
from torchshrink.errors import ModelError

Shape = Annotated[
    str | None, typer.Option(help="Input shape such as 1,1,128,128, for checkpoints that do not know theirs.")
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="<str>",
        help="Input shape such as 1,1,128,128, for checkpoints that do not know theirs, and with --data for free sizes "
        "of an ONNX file; again for another input, as name:1,128.",
    ),
]
_CALIBRATED, _DEVICE = "A float ONNX file, calibrated", "What runs the file"


def export(
    model_file: options.ModelFile,
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
    precision: Annotated[
        Literal["fp32", "fp16", "int8"], typer.Option(help="fp16: of the weights; int8: of a quantized model.")
    ] = "fp32",
    target: Annotated[
        Literal["onnxruntime", "generic"], typer.Option(help="int8: generic keeps the model's operations.")
    ] = "onnxruntime",
    batch: Annotated[str, typer.Option(help="Samples that the file takes at once: a number, or any.")] = "1",
    shape: Shape = None,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Export a PyTorch model to ONNX."""
    if batch != "any" and not (batch.isdecimal() and len(batch) < 10 and int(batch) > 0):
        raise typer.BadParameter(f"{batch[:20]!r}: expected a number such as 4, or any", param_hint="--batch")
    count = None if batch == "any" else int(batch)
    check_output(out, overwrite, (".onnx",))
    check_output(sidecar_of(out), overwrite, (".json",))
    with console.Progress() as progress:
        progress.start(f"export {model_file.name}")
        model, example, metadata = load_model(model_file, shape, factory, allow_pickle)
        from torchshrink.converters import to_onnx

        to_onnx(model, example, out, precision, target, metadata, count)
        write_sidecar(out, precision, metadata)
    show_file(out, as_json, precision == "int8")


def convert(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="An ONNX file, of this or another tool, or a checkpoint.")],
    data: Annotated[
        str | None,
        typer.Option(
            help="Inputs that a float ONNX file is calibrated on: a folder of .npy, .npz or pictures.",
            rich_help_panel=_CALIBRATED,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; the source's name by default.")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "fp16", "int8"],
        typer.Option(help="fp16: of the weights; auto: int8 for what is quantized, fp32 otherwise."),
    ] = "auto",
    to: Annotated[
        Literal["tflite", "onnx"] | None,
        typer.Option(help="As the file's name ends, or tflite; onnx: int8 of a float ONNX file with --data."),
    ] = None,
    target: Annotated[
        Literal["litert", "integer-only", "edgetpu", "micro"],
        typer.Option(
            help="integer-only: refuse a file with any float in it; edgetpu: its operators only; micro: integer-only, "
            "run in TensorFlow Lite Micro too, the memory that it needs beside it.",
            rich_help_panel=_DEVICE,
        ),
    ] = "litert",
    io: Annotated[
        Literal["int8", "float"],
        typer.Option(help="What an int8 file takes and gives: codes or float.", rich_help_panel=_DEVICE),
    ] = "int8",
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Leave pruned zeros out of the file.", rich_help_panel=_DEVICE)
    ] = False,
    ranges: Annotated[Path | None, typer.Option(help="Learned ranges of a float ONNX file, JSON.")] = None,
    effort: options.Effort = "bias",
    budget_db: options.Budget = 30.0,
    keep_float: Annotated[
        str | None,
        typer.Option(
            help="With --data: nodes that stay float, by name, separated by commas.", rich_help_panel=_CALIBRATED
        ),
    ] = None,
    mean: Annotated[
        str, typer.Option(help="With --data of pictures: of the channels, in [0, 1].", rich_help_panel=_CALIBRATED)
    ] = "0",
    std: Annotated[str, typer.Option(help="The same: their standard deviation.", rich_help_panel=_CALIBRATED)] = "1",
    shape: Shapes = None,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Convert an ONNX file or a checkpoint to TFLite; learned scales arrive exactly, and are listed beside the file.

    A float ONNX file of any exporter becomes int8, TFLite or ONNX, with --data to calibrate it on.
    """
    if target == "micro":
        from torchshrink.converters import micro

        micro.check_installed()
        if to == "onnx" or (to is None and out is not None and out.suffix.lower() == ".onnx"):
            raise typer.BadParameter("micro: microcontrollers take TFLite files", param_hint="--target")
    if data is not None:
        to = to or ("onnx" if out is not None and out.suffix.lower() == ".onnx" else "tflite")
        given = calibrated.Settings(effort, budget_db, keep_float, mean, std, shape or [], target, io, sparse)
        calibrated.convert(source, data, out, to, precision, ranges, given, overwrite, as_json)
        return
    if needless := options.given(context, ("effort", "budget_db", "keep_float", "mean", "std")):
        raise typer.BadParameter(f"{' and '.join(needless)}: for --data only", param_hint="--data")
    if to == "onnx":
        raise typer.BadParameter(
            "needs a float ONNX file and --data; export writes that of a checkpoint", param_hint="--to"
        )
    if io == "float" and target != "litert":
        raise typer.BadParameter(f"float: {target} has no floats", param_hint="--io")
    if len(shape or ()) > 1:
        raise typer.BadParameter("a checkpoint takes one", param_hint="--shape")
    out = out or source.with_suffix(".tflite")
    check_output(out, overwrite, (".tflite",), sources=(source, ranges))
    check_output(sidecar_of(out), overwrite, (".json",))
    if target == "micro":
        check_output(micro.sidecar(out), overwrite, (".json",))
    if ranges is not None and not ranges.is_file():
        raise ModelError(f"no such file of ranges: {ranges}")
    if ranges is not None and source.suffix != ".onnx":
        raise typer.BadParameter(f"{source} has its own: --ranges are for a float ONNX file", param_hint="--ranges")
    import tempfile

    with console.Progress() as progress, tempfile.TemporaryDirectory() as folder:
        progress.start(f"convert {source.name}")
        from torchshrink.converters import foreign, qdq, to_onnx, to_tflite
        from torchshrink.converters.onnx_file import blamed, load
        from torchshrink.runtime import apart

        metadata: dict[str, Any] | None = None
        origin = "imported"
        if source.suffix == ".onnx":
            apart.call(foreign.check, source)
            is_int8 = ranges is not None or qdq.is_quantized(load(source))
        else:
            from torchshrink import checkpoint, quantize

            is_trained = source.suffix == ".safetensors" and checkpoint.describe(source).get("history")
            origin = "trained" if is_trained else "calibrated"
            model, example, metadata = load_model(source, shape[0] if shape else None, factory, allow_pickle)
            is_int8 = quantize.is_quantized(model)
            if precision != "auto" and is_int8 != (precision == "int8"):
                found = "is quantized" if is_int8 else "holds floats: torchshrink qat or ptq quantizes them"
                raise ModelError(f"precision {precision}: {source} {found}")
        if precision == "auto":
            precision = "int8" if is_int8 else "fp32"
        has_ranges = precision == "int8" and ranges is None
        if has_ranges:
            check_output(out.with_suffix(".ranges.json"), overwrite, (".json",))
        if source.suffix != ".onnx":
            kind: Literal["int8", "fp32"] = "int8" if precision == "int8" else "fp32"
            source = to_onnx(model, example, Path(folder, f"{source.stem}.onnx"), kind, "generic", metadata)
        with blamed(source):
            to_tflite(
                source, out, precision, ranges, sparse, metadata, "integer-only" if target == "micro" else target, io
            )
        write_sidecar(out, precision, metadata or {})
        if has_ranges:
            _save_ranges(source, out.with_suffix(".ranges.json"), origin)
        known = (sidecar_of(out), out.with_suffix(".ranges.json"))
        arena = examine_micro(out, known) if target == "micro" else None
    show_file(out, as_json, precision == "int8", arena)


def _save_ranges(source: Path, path: Path, origin: Any) -> None:
    """Write the learned ranges of a QDQ file, from which its TFLite file was made, beside that."""
    from torchshrink.converters import foreign, qdq
    from torchshrink.converters import ranges as range_store
    from torchshrink.converters.onnx_file import load

    _, found = qdq.split(foreign.normalise(load(source), source.name))
    range_store.save(range_store.learned(found, origin), path)

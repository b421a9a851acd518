"""What ``convert --data`` does: a float ONNX file becomes int8, and is verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from torchshrink.cli import console
from torchshrink.cli.inputs import check_output, parse_shapes
from torchshrink.cli.shown import examine_micro, show_micro, show_speed, speed_of
from torchshrink.errors import ModelError, ParityError

if TYPE_CHECKING:
    from torch import Tensor

    from torchshrink.converters.proof.verify import Parity
    from torchshrink.converters.rebuild.int8 import Calibrated
    from torchshrink.converters.rebuild.samples import Entry
    from torchshrink.converters.targets import Target

_VERIFIED = 16  # samples


@dataclass(frozen=True)
class Settings:
    """The options of ``convert`` that are for the calibration or the file, as they were given."""

    effort: Literal["none", "ranges", "equalization", "bias", "rounding", "float"]
    budget_db: float
    keep_float: str | None
    mean: str
    std: str
    shapes: Sequence[str]
    target: Literal["litert", "integer-only", "edgetpu", "micro"]
    io: Literal["int8", "float"]
    sparse: bool


def convert(
    source: Path,
    data: str,
    out: Path | None,
    to: Literal["tflite", "onnx"],
    precision: str,
    ranges: Path | None,
    settings: Settings,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Quantize ``source`` with inputs of ``data``, write it, and hold the file against the quantized graph."""
    if source.suffix.lower() != ".onnx" or precision not in ("auto", "int8") or ranges is not None:
        raise typer.BadParameter(
            "calibrates a float ONNX file to int8: leave it out for checkpoints (torchshrink ptq takes data), with "
            "--ranges and for other precisions", param_hint="--data",
        )  # fmt: skip
    out = out or source.with_name(f"{source.stem}-int8.{to}")
    check_output(out, overwrite, (f".{to}",), sources=(source,))
    if settings.target == "micro":
        check_output(out.with_suffix(".micro.json"), overwrite, (".json",))
    with console.Progress() as progress:
        progress.start(f"read {source.name}")
        from torchshrink.converters.onnx_file import load
        from torchshrink.converters.rebuild.int8 import calibrate
        from torchshrink.converters.rebuild.samples import entries

        known = entries(load(source), source.name, parse_shapes(settings.shapes))
        samples, metadata = _samples(data, known, settings)
        kept = [name.strip() for name in (settings.keep_float or "").split(",") if name.strip()]
        found = calibrate(
            source, samples, settings.effort, budget_db=settings.budget_db, keep_float=kept, progress=progress
        )
        progress.start(f"write {out.name}")
        parity = _write(found, samples, out, settings, metadata)
        arena = examine_micro(out) if settings.target == "micro" else None
    _show(out, parity, arena, as_json)


def _samples(data: str, known: Sequence[Entry], settings: Settings) -> tuple[list[tuple[Tensor, ...]], dict[str, Any]]:
    """Return inputs of a folder or file, or the training inputs of another kind of data; and what a file says of it."""
    from torchshrink.converters.rebuild import samples

    if Path(data).exists() or ":" not in data:
        mean, std = _numbers(settings.mean, "--mean"), _numbers(settings.std, "--std")
        found = samples.read(Path(data), known, mean, std)
        return found, samples.described(Path(data), known[0], mean, std) if len(known) == 1 else {}
    from torchshrink.data import open_task

    task = open_task(data)
    count = min(samples.MOST, len(task.train))
    found = [(task.train[index][0][None],) for index in range(count)]
    shapes = [entry.shape for entry in known]
    if [tuple(value.shape[1:]) for value in found[0]] != shapes:
        raise ModelError(
            f"{data} has inputs of {list(found[0][0].shape[1:])}, the model takes {shapes}: choose other data"
        )
    return found, task.metadata


def _write(
    found: Calibrated,
    samples: Sequence[tuple[Tensor, ...]],
    out: Path,
    settings: Settings,
    metadata: dict[str, Any],
) -> Parity:
    """Write the file and return its parity with the quantized graph; a wrong one is taken away again."""
    import tempfile

    import torch

    from torchshrink.converters import to_tflite
    from torchshrink.converters.proof import verify

    if out.suffix.lower() == ".onnx":
        found.write(out, for_onnxruntime=True, metadata=metadata or None)
    else:
        with tempfile.TemporaryDirectory() as folder:
            plain = found.write(Path(folder, f"{out.stem}.onnx"), for_onnxruntime=False)
            form: Target = "integer-only" if settings.target == "micro" else settings.target
            to_tflite(plain, out, "int8", None, settings.sparse, metadata or None, form, settings.io)
    inputs = tuple(torch.cat(parts) for parts in zip(*samples[:_VERIFIED], strict=True))
    parity = verify.verify(out, found.graph, inputs, "int8", "the quantized graph")
    if not parity.passed:
        out.unlink()
        raise ParityError(f"{out} does not compute what its quantized graph does, and was deleted: {parity.reason}")
    return parity


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected numbers such as 0.485,0.456,0.406", param_hint=option) from None


def _show(out: Path, parity: Parity, arena: dict[str, Any] | None, as_json: bool) -> None:
    speed = speed_of(out)
    content: dict[str, Any] = {"path": str(out), "bytes": out.stat().st_size, "parity": asdict(parity), "speed": speed}
    if as_json:
        console.show_json(content | ({"micro": arena} if arena else {}))
        return
    console.show(
        f"{out}: {content['bytes'] / 1e6:.3f} MB, verified against {parity.reference}, "
        f"largest difference {parity.max_abs:.3g}"
    )
    show_micro(arena)
    show_speed(speed)

"""The command that makes a folder for production of a file: bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from torchshrink.cli import console, options
from torchshrink.cli.shown import proof_line


def bundle(
    file: Annotated[Path, typer.Argument(help="An ONNX or TFLite file that torchshrink made.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    runtime: Annotated[
        Literal["tflite-c", "litert", "onnxruntime"] | None,
        typer.Option(help="What runs the file there; by default what needs the least memory: tflite-c or onnxruntime."),
    ] = None,
    server: Annotated[bool, typer.Option("--server", help="Add a small HTTP server and its load test.")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Write a folder that production takes: runner, proof, image, model card, snippets; no torch, no torchshrink."""
    with console.Progress() as progress:
        progress.start(f"bundle {file.name}")
        from torchshrink.bundle.write import bundle as write

        made = write(file, out, runtime=runtime, server=server, overwrite=overwrite)
    if as_json:
        content = {"path": str(out), "runtime": made.runtime, "bytes": made.bytes, "self_test": made.proof}
        console.show_json(content | {"image": made.image._asdict()})
        return
    console.show(f"{out}: {made.bytes / 1e6:.2f} MB, runs with {made.runtime}, {proof_line(made.proof)}")
    console.show(f"image: {made.image}")

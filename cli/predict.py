"""The command that uses a shipped file: predict."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from torchshrink.cli import console, options

if TYPE_CHECKING:
    from torchshrink.predict.run import Prediction


def predict(
    file: Annotated[Path, typer.Argument(help="An ONNX or TFLite file that torchshrink made.")],
    data: Annotated[
        Path, typer.Option(help="An image, a WAV, an .npz with x or an .npy [N, C, *size], or a folder of such files.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks, which keep the names of their sources, or a table.")],
    tile: Annotated[
        int | None,
        typer.Option(min=1, help="Side of a tile, for files that take any size; otherwise it is the file's own."),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(min=0, help="What neighbouring tiles share at least; a quarter of the tile unless given."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write probabilities/NAME.npy too, float32.")
    ] = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Run a shipped file over images or signals and write masks, tile by tile in little memory, or a table."""
    with console.Progress() as progress:
        from torchshrink.predict.run import predict

        found = predict(
            file,
            data,
            out,
            tile=tile,
            overlap=overlap,
            threads=threads,
            probabilities=probabilities,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        content = asdict(found) | {
            "outputs": {str(source): [str(path) for path in paths] for source, paths in found.outputs.items()},
            "table": str(found.table) if found.table else None,
            "probabilities": {str(source): str(path) for source, path in found.probabilities.items()},
        }
        console.show_json({"files": len(found.outputs), "out": str(out), **content})
    else:
        _show(found, out)


def _show(found: Prediction, out: Path) -> None:
    count = len(found.outputs)
    size = "x".join(map(str, found.tile))
    told = f"{found.runtime}, peak RAM {found.peak_rss_mb:.0f} MB"
    if found.table:
        console.show(f"{found.table}: {found.tiles} inputs of {count} file{'s' * (count != 1)}, {told}")
        return
    shared = "x".join(map(str, found.overlap))
    console.show(
        f"{out}: masks of {count} file{'s' * (count != 1)} in {found.seconds:.1f} s, {found.tiles} tiles of {size} "
        f"that share {shared}, {told}"
    )

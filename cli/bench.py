"""The commands that measure: bench, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from torchshrink.cli import console, options

from torchshrink.errors import DataError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def bench(
    files: Annotated[list[Path], typer.Argument(help="ONNX, TFLite or checkpoint files.")],
    data: Annotated[
        Optional[str],  # noqa: UP045  # typer evaluates it
        typer.Option(help="Take the input from this data's test part instead of random numbers."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every runtime.")] = 1,
    runs: Annotated[int, typer.Option(min=5, help="Timed inferences per file.")] = 50,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Measure files in fresh processes: bytes, latency, peak RAM."""
    for file in files:
        if not file.is_file():
            raise ModelError(f"no such file: {file}")
    with console.Progress() as progress:
        progress.start("measure")
        from torchshrink import bench as measuring

        inputs = _inputs(files, data, seed)
        found = measuring.measure_all(files, inputs, threads=threads, runs=runs, on_progress=progress.update)
    if as_json:
        rows = [{"path": str(file), "bytes": file.stat().st_size, **asdict(value)} for file, value in found.items()]
        console.show_json({"rows": rows})
        return
    first = found[files[0]].latency.median
    headings = ("file", "MB", "median ms", "p90 ms", f"vs {files[0].name}", "peak RAM MB", "runtime MB", "model MB")
    cells = [
        (
            str(file),
            f"{file.stat().st_size / 1e6:.3f}",
            f"{value.latency.median:.2f}",
            f"{value.latency.p90:.2f}",
            f"{first / value.latency.median:.2f}x",
            f"{value.peak_rss_mb:.0f}",
            f"{value.runtime_rss_mb:.0f}",
            f"{value.model_rss_mb:.0f}",
        )
        for file, value in found.items()
    ]
    console.show_table(headings, cells)


def compare(
    model_file: options.ModelFile,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("sizes"),
    shape: Annotated[Optional[str], typer.Option(help="Input shape such as 1,1,128,128.")] = None,  # noqa: UP045
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
) -> None:
    """Write a model in every framework's format and compare what each takes on disk."""
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise DataError(f"{out} is not empty: choose another --out, or pass --overwrite")
    with console.Progress() as progress:
        progress.start("write every format")
        from torchshrink.cli.convert import load_model
        from torchshrink.converters import comparison

        model, example, _ = load_model(model_file, shape, factory, allow_pickle)
        rows = comparison.sizes(model, example, out)
    if as_json:
        console.show_json({"rows": [asdict(row) | {"path": str(row.path)} for row in rows]})
        return
    largest = max(row.bytes for row in rows)
    cells = [
        (
            row.path.name,
            row.framework,
            row.precision,
            f"{row.bytes / 1e6:.3f}",
            f"{largest / row.bytes:.2f}x",
            f"{row.gzip_bytes / 1e6:.3f}",
            "" if row.entropy_bytes is None else f"{row.entropy_bytes / 1e6:.3f}",
        )
        for row in rows
    ]
    console.show_table(("file", "framework", "precision", "MB", "smaller", "gzip MB", "entropy bound MB"), cells)


def _inputs(files: list[Path], data: str | None, seed: int) -> NDArray[np.float32]:
    import numpy as np

    if data is not None:
        from torchshrink.data import open_task

        found: NDArray[np.float32] = open_task(data, seed=seed).example_input.numpy()
        return found
    from torchshrink.converters.shapes import input_shape

    shapes = {tuple(input_shape(file)) for file in files}
    if len(shapes) > 1:
        raise DataError(f"these files take inputs of different shapes, {sorted(shapes)}: measure them apart")
    return np.random.default_rng(seed).standard_normal(shapes.pop()).astype(np.float32)

"""The commands that measure: bench, compare."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from torchshrink.cli import console, options
from torchshrink.cli.inputs import check_output, load_model
from torchshrink.errors import DataError, ModelError, OutputError
from torchshrink.files import real

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_OPERATIONS = 12
_CAUSE_BEGINS = ": "


def bench(
    files: Annotated[list[Path], typer.Argument(help="ONNX, TFLite or checkpoint files (.pt2 with --allow-pickle).")],
    data: Annotated[
        str | None, typer.Option(help="Take the input from this data's test part instead of random numbers.")
    ] = None,
    threads: Annotated[str, typer.Option(help="Threads of every runtime, such as 1,2: a table for each.")] = "1",
    runs: Annotated[int, typer.Option(min=5, max=options.MOST_RUNS, help="Timed inferences per file.")] = 50,
    sizes: Annotated[
        str | None, typer.Option(help="Measure memory at these sides of the input too, such as 128,256,512.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option(help="What the ratios compare with; the first file unless given.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Write everything to this JSON file.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this file that --save wrote; exit code 4 when a file got slower.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Show which operations the time goes to.")] = False,
    seed: options.Seed = 0,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Measure files in fresh processes, taking turns: bytes, latency, ratios with their spread, start, peak RAM."""
    counts, sides = _counts(threads, "--threads"), _counts(sizes, "--sizes") if sizes is not None else []
    first = reference or files[0]
    files = list(dict.fromkeys([*files, first]))
    for file in files:
        if not file.is_file():
            raise ModelError(f"no such file: {file}")
    if save is not None:
        check_output(save, overwrite, (".json",), "--save")
    with console.Progress() as progress:
        from torchshrink.bench import history, session

        old = history.load(against) if against is not None else None
        if against is not None and old is not None:
            history.check_reference(old, session.names(files)[first], against)
        inputs = _inputs(files, data, sides, seed)
        found = session.run(
            files,
            inputs,
            reference=first,
            threads=counts,
            runs=runs,
            sizes=sides,
            is_profiled=profile,
            allow_pickle=allow_pickle,
            progress=progress,
        )
        found["warnings"] += _slow_int8(found["rows"])
        for item in found["profiles"]:
            if item["operations"] is None and item["path"].endswith(".tflite"):
                progress.start(f"time the operators of {item['name']}")
                item |= _operators(item)
        measured = [file for file in files if file.suffix == ".tflite"]
        if save is not None and measured:
            from torchshrink.converters.anatomy import op_costs

            progress.start("time every operator, for search --costs")
            found[op_costs.KEY] = op_costs.measure(measured, counts[0])
    changes = history.compare(found, old) if old is not None else history.Changes([], [])
    found["against"] = {"path": str(against), **asdict(changes)} if old is not None else None
    if save is not None:
        history.save(found, save)
    if as_json:
        console.show_json(found)
    else:
        _show(found, wide)
    if changes.regressions:
        console.errors.print(f"error: slower than in {against}: {'; '.join(changes.regressions)}", style="red")
        raise typer.Exit(4)


def compare(
    model_file: options.ModelFile,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("sizes"),
    shape: Annotated[str | None, typer.Option(help="Input shape such as 1,1,128,128.")] = None,
    factory: options.Factory = None,
    allow_pickle: options.AllowPickle = False,
    overwrite: options.Overwrite = False,
    wide: options.Wide = False,
    as_json: options.Json = False,
) -> None:
    """Write a model in every framework's format and compare what each takes on disk."""
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is no folder: choose another --out")
    if out.exists() and any(out.iterdir()) and not overwrite:
        raise DataError(f"{out} is not empty: choose another --out, or pass --overwrite")
    if real(model_file).parent == real(out):
        raise OutputError(f"{model_file} is in {out}, whose files are replaced: choose another --out")
    with console.Progress() as progress:
        progress.start("write every format")
        from torchshrink.converters.sizes import comparison

        model, example, _ = load_model(model_file, shape, factory, allow_pickle)
        rows = comparison.sizes(model, example, out)
    if as_json:
        console.show_json({"rows": [asdict(row) | {"path": str(row.path)} for row in rows]})
        return
    usual = next(row for row in rows if row.framework == "PyTorch").bytes  # what torch.save or safetensors writes
    cells = [
        (
            row.path.name,
            row.framework,
            row.precision,
            f"{row.bytes / 1e6:.3f}",
            f"{usual / row.bytes:.2f}x",
            f"{row.gzip_bytes / 1e6:.3f}",
            f"{row.zstd_bytes / 1e6:.3f}",
            "" if row.entropy_bytes is None else f"{row.entropy_bytes / 1e6:.3f}",
            *(("", "", "") if row.parts is None else (f"{value / 1e3:.1f}" for value in asdict(row.parts).values())),
        )
        for row in rows
    ]
    headings = ("file", "framework", "precision", "MB", "smaller", "gzip MB", "zstd MB", "entropy bound MB",
                "weights kB", "graph kB", "metadata kB")  # fmt: skip
    few = ("file", "precision", "MB", "smaller", "gzip MB", "entropy bound MB")
    console.show_table(headings, cells, None, few, wide)
    console.show(f"smaller: than {rows[0].path.name}, the weights as PyTorch saves them")


def _operators(profile: dict[str, Any]) -> dict[str, Any]:
    """Return the time of each kind of operator of a TFLite file, whose runtime has no profiler, timed one by one."""
    from torchshrink.converters.anatomy.inspect import inspect

    found = inspect(profile["path"], threads=profile["threads"])
    kinds: dict[str, list[float]] = {}
    for operation in found.operations:
        if operation.ms is not None:
            kinds.setdefault(operation.kind, []).append(operation.ms)
    ordered = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    rows = [{"operation": kind, "ms": sum(times), "calls": len(times)} for kind, times in ordered]
    return {"operations": rows, "note": found.method}


def _slow_int8(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is to be said of int8 files that are slower than float ones, with the first number of threads."""
    from torchshrink.converters.anatomy import slow_int8

    return slow_int8.timed([row for row in rows if row["threads"] == rows[0]["threads"]])


def _counts(text: str, option: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if any(value < 1 for value in values):
        raise typer.BadParameter(f"{text!r}: expected whole numbers such as 1,2", param_hint=option)
    return list(dict.fromkeys(values))


def _show(found: dict[str, Any], wide: bool) -> None:
    for threads in dict.fromkeys(row["threads"] for row in found["rows"]):
        _show_rows([row for row in found["rows"] if row["threads"] == threads], found["reference"], wide)
    if found["sizes"]:
        _show_sizes(found["sizes"])
    for profile in found["profiles"]:
        _show_profile(profile)
    for warning in found["warnings"]:
        console.show(f"warning: {warning}")
    for note in (found["against"] or {"notes": []})["notes"]:
        console.show(f"note: {note}")
    console.show(f"ratios: {found['method']}")


def _show_rows(rows: list[dict[str, Any]], reference: str, wide: bool) -> None:
    headings = ("file", "runtime", "MB", "median ms", "p10", "p90", f"vs {reference}", "CPU ms", "cold start ms",
                "load ms", "peak RAM MB", "runtime MB", "model MB")  # fmt: skip
    cells = [
        (
            row["name"],
            row["runtime"],
            f"{row['bytes'] / 1e6:.3f}",
            *(f"{row['latency_ms'][name]:.2f}" for name in ("median", "p10", "p90")),
            _ratio(row["ratio"]),
            f"{row['cpu_ms']:.2f}",
            f"{row['cold_start_ms']:.0f}",
            f"{row['load_ms']:.1f}",
            *_memory(row),
        )
        for row in rows
    ]
    few = ("file", "runtime", "MB", "median ms", f"vs {reference}", "peak RAM MB")
    console.show_table(headings, cells, f"threads: {rows[0]['threads']}", few, wide)


def _show_sizes(rows: list[dict[str, Any]]) -> None:
    headings = ("file", "size", "peak RAM MB", "runtime MB", "model MB", "note")
    cells = [
        (row["name"], str(row["size"]), *_memory(row), (row["note"] or "").partition(_CAUSE_BEGINS)[0]) for row in rows
    ]
    console.show_table(headings, cells, title="memory at other sizes of the input")
    for row in rows:
        if row["note"] and _CAUSE_BEGINS in row["note"]:
            console.show(f"note: {row['name']} at {row['size']} {row['note']}")


def _show_profile(profile: dict[str, Any]) -> None:
    if profile["note"]:
        console.show(profile["note"])
    if profile["operations"] is None:
        return
    total = sum(operation["ms"] for operation in profile["operations"]) or 1.0
    cells = [
        (item["operation"], f"{item['ms']:.3f}", f"{item['ms'] / total:.1%}", f"{item['calls']:g}")
        for item in profile["operations"][:_MOST_OPERATIONS]
    ]
    if rest := profile["operations"][_MOST_OPERATIONS:]:
        spent = sum(item["ms"] for item in rest)
        cells.append((f"{len(rest)} others", f"{spent:.3f}", f"{spent / total:.1%}", ""))
    console.show_table(("operation", "ms", "share", "calls"), cells, title=f"operations of {profile['name']}")


def _ratio(values: dict[str, float]) -> str:
    from torchshrink.bench.ratio import Ratio

    return str(Ratio(**values))


def _memory(row: dict[str, Any]) -> list[str]:
    figures = [row[name] for name in ("peak_rss_mb", "runtime_rss_mb", "model_rss_mb")]
    return ["" if figure is None else f"{figure:.0f}" for figure in figures]


def _inputs(files: list[Path], data: str | None, sizes: list[int], seed: int) -> NDArray[np.float32]:
    import numpy as np

    if data is not None:
        from torchshrink.data import open_task

        found: NDArray[np.float32] = open_task(data, seed=seed).example_input.numpy()
        return found
    shapes = [_shape(file) for file in files]
    if len({len(shape) for shape in shapes}) > 1:
        raise DataError(f"these files take inputs of different shapes, {shapes}: measure them apart")
    shape = [1]
    for sides in list(zip(*shapes, strict=True))[1:]:
        known = {side for side in sides if side}
        if len(known) > 1:
            raise DataError(f"these files take inputs of different shapes, {shapes}: measure them apart")
        if not known and not sizes:
            raise DataError(f"{files[0]} takes inputs of any size: pass --data, or --sizes, whose first is measured")
        shape.append(known.pop() if known else sizes[0])
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _shape(file: Path) -> list[int]:
    """Return ``[1, C, *size]``, with 0 where an ONNX file takes any size."""
    if file.suffix != ".onnx":
        from torchshrink.converters.contents import input_shape

        return list(input_shape(file))
    from torchshrink.converters.onnx_file import load

    return [int(side.dim_value) for side in load(file).graph.input[0].type.tensor_type.shape.dim]

"""report.json and what is made of it: report.md, report.csv, report.png and the page report.html."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torchshrink.errors import DataError
from torchshrink.files import atomic, is_inside
from torchshrink.harmless import csv_cell, without_passwords
from torchshrink.harmless import markdown as md
from torchshrink.report import trials
from torchshrink.report.tradeoff import BUDGET, Recommendation, Row, recommend, reference

SCHEMA = 1
_PACKAGES = ("torchshrink", "torch", "torchao", "onnx", "onnxruntime", "onnx2tf", "tensorflow", "ai-edge-litert",
             "ai-edge-quantizer", "numpy")  # fmt: skip
_HEADINGS = ("file", "MB", "smaller", "sparse", "loss", "dice", "ms", "faster", "RAM MB", "parity")
_LAYER = {"name", "params", "nonzero", "macs"}
_PLACES = ("path", "name", "variant")  # what files and folders are called by
_NEEDED = {
    "name", "variant", "format", "precision", "bytes", "sparsity", "loss", "metrics", "latency_ms", "peak_rss_mb",
    "parity", "islands",
}  # fmt: skip


def environment() -> dict[str, Any]:
    """Return where the figures were measured: versions, processor, system."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "command": shlex.join(["torchshrink", *map(without_passwords, sys.argv[1:])]),
    }


def save(report: dict[str, Any], out: Path) -> None:
    """Write report.json into a folder, and everything that is made of it."""
    with atomic(out / "report.json") as temporary:
        temporary.write_text(json.dumps({"schema": SCHEMA, **report}, indent=1))
    render(report, out)


def render(report: dict[str, Any], out: Path) -> list[Path]:
    """Write report.html, report.md, report.csv and report.png into the folder of a run, and return their paths."""
    from torchshrink.report import html

    paths = [out / f"report.{ending}" for ending in ("html", "md", "csv", "png")]
    texts = (html.page(report, out), markdown(report), table_csv(report["rows"]))
    for path, text in zip(paths, texts, strict=False):
        with atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
    plot(report["rows"], paths[-1])
    return paths


def load(out: Path) -> dict[str, Any]:
    """Read a run's report.json.

    Raises:
        DataError: When there is none, or of another schema.
    """
    path = out / "report.json"
    try:
        report: dict[str, Any] = json.loads(path.read_text())
        if not isinstance(report, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is missing or damaged: `torchshrink run --out {out}` makes it") from error
    if report.get("schema") != SCHEMA:
        raise DataError(f"{path} has schema {report.get('schema')}, this version reads {SCHEMA}")
    stray = [row[key] for row in report.get("rows") or [] if isinstance(row, dict) for key in _PLACES if key in row]
    if outside := [name for name in stray if not is_inside(out, name)]:
        raise DataError(f"{path} names {outside[0]!r}, which is not in its folder: somebody changed it")
    if not _is_whole(report):
        raise DataError(f"{path} lacks figures that a report needs: `torchshrink run --out {out}` makes it again")
    return report


def table(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and cells, one line per row.

    Sizes are compared with the first fp32 TFLite file, latencies with the first fp32 file of the same runtime.
    """
    if not rows:
        return _HEADINGS, []
    size = reference(rows)["bytes"]
    cells: list[tuple[str, ...]] = []
    for row in rows:
        latency = row["latency_ms"]["median"]
        cells.append(
            (
                row["name"],
                f"{row['bytes'] / 1e6:.3f}",
                f"{size / row['bytes']:.2f}x",
                f"{row['sparsity']:.0%}",
                f"{row['loss']:.4f}",
                f"{row['metrics']['dice']:.4f}",
                f"{latency:.2f}",
                f"{reference(rows, row['format'])['latency_ms']['median'] / latency:.2f}x",
                f"{row['peak_rss_mb']:.0f}",
                _parity(row["parity"]),
            )
        )
    return _HEADINGS, cells


def table_csv(rows: Sequence[Row]) -> str:
    """Return one line per file, plain numbers under headings that say the unit, as RFC 4180 has it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_flat({}))
    writer.writerows(map(csv_cell, _flat(row).values()) for row in rows)
    return text.getvalue()


def verdict(rows: Sequence[Row]) -> str:
    """Return one sentence: the smallest verified file against the dense fp32 TFLite file and PyTorch."""
    if not rows:
        return "No file was verified."
    dense, torch_row = reference(rows), reference(rows, "torch")
    best = min(rows, key=lambda row: row["bytes"])
    latency, latency_before = best["latency_ms"]["median"], reference(rows, best["format"])["latency_ms"]["median"]
    compared = _compared(_ratio(dense["bytes"], best["bytes"]), _ratio(latency_before, latency))
    return (
        f"{best['name']} is {compared}, and its process needs "
        f"{_memory(_ratio(torch_row['peak_rss_mb'], best['peak_rss_mb']))} {torch_row['name']}, at a test loss of "
        f"{best['loss']:.4f} ({best['loss'] - torch_row['loss']:+.4f})."
    )


def recommendations(rows: Sequence[Row]) -> list[str]:
    """Return one sentence per goal: the file to take, with its figures."""
    torch_row = reference(rows, "torch") if rows else {}
    return [_recommended(item, torch_row) for item in recommend(rows)]


def markdown(report: dict[str, Any]) -> str:
    """Return the report as Markdown."""
    headings, cells = table(report["rows"])
    lines = ["# torchshrink report", "", md(verdict(report["rows"])), ""]
    lines += [*(f"- {md(sentence)}" for sentence in recommendations(report["rows"])), ""]
    lines += [f"| {' | '.join(headings)} |", f"|{'---|' * len(headings)}"]
    lines += [f"| {' | '.join(map(md, line))} |" for line in cells]
    lines += ["", "![Size against loss](report.png)", ""]
    lines += trials.markdown(report["search"]) if report.get("search") else []
    lines += ["## Islands", ""]
    lines += [f"- {md(row['name'])}: {md(islands(row))}" for row in report["rows"] if row["islands"]] or [
        "Every int8 file computes in integers from input to output."
    ]
    lines += ["", md(_matched(report["rows"])), "", "## Failed verification", ""]
    lines += [f"- {md(item['name'])}: {md(item['reason'])}" for item in report.get("failed", [])] or ["None."]
    lines += [
        "",
        "## How this was measured",
        "",
        *(f"- {name}: {md(text)}" for name, text in conditions(report).items()),
    ]
    return "\n".join(lines) + "\n"


def islands(row: Row) -> str:
    """Name the operations of an int8 file that compute in float and, where it is known, how much time they take."""
    names = ", ".join(row["islands"])
    return f"{names} ({row['float_time']:.0%} of the time in float)" if "float_time" in row else names


def conditions(report: dict[str, Any]) -> dict[str, str]:
    """Return how the figures came about, for one who wants to repeat them."""
    environment_, task = report["environment"], report["task"]
    packages = ", ".join(f"{name} {number}" for name, number in environment_["packages"].items() if number)
    return {
        "Task": f"{task['name']}, {task['train']} training, {task['validation']} validation and {task['test']} test "
        f"samples of shape {task['input']}, seed {task['seed']}.",
        "Loss and dice": "computed with each file itself, in its runtime, over the whole test set.",
        "Latency": "median of one inference at batch 1, "
        f"{task['threads']} thread(s), the files taking turns; RAM: peak of a fresh process that imports only its "
        "runtime, after loading and one inference.",
        "Machine": f"{environment_['processor']}, {environment_['cores']} cores, {environment_['system']}, "
        f"Python {environment_['python']}.",
        "Packages": f"{packages}.",
        "Command": environment_.get("command", "not recorded"),
    }


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw size against test loss, the area of a marker standing for latency, as PNG or SVG by the path's ending."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = {"torch": "#ee4c2c", "onnx": "#4477aa", "tflite": "#228833", "h5": "#aa7733"}
    slowest = max((row["latency_ms"]["median"] for row in rows), default=1.0)
    for row in rows:
        area = 40 + 900 * row["latency_ms"]["median"] / slowest
        marker = {"fp32": "o", "fp16": "s", "int8": "D"}.get(row["precision"], "^")
        axes.scatter(
            row["bytes"] / 1e6, row["loss"], s=area, c=colors[row["format"]], marker=marker, alpha=0.35, linewidths=0
        )
        axes.scatter(row["bytes"] / 1e6, row["loss"], s=8, c=colors[row["format"]])
    _label(axes, rows)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.12)
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis(FuncFormatter(lambda value, _: f"{value:g}"))  # megabytes, not powers of ten
    axes.set_xlabel("size of the file [MB]")
    axes.set_ylabel("test loss (computed with the file)")
    axes.set_title("Smaller is left, better is low; the larger the marker, the slower")
    axes.grid(alpha=0.3, which="both")
    handles = [axes.scatter([], [], s=60, c=color, label=name) for name, color in colors.items() if name != "h5"]
    handles += [
        axes.scatter([], [], s=60, c="#888888", marker=marker, label=name)
        for name, marker in {"fp32": "o", "fp16": "s", "int8": "D"}.items()
    ]
    axes.legend(handles=handles, ncols=2, fontsize=8)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _label(axes: Any, rows: Sequence[Row]) -> None:
    """Name the smallest file of every variant and the largest of all, which is what a reader looks for."""
    chosen = {id(max(rows, key=lambda row: row["bytes"])): max(rows, key=lambda row: row["bytes"])} if rows else {}
    for variant in {row["variant"] for row in rows}:
        best = min((row for row in rows if row["variant"] == variant), key=lambda row: row["bytes"])
        chosen[id(best)] = best
    for row in chosen.values():
        axes.annotate(row["name"], (row["bytes"] / 1e6, row["loss"]), (6, 8), textcoords="offset points", fontsize=8)


def _is_whole(report: dict[str, Any]) -> bool:
    rows = report.get("rows")
    has_parts = isinstance(report.get("task"), dict) and isinstance(report.get("environment"), dict)
    if not has_parts or not isinstance(rows, list) or not _have(rows, _NEEDED):
        return False
    if report.get("search") is not None and not trials.is_whole(report["search"]):
        return False
    layers = report.get("layers", {})  # unknown to a report of an older version
    return isinstance(layers, dict) and all(isinstance(each, list) and _have(each, _LAYER) for each in layers.values())


def _have(items: Sequence[Any], keys: set[str]) -> bool:
    return all(isinstance(item, dict) and set(item) >= keys for item in items)


def _flat(row: Row) -> dict[str, Any]:
    """Return a row's figures under one name each."""
    plain = ("name", "variant", "format", "precision", "path", "bytes", "gzip_bytes", "entropy_bytes", "params",
             "nonzero", "sparsity", "macs", "loss")  # fmt: skip
    metrics, latency, parity = (row.get(name, {}) for name in ("metrics", "latency_ms", "parity"))
    return {
        **{name: row.get(name) for name in plain},
        "dice": metrics.get("dice"),
        "iou": metrics.get("iou"),
        "latency_median_ms": latency.get("median"),
        "latency_p90_ms": latency.get("p90"),
        "threads": latency.get("threads"),
        "runs": latency.get("runs"),
        **{name: row.get(name) for name in ("peak_rss_mb", "runtime_rss_mb", "model_rss_mb")},
        "parity_reference": parity.get("reference"),
        "parity_max_abs": parity.get("max_abs"),
        "parity_mean_abs": parity.get("mean_abs"),
        "parity_lsb_match": parity.get("lsb_match"),
        "islands": "; ".join(row.get("islands", [])),
        "matched_ranges": row.get("matched_ranges"),
    }


def _ratio(before: float, after: float) -> float:
    """Return how many times less it has become, 1 when the difference does not show in one decimal."""
    ratio = before / after
    return 1.0 if f"{max(ratio, 1 / ratio):.1f}" == "1.0" else ratio


def _compared(size: float, speed: float) -> str:
    """Say how a file compares with the dense one, both ratios larger than 1 when it is better."""
    words = ((size, "smaller", "larger"), (speed, "faster", "slower"))
    different = [f"{max(ratio, 1 / ratio):.1f}x {better if ratio > 1 else worse}" for ratio, better, worse in words
                 if ratio != 1]  # fmt: skip
    if not different:
        return "as large and as fast as the dense fp32 file"
    equal = " (and as large)" if size == 1 else " (and as fast)" if speed == 1 else ""
    return f"{' and '.join(different)} than the dense fp32 file{equal}"


def _memory(ratio: float) -> str:
    if ratio == 1:
        return "as much RAM as"
    return f"1/{ratio:.1f} of the RAM of" if ratio > 1 else f"{1 / ratio:.1f}x more RAM than"


def _recommended(item: Recommendation, torch_row: Row) -> str:
    goal = item.goal[0].upper() + item.goal[1:]
    if item.row is not None:
        row = item.row
        return (
            f"{goal}: {row['name']}, {row['bytes'] / 1e6:.3f} MB, {row['latency_ms']['median']:.2f} ms, "
            f"{row['peak_rss_mb']:.0f} MB of RAM, test loss {row['loss']:.4f} ({row['loss'] - torch_row['loss']:+.4f})."
        )
    if item.closest is None:
        return f"{goal}: no exported file was verified."
    return (
        f"{goal}: no file's test loss is within {BUDGET:+g} of {torch_row['name']}; {item.closest['name']} comes "
        f"closest ({item.closest['loss'] - torch_row['loss']:+.4f})."
    )


def _parity(parity: dict[str, Any]) -> str:
    if parity["reference"] is None:
        return "reference"
    if parity["lsb_match"] is not None:
        return f"{parity['lsb_match']:.2%} within 1"
    return f"{parity['max_abs']:.1e}"


def _matched(rows: Sequence[Row]) -> str:
    """Say how many of the int8 TFLite files' activations have a range that was learned, not seen while converting."""
    shares = {row["name"]: row["matched_ranges"] for row in rows if row.get("matched_ranges") is not None}
    partly = [f"{name} {share:.0%}" for name, share in shares.items() if share < 1]
    if partly:
        return f"Activations whose range was learned in PyTorch: {', '.join(partly)}; in every other int8 file, all."
    return "Every int8 activation has the range that was learned in PyTorch." if shares else "No ranges were matched."


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

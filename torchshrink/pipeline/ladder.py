"""The ladder: one dense model at many sparsities and many widths, every rung a verified, measured set of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchshrink.files import atomic
from torchshrink.pipeline.recipe import Channels, Dense, Pruning, Recipe, Variant

Row = dict[str, Any]
SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CHANNELS = (0.25, 0.5, 0.75)


def ladder(
    recipe: Recipe,
    sparsities: Sequence[float] = SPARSITIES,
    channels: Sequence[float] = CHANNELS,
    epochs: int = 20,
    dense_epochs: int = 30,
) -> Recipe:
    """Return ``recipe`` with one variant per rung, each fine-tuned from the dense model.

    Args:
        recipe: Says the data, the model, the loss and the formats.
        sparsities: Shares of the weights to set to zero.
        channels: Shares of the channels to remove.
        epochs: Of every rung's fine-tuning.
        dense_epochs: Of the dense model's training; 0 when the recipe's model has its weights already.
    """
    variants = {"dense": Variant(train=Dense(epochs=dense_epochs))}
    for amount in sparsities:
        step = Pruning(amount=amount, epochs=epochs)
        variants[f"sparse-{100 * amount:g}"] = Variant.model_validate({"from": "dense", "prune": step})
    for amount in channels:
        removal = Channels(amount=amount, epochs=epochs)
        variants[f"channels-{100 * amount:g}"] = Variant.model_validate({"from": "dense", "channels": removal})
    return recipe.model_copy(update={"variants": variants})


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw every rung's loss, bytes, latency and RAM against what was pruned, as PNG or SVG by the path's ending."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2)
    titles = ("test loss", "size of the file [MB]", "latency, median [ms]", "peak RAM of a fresh process [MB]")
    series = _series(rows)
    for axes, title, key in zip(panels.flat, titles, ("loss", "bytes", "latency", "ram"), strict=True):
        for (kind, file), points in series.items():
            axes.plot(
                [amount for amount, _ in points],
                [_value(row, key) for _, row in points],
                label=f"{kind}: {file}",
                marker="o" if kind == "weights" else "s",
                markersize=4,
                linestyle="-" if kind == "weights" else "--",
                color=_COLORS[file],
            )
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("removed: weights set to zero, or channels [%]")
        axes.grid(alpha=0.3)
        if key != "loss":
            axes.set_ylim(bottom=0)
    if series:
        panels[0, 0].legend(fontsize=7)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


_FILES = {
    "tflite-fp32": "TFLite fp32",
    "tflite-fp32-sparse": "TFLite fp32, sparse",
    "tflite-int8": "TFLite int8",
    "tflite-int8-sparse": "TFLite int8, sparse",
}
_COLORS = dict(zip(_FILES.values(), ("#4477aa", "#66ccee", "#228833", "#aaaa00"), strict=True))


def _series(rows: Sequence[Row]) -> dict[tuple[str, str], list[tuple[float, Row]]]:
    """Return, for each kind of pruning and of file, the percentages and rows in their order; dense is 0 % of both."""
    found: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for row in rows:
        name, _, percent = row["variant"].partition("-")
        file = _FILES.get(row["name"].partition("/")[2])
        kinds = {"dense": ("weights", "channels"), "sparse": ("weights",), "channels": ("channels",)}.get(name, ())
        for kind in kinds if file else ():
            found.setdefault((kind, str(file)), []).append((float(percent or 0), row))
    return {key: sorted(points, key=lambda point: point[0]) for key, points in found.items() if len(points) > 1}


def _value(row: Row, key: str) -> float:
    values = {
        "loss": row["loss"],
        "bytes": row["bytes"] / 1e6,
        "latency": row["latency_ms"]["median"],
        "ram": row["peak_rss_mb"],
    }
    return float(values[key])

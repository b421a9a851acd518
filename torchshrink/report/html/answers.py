"""The answers of files that give classes or numbers: confusion matrices, and predicted against true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torchshrink.report import classes, samples
from torchshrink.report.html import svg
from torchshrink.report.html.plots import Plot
from torchshrink.report.schema import Row, Task

_MOST_WRITTEN = 12  # classes whose counts are written into the picture
_MOST_NUMBERS = 3  # numbers of each answer that are drawn


@dataclass(frozen=True)
class Answers:
    """What the page shows of answers.

    Attributes:
        text: What the pictures show.
        plots: A picture for each file.
        headings: Of the table under them.
        lines: Its cells.
    """

    text: str
    plots: Sequence[Plot]
    headings: Sequence[str] = ()
    lines: Sequence[Sequence[str]] = ()


def answers(rows: Sequence[Row], out: Path, task: Task) -> Answers | None:
    """Return the answers of the dense PyTorch model and each variant's smallest file; None for pictures and masks."""
    kind = task.get("kind")
    if kind == "classification":
        return _classes(rows, task)
    return _numbers(rows, out, task) if kind == "regression" else None


def _classes(rows: Sequence[Row], task: Task) -> Answers | None:
    known = {row["name"]: found for row in classes.shown(rows) if (found := classes.confusion(row)) is not None}
    plots: list[Plot] = []
    for name, found in known.items():
        titles = classes.names(task, len(found))
        label = f"Confusion matrix of {name}: {int(np.trace(found))} of {int(found.sum())} are right"
        draw = lambda path, f=found, t=titles: _draw_confusion(f, t, path)  # noqa: E731
        plots.append(Plot(name, svg.embed(draw, f"confusion-{len(plots)}", label)))
    headings, lines = classes.per_class(rows, task)
    text = (
        "Which class (down) was taken for which (across), over the whole test set. The table says how much of each "
        "class is found, and how that changed in points."
    )
    return Answers(text, plots, headings, lines) if plots else None


def _numbers(rows: Sequence[Row], out: Path, task: Task) -> Answers | None:
    kept = samples.data(out)
    if kept is None:
        return None
    truth = kept[1].reshape(len(kept[1]), -1)
    plots: list[Plot] = []
    for row in classes.shown(rows):
        output = samples.outputs(out, row["name"])
        if output is None or output.size != truth.size:
            continue
        found = output.reshape(truth.shape)
        label = f"Predicted against true numbers of {row['name']}"
        draw = lambda path, f=found: _draw_numbers(truth, f, task["class_names"], path)  # noqa: E731
        plots.append(Plot(row["name"], svg.embed(draw, f"numbers-{len(plots)}", label)))
    text = f"Predicted (up) against true (across) numbers of {len(truth)} test samples; on the line they are equal."
    return Answers(text, plots) if plots else None


def _draw_confusion(found: NDArray[np.int64], titles: Sequence[str], path: Path) -> None:
    from matplotlib.figure import Figure

    size = 2.4 + 0.22 * min(len(found), 16)
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    shares = found / np.maximum(found.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(found) <= _MOST_WRITTEN:
        for (line, column), count in np.ndenumerate(found):
            if count:
                color = "white" if shares[line, column] > 0.5 else "#1c3d5a"
                axes.text(column, line, str(count), ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(len(titles)), titles, rotation=90, fontsize=7)
        axes.set_yticks(range(len(titles)), titles, fontsize=7)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    svg.save(figure, path)


def _draw_numbers(truth: NDArray[np.float32], found: NDArray[np.float32], titles: Sequence[str], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    count = min(truth.shape[1], _MOST_NUMBERS)
    for number in range(count):
        title = titles[number] if number < len(titles) else f"number {number}"
        axes.scatter(truth[:, number], found[:, number], s=9, alpha=0.6, linewidths=0, label=title)
    ends = [float(truth[:, :count].min()), float(truth[:, :count].max())]
    axes.plot(ends, ends, color=svg.ink(), linewidth=0.8, linestyle="--")
    if count > 1:
        axes.legend(fontsize=7)
    axes.set_xlabel("true")
    axes.set_ylabel("predicted")
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    svg.save(figure, path)

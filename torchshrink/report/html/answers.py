"""The answers of files that give classes or numbers: confusion matrices, and predicted against true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torchshrink.report import classes, samples
from torchshrink.report.html.figure import COLORS, GREY, Figure, axis, line, plain
from torchshrink.report.schema import Row, Task

_MOST_WRITTEN = 12  # classes whose counts are written into the figure
_MOST_CLASSES = 40  # that are drawn: those with the most mistakes
_MOST_NUMBERS = 3  # numbers of each answer that are drawn
_LONGEST_NAME = 16  # of a class, beside the figure
_SCALE = [[0, "#f1f5fa"], [1, "#1a5fb4"]]


@dataclass(frozen=True)
class Answers:
    """What the page shows of answers.

    Attributes:
        text: What the figures show.
        figures: One for each file.
        headings: Of the table under them.
        lines: Its cells.
    """

    text: str
    figures: Sequence[Figure]
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
    figures = [_confusion(name, found, classes.names(task, len(found))) for name, found in known.items()]
    headings, lines = classes.per_class(rows, task)
    text = (
        "Which class (down) was taken for which (across), over the whole test set. The table says how much of each "
        "class is found, and how that changed in points."
    )
    return Answers(text, figures, headings, lines) if figures else None


def _confusion(name: str, counts: NDArray[np.int64], titles: Sequence[str]) -> Figure:
    """Draw the share of each class that was taken for each; of many classes, those with the most mistakes."""
    label = f"Confusion matrix of {name}: {int(np.trace(counts))} of {int(counts.sum())} are right"
    notes = []
    if len(counts) > _MOST_CLASSES:
        wrong = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        shown = np.sort(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES])
        notes.append(f"The {_MOST_CLASSES} of {len(counts)} classes with the most mistakes.")
    else:
        shown = np.arange(len(counts))
    found, names = counts[np.ix_(shown, shown)], [titles[number] for number in shown]
    said = [
        [plain(f"{truth} taken for {answer}: {count}") for answer, count in zip(names, line_, strict=True)]
        for truth, line_ in zip(names, found, strict=True)
    ]
    shares = found / np.maximum(counts[shown].sum(1, keepdims=True), 1)
    trace = {"type": "heatmap", "z": shares, "zmin": 0, "zmax": 1, "colorscale": _SCALE, "showscale": False}
    trace |= {"hoverinfo": "text", "hovertext": said, "xgap": 1, "ygap": 1}
    side = {"showgrid": False, "tickvals": list(range(len(names))), "ticktext": [plain(_short(each)) for each in names]}
    if len(names) <= _MOST_WRITTEN:
        trace |= {"text": [[str(count) if count else "" for count in row] for row in found], "texttemplate": "%{text}"}
    else:
        side |= {"showticklabels": False}
    layout = {"xaxis": axis("answer", tickangle=-90, **side), "yaxis": axis("truth", autorange="reversed", **side)}
    return Figure(name, label, [trace], layout, notes, 360)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}\u2026"


def _numbers(rows: Sequence[Row], out: Path, task: Task) -> Answers | None:
    kept = samples.data(out)
    if kept is None:
        return None
    truth = kept[1].reshape(len(kept[1]), -1)
    figures = []
    for row in classes.shown(rows):
        output = samples.outputs(out, row["name"])
        if output is not None and output.size == truth.size:
            figures.append(_against(row["name"], truth, output.reshape(truth.shape), task["class_names"]))
    text = f"Predicted (up) against true (across) numbers of {len(truth)} test samples; on the line they are equal."
    return Answers(text, figures) if figures else None


def _against(name: str, truth: NDArray[np.float32], found: NDArray[np.float32], titles: Sequence[str]) -> Figure:
    count = min(truth.shape[1], _MOST_NUMBERS)
    ends = [float(truth[:, :count].min()), float(truth[:, :count].max())]
    data = [line("equal", GREY, ends, ends, line={"color": GREY, "width": 1, "dash": "dash"}, meta="\u254c")]
    for number in range(count):
        title = titles[number] if number < len(titles) else f"number {number}"
        dots = {"color": COLORS[number], "size": 5, "opacity": 0.6}
        data.append({"name": title, "mode": "markers", "x": truth[:, number], "y": found[:, number], "marker": dots})
    layout = {"xaxis": axis("true"), "yaxis": axis("predicted")}
    return Figure(name, f"Predicted against true numbers of {name}", data, layout)

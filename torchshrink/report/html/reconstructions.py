"""A few test samples before and after: what went in, what should come out, and what each file made of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from torchshrink.digits import written
from torchshrink.report.html.figure import COLORS, GREY, SAMPLES, Figure, signal_line
from torchshrink.report.html.pictures import Picture, gray_or_rgb

Arrays = Mapping[str, NDArray[np.float32]]


def pictures(number: int, image: NDArray[np.float32], truth: NDArray[np.float32], found: Arrays) -> list[Picture]:
    """Return one row for a sample of images ``[C, H, W]``, all but the input as bright as the truth."""
    low, high = (float(value) for value in np.percentile(truth, (0.5, 99.5)))
    row = [Picture(gray_or_rgb(image), f"sample {number + 1}: input")]
    row.append(Picture(gray_or_rgb(truth, (low, high)), f"sample {number + 1}: truth"))
    for name, output in found.items():
        caption = f"off by {written(error(output, truth))}"
        row.append(Picture(gray_or_rgb(output, (low, high)), f"sample {number + 1}: {name}, {caption}", caption))
    return row


def signal(number: int, source: NDArray[np.float32], truth: NDArray[np.float32], found: Arrays) -> Figure:
    """Return the drawing of a sample of signals ``[C, L]``: the input, the truth, and what each file made of it."""
    notes = [f"{name}: off by {written(error(output, truth))}" for name, output in found.items()]
    data = [signal_line("input", GREY, source[0]), signal_line("truth", COLORS[1], truth[0])]
    for index, (name, output) in enumerate(found.items(), 2):
        data.append(signal_line(name, COLORS[index % len(COLORS)], output[0]))
    return Figure(f"Sample {number + 1}", f"Sample {number + 1}. {', '.join(notes)}", data, SAMPLES, notes, 260)


def error(output: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Return the mean absolute error."""
    return float(np.abs(output - truth).mean())

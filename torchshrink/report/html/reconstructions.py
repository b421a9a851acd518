"""A few test samples before and after: what went in, what should come out, and what each file made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from torchshrink.report.html import svg
from torchshrink.report.html.pictures import Picture, gray_or_rgb

Arrays = Mapping[str, NDArray[np.float32]]


def pictures(number: int, image: NDArray[np.float32], truth: NDArray[np.float32], found: Arrays) -> list[Picture]:
    """Return one row for a sample of images ``[C, H, W]``, all but the input as bright as the truth."""
    low, high = (float(value) for value in np.percentile(truth, (0.5, 99.5)))
    row = [Picture(gray_or_rgb(image), f"sample {number + 1}: input")]
    row.append(Picture(gray_or_rgb(truth, (low, high)), f"sample {number + 1}: truth"))
    for name, output in found.items():
        caption = f"off by {error(output, truth):.4f}"
        row.append(Picture(gray_or_rgb(output, (low, high)), f"sample {number + 1}: {name}, {caption}", caption))
    return row


def signal(number: int, source: NDArray[np.float32], truth: NDArray[np.float32], found: Arrays) -> Markup:
    """Return the drawing of a sample of signals ``[C, L]``: the input, and each file over the truth."""
    label = f"Sample {number + 1}. " + ", ".join(
        f"{name}: off by {error(output, truth):.4f}" for name, output in found.items()
    )
    return svg.embed(lambda path: _draw(source, truth, found, path), f"signal-{number}", label)


def error(output: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Return the mean absolute error."""
    return float(np.abs(output - truth).mean())


def _draw(source: NDArray[np.float32], truth: NDArray[np.float32], found: Arrays, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 1.2 * (1 + len(found))), layout="constrained")
    first, *others = np.atleast_1d(figure.subplots(1 + len(found), 1, sharex=True))
    first.plot(source[0], linewidth=0.8, color="#868e96")
    first.set_ylabel("input", fontsize=7)
    for axes, (name, output) in zip(others, found.items(), strict=True):
        axes.plot(truth[0], linewidth=0.8, color="#868e96")
        axes.plot(output[0], linewidth=0.8, color="#4c8dd6")
        axes.set_title(f"{name}: off by {error(output, truth):.4f}", fontsize=7, loc="left")
    for axes in (first, *others):
        axes.tick_params(labelsize=7)
    svg.save(figure, path)

"""A few test samples beside what each file made of them, coloured where that differs from the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torchshrink.report import samples
from torchshrink.report.classes import shown
from torchshrink.report.html import reconstructions
from torchshrink.report.html.figure import EDGE, Figure, Trace, axis, bars, channels, names_above, plain
from torchshrink.report.html.pictures import Picture, gray_or_rgb, png
from torchshrink.report.html.waveforms import waveforms
from torchshrink.report.schema import Normalization, Row, Task

THRESHOLD = 0.5
EXTRA, MISSED, CONFUSED = "#e03131", "#1c7ed6", "#f783ac"  # found but not there, there but not found, another class
CLASSES = ("#2f9e44", "#f2c037", "#9c6ade", "#22b8cf", "#8a6d3b", "#adb5bd")
_ONE_CLASS = "#e9ecef"  # of images with a single class: white on black
_GROUND = "#101418"
_KINDS = ("segmentation", "multiclass", "reconstruction", "classification", "regression")


@dataclass(frozen=True)
class Predictions:
    """What the page shows of the test samples.

    Attributes:
        columns: The headings of ``pictures``.
        pictures: For images, one row per sample.
        signals: For signals, one drawing per sample.
        legend: Colours of ``pictures`` and what they stand for.
    """

    columns: Sequence[str]
    pictures: Sequence[Sequence[Picture]]
    signals: Sequence[Figure]
    legend: Sequence[tuple[str, str]]


def predictions(rows: Sequence[Row], out: Path, task: Task) -> Predictions | None:
    """Return the samples that a run kept, seen through the dense PyTorch model and each variant's smallest file.

    Of signals whose answers are a class or numbers, these are said. ``None`` for a run that kept none, and for other
    outputs that are neither masks nor images of the input's size.
    """
    kept, kind = samples.data(out), task.get("kind", "segmentation")
    if kept is None or kind not in _KINDS:
        return None
    inputs, truths = kept
    read = ((row["name"], samples.outputs(out, row["name"])) for row in shown(rows))
    found = {name: array for name, array in read if array is not None}
    if kind in ("classification", "regression"):
        if inputs.ndim != 3 or min(map(len, (truths, *found.values()))) < len(inputs):
            return None
        return Predictions((), (), waveforms(_raw(inputs, task["normalization"]), truths, found, task), ())
    outputs = {name: array for name, array in found.items() if _fits(array, truths, kind)}
    if inputs.ndim not in (3, 4) or truths.shape[2:] != inputs.shape[2:] or not outputs:
        return None
    if kind == "reconstruction":
        return _reconstructed(inputs, truths, outputs)
    masks, names = _masks(truths, outputs, kind, task["class_names"])
    if inputs.ndim == 3:
        raw = _raw(inputs, task["normalization"])
        return Predictions((), (), _signals(raw, masks, names), ())
    pictures = [_pictures(number, inputs[number], masks) for number in range(len(inputs))]
    return Predictions(("input", *masks), pictures, (), _legend(masks["truth"].shape[1], names))


def _fits(output: NDArray[np.float32], truths: NDArray[np.float32], kind: str) -> bool:
    if kind == "multiclass":
        return output.ndim == truths.ndim and output.shape[1] > 1 and output.shape[2:] == truths.shape[2:]
    return output.shape == truths.shape


def _masks(
    truths: NDArray[np.float32], outputs: dict[str, NDArray[np.float32]], kind: str, names: Sequence[str]
) -> tuple[dict[str, NDArray[np.bool_]], Sequence[str]]:
    """Return the truth and what each file found as masks ``[N, K, *size]``, and what their classes are called.

    Of class numbers, 0 is the background.
    """
    if kind == "segmentation":
        return {"truth": truths > THRESHOLD, **{name: array > THRESHOLD for name, array in outputs.items()}}, names
    count = max(array.shape[1] for array in outputs.values())
    numbers = np.arange(1, count).reshape(1, -1, *[1] * (truths.ndim - 2))
    found = {name: array.argmax(1)[:, None] == numbers for name, array in outputs.items()}
    titles = names if len(names) >= count else [f"class {number}" for number in range(count)]
    return {"truth": truths == numbers, **found}, titles[1:]


def _reconstructed(
    inputs: NDArray[np.float32], truths: NDArray[np.float32], outputs: dict[str, NDArray[np.float32]]
) -> Predictions:
    each = [(number, inputs[number], truths[number], {name: array[number] for name, array in outputs.items()})
            for number in range(len(inputs))]  # fmt: skip
    if inputs.ndim == 3:
        return Predictions((), (), [reconstructions.signal(*sample) for sample in each], ())
    return Predictions(("input", "truth", *outputs), [reconstructions.pictures(*sample) for sample in each], (), ())


def wrong(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the share of points of which some class is wrong, ``[K, *size]`` against the same."""
    return float((mask != truth).any(0).mean())


def paint(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return ``[H, W]`` of indices into the palette: ground, extra, missed, confused, classes.

    Where classes overlap the last one is seen. Confused is where one class was found and another is there.
    """
    extra, missed = (mask & ~truth).any(0), (truth & ~mask).any(0)
    painted = np.zeros(mask.shape[1:], np.uint8)
    for index, part in enumerate(mask & truth):
        painted[part] = 4 + index % len(CLASSES)
    painted[extra], painted[missed], painted[extra & missed] = 1, 2, 3
    return painted


def _legend(count: int, names: Sequence[str]) -> list[tuple[str, str]]:
    titles = [*names, *(f"class {number}" for number in range(len(names), count))][:count]
    colors = [_ONE_CLASS] if count == 1 else [CLASSES[index % len(CLASSES)] for index in range(count)]
    legend = [*zip(colors, titles, strict=True), (EXTRA, "found but not there"), (MISSED, "there but not found")]
    return [*legend, (CONFUSED, "another class")] if count > 1 else legend


def _raw(inputs: NDArray[np.float32], normalization: Normalization) -> NDArray[np.float32]:
    """Undo the normalisation, when it is known."""
    mean, std = (np.asarray(normalization[name], np.float32) for name in ("mean", "std"))
    if not len(mean) == len(std) == inputs.shape[1]:
        return inputs
    return np.asarray(inputs * std.reshape(1, -1, 1) + mean.reshape(1, -1, 1), np.float32)


def _pictures(number: int, image: NDArray[np.float32], masks: dict[str, NDArray[np.bool_]]) -> list[Picture]:
    truth = masks["truth"][number]
    found = [Picture(gray_or_rgb(image), f"sample {number + 1}: input")]
    for name, mask in masks.items():
        share = wrong(mask[number], truth)
        caption = "" if name == "truth" else f"{share:.1%} wrong"
        label = f"sample {number + 1}: {name}{caption and f', {caption} of the pixels'}"
        found.append(Picture(_indexed(paint(mask[number], truth), len(truth)), label, caption))
    return found


def _indexed(painted: NDArray[np.uint8], classes: int) -> str:
    from PIL import Image

    picture = Image.fromarray(painted, "P")
    colors = [_GROUND, EXTRA, MISSED, CONFUSED, *([_ONE_CLASS] if classes == 1 else CLASSES)]
    picture.putpalette([int(color[start : start + 2], 16) for color in colors for start in (1, 3, 5)])
    return png(picture)


def _signals(inputs: NDArray[np.float32], masks: dict[str, NDArray[np.bool_]], names: Sequence[str]) -> list[Figure]:
    found = []
    for number in range(len(inputs)):
        truth = masks["truth"][number]
        notes = [f"{name}: {wrong(mask[number], truth):.1%} wrong" for name, mask in masks.items() if name != "truth"]
        chosen = {name: mask[number][: len(CLASSES)] for name, mask in masks.items()}
        text, lines = names_above(list(chosen))
        data = [trace | {"yaxis": "y2"} for trace in channels(inputs[number])] + [text, *_bands(chosen, names)]
        height = 60 + 44 * len(chosen)
        share = height / (height + 130)
        layout = {
            "xaxis": axis("", range=[0, inputs.shape[-1]], anchor="y"),
            "xaxis2": EDGE,
            "yaxis": lines | {"domain": [0, share - 0.04]},
            "yaxis2": axis("input", domain=[share, 1]),
            "barmode": "overlay",
        }
        label = f"Sample {number + 1}. {', '.join(notes)}"
        found.append(Figure(f"Sample {number + 1}", label, data, layout, [", ".join(notes)], height + 130))
    return found


def _bands(masks: dict[str, NDArray[np.bool_]], names: Sequence[str]) -> list[Trace]:
    """Return a band for the truth and each file, one lane per class, where it is right, found too much, or missed."""
    truth = masks["truth"]
    titles = [*names, *(f"class {number}" for number in range(len(names), len(truth)))]
    found: dict[str, tuple[str, list[tuple[int, int, float]]]] = {}
    for row, mask in enumerate(masks.values()):
        for lane in range(len(truth)):
            place = row - 0.1 + 0.56 * (lane + 0.5) / len(truth)
            parts = {
                titles[lane]: (CLASSES[lane], mask[lane] & truth[lane]),
                "found but not there": (EXTRA, mask[lane] & ~truth[lane]),
                "there but not found": (MISSED, truth[lane] & ~mask[lane]),
            }
            for title, (color, part) in parts.items():
                bands = found.setdefault(title, (color, []))[1]
                bands += [(start, size, place) for start, size in spans(part)]
    traces = []
    for title, (color, bands) in found.items():
        if bands:
            starts, sizes, places = zip(*bands, strict=True)
            style: Trace = {"orientation": "h", "width": 0.56 / len(truth), "base": starts}
            traces.append(bars(title, color, sizes, places, hoverinfo="text", hovertext=plain(title), **style))
    return traces


def spans(part: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return where a mask ``[L]`` is true, as starts and lengths."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], part.astype(np.int8), [0]])))
    return [(int(start), int(end - start)) for start, end in zip(edges[::2], edges[1::2], strict=True)]

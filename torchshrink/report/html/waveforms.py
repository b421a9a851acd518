"""A few test signals, each with its truth and what each file answered: a class, or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.report import classes
from torchshrink.report.html.figure import SAMPLES, Figure, channels
from torchshrink.report.schema import Task

_MOST_NUMBERS = 3  # of an answer, that are written


def waveforms(
    signals: NDArray[np.float32], truths: NDArray[np.float32], outputs: Mapping[str, NDArray[np.float32]], task: Task
) -> list[Figure]:
    """Return one drawing for each signal ``[C, L]``.

    Args:
        signals: ``[N, C, L]``, in the units of the data.
        truths: Of these samples at least, class numbers or numbers.
        outputs: By file, of as many samples.
        task: Says which it is, and what classes are called.
    """
    said = {name: _said(values, task) for name, values in outputs.items()}
    truth = _names(truths.reshape(-1).astype(int), task) if task["kind"] == "classification" else _numbers(truths)
    found = []
    for number, signal in enumerate(signals):
        note = ", ".join([f"truth {truth[number]}", *(f"{name}: {texts[number]}" for name, texts in said.items())])
        data = channels(signal)
        found.append(Figure(f"Sample {number + 1}", f"Sample {number + 1}. {note}", data, SAMPLES, [note], 170))
    return found


def _said(outputs: NDArray[np.float32], task: Task) -> list[str]:
    return _names(classes.answers(outputs), task) if task["kind"] == "classification" else _numbers(outputs)


def _names(numbers: NDArray[Any], task: Task) -> list[str]:
    titles = classes.names(task, 1 + int(numbers.max(initial=0)))
    return [titles[number] for number in numbers]


def _numbers(values: NDArray[np.float32]) -> list[str]:
    return [", ".join(f"{value:.4g}" for value in row[:_MOST_NUMBERS]) for row in values.reshape(len(values), -1)]

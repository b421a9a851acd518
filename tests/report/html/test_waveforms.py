"""Signals with what each file answered, read back from the page's own kept samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import make_rows

from torchshrink.report import samples
from torchshrink.report.html.predictions import predictions

NORMALIZATION = {"mean": [0.0], "std": [1.0], "raw": "int16"}


def said(out: Path, kind: str, truths: Any, outputs: Any, shape: tuple[int, ...] = (1, 50)) -> list[str]:
    """Return what a page says of samples that every file answers alike."""
    rows = make_rows()
    samples.keep_data(out, np.zeros((len(truths), *shape), np.float32), np.asarray(truths))
    for row in rows:
        samples.keep(out, row["name"], np.asarray(outputs, np.float32), [np.ones(2, np.float32)])
    task: Any = {"kind": kind, "class_names": ["down", "up"], "normalization": NORMALIZATION}
    found = predictions(rows, out, task)
    return [] if found is None else [signal.notes[0] for signal in found.signals]


def test_classes_by_their_names(tmp_path: Path) -> None:
    texts = said(tmp_path, "classification", [1, 0], [[0.1, 2.0], [0.2, 0.3]])
    assert texts[0].startswith("truth up, dense/torch-fp32: up")
    assert texts[1].startswith("truth down, dense/torch-fp32: up")


@pytest.mark.parametrize("outputs", [[0.9, 0.2], [[3.0], [-1.0]]])
def test_one_number_tells_two_classes_apart(outputs: Any, tmp_path: Path) -> None:
    texts = said(tmp_path, "classification", [1, 0], outputs)
    assert "dense/torch-fp32: up" in texts[0]
    assert "dense/torch-fp32: down" in texts[1]


def test_numbers_are_written(tmp_path: Path) -> None:
    texts = said(tmp_path, "regression", np.float32([[0.5, 2.0]]), [[0.25, 1e-4]])
    assert texts[0].startswith("truth 0.5, 2, dense/torch-fp32: 0.25, 0.0001")


def test_images_have_no_waveform(tmp_path: Path) -> None:
    assert said(tmp_path, "classification", [1], [[0.1, 2.0]], (1, 4, 4)) == []

"""The recipes of docs/tasks.md: they are valid, and their networks answer in the shape of their truths."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from torchshrink.pipeline.recipe import load

FOLDER = Path(__file__).parents[2] / "scripts" / "tasks"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_are_valid_and_name_their_command(path: Path) -> None:
    recipe = load(path)
    assert f"torchshrink run {path.name}" in path.read_text()
    assert recipe.data.partition("?")[0] not in ("", "synthetic:cells")


@pytest.mark.parametrize(
    ("name", "entry", "answer"),
    [
        ("digits", (2, 1, 8000), (2, 10)),
        ("counter", (2, 1, 64, 64), (2, 1)),
        ("autoencoder", (2, 1, 64, 64), (2, 1, 64, 64)),
    ],
)
def test_networks_answer_in_the_shape_of_their_truths(
    name: str, entry: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    nets = runpy.run_path(str(FOLDER / "nets.py"))
    assert nets[name]().eval()(torch.zeros(entry)).shape == answer


def test_a_tone_is_found_between_two_bins() -> None:
    """A bin is 20 cents, the first is 31.70 Hz; half a bin above the 170th is 10 cents above it."""
    pitch = runpy.run_path(str(FOLDER / "pitch.py"))
    bins = np.zeros((1, 360))
    bins[0, 170:172] = 0.5
    assert pitch["pitch_of"](bins)[0] == pytest.approx(31.70 * 2 ** (170.5 * 20 / 1200), rel=1e-4)
    frames, pitches = pitch["tones"](3, seed=0)
    assert frames.shape == (3, 1, 1024)
    assert np.allclose(frames.mean(2), 0, atol=1e-5)
    assert ((pitches > 50) & (pitches < 1132)).all()

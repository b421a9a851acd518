"""The ladder as a recipe, and its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchshrink.pipeline import recipe
from torchshrink.pipeline.ladder import ladder
from torchshrink.report.plot import plot_ladder, series


def row(variant: str, file: str, **figures: float) -> dict[str, Any]:
    return {
        "name": f"{variant}/{file}",
        "variant": variant,
        "loss": figures.get("loss", 0.1),
        "bytes": figures.get("bytes", 1e6),
        "latency_ms": {"median": figures.get("latency", 2.0)},
        "peak_rss_mb": figures.get("ram", 60.0),
    }


def test_every_rung_starts_from_the_same_dense_model() -> None:
    made = ladder(recipe.Recipe(seed=3), [0.5, 0.95], [0.25], epochs=7, dense_epochs=11)
    assert list(made.variants) == ["dense", "sparse-50", "sparse-95", "channels-25"]
    assert made.seed == 3
    assert made.variants["dense"].train == recipe.Dense(epochs=11)
    assert {variant.source for name, variant in made.variants.items() if name != "dense"} == {"dense"}
    assert made.variants["sparse-95"].prune == recipe.Pruning(amount=0.95, epochs=7)
    assert made.variants["channels-25"].channels == recipe.Channels(amount=0.25, epochs=7)
    assert recipe.parse(recipe.dump(made)) == made


def test_the_default_ladder_is_the_whole_one() -> None:
    names = list(ladder(recipe.Recipe()).variants)
    sparsities = [f"sparse-{percent}" for percent in (10, 20, 30, 40, 50, 60, 70, 80, 90, 95)]
    assert names == ["dense", *sparsities, "channels-25", "channels-50", "channels-75"]


def testseries_are_sorted_and_start_at_dense() -> None:
    rows = [
        row("sparse-90", "tflite-int8"),
        row("dense", "tflite-int8"),
        row("sparse-50", "tflite-int8"),
        row("channels-25", "tflite-int8"),
        row("sparse-50", "tflite-fp32-sparse"),
        row("sparse-50", "onnx-int8"),
        row("other", "tflite-int8"),
    ]
    found = {key: [amount for amount, _ in points] for key, points in series(rows).items()}
    assert found == {("weights", "TFLite int8"): [0, 50, 90], ("channels", "TFLite int8"): [0, 25]}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(tmp_path: Path, suffix: str) -> None:
    rows = [row("dense", "tflite-fp32"), row("sparse-50", "tflite-fp32", loss=0.2), row("channels-25", "tflite-fp32")]
    plot_ladder(rows, tmp_path / f"ladder.{suffix}")
    assert (tmp_path / f"ladder.{suffix}").stat().st_size > 5_000
    plot_ladder([], tmp_path / f"empty.{suffix}")  # everything failed: still a picture
    assert (tmp_path / f"empty.{suffix}").is_file()

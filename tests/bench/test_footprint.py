"""Memory at other sizes: who takes them, and what is said of those that do not."""

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from torchshrink.bench import footprint, session
from torchshrink.errors import DataError

NO_FIGURES = dict.fromkeys(("peak_rss_mb", "runtime_rss_mb", "model_rss_mb"))


def figures(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in NO_FIGURES}


def test_samples_are_cut_and_repeated(sample: np.ndarray) -> None:
    found = footprint.resized(sample, 4)
    assert found.shape == (1, 2, 4, 4)
    assert np.array_equal(found[:, :, :3], sample[:, :, :, :4])
    assert np.array_equal(found[:, :, 3], sample[:, :, 0, :4])
    assert footprint.resized(np.zeros((1, 2, 9), np.float32), 12).shape == (1, 2, 12)


@pytest.mark.parametrize("name", ["free_onnx_file", "tflite_file", "int8_file"])
def test_files_that_take_other_sizes(name: str, sample: np.ndarray, request: pytest.FixtureRequest) -> None:
    file: Path = request.getfixturevalue(name)
    steps: list[tuple[int, int, str]] = []
    rows = footprint.at_sizes([file], sample, [4, 8], threads=1, on_progress=lambda *step: steps.append(step))
    assert [(row["path"], row["size"], row["threads"]) for row in rows] == [(str(file), 4, 1), (str(file), 8, 1)]
    for row in rows:
        assert row["note"] is None
        assert 10 < row["runtime_rss_mb"] <= row["peak_rss_mb"]
        assert row["model_rss_mb"] == row["peak_rss_mb"] - row["runtime_rss_mb"]
    assert steps == [(1, 2, f"{file.name}: memory at 4"), (2, 2, f"{file.name}: memory at 8")]


def test_a_size_beyond_the_memory_is_refused_before_anything_is_measured(sample: np.ndarray) -> None:
    footprint.check_sizes(sample, [4, 2048])
    with pytest.raises(
        DataError, match=r"an input of size 999999999 takes 8e\+09 GB, this machine has .*: choose small"
    ):
        footprint.check_sizes(sample, [4, 999_999_999])
    with pytest.raises(DataError, match="999999999"):
        session.run([Path("no.onnx")], sample, reference=Path("no.onnx"), sizes=[999_999_999])


def test_a_larger_input_takes_more_memory(free_onnx_file: Path, sample: np.ndarray) -> None:
    small, large = footprint.at_sizes([free_onnx_file], sample, [8, 2048])
    # The output alone is 2 * 2048 * 2048 float32: 33.6 MB. The input belongs to the runtime's share.
    assert large["model_rss_mb"] >= small["model_rss_mb"] + 30
    assert large["runtime_rss_mb"] >= small["runtime_rss_mb"] + 30


@pytest.mark.parametrize(("name", "shape"), [("onnx_file", "[1, 2, 3, 5]"), ("fixed_tflite_file", "[1, 3, 5, 2]")])
def test_a_fixed_size_is_a_note(name: str, shape: str, sample: np.ndarray, request: pytest.FixtureRequest) -> None:
    (row,) = footprint.at_sizes([request.getfixturevalue(name)], sample, [8])
    assert row["note"] == f"fixed size, takes {shape} only"
    assert figures(row) == NO_FIGURES


def test_a_checkpoint_that_stops_at_a_size_says_why(tmp_path: Path) -> None:
    from torchshrink import UNet, checkpoint

    file = tmp_path / "unet.safetensors"
    checkpoint.save(UNet(in_channels=1, out_channels=1, widths=(2, 4), dims=1), file)
    fitting, odd = footprint.at_sizes([file], torch.zeros(1, 1, 32).numpy(), [64, 33])
    assert fitting["note"] is None
    assert fitting["peak_rss_mb"] > fitting["runtime_rss_mb"]
    assert odd["note"].startswith("does not run at this size: ModelError: input sides (33,) do not divide by 2")
    assert figures(odd) == NO_FIGURES


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(footprint).failed == 0

"""``torchshrink student``: another architecture from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from torchshrink import checkpoint
from torchshrink.cli.app import app
from torchshrink.model.student import Student
from torchshrink.model.unet import UNet

DATA = "synthetic:cells?size=16&train=4&test=2"


def test_a_student_is_taught_and_loads_again(tmp_path: Path) -> None:
    dense, small = tmp_path / "dense.safetensors", tmp_path / "small.safetensors"
    checkpoint.save(UNet(widths=(4, 8)), dense)
    shape = ["--widths", "4,4", "--convolution", "separable", "--merge", "add", "--features", "0.1", "--epochs", "1"]
    done = CliRunner().invoke(app, ["student", str(dense), "--data", DATA, "--out", str(small), "--json", *shape])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["path"] == str(small)
    model = checkpoint.load(small)
    assert isinstance(model, Student)
    assert (model.config["widths"], model.config["convolution"], model.config["merge"]) == ([4, 4], "separable", "add")
    assert checkpoint.describe(small)["data"]["source"] == DATA


def test_a_shape_that_is_none_is_refused(tmp_path: Path) -> None:
    dense = tmp_path / "dense.safetensors"
    checkpoint.save(UNet(widths=(4, 8)), dense)
    wrong = ["--widths", "3,4", "--convolution", "ghost", "--out", str(tmp_path / "small.safetensors")]
    done = CliRunner().invoke(app, ["student", str(dense), "--data", DATA, *wrong])
    assert done.exit_code == 3
    assert "ghost convolutions need even ones" in " ".join(done.stderr.split())

"""Commands that several processes run together: one of them prints and writes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchshrink import checkpoint

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0"]
DATA = ["--data", "synthetic:cells?size=32&train=40&test=8"]

pytestmark = pytest.mark.slow


def launch(launcher: list[str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *launcher, "-m", "torchshrink.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300, check=False)


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param(TORCHRUN, id="torchrun"),
        pytest.param(ACCELERATE, id="accelerate", marks=pytest.mark.exhaustive),  # it sets the same variables
    ],
)
def test_one_process_prints_and_writes(tmp_path: Path, launcher: list[str]) -> None:
    arguments = ["train", *DATA, "--widths", "4,8", "--epochs", "2", "--out", "a.safetensors", "--json"]
    done = launch(launcher, *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == "a.safetensors"
    assert done.stderr.splitlines().count("train ...") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert len(checkpoint.describe(tmp_path / "a.safetensors")["history"]["epochs"]) == 2


def test_the_main_process_refuses_for_all(tmp_path: Path) -> None:
    out = tmp_path / "a.safetensors"
    out.write_text("precious")
    done = launch(TORCHRUN, "train", *DATA, "--out", out.name, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: a.safetensors exists: choose another --out, or pass --overwrite") == 1
    assert out.read_text() == "precious"


def test_other_commands_work_in_one_process(tmp_path: Path) -> None:
    environment = {**os.environ, "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"}
    command = [sys.executable, "-m", "torchshrink.cli", "run", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 3
    assert "error: run works in one process, 2 were launched: launch train, prune, qat" in done.stderr
    assert not (tmp_path / "out").exists()

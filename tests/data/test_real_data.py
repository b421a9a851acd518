from pathlib import Path

import pytest
import torch

from torchshrink.data import open_task

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def real(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the real data set {name} is not at {SHARED / name}")
    return SHARED / name


def whole(dataset) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return torch.stack(x), torch.stack(y)


def test_nuclei():
    task = open_task(real("nuclei"))
    assert (len(task.train), len(task.validation), len(task.test)) == (360, 40, 120)
    assert task.example_input.shape == task.example_truth.shape == (1, 1, 128, 128)
    assert task.normalization.raw == "uint8 / 255"
    x, _ = whole(task.train)
    assert x.mean().item() == pytest.approx(0, abs=1e-3)
    assert x.std().item() == pytest.approx(1, abs=1e-3)
    _, truth = whole(task.test)
    assert truth.float().mean().item() == pytest.approx(0.138, abs=5e-4)  # as its README states


def test_ecg():
    task = open_task(real("ecg"))
    assert (len(task.train), len(task.validation), len(task.test)) == (856, 95, 240)
    assert task.example_input.shape == (1, 1, 1024)
    assert task.example_truth.shape == (1, 3, 1024)
    _, truth = whole(task.test)
    assert truth.float().mean((0, 2)).tolist() == pytest.approx([0.108, 0.114, 0.210], abs=5e-4)
    assert (truth[:, 0].sum(-1) == 0).sum() == 24


def test_spoken_digits():
    task = open_task(f"{real('spoken_digits')}?group=speaker")  # a speaker of its own validates, as another one tests
    assert (len(task.train), len(task.validation), len(task.test)) == (1000, 250, 500)
    assert (task.kind, len(task.class_names)) == ("classification", 10)
    assert task.example_input.shape == (1, 1, 8000)
    _, labels = whole(task.test)
    assert torch.equal(labels.bincount(), torch.full((10,), 50))

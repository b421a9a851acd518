"""Commands on data without labels: calibrated, and trained by imitation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from program import call

from torchshrink import checkpoint

pytestmark = pytest.mark.slow

MODULE = """
import torch
from torch import nn
from torchshrink.task import Normalization, Task


def data():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(28, 1, 8, 8, generator=generator)
    parts = [[(x, torch.empty(0)) for x in part] for part in inputs.split((16, 4, 8))]
    return Task("sounds", *parts, Normalization((0.0,), (1.0,)), kind="unlabelled")


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))
"""


def test_a_model_imitates_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unlabelled_data.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "unlabelled_data", raising=False)
    shared = ("--data", "unlabelled_data:data", "--model", "unlabelled_data:net", "--json")
    refused = call("train", "--out", "trained.safetensors", "--epochs", "1", *shared)
    assert refused.code == 3
    assert "task 'sounds' has no labels to be trained with: imitate a trained model" in refused.stderr
    import unlabelled_data  # type: ignore[import-not-found]

    checkpoint.save(unlabelled_data.net(), tmp_path / "dense.safetensors", {})
    found = {}
    for name, command in {
        "untrained": ("prune", "dense.safetensors", "--amount", "0.5", "--epochs", "0"),
        "pruned": ("prune", "dense.safetensors", "--amount", "0.5", "--epochs", "6", "--schedule", "one_shot"),
        "ptq": ("ptq", "dense.safetensors"),
        "qat": ("qat", "dense.safetensors", "--epochs", "1"),
    }.items():
        result = call(*command, "--out", f"{name}.safetensors", *shared)
        assert result.code == 0, result.stderr
        found[name] = result.json["distance"]
    assert 0 < found["pruned"] < 0.9 * found["untrained"]  # it learned from what it was
    assert 0 < found["ptq"] < 0.1
    assert 0 < found["qat"] < 0.1
    assert torch.count_nonzero(checkpoint.load(tmp_path / "pruned.safetensors", unlabelled_data.net)[0].weight) > 0

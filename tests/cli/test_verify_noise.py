"""``torchshrink verify`` says how far the int8 graph itself is from the model that it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from program import call

from torchshrink import checkpoint, quantize
from torchshrink.cli import console
from torchshrink.converters import to_onnx
from torchshrink.data import open_task
from torchshrink.model.unet import UNet

DATA = "synthetic:cells?size=16&train=8&test=4"


def test_the_graph_against_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0)
    task = open_task(DATA)
    torch.manual_seed(0)
    prepared = quantize.prepare_ptq(UNet(widths=(4, 8)).eval(), task.example_input)
    quantize.calibrate(prepared, [torch.rand(4, 1, 16, 16)])
    graph = quantize.convert(prepared)
    graph.meta["noise"][-1] |= {"snr_db": 9.0, "reason": "something", "cure": "a cure"}
    checkpoint.save(graph, tmp_path / "m.safetensors", task.metadata)
    to_onnx(graph, task.example_input, tmp_path / "m.onnx", "int8")
    arguments: tuple[Any, ...] = (
        "verify",
        tmp_path / "m.onnx",
        "--against",
        tmp_path / "m.safetensors",
        "--data",
        DATA,
    )
    found = call(*arguments, "--json").json["parity"]
    assert found["graph_db"] == 9.0
    assert found["graph_noise"] == graph.meta["noise"]
    shown = call(*arguments)
    for line in ("20% (1/5) compute in PyTorch and in the file's runtime", "80% (4/5) compare the scales"):
        assert line in shown.stderr
    assert "the int8 graph against its module: signal to noise output 9.0 dB; least in " in shown.stdout
    assert "warning: the int8 graph is far from its module: output 9.0 dB" in shown.stderr

"""Graphs of which onnx2tf mistakes a side, converted by litert-torch where that is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from torchshrink import quantize
from torchshrink.converters import environment, qdq, second_road, tflite, tflite_file
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import verify
from torchshrink.errors import ConversionError


class Attention(nn.Module):
    """Of as many tokens as features, whose scores get something added to them."""

    def __init__(self) -> None:
        super().__init__()
        self.mixed, self.end = nn.Linear(16, 48), nn.Linear(16, 16)
        self.register_buffer("mask", torch.linspace(-1, 1, 16))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (part.unflatten(2, (4, 4)).transpose(1, 2) for part in self.mixed(x).chunk(3, -1))
        scores = (query @ key.transpose(-1, -2) + self.mask).softmax(-1)
        result: Tensor = self.end((scores @ value).transpose(1, 2).flatten(2))
        return result


def test_a_module_takes_and_gives_channels_last_and_ends_keep_their_names(unet2d: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    images = torch.randn(1, 3, 5, 6)
    program, (given,) = second_road._exported(export(model, images), "m", [images])
    assert given.shape == (1, 5, 6, 3)
    assert torch.allclose(program.module()(given), model(images).movedim(1, -1), atol=1e-6)
    made = tflite_file.read(unet2d.path("tflite-fp32"))
    second_road._name_ends(made, ["photo"], ["mask"])
    graph, (signature,) = made.subgraphs[0], made.signatureDefs
    assert [graph.tensors[index].name for index in (*graph.inputs, *graph.outputs)] == ["photo", "mask"]
    assert [entry.name for entry in (*signature.inputs, *signature.outputs)] == ["photo", "mask"]
    assert len({tensor.name for tensor in graph.tensors}) == len(graph.tensors)


def test_what_litert_torch_says_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'no such lowering' >&2\nexit 1\n")
    python.chmod(0o700)
    monkeypatch.setenv(environment.SECOND_VARIABLE, str(python))
    model = export(nn.Linear(2, 3).eval(), torch.randn(1, 2))
    with pytest.raises(ConversionError, match=r"litert-torch could not convert m\.onnx \(no such lowering\)"):
        second_road.convert(model, "m.onnx", tmp_path / "model_float32.tflite")


@pytest.mark.skipif(environment.SECOND_VARIABLE not in os.environ, reason="needs litert-torch")
@pytest.mark.exhaustive
def test_attention_is_int_with_its_ranges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Attention().eval(), torch.randn(16, 16, 16)
    prepared = quantize.prepare_ptq(model, inputs)
    quantize.calibrate(prepared, [inputs])
    graph = quantize.convert(prepared)
    floats, ranges = qdq.split(export(graph, inputs))
    source, path = tmp_path / "int8.onnx", tmp_path / "int8.tflite"
    save(floats, source)
    with tflite.float_files([source]) as (files,):
        assert files.road == "litert-torch"
        match = tflite.write(files, source, path, "int8", ranges).match
    assert match is not None
    assert match.share == 1.0
    parity = verify.verify(path, graph, torch.randn(4, 16, 16), "int8", "graph")
    assert parity.passed, parity.reason
    assert find_islands(path) == ()
    assert np.isfinite(parity.max_abs)

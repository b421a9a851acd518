"""GELU, exported in pieces, becomes one operation; what only looks like it does not."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from torchshrink.converters import runtimes
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.float_tflite import fuse
from torchshrink.converters.onnx_file import save


class Wrong(nn.Module):
    """The exact GELU with another divisor."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / 2.0))


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.mark.parametrize("kind", ["none", "tanh"])
def test_one_operation_that_computes_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.onnx"
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(kind), nn.Conv2d(4, 2, 1))
    inputs = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    save(export(model, inputs), path)
    assert "Gelu" not in kinds(path)
    fuse.gelu(path)
    assert kinds(path) == ["Conv", "Gelu", "Conv"]
    found = runtimes.onnx_values(onnx.load(str(path)), set(), inputs.numpy())["output"]
    assert np.abs(found - model(inputs).detach().numpy()).max() < 1e-5


def test_what_only_looks_like_it_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    save(export(Wrong(), torch.randn(1, 4)), path)
    before = path.read_bytes()
    fuse.gelu(path)
    assert path.read_bytes() == before

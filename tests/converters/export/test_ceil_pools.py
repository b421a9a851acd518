"""Pools with ceil_mode, and others that torch.onnx has wrong or not at all, in ONNX Runtime, against PyTorch."""

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from torchshrink.converters import to_onnx

IMAGE, SIGNAL = torch.randn(1, 2, 15, 16), torch.randn(1, 2, 16)
POOLS = {
    "average": (nn.AvgPool2d(3, 2, padding=1, ceil_mode=True), IMAGE),
    "no padding": (nn.AvgPool2d(3, 2, ceil_mode=True), IMAGE),
    "padding that does not count": (nn.AvgPool2d(3, 2, padding=1, ceil_mode=True, count_include_pad=False), IMAGE),
    "a window behind the data": (nn.AvgPool2d(2, 4, padding=1, ceil_mode=True), IMAGE),
    "signal": (nn.AvgPool1d(3, 2, padding=1, ceil_mode=True), SIGNAL),
    "maximum": (nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), IMAGE),
    "maximum behind the data": (nn.MaxPool2d(2, 4, padding=1, ceil_mode=True), IMAGE),
    "maximum of a signal, dilated": (nn.MaxPool1d(2, 3, padding=1, dilation=2, ceil_mode=True), SIGNAL),
    "a divisor": (nn.AvgPool2d((3, 2), 2, padding=1, divisor_override=5), IMAGE),
    "a divisor, over the end": (nn.AvgPool2d(3, 2, padding=(0, 1), ceil_mode=True, divisor_override=2), IMAGE),
    "adaptive maximum": (nn.AdaptiveMaxPool2d((4, 16)), IMAGE),
    "adaptive maximum of a signal": (nn.AdaptiveMaxPool1d(5), SIGNAL),
    "circular padding": (nn.CircularPad2d((1, 2, 0, 3)), IMAGE),
    "circular padding of a signal": (nn.CircularPad1d((0, 2)), SIGNAL),
}


@pytest.mark.parametrize("name", POOLS)
def test_windows_are_those_of_pytorch(name: str, tmp_path: Path) -> None:
    pool, sample = POOLS[name]
    path = to_onnx(nn.Sequential(nn.Sigmoid(), pool), sample, tmp_path / "m.onnx")
    assert b"wrap" not in path.read_bytes()  # a mode of Pad since opset 19
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"input": sample.numpy()})[0])
    torch.testing.assert_close(found, pool(sample.sigmoid()))

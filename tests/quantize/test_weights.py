"""Weights in a form that every processor adds up right: no two neighbours beyond 16 bits."""

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from torchshrink import quantize
from torchshrink.converters import to_onnx
from torchshrink.quantize.observer import largest
from torchshrink.sensitivity import weight_noise_db

# The neighbours of a kernel of [outputs, 3 inputs, 2 positions], as [input, position]: all inputs of a position first.
ORDER = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]


def by_hand(weight: Tensor) -> list[float]:
    """Largest magnitude of a weight, or of a sum of two neighbours, of each output channel of [O, 3, 2]."""
    found = []
    for channel in weight:
        values = [float(channel[place]) for place in ORDER]
        sums = [values[i] + values[i + 1] for i in (0, 2, 4)]
        found.append(max(abs(value) for value in values + sums))
    return found


def test_the_largest_of_a_convolution() -> None:
    weight = torch.randn(16, 3, 2, generator=torch.Generator().manual_seed(0))
    assert largest(weight, 0, pairs=True).tolist() == pytest.approx(by_hand(weight))
    assert largest(weight, 0, pairs=False).tolist() == weight.abs().amax((1, 2)).tolist()


def test_the_largest_of_a_linear_layer() -> None:
    weight = torch.tensor([[1.0, 2.0, -3.0, 1.0, 2.0], [1.0, 1.0, 1.0, 2.0, 3.5]])
    assert largest(weight, 0, pairs=True).tolist() == [3.0, 3.5]


def test_the_largest_of_a_transposed_convolution() -> None:
    """Its positions do not overlap: each is a 1x1 convolution of its own, over three inputs."""
    weight = torch.zeros(3, 2, 2)  # [I, O, kernel]
    weight[:, 0, 0] = torch.tensor([1.0, 2.0, 4.0])
    weight[:, 1, 1] = torch.tensor([-2.0, -3.0, 4.0])
    assert largest(weight, 1, pairs=True).tolist() == [4.0, 5.0]


def quantized(model: nn.Module, is_qat: bool, batch: Tensor) -> torch.fx.GraphModule:
    prepared = quantize.prepare_qat(model, batch) if is_qat else quantize.prepare_ptq(model, batch)
    if is_qat:
        prepared(batch).mean().backward()
        with torch.no_grad():
            for parameter in prepared.parameters():
                if parameter.dim() > 1:  # an optimizer's last step, after the last look at the weights
                    parameter.mul_(1.5)
    else:
        quantize.calibrate(prepared, [batch])
    return quantize.convert(prepared)


@pytest.fixture
def heavy() -> nn.Module:
    """All weights positive and of one size, all activations near their upper end: every sum of two would saturate."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 5, 2, 2), nn.ReLU(), nn.Conv2d(5, 4, 1))
    with torch.no_grad():
        for layer in model[0], model[2], model[4]:
            layer.weight.copy_(0.1 + 0.01 * torch.rand_like(layer.weight))
    return model.eval()


@pytest.mark.parametrize("is_qat", [False, True], ids=["ptq", "qat"])
def test_no_sum_of_two_saturates(heavy: nn.Module, is_qat: bool, tmp_path: Path) -> None:
    batch = 0.9 + 0.1 * torch.rand(2, 3, 8, 8)
    graph = quantized(heavy, is_qat, batch)
    path = to_onnx(graph, batch[:1], tmp_path / "m.onnx", "int8")
    for item in onnx.load(path).graph.initializer:
        codes = numpy_helper.to_array(item).astype(int)
        if codes.ndim > 2 and codes.max() > 1:  # written as convolutions, the transposed one too
            rows = np.moveaxis(codes, 1, -1).reshape(len(codes), -1)
            rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2)
            assert 127 <= np.abs(rows.sum(2)).max() <= 128, item.name
    # Says more on processors without VNNI, whose kernels add in 16 bits.
    found = onnxruntime.InferenceSession(path).run(None, {"input": batch[:1].numpy()})[0]
    np.testing.assert_allclose(found, graph(batch[:1]).detach().numpy(), atol=1e-5)


def test_depthwise_weights_keep_the_whole_range() -> None:
    """Their kernels add in 32 bits on every processor."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)).eval()
    nn.init.constant_(model[0].weight, 0.5)
    graph = quantized(model, False, torch.rand(2, 4, 8, 8))
    assert max(int(buffer.max()) for buffer in graph.buffers() if buffer.dtype == torch.int8) == 127


def test_a_layer_called_twice_loads_with_more_precision(tmp_path: Path) -> None:
    """ONNX Runtime's own cure for such processors refuses weights and zero points that two nodes share."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x).relu())

    batch = torch.rand(2, 4, 8, 8)
    graph = quantized(Twice().eval(), False, batch)
    path = to_onnx(graph, batch[:1], tmp_path / "m.onnx", "int8")
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    found = onnxruntime.InferenceSession(path, options).run(None, {"input": batch[:1].numpy()})[0]
    np.testing.assert_allclose(found, graph(batch[:1]).detach().numpy(), atol=1e-5)


def test_the_room_can_be_left_out_and_has_a_price() -> None:
    """Both neighbours at full size: with room for their sum each has half of the codes, so twice the step: 6 dB."""
    layer = nn.Conv2d(64, 64, 1, bias=False)
    with torch.no_grad():
        layer.weight.uniform_(0.9, 1.0)
    model = nn.Sequential(layer).eval()
    batch = torch.rand(2, 64, 8, 8)
    prepared = quantize.prepare_ptq(model, batch, portable=False)
    quantize.calibrate(prepared, [batch])
    graph = quantize.convert(prepared)
    assert max(int(buffer.max()) for buffer in graph.buffers() if buffer.dtype == torch.int8) == 127
    with_room, without = (weight_noise_db([layer], portable) for portable in (True, False))
    assert without - with_room == pytest.approx(6, abs=1)


def test_no_noise_at_all() -> None:
    layer = nn.Conv2d(1, 1, 1, bias=False)
    assert weight_noise_db([layer]) > 60
    nn.init.zeros_(layer.weight)
    assert weight_noise_db([layer]) == math.inf

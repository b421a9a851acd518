"""Multiply-accumulates and parameters against numbers worked out by hand."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from torchshrink.model.macs import count_macs, count_parameters

CASES = [
    # out pixels * kernel * in channels / groups * out channels
    ("conv2d", nn.Conv2d(3, 8, 3, padding=1), (3, 10, 12), 10 * 12 * 9 * 3 * 8),
    ("conv2d, stride and groups", nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4), (4, 10, 12), 5 * 6 * 9 * 1 * 8),
    ("conv1d, dilated", nn.Conv1d(2, 5, 7, padding=3, dilation=1), (2, 50), 50 * 7 * 2 * 5),
    # IN pixels: every input value meets every weight of its channel once
    ("transposed 2d", nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 5, 7), 5 * 7 * 4 * 4 * 6),
    ("transposed 2d, groups", nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (4, 5, 7), 5 * 7 * 9 * 4 * 3),
    ("transposed 1d", nn.ConvTranspose1d(4, 2, 2, stride=2), (4, 9), 9 * 2 * 4 * 2),
    ("linear", nn.Linear(10, 4), (10,), 40),
    ("linear on a sequence", nn.Linear(10, 4, bias=False), (7, 10), 7 * 40),
    # 4 gates, each with a product of the input and one of the state, at 5 steps
    ("lstm", nn.LSTM(4, 6, batch_first=True), (5, 4), 5 * 4 * (4 * 6 + 6 * 6)),
    ("lstm, both ways", nn.LSTM(4, 6, batch_first=True, bidirectional=True), (5, 4), 2 * 5 * 4 * (4 * 6 + 6 * 6)),
    # per token: query, key and value, output, two feed-forward layers; then scores and mixing
    (
        "transformer",
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
        (5, 8),
        5 * (3 * 64 + 64 + 2 * 8 * 16) + 2 * 5 * 5 * 8,
    ),
    ("nothing to multiply", nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)), (3, 4, 4), 0),
]


@pytest.mark.parametrize(("module", "size", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_macs_by_hand(module: nn.Module, size: tuple[int, ...], expected: int) -> None:
    assert count_macs(module, torch.zeros(1, *size)) == expected
    assert count_macs(module, torch.zeros(3, *size)) == expected  # of one sample, whatever the batch


def test_counting_changes_nothing() -> None:
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Dropout().eval())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    count_macs(model, torch.randn(1, 3, 4, 4))
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled() == fast


def test_exported_graph_counts_like_its_module() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()).eval()
    sample = torch.zeros(1, 1, 8, 8)
    graph = torch.export.export(model, (sample,)).module()
    assert count_macs(graph, sample) == 36 * 9 * 2


def test_parameters_are_counted_without_buffers() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    nn.init.ones_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    assert count_parameters(model) == (54 + 3 + 6, 54 + 3)  # a BatchNorm starts with weights 1 and biases 0


def test_masked_weights_are_zero() -> None:
    layer = nn.Linear(10, 10, bias=False)
    nn.init.ones_(layer.weight)
    prune.random_unstructured(layer, "weight", 80)
    assert count_parameters(layer) == (100, 20)


def test_shared_and_integer_parameters() -> None:
    layer = nn.Linear(4, 4, bias=False)
    nn.init.ones_(layer.weight)
    other = nn.Linear(4, 4, bias=False)
    other.weight = layer.weight
    model = nn.Sequential(layer, other)
    model.register_parameter("steps", nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False))
    assert count_parameters(model) == (16, 16)

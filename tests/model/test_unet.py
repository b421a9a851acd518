"""The U-Net: its size, its shapes, and what it refuses."""

from typing import Any

import pytest
import torch

from torchshrink.errors import ModelError
from torchshrink.model.unet import UNet


def level(inside: int, width: int, taps: int) -> int:
    """Weights of two convolutions without bias and two BatchNorms with scale and shift."""
    return taps * (inside * width + width * width) + 4 * width


# Encoder 1-16-32-64-128, decoder over the concatenations 128, 64, 32, head 16 -> 1 with bias.
LEVELS = sum(
    level(*channels, 9) for channels in ((1, 16), (16, 32), (32, 64), (64, 128), (128, 64), (64, 32), (32, 16))
)
HEAD = 16 + 1


def ups(taps: int) -> int:
    return sum(taps * below * width + width for below, width in ((128, 64), (64, 32), (32, 16)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, LEVELS + ups(4) + HEAD),  # 2x2 transposed convolutions
        ({"dims": 1}, LEVELS + ups(2) + HEAD),  # nine taps in one dimension as well, transposed ones have two
        ({"up": "nearest"}, LEVELS + ups(9) + HEAD),
    ],
)
def test_parameter_count(settings: dict[str, Any], expected: int) -> None:
    found = sum(parameter.numel() for parameter in UNet(**settings).parameters())
    assert found == expected
    assert 450_000 <= found <= 550_000


@pytest.mark.parametrize("up", ["transpose", "nearest"])
@pytest.mark.parametrize(("dims", "size"), [(2, (8, 20)), (1, (28,))])
def test_output_is_a_probability_of_the_inputs_size(dims: int, size: tuple[int, ...], up: Any) -> None:
    model = UNet(in_channels=3, out_channels=2, widths=(4, 6, 8), dims=dims, up=up)
    output = model(10 * torch.randn(2, 3, *size))
    assert output.shape == (2, 2, *size)
    assert output.min() >= 0
    assert output.max() <= 1


def test_channels_are_independent_probabilities() -> None:
    model = UNet(out_channels=2, widths=(2, 4))
    torch.nn.init.zeros_(model.head.weight)
    model.head.bias.data = torch.tensor([0.0, 4.0])
    output = model(torch.randn(1, 1, 4, 4))
    assert torch.allclose(output[:, 0], torch.tensor(0.5))
    assert torch.allclose(output[:, 1], torch.tensor(0.98201379))  # 1 / (1 + exp(-4)); a softmax would give sum 1


@pytest.mark.parametrize("up", ["transpose", "nearest"])
def test_gradient_reaches_every_parameter(up: Any) -> None:
    model = UNet(widths=(4, 8, 8), up=up)
    (model(torch.randn(4, 1, 16, 16)) * torch.randn(4, 1, 16, 16)).sum().backward()
    # A bias right before a BatchNorm has no influence; there is none, convolutions there are made without.
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.parametrize(("dims", "size"), [(2, (16, 18)), (2, (18, 16)), (1, (30,))])
def test_sides_must_divide(dims: int, size: tuple[int, ...]) -> None:
    model = UNet(widths=(2, 2, 2), dims=dims)
    with pytest.raises(ModelError) as caught:
        model(torch.zeros(1, 1, *size))
    assert str(size) in str(caught.value)
    assert "do not divide by 4" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dims": 3}, "dims=3"),
        ({"dims": 0}, "dims=0"),
        ({"up": "bilinear"}, "up='bilinear'"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"out_channels": -1}, "out_channels=-1"),
        ({"widths": (4,)}, r"widths=\[4\].*at least two levels"),
        ({"widths": ()}, r"widths=\[\]"),
        ({"widths": (4, 0)}, r"widths=\[4, 0\]"),
        ({"kernel_size": 4}, "kernel_size=4"),
        ({"kernel_size": -3}, "kernel_size=-3"),
    ],
)
def test_contradicting_arguments(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        UNet(**settings)


def test_config_rebuilds_the_model() -> None:
    model = UNet(2, 3, (4, 8), dims=1, up="nearest", kernel_size=5)
    again = UNet(**model.config)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }
    assert again.encoder[0][0].kernel_size == (5,)

"""Parts of tensors that are changed in place: eager PyTorch says what is computed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchshrink import quantize
from torchshrink.errors import ModelError
from torchshrink.model import graphs


class Changed(nn.Module):
    """A convolution, then a function that changes ``[N, 4, 6, 8]`` in place."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.function = nn.Conv2d(2, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.first(x))


def numbers(y: Tensor) -> Tensor:
    y[:, 0] = 0
    y[:, 1:3, 2] = 5
    y[:, :, -1, 1:-1] = -1
    return y


def values(y: Tensor) -> Tensor:
    y[:, :2] = y[:, 2:] + 1
    y[:, 3, :, 0] = y[:, 0, :, 1]
    return y


def two_in_a_row(y: Tensor) -> Tensor:
    part = y[:, 1]
    part.mul_(2).add_(1)
    part.sub_(3)
    return y + part.unsqueeze(1)


def seen_before(y: Tensor) -> tuple[Tensor, Tensor]:
    part, turned = y[:, 1:3], y.transpose(2, 3)
    y.relu_()
    y[:, 2] += 1
    return part * 2, turned + y.transpose(2, 3)


def through_other_views(y: Tensor) -> Tensor:
    y.view(-1, 4, 48)[:, :, 5] = 1
    y.permute(0, 2, 3, 1)[..., 3] = 2
    y.unsqueeze(1).transpose(2, 3)[:, :, 0].zero_()
    return y


def rotated(y: Tensor) -> Tensor:
    made = torch.zeros_like(y)
    made[:, ::1, :3] = y[:, :, 3:]
    made[:, :, 3:] = y[:, :, :3]
    return made


def masked(y: Tensor) -> Tensor:
    y[y < 0] = 0
    return y.flatten(1)


def twice(y: Tensor) -> Tensor:
    y[:] = 2
    y[:, 0] = 1
    return y


def mask(y: Tensor) -> Tensor:
    made = y.new_zeros(6, 8)
    made[:3, 4:] = 1
    made[3:] = 2
    return y + made


def around_a_skip(y: Tensor) -> Tensor:
    early = y * 2
    late = nn.functional.relu6(y, inplace=True)
    part = late[:, :2]
    nn.functional.silu(late, inplace=True)
    return early + y + late + part.repeat(1, 2, 1, 1)


def deeper_than_read(y: Tensor) -> Tensor:
    unread = nn.functional.relu6(nn.functional.avg_pool2d(y, 2), inplace=True)
    nn.functional.hardswish(nn.functional.max_pool2d(unread, 2), inplace=True).add_(1)[:, 1].clamp_(0, 1)
    return y * 2


FUNCTIONS = [
    numbers,
    values,
    two_in_a_row,
    seen_before,
    through_other_views,
    rotated,
    masked,
    twice,
    mask,
    around_a_skip,
    deeper_than_read,
]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_graph_that_was_written_out_computes_what_the_module_does(function: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    model = Changed(function).eval()
    graph = quantize.capture(model, torch.randn(2, 2, 6, 8))
    again = graphs.from_json(*graphs.to_json(graph))
    inputs = torch.randn(3, 2, 6, 8)  # another batch size
    expected = model(inputs)
    torch.testing.assert_close(again(inputs), expected if isinstance(expected, Tensor) else list(expected))


def test_a_constant_of_the_code_is_no_change() -> None:
    model, inputs = (
        Changed(lambda y: y * torch.tensor([1.0, 0.5, 2.0, 3.0])[:, None, None]).eval(),
        torch.randn(8, 2, 6, 8),
    )
    prepared = quantize.prepare_ptq(model, inputs)
    quantize.calibrate(prepared, [inputs])
    assert (quantize.convert(prepared)(inputs) - model(inputs)).abs().max() < 0.1


@pytest.mark.parametrize("prepare", [quantize.prepare_ptq, quantize.prepare_qat])
def test_a_quantized_graph_keeps_the_change(prepare: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    model, inputs = Changed(numbers).eval(), torch.randn(8, 2, 6, 8)
    prepared = prepare(model, inputs)
    prepared(inputs)
    found, expected = quantize.convert(prepared)(inputs), model(inputs)
    assert (found[:, 0, :-1] == 0).all()
    assert (found - expected).abs().max() < 0.05


@pytest.mark.parametrize(
    "function", [lambda y: (y[:, ::2].zero_(), y)[1], lambda y: (y.detach().chunk(2, 1)[0].zero_(), y)[1]]
)
def test_what_cannot_be_written_so_is_refused(function: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ModelError, match=r"changed in place.*torch\.cat or torch\.where"):
        quantize.capture(Changed(function), torch.randn(2, 2, 6, 8))


def test_a_file_does_not_lose_a_change() -> None:
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch.ops.aten.relu_.default, (x,))
    graph.output(x)
    with pytest.raises(ModelError, match=r"'relu_.*changes a tensor in place"):
        graphs.to_json(torch.fx.GraphModule(nn.Module(), graph))

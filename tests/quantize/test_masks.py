"""Masks of zeros are left out of a graph; others, and zeros that may become something, stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchshrink import quantize


class Attention(nn.Module):
    """Scores of tokens with each other, to which something is added: what ``made`` returns, or what it names."""

    def __init__(self, made: Callable[[Tensor], Tensor] | str) -> None:
        super().__init__()
        self.key, self.made = nn.Linear(8, 8), made
        self.register_buffer("buffer", torch.zeros(6, 6))
        self.parameter = nn.Parameter(torch.zeros(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        mask = getattr(self, self.made) if isinstance(self.made, str) else self.made(x)
        result: Tensor = torch.softmax(x @ self.key(x).transpose(1, 2) + mask, -1) @ x
        return result


def nobody(x: Tensor) -> Tensor:
    places = torch.arange(x.shape[1])
    seen = (places[:, None] >= 0).expand(x.shape[0], 1, -1, x.shape[1])[:, 0]
    return torch.where(seen, torch.zeros(()), torch.finfo(torch.float32).min)


def later(x: Tensor) -> Tensor:
    return torch.full((x.shape[1], x.shape[1]), -1e9).triu(1)


def of_values(x: Tensor) -> Tensor:
    return torch.where((x.sum(-1) != 0)[:, None], 0.0, -1e9)


def added(model: nn.Module) -> int:
    graph = quantize.capture(model.eval(), torch.randn(2, 6, 8))
    return sum(str(node.target).startswith("aten.add.") for node in graph.graph.nodes)


@pytest.mark.parametrize(("made", "count"), [(nobody, 0), (later, 1), (of_values, 1), ("buffer", 1), ("parameter", 1)])
def test_a_mask_that_hides_nothing_is_left_out(made: Callable[[Tensor], Tensor] | str, count: int) -> None:
    assert added(Attention(made)) == count


def test_attention_without_padding_is_int_throughout() -> None:
    inputs = torch.randn(16, 6, 8)
    prepared = quantize.prepare_ptq(Attention(nobody).eval(), inputs)
    quantize.calibrate(prepared, [inputs])
    nodes = list(quantize.convert(prepared).graph.nodes)
    scores = next(node for node in nodes if str(node.target) == "aten.softmax.int")
    assert "dequantize_per_tensor" in str(scores.args[0].target)

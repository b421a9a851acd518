"""Embedding bags compute what PyTorch's own kernel computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from torchshrink import quantize
from torchshrink.errors import ModelError

IDS = torch.tensor([[1, 0, 3, 3], [0, 0, 2, 5], [0, 0, 0, 0]])


class Bag(nn.Module):
    def __init__(self, mode: str, padding: int | None, is_weighted: bool) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(6, 8, mode=mode, padding_idx=padding)
        self.out, self.is_weighted = nn.Linear(8, 3), is_weighted
        nn.init.normal_(self.bag.weight)  # the row of the padding too

    def forward(self, ids: Tensor) -> Tensor:
        weights = 0.5 + 0.1 * ids if self.is_weighted else None
        found: Tensor = self.out(self.bag(ids, per_sample_weights=weights))
        return found


@pytest.mark.parametrize(
    ("mode", "padding", "is_weighted"),
    [("sum", None, False), ("sum", 0, True), ("mean", None, False), ("mean", 0, False), ("max", None, False)],
)
def test_a_bag_is_written_out(mode: str, padding: int | None, is_weighted: bool) -> None:
    torch.manual_seed(0)
    model = Bag(mode, padding, is_weighted).eval()
    graph = quantize.capture(model, IDS)
    assert not any("embedding_bag" in str(node.target) for node in graph.graph.nodes)
    torch.testing.assert_close(graph(IDS), model(IDS))


def test_a_bag_is_calibrated() -> None:
    torch.manual_seed(0)
    model = Bag("mean", 0, False).eval()
    prepared = quantize.prepare_ptq(model, IDS)
    quantize.calibrate(prepared, [IDS])
    graph = quantize.convert(prepared)
    assert (graph(IDS) - model(IDS)).square().sum() < 1e-3 * model(IDS).square().sum()


def test_ragged_bags_are_refused_before_any_data_is_seen() -> None:
    class Ragged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.EmbeddingBag(6, 8)

        def forward(self, ids: Tensor) -> Tensor:
            found: Tensor = self.words(ids.flatten(), 2 * torch.arange(ids.shape[0]))
            return found

    with pytest.raises(
        ModelError, match=r"operation aten.embedding_bag.padding_idx of layer 'words' cannot be written"
    ):
        quantize.prepare_ptq(Ragged(), IDS)

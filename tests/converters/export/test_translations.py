"""torch.onnx's translations are read once, and are those of every export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from onnxscript._framework_apis import torch_2_5
from onnxscript.rewriter._basics import MatchResult
from onnxscript.rewriter._matcher import SimplePatternMatcher
from torch import Tensor, nn
from torch._export import utils
from torch.nn import functional as F
from torch.onnx._internal.exporter._registration import ONNXRegistry

from torchshrink.converters.export import translations
from torchshrink.converters.export.to_onnx import export
from torchshrink.errors import ModelError
from torchshrink.quiet import quiet


def test_they_are_read_once_and_every_export_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model, image = nn.Sequential(nn.Conv2d(1, 2, 3), nn.PixelUnshuffle(2)).eval(), torch.zeros(1, 1, 6, 6)
    before = vars(ONNXRegistry)["from_torchlib"]
    first = export(model, image)
    monkeypatch.setattr(torch_2_5, "get_torchlib_ops", lambda: pytest.fail("read again"))
    assert export(model, image) == first
    assert vars(ONNXRegistry)["from_torchlib"] is before
    custom = {name for known in translations._read.values() for name, functions in known.functions.items()
              if any(function.is_custom for function in functions)}  # fmt: skip
    assert custom == set()


def test_operations_are_listed_once_in_an_export(monkeypatch: pytest.MonkeyPatch) -> None:
    lists: list[None] = []
    listing = utils._materialize_cpp_cia_ops
    monkeypatch.setattr(utils, "_materialize_cpp_cia_ops", lambda: lists.append(listing()))
    export(nn.ReLU(), torch.zeros(1, 2))
    assert len(lists) == 1


def test_an_export_that_fails_leaves_torch_as_it_was() -> None:
    before = vars(ONNXRegistry)["from_torchlib"], utils._materialize_cpp_cia_ops
    with pytest.raises(RuntimeError, match="a reason"), translations.read_once():
        raise RuntimeError("a reason")
    assert (vars(ONNXRegistry)["from_torchlib"], utils._materialize_cpp_cia_ops) == before


def test_a_pattern_is_tried_on_what_it_ends_with_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def match(self: Any, _model: Any, _graph: Any, node: Any, **_: Any) -> MatchResult:
        tried.append((self.pattern.output_nodes[0].op_identifier(), node.op_identifier()))
        return MatchResult().fail("")

    monkeypatch.setattr(SimplePatternMatcher, "match", match)
    with translations.read_once(), quiet():
        torch.onnx.export(nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval(), (torch.zeros(1, 2),), dynamo=True)
    assert any(last == found for last, found in tried)
    assert all(last in (None, found) for last, found in tried)
    assert SimplePatternMatcher.match is match


class _Attention(nn.Module):
    """One head, and no axis for heads."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.project, self.settings = nn.Linear(8, 24), settings

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.project(x).chunk(3, -1), **self.settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"is_causal": True},
        {"attn_mask": torch.ones(5, 5).tril() > 0, "scale": 0.3},
        {"attn_mask": torch.arange(25.0).reshape(5, 5)},
    ],
    ids=["plain", "causal", "mask", "bias"],
)
def test_attention_of_one_head(settings: dict[str, Any]) -> None:
    """`export` holds what it made against the module."""
    assert "MatMul" in {node.op_type for node in export(_Attention(**settings), torch.randn(2, 5, 8)).graph.node}


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 0.5)


def test_limits_of_a_whole_number_and_a_fraction() -> None:
    assert "Clip" in {node.op_type for node in export(_Clamp(), torch.randn(2, 5)).graph.node}


class _Forgets(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=True)


def test_dropout_that_is_never_switched_off_is_random() -> None:
    with pytest.raises(ModelError, match="draws random numbers in evaluation too \\(Dropout\\)"):
        export(_Forgets(), torch.randn(2, 5))

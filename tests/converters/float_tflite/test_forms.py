"""Operations in other words: the same values, and what only looks like them stays."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from torch import Tensor, nn

from torchshrink import bench
from torchshrink.converters import tflite
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.float_tflite import forms
from torchshrink.converters.onnx_file import save


class Wrong(nn.Module):
    """The exact GELU with another divisor."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (0.5 * (1 + torch.erf(x / 2.0)))


class Shifted(nn.Module):
    """Adds a mask that is written in ``forward``, as Swin's windows that are shifted do."""

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros(6, 6)
        mask[:3, 3:] = 1
        mask[4:, :] = 2
        difference = mask.reshape(1, 1, 36) - mask.reshape(1, 36, 1)
        return x + difference.masked_fill(difference != 0, -100.0)


class Normalized(nn.Module):
    """Rows of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.head(x), dim=1)


def kinds(model: ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


# --- GELU ---


@pytest.mark.parametrize("kind", ["none", "tanh"])
def test_gelu_becomes_one_operation(kind: str, run_onnx: Callable[..., NDArray[Any]]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(kind), nn.Conv2d(4, 2, 1))
    inputs = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    exported = export(model, inputs)
    assert "Gelu" not in kinds(exported)
    fused = forms.fuse_gelu(exported)
    assert kinds(fused) == ["Conv", "Gelu", "Conv"]
    assert len(fused.graph.initializer) == 4
    assert np.abs(run_onnx(fused, inputs.numpy()) - model(inputs).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize(
    ("kind", "number"), [("Div", np.float32(math.sqrt(2))), ("Mul", np.float32([math.sqrt(0.5)]))], ids=["/", "*"]
)
def test_gelu_in_any_order(onnx_model: Any, kind: str, number: Any, is_swapped: bool) -> None:
    def node(kind: str, one: str, other: str, output: str) -> onnx.NodeProto:
        return helper.make_node(kind, [other, one] if is_swapped and kind != "Div" else [one, other], [output])

    nodes = [node(kind, "x", "number", "a"), helper.make_node("Erf", ["a"], ["b"]), node("Add", "b", "one", "c"),
             node("Mul", "half", "c", "d"), node("Mul", "d", "x", "y")]  # fmt: skip
    constants = {"number": number, "one": np.float32(1), "half": np.float32(0.5)}
    fused = forms.fuse_gelu(onnx_model(nodes, {"x": (1, 4)}, {"y": (1, 4)}, constants))
    assert kinds(fused) == ["Gelu"]
    assert list(fused.graph.node[0].input) + list(fused.graph.node[0].output) == ["x", "y"]


def test_what_only_looks_like_gelu_stays() -> None:
    exported = export(Wrong(), torch.randn(1, 4))
    before = exported.SerializeToString()
    assert forms.fuse_gelu(exported) is exported
    assert exported.SerializeToString() == before


# --- constants and norms ---


def test_operations_on_constants_are_folded(run_onnx: Callable[..., NDArray[Any]]) -> None:
    inputs = torch.randn(1, 36, 36, generator=torch.Generator().manual_seed(0))
    folded = forms.fold_constants(export(Shifted(), inputs))
    assert kinds(folded) == ["Add"]
    assert np.array_equal(run_onnx(folded, inputs.numpy()), Shifted()(inputs).numpy())


def test_inputs_with_default_values_are_not_folded(onnx_model: Any) -> None:
    nodes = [helper.make_node("Neg", ["number"], ["n"]), helper.make_node("Mul", ["x", "n"], ["y"])]
    model = onnx_model(nodes, {"x": (1, 3), "number": (1, 3)}, {"y": (1, 3)}, {"number": np.ones((1, 3), np.float32)})
    assert forms.fold_constants(model) is model
    del model.graph.input[1]
    assert kinds(forms.fold_constants(model)) == ["Mul"]


def test_what_is_not_folded_is_not_spoken_of(
    onnx_model: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [
        helper.make_node("Split", ["number"], ["a", "b"], num_outputs=2),
        helper.make_node("Mul", ["x", "a"], ["m"]),
        helper.make_node("Mul", ["m", "b"], ["y"]),
    ]
    model = onnx_model(nodes, {"x": (1, 3)}, {"y": (1, 3)}, {"number": np.ones((2, 3), np.float32)})
    assert forms.fold_constants(model) is model
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_norms_are_roots_of_sums(run_onnx: Callable[..., NDArray[Any]]) -> None:
    model, inputs = Normalized(), torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    exported = export(model, inputs)
    assert Counter(kinds(exported))["ReduceL2"] == 1
    split = forms.split_norms(exported)
    onnx.checker.check_model(split)
    assert Counter(kinds(split)) & Counter(("ReduceL2", "ReduceSumSquare", "Sqrt")) == Counter(
        ("ReduceSumSquare", "Sqrt")
    )
    assert np.abs(run_onnx(split, inputs.numpy()) - model(inputs).detach().numpy()).max() < 1e-6


@pytest.mark.slow
def test_masks_and_norms_in_tflite(tmp_path: Path) -> None:
    """Each of them stops onnx2tf by itself."""
    cases: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
        "mask": (Shifted(), (1, 36, 36)),
        "norm": (Normalized(), (1, 8)),
    }
    paths = [tmp_path / f"{name}.onnx" for name in cases]
    for path, (model, shape) in zip(paths, cases.values(), strict=True):
        save(export(model.eval(), torch.zeros(shape)), path)
    with tflite.float_files(paths) as files:
        for (model, shape), item in zip(cases.values(), files, strict=True):
            inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0))
            assert np.abs(bench.predict(item.fp32, inputs) - model(inputs).detach().numpy()).max() < 1e-5


# --- stacks and transposed convolutions ---


class AddedUp(nn.Module):
    """Stacks what comes of two branches, to add them up; one has a norm of groups, as in a feature pyramid."""

    def __init__(self, dim: int = 0, end: Callable[[Tensor], Tensor] = lambda stack: stack.sum(0)) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4)
        self.dim, self.end = dim, end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(torch.stack([self.norm(self.one(x)), self.two(x), x[:, :1] + self.two(x)], self.dim))


def test_tensors_stacked_for_a_sum_are_added_up(run_onnx: Callable[..., NDArray[Any]]) -> None:
    model, inputs = AddedUp().eval(), torch.randn(1, 2, 6, 8, generator=torch.Generator().manual_seed(0))
    written = forms.add_up_stacks(export(model, inputs))
    assert not {"Unsqueeze", "Concat", "ReduceSum"} & set(kinds(written))
    onnx.checker.check_model(written)
    assert np.abs(run_onnx(written, inputs.numpy()) - model(inputs).detach().numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("dim", "end"), [(0, lambda x: x.sum(1)), (0, lambda x: x.sum(0, keepdim=True).flatten(0, 1)), (2, torch.exp)]
)
def test_other_stacks_stay(dim: int, end: Callable[[Tensor], Tensor]) -> None:
    exported = export(AddedUp(dim, end).eval(), torch.randn(1, 2, 6, 8))
    before = kinds(exported)
    assert kinds(forms.add_up_stacks(exported)) == before


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(2, 3, 3, 2, 1, dilation=2), (2, 5, 6)),
        (nn.ConvTranspose2d(4, 4, (3, 2), groups=2, dilation=(2, 3)), (4, 5, 6)),
        (nn.ConvTranspose1d(2, 3, 4, 2, dilation=3), (2, 9)),
    ],
)
def test_dilated_kernels_get_zeros(
    layer: nn.Module, shape: tuple[int, ...], run_onnx: Callable[..., NDArray[Any]]
) -> None:
    inputs = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    written = forms.spread_kernels(export(layer.eval(), inputs))
    assert not [item for node in written.graph.node for item in node.attribute if item.name == "dilations"]
    assert np.abs(run_onnx(written, inputs.numpy()) - layer(inputs).detach().numpy()).max() < 1e-5

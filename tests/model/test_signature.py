"""What models take and give, and what files call it."""

import pytest
import torch
from torch import Tensor, nn

from torchshrink.errors import ModelError
from torchshrink.model import signature

A, B = torch.zeros(2, 1), torch.ones(2, 3)


class Two(nn.Module):
    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        return image + depth


class Any(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0]


def test_samples_are_cut_or_the_last_one_repeated() -> None:
    values = torch.arange(6.0).reshape(3, 2)
    assert [part.tolist() for part in signature.first((values, values[:1]), 2)] == [[[0, 1], [2, 3]], [[0, 1], [0, 1]]]
    assert signature.first(values)[0].tolist() == [[0, 1]]


def test_inputs_are_called_what_forward_calls_them() -> None:
    assert signature.input_names(Two(), 2) == ["image", "depth"]
    assert signature.input_names(Any(), 2) == ["input_0", "input_1"]
    assert signature.input_names(Two(), 1) == ["input"]


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (A, ["output"]),
        ((A,), ["output"]),
        ((A, B), ["output_0", "output_1"]),
        ({"mask": A, "edge": B}, ["mask", "edge"]),
        ({"mask": (A, B)}, ["mask_0", "mask_1"]),
    ],
)
def test_outputs(outputs: object, names: list[str]) -> None:
    assert signature.output_names(outputs) == names
    assert [id(tensor) for tensor in signature.tensors(outputs)] == [id(A), id(B)][: len(names)]


def test_something_else_than_tensors() -> None:
    with pytest.raises(ModelError, match="returns a int where a file can hold tensors only"):
        signature.output_names({"mask": A, "count": 3})

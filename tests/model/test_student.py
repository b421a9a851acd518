"""The built-in student: every shape, and what it is equal to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchshrink import checkpoint
from torchshrink.errors import ModelError, RecipeError
from torchshrink.model.blocks import stem
from torchshrink.model.student import Student

SHAPES = [
    dict(zip(("convolution", "merge", "stem", "up", "dims"), values, strict=True))
    for values in itertools.product(
        ("full", "separable", "ghost"), ("concat", "add"), ("none", "stride", "space_to_depth"),
        ("transpose", "nearest"), (1, 2),
    )
]  # fmt: skip


@pytest.mark.parametrize("convolutions", [1, 2])
def test_every_shape_answers_at_the_size_of_its_input(convolutions: int) -> None:
    for shape in SHAPES:
        model = Student(2, 3, widths=(4, 6), convolutions=convolutions, **shape)
        inputs = torch.randn(2, 2, *[16] * shape["dims"])
        assert model(inputs).shape == (2, 3, *[16] * shape["dims"]), shape
        assert model(inputs).min() >= 0
        assert model(inputs).max() <= 1


@pytest.mark.parametrize("dims", [1, 2])
def test_scores_are_one_for_each_class(dims: int) -> None:
    model = Student(1, 5, widths=(4, 8), dims=dims, stem="stride", result="scores")
    assert model(torch.randn(3, 1, *[20] * dims)).shape == (3, 5)


def test_a_space_to_depth_stem_is_what_its_name_says() -> None:
    torch.manual_seed(0)
    one = stem("space_to_depth", 1, 4, 2, 3)[0]
    assert isinstance(one, nn.Conv2d)
    weight = one.weight.detach()  # [4, 1, 6, 6], of which each phase of 2x2 is a channel of the deep input
    deep = torch.stack([weight[:, 0, row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=1)
    inputs = torch.randn(2, 1, 12, 8)
    expected = nn.functional.conv2d(nn.functional.pixel_unshuffle(inputs, 2), deep, padding=1)
    torch.testing.assert_close(one(inputs), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (3, 4), "convolution": "ghost"}, "must be even"),
        ({"widths": ()}, "levels=0"),
        ({"widths": (4,) * 9}, "at most 8"),
        ({"widths": (4, True)}, "widths"),
        ({"kernel_size": 4}, "only odd"),
        ({"convolutions": 10**9}, "at most 8"),
        ({"dims": 3}, "1-D"),
        ({"merge": "multiply"}, "'concat' or 'add'"),
    ],
)
def test_what_makes_no_network_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelError, RecipeError), match=message):
        Student(**arguments)


def test_an_input_that_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ModelError, match="divide by 4"):
        Student(widths=(4, 4), stem="stride")(torch.zeros(1, 1, 10, 10))


def test_addition_and_separable_convolutions_cost_less() -> None:
    def weights(**shape: Any) -> int:
        return sum(value.numel() for value in Student(widths=(8, 16), **shape).parameters())

    assert weights(merge="add") < weights()
    assert weights(convolution="separable") < weights(convolution="ghost") < weights()


def test_a_checkpoint_says_itself_how_it_is_built(tmp_path: Path) -> None:
    model = Student(widths=(4, 8), convolution="ghost", merge="add", stem="stride", up="nearest", dims=1).eval()
    checkpoint.save(model, tmp_path / "student.safetensors")
    loaded = checkpoint.load(tmp_path / "student.safetensors")
    inputs = torch.randn(1, 1, 32)
    assert isinstance(loaded, Student)
    assert torch.equal(loaded(inputs), model(inputs))


def test_levels_above_the_first_skip_go_on_from_below_alone() -> None:
    """Without skips, what a level makes reaches the output by way of the levels below only."""
    torch.manual_seed(0)
    inputs = torch.randn(1, 1, 16, 16)
    for merge in ("add", "concat"):
        made = Student(widths=(4, 6, 8), convolutions=1, merge=merge, skips_from=1).eval()
        seen: list[torch.Tensor] = []
        made.decoder[1].register_forward_hook(lambda _module, given, _output, seen=seen: seen.append(given[0]))
        made.ups[1].register_forward_hook(lambda _module, _given, output, seen=seen: seen.append(output))
        assert made(inputs).shape == inputs.shape
        assert torch.equal(seen[0], seen[1])  # the level takes what was doubled, and nothing else
        assert made.decoder[0][0][0].in_channels == (6 if merge == "add" else 12)
    assert "skips from level 1" in str(made)


@pytest.mark.parametrize("place", [-1, 2, True])
def test_skips_begin_at_a_level_that_there_is(place: int) -> None:
    with pytest.raises(ModelError, match="a student with 2 widths has levels 0 to 1"):
        Student(widths=(4, 8), skips_from=place)

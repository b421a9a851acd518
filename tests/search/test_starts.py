"""The candidates that a search begins with."""

import torch

from torchshrink.data.sources import open_task
from torchshrink.model.unet import UNet
from torchshrink.search.space import Resolved, Stage, shares
from torchshrink.search.starts import starts

TASK = open_task("synthetic:cells?size=32&train=40&test=8")
LAYERS = (("encoder.0.0", "encoder.0.3", "decoder.0.0", "decoder.0.3"), ("encoder.1.0", "encoder.1.3"))


def space_with(spread: float) -> Resolved:
    stages = tuple(
        Stage(name=f"stage_{index}", layers=layers, offset=(-spread, spread)) for index, layers in enumerate(LAYERS, 1)
    )
    return Resolved(
        channels=(0.1, 0.8),
        stages=stages,
        round_to=(1,),
        sparsity=(0.0, 0.8),
        pattern=("magnitude",),
        int8=("qat", "ptq"),
        kept=(),
        distillation=(0.0, 0.5),
        length=(0.5, 1.0),
        lr=(1e-3, 4e-3),
    )


def test_a_stage_that_does_nothing_goes_first() -> None:
    model = UNet(widths=(8, 16))
    with torch.no_grad():
        for index in (1, 4):  # the BatchNorms of the lower stage
            model.encoder[1][index].weight[3:] *= 1e-3
            model.encoder[1][index].bias[3:] = 0
    before = {name: value.clone() for name, value in model.state_dict().items()}
    space = space_with(0.5)
    found = starts(space, model, TASK, 2e-3)
    assert len(found) >= 3
    assert all(one["channels_stage_2"] > one["channels_stage_1"] for one in found[:3])
    removed = [sum(shares(one, space).values()) for one in found]
    assert removed == sorted(set(removed))  # more from one to the next
    assert {one["lr"] for one in found} == {2e-3}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_settings_are_within_the_space() -> None:
    space = space_with(0.1)
    for one in starts(space, UNet(widths=(8, 16)), TASK, 9.0):
        assert 0.1 <= one["channels"] <= 0.8
        assert all(-0.1 <= one[f"channels_stage_{index}"] <= 0.1 for index in (1, 2))
        assert one["lr"] == 4e-3
        assert (one["int8"], one["length"], one["distillation"], one["sparsity"]) == ("qat", 1.0, 0.0, 0.0)


def test_a_model_without_channels_to_remove() -> None:
    space = space_with(0.1).model_copy(update={"stages": ()})
    assert starts(space, UNet(widths=(8, 16)), TASK, 9.0) == []


def test_a_space_that_keeps_all_channels() -> None:
    space = space_with(0.0).model_copy(update={"channels": (0.0, 0.0)})
    assert len(starts(space, UNet(widths=(8, 16)), TASK, 2e-3)) == 1

"""The candidates that a search begins with."""

import torch
from torch import Tensor, nn

from torchshrink import prune
from torchshrink.data.sources import open_task
from torchshrink.model.unet import UNet
from torchshrink.search.space import Resolved, Stage, _stages, shares
from torchshrink.search.starts import _removed, starts

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


def test_attention_is_in_a_stage() -> None:
    """It returns more than a tensor, and its heads are no rows of one layer."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.mha = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 4, batch_first=True)
            self.wide, self.head = nn.Linear(8, 16), nn.Linear(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).transpose(1, 2)
            found: Tensor = self.head(self.wide(x + self.mha(x, x, x)[0]).relu().mean(1))
            return found

    model, example = Attention().eval(), torch.randn(1, 3, 16, 16)
    stages = _stages(model, example, {}, 0.1)
    assert sorted(layer for stage in stages for layer in stage.layers) == ["mha", "wide"]
    slim = prune.channels(model, example, amounts={"mha": 0.5, "wide": 0.25})
    removed = _removed(Resolved.model_construct(stages=stages), model, slim)
    assert removed == {stage.name: 0.25 if "wide" in stage.layers else 0.0 for stage in stages}

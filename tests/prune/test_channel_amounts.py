"""Channels removed by a share for each layer."""

import pytest
import torch
from torch import nn

from torchshrink import prune, stages
from torchshrink.errors import RecipeError
from torchshrink.model.unet import UNet
from torchshrink.task import Task
from torchshrink.training import Settings

INPUT = torch.zeros(1, 1, 16, 16)


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 2, 1))


def widths(model: nn.Module) -> list[int]:
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_every_layer_loses_its_own_share() -> None:
    model = chain()
    assert prune.roots(model, INPUT) == ["0", "2"]
    slim = prune.channels(model, INPUT, amounts={"0": 0.25, "2": 0.75})
    assert widths(slim) == [6, 4, 2]
    assert widths(prune.channels(model, INPUT, amounts={"2": 0.5})) == [8, 8, 2]
    assert widths(model) == [8, 16, 2]


def test_the_least_important_channels_go() -> None:
    model = chain()
    norms = model[0].weight.detach().flatten(1).norm(dim=1)
    slim = prune.channels(model, INPUT, amounts={"0": 0.5})
    kept = norms.argsort(descending=True)[:4].sort().values
    assert torch.equal(slim[0].weight, model[0].weight[kept])  # type: ignore[index]


def test_channels_that_remain_are_rounded_up() -> None:
    assert widths(prune.channels(chain(), INPUT, amounts={"0": 0.7, "2": 0.7}, round_to=4)) == [4, 8, 2]


def test_roots_leave_out_what_is_ignored_or_must_stay() -> None:
    assert prune.roots(chain(), INPUT, ignore=["0"]) == ["2"]
    found = prune.roots(UNet(widths=(4, 8)), INPUT)
    head = [name for name, module in UNet(widths=(4, 8)).named_modules() if isinstance(module, nn.Conv2d)][-1]
    assert found
    assert head not in found


@pytest.mark.parametrize(
    ("amounts", "message"),
    [
        ({"1": 0.5}, "amounts: '1' has no channels of its own to remove; 0, 2 have"),
        ({"0": 1.0}, "0=1.0: the share of channels to remove must be at least 0 and less than 1"),
        ({"0": -0.1}, "0=-0.1: the share of channels to remove"),
    ],
)
def test_impossible_amounts(amounts: dict[str, float], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        prune.channels(chain(), INPUT, amounts=amounts)


def test_one_goal_only() -> None:
    with pytest.raises(RecipeError, match="exactly one of"):
        prune.channels(chain(), INPUT, 0.5, amounts={"0": 0.5})


@pytest.mark.parametrize("rounds", [1, 2])
def test_rounds_reach_the_shares(tiny_task: Task, rounds: int) -> None:
    model = UNet(widths=(8, 16))
    roots = prune.roots(model, tiny_task.example_input)
    slim, _ = stages.channels(model, tiny_task, Settings(epochs=2), amounts=dict.fromkeys(roots, 0.5), rounds=rounds)
    before, after = widths(model), widths(slim)
    assert after[:2] == [4, 4]
    assert after[-1] == before[-1]
    with pytest.raises(RecipeError, match="must be at least 0 and less than 1"):
        stages.channels(model, tiny_task, Settings(epochs=0), amounts={roots[0]: 1.5}, rounds=rounds)


def test_a_round_to_that_is_too_coarse_is_named(caplog: pytest.LogCaptureFixture) -> None:
    prune.channels(chain(), INPUT, amount=0.25, round_to=64)
    assert "round_to=64 is too coarse: every layer keeps all of its channels when 25 % go" in caplog.text
    with pytest.raises(RecipeError, match="of which round_to=64 keeps more than must be"):
        prune.channels(chain(), INPUT, target_macs=0.25, round_to=64)
    assert widths(prune.channels(chain(), INPUT, amount=0.0, round_to=64)) == widths(chain())

"""Channels that several rows of one layer make together: gated layers, and others that take channels apart."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchshrink import prune
from torchshrink.prune import blocks

INPUTS = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(1))


class Gated(nn.Module):
    """A feed-forward part after an embedding, both halves of whose width are made by one layer, as in EVA-02."""

    def __init__(self, gate: Callable[[Any, Tensor], Tensor], hidden: int = 8) -> None:
        super().__init__()
        self.gate, self.hidden = gate, hidden
        self.embed, self.wide, self.narrow = nn.Linear(5, 6), nn.Linear(6, 2 * hidden), nn.Linear(hidden, 6)
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        found: Tensor = self.head(x + self.narrow(self.gate(self, self.wide(x))))
        return found


def halves(_net: Any, x: Tensor) -> Tensor:
    value, gate = x.chunk(2, -1)
    return F.silu(gate) * value


def counted(net: Any, x: Tensor) -> Tensor:
    value, gate = x.split(net.hidden, -1)
    return value * torch.sigmoid(gate)


def in_turns(_net: Any, x: Tensor) -> Tensor:
    return x[..., ::2].tanh() * x[..., 1::2].sigmoid()


def normalised(net: Any, x: Tensor) -> Tensor:
    value, gate = x.unflatten(-1, (2, -1)).unbind(-2)
    return net.norm(F.gelu(gate) * value)


class Waves(nn.Module):
    """Convolutions with halves that gate each other, as in WaveNet."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.wide, self.narrow = nn.Conv1d(6, 6, 1), nn.Conv1d(6, 16, 3, padding=1), nn.Conv1d(8, 6, 1)
        self.head = nn.Conv1d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        value, gate = self.wide(x).chunk(2, 1)
        found: Tensor = self.head(x + self.narrow(value.tanh() * gate.sigmoid()))
        return found


FORMS: dict[str, Callable[[], nn.Module]] = {
    "halves": lambda: Gated(halves),
    "counted by an attribute": lambda: Gated(counted),
    "in turns": lambda: Gated(in_turns),
    "with a norm": lambda: Gated(normalised),
    "convolutions": Waves,
}


@torch.no_grad()
def run(model: nn.Module) -> Tensor:
    found: Tensor = model(INPUTS)
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_what_remains_computes_the_same(importance: Any, form: str) -> None:
    torch.manual_seed(0)
    model: Any = FORMS[form]().eval()

    def loss(net: nn.Module) -> Tensor:
        found: Tensor = net(INPUTS).square().mean()
        return found

    slim: Any = prune.channels(model, INPUTS, amounts={"wide": 0.5}, importance=importance, loss=loss)
    assert [len(slim.wide.weight), slim.narrow.weight.shape[1]] == [8, 4]
    model.narrow.weight.data *= torch.isin(model.narrow.weight, slim.narrow.weight)
    if form == "with a norm":  # which would see the channels that are gone
        for net in (model, slim):
            net.norm.register_forward_hook(lambda module, inputs, _: inputs[0] * module.weight + module.bias)
    torch.testing.assert_close(run(slim), run(model))


def conv(into: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(into, out, 3, padding=1)


@pytest.mark.parametrize(
    ("make", "before", "after"),
    [
        (lambda: nn.Sequential(conv(3, 8), nn.GLU(1), conv(4, 8), conv(8, 2)), 8, 4),
        (lambda: nn.Sequential(conv(3, 16), nn.PixelShuffle(2), conv(4, 8), conv(8, 2)), 16, 8),
        (lambda: nn.Sequential(conv(3, 8), nn.GLU(1), nn.Conv2d(4, 8, 1, groups=2), conv(8, 2)), 8, 8),
    ],
)
def test_layers_that_take_channels_apart(make: Callable[[], Any], before: int, after: int) -> None:
    torch.manual_seed(0)
    model, inputs = make().eval(), torch.randn(2, 3, 4, 4)
    slim = prune.channels(model, inputs, 0.5, scope="layer")
    assert [len(model[0].weight), len(slim[0].weight)] == [before, after]
    model[2].weight.data *= torch.isin(model[2].weight, slim[2].weight)
    last = model[-1].weight
    last.data *= torch.isin(last, slim[-1].weight)
    torch.testing.assert_close(slim(inputs), model(inputs))


def test_what_others_read_too_stays() -> None:
    """The halves are added to each other elsewhere: channels that go there are none that the gate has alone."""

    def gate(net: Any, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, -1)
        return net.norm(value * gate.sigmoid()) + net.other(value)

    model: Any = Gated(gate)
    model.other = nn.Linear(8, 8)
    assert "wide" not in prune.roots(model.eval(), INPUTS)


def test_entries_that_reach_nothing_are_where_the_others_say() -> None:
    def seen(units: list[int]) -> list[tuple[Tensor, Tensor]]:
        """Return what reaches parts without and with each of two bits; a negative unit reaches nothing."""
        known = torch.tensor(units)
        return [((known >= 0) & (known >> bit & 1 == 0), (known >= 0) & (known >> bit & 1 == 1)) for bit in range(2)]

    assert blocks._place(seen([0, 0, 1, 1, 2, 2, 3, 3]), 4) == blocks.Place(0, (0, 0, 1, 1, 2, 2, 3, 3))
    assert blocks._place(seen([0, -1, 2, 3, -1, 1, -1, 3]), 4) == blocks.Place(0, (0, 1, 2, 3, 0, 1, 2, 3))
    assert blocks._place(seen([0, -1, -1, -1, -1, 1, -1, 3]), 4) is None  # too few to tell
    assert blocks._place(seen([0, 2, 1, 3, 0, 2, 1, 3]), 4) == blocks.Place(0, ())  # in no order of their own
    assert blocks._place(seen([0, 1, 2]), 4) == blocks.Place(0, ())

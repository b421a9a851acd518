"""Channels of models some of whose weights are computed from others: those weights are plain parameters afterwards."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import utils
from torch.nn.utils import parametrizations, parametrize

from torchshrink import checkpoint, prune
from torchshrink.quiet import quiet

Norm = Callable[[nn.Module], nn.Module]
INPUTS = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(1))
NORMS: dict[str, Norm] = {
    "weight norm": parametrizations.weight_norm,
    "weight norm of positions": lambda layer: parametrizations.weight_norm(layer, dim=2),
    "spectral norm": parametrizations.spectral_norm,
    "older weight norm": utils.weight_norm,
    "older spectral norm": utils.spectral_norm,
}


class Temporal(nn.Module):
    """Two dilated convolutions with a residual connection, as in temporal convolutional networks."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.into = nn.Conv1d(3, 8, 1)
        self.first, self.second = (norm(nn.Conv1d(8, 8, 3, padding=2, dilation=2)) for _ in range(2))
        self.head = nn.Conv1d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        found: Tensor = self.head((self.second(self.first(x).relu()) + x).relu())
        return found


class Positions(nn.Module):
    """A grouped convolution that tells positions apart before a feed-forward part, as in wav2vec 2.0."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.into = nn.Conv1d(3, 8, 1)
        self.positions = norm(nn.Conv1d(8, 8, 5, padding=2, groups=4))
        self.wide, self.narrow = nn.Conv1d(8, 16, 1), nn.Conv1d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        found: Tensor = self.narrow(self.wide(x + self.positions(x)).relu())
        return found


@pytest.fixture(params=[Temporal, Positions])
def make(request: pytest.FixtureRequest) -> Callable[[Norm], nn.Module]:
    made: Callable[[Norm], nn.Module] = request.param
    return made


def model_of(make: Callable[[Norm], nn.Module], kind: str) -> nn.Module:
    torch.manual_seed(0)
    with quiet():  # the older ones are deprecated
        model = make(NORMS[kind])
    with torch.no_grad():
        model.train()(INPUTS)  # the vectors of spectral_norm move, and the older weight_norm holds a result
    return model.eval()


@torch.no_grad()
def run(model: nn.Module) -> Tensor:
    found: Tensor = model(INPUTS)
    return found


@pytest.mark.parametrize("kind", NORMS)
def test_channels_of_computed_weights(make: Callable[[Norm], nn.Module], kind: str) -> None:
    model = model_of(make, kind)
    before, expected = copy.deepcopy(model.state_dict()), run(model)
    with pytest.warns(UserWarning, match=r"^the weights of (first, second|positions), .* are plain parameters now$"):
        whole = prune.channels(model, INPUTS, 0.0)
    torch.testing.assert_close(run(whole), expected)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    with pytest.warns(UserWarning, match="are plain parameters now"):
        slim = prune.channels(model, INPUTS, 0.5)
    assert sum(value.numel() for value in slim.parameters()) < 0.6 * sum(value.numel() for value in whole.parameters())
    for name, layer in prune.prunable_layers(whole).items():
        layer.weight.data *= torch.isin(layer.weight, slim.get_submodule(name).weight)
    torch.testing.assert_close(run(slim), run(whole))
    assert prune.roots(model, INPUTS) == prune.roots(whole, INPUTS)


@pytest.mark.parametrize("kind", NORMS)
def test_they_are_saved_and_loaded(make: Callable[[Norm], nn.Module], kind: str, tmp_path: Path) -> None:
    def factory() -> nn.Module:
        with quiet():
            return make(NORMS[kind])

    model, path = model_of(make, kind), tmp_path / "slim.safetensors"
    with pytest.warns(UserWarning, match="are plain parameters now"):
        slim = prune.channels(model, INPUTS, 0.5)
    checkpoint.save(slim, path)
    loaded: Any = checkpoint.load(path, factory)
    assert torch.equal(run(loaded), run(slim))
    assert not any(parametrize.is_parametrized(module) for module in loaded.modules())


def test_models_that_were_not_pruned_keep_what_computes_their_weights(tmp_path: Path) -> None:
    model, path = model_of(Temporal, "weight norm"), tmp_path / "model.safetensors"
    checkpoint.save(model, path)
    loaded: Any = checkpoint.load(path, lambda: Temporal(NORMS["weight norm"]))
    assert parametrize.is_parametrized(loaded.first)
    assert torch.equal(run(loaded), run(model))

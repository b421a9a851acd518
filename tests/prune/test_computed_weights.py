"""Weights that are computed from others cannot be set: pruning says so and what undoes it."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from torch.nn import utils
from torch.nn.utils import parametrizations

from torchshrink import prune
from torchshrink.errors import RecipeError
from torchshrink.quiet import quiet

METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "magnitude": lambda model: prune.magnitude(model, 0.5),
    "by layer": lambda model: prune.magnitude(model, 0.5, "layer", ignore=()),
    "lamp": lambda model: prune.lamp(model, 0.5),
    "random": lambda model: prune.random(model, 0.5),
    "clusters": lambda model: prune.cluster(model, 4, ignore=()),
    "schedule": lambda model: prune.Schedule.polynomial(0.0, 0.8, begin=0, end=2).step(model, 1),
}
KINDS: dict[str, tuple[Callable[[nn.Module], nn.Module], str]] = {
    "weight norm": (parametrizations.weight_norm, "remove_parametrizations"),
    "spectral norm": (parametrizations.spectral_norm, "remove_parametrizations"),
    "older weight norm": (utils.weight_norm, "remove_weight_norm"),
    "older spectral norm": (utils.spectral_norm, "remove_spectral_norm"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_refused_by_name(method: str, kind: str) -> None:
    make, cure = KINDS[kind]
    with quiet():  # the older ones are deprecated
        model = nn.Sequential(nn.Linear(8, 8), make(nn.Linear(8, 8)))
    with pytest.raises(RecipeError, match=f"'1'.*{cure}"):
        METHODS[method](model)

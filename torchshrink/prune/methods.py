"""Every way to prune weights under one name, for recipes and the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from torchshrink.errors import RecipeError
from torchshrink.prune.patterns import block, n_m
from torchshrink.prune.weights import lamp, magnitude, random

Method = Callable[[nn.Module, float], nn.Module]
METHODS = ("magnitude", "layer", "lamp", "random", "N:M such as 2:4", "RxC blocks such as 1x4")


def method(name: str, ignore: Sequence[str] | None = None, seed: int = 0) -> Method:
    """Return the function that prunes a model, in place, to a sparsity.

    Args:
        name: ``"magnitude"`` across layers, ``"layer"`` for magnitude in every layer alike, ``"lamp"``, ``"random"``,
            ``"N:M"`` (the sparsity says how many of N are zero so far; N / M is the most) or ``"RxC"`` for blocks.
        ignore: Layers to leave alone, as in `magnitude`.
        seed: For ``"random"``.

    Raises:
        RecipeError: When there is no such method.
    """
    simple = {
        "magnitude": partial(magnitude, ignore=ignore),
        "layer": partial(magnitude, scope="layer", ignore=ignore),
        "lamp": partial(lamp, ignore=ignore),
        "random": partial(random, seed=seed, ignore=ignore),
    }
    if name in simple:
        return simple[name]
    if pattern := re.fullmatch(r"(\d+):(\d+)", name):
        n, m = int(pattern[1]), int(pattern[2])

        def partly(model: nn.Module, amount: float) -> nn.Module:
            return n_m(model, min(n, round(amount * m)), m, ignore)

        if not 0 < n < m:
            raise RecipeError(f"method {name!r}: n of every m weights become zero, so 0 < n < m")
        return partly
    if (pattern := re.fullmatch(r"(\d+)x(\d+)", name)) and int(pattern[1]) * int(pattern[2]) > 0:
        return partial(block, shape=(int(pattern[1]), int(pattern[2])), ignore=ignore)
    raise RecipeError(f"method {name!r}: expected one of {', '.join(METHODS)}")


def most(name: str) -> float:
    """Return the greatest sparsity that a method can reach in the layers that it prunes."""
    pattern = re.fullmatch(r"(\d+):(\d+)", name)
    return int(pattern[1]) / int(pattern[2]) if pattern else 1.0

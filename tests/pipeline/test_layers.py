"""Layers that a recipe names: the model has them, or nothing begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torchshrink.errors import RecipeError
from torchshrink.model.unet import UNet
from torchshrink.pipeline import recipe
from torchshrink.pipeline.layers import check_layers, names_layers
from torchshrink.pipeline.run import run

MODEL = UNet(widths=(4, 8))
LAYER = next(name for name, module in MODEL.named_modules() if type(module).__name__ == "Conv2d")


def made(step: dict[str, Any] | None = None, **content: Any) -> recipe.Recipe:
    variants = {"dense": {"train": {}}} | ({} if step is None else {"b": {"from": "dense", **step}})
    arguments = {"data": "synthetic:cells?size=16&train=4&test=2", "model": {"arguments": {"widths": [4, 8]}}}
    return recipe.parse({**arguments, "variants": variants, **content})


@pytest.mark.parametrize(
    ("step", "content"),
    [
        ({"prune": {"ignore": [LAYER, "Conv2d", "*"]}}, {}),
        ({"prune": {"amounts": {LAYER: 0.5}}}, {}),
        ({"channels": {"amount": 0.5, "ignore": [LAYER]}}, {}),
        (None, {"keep_float": [LAYER]}),
        (None, {"keep_float": "auto"}),
    ],
)
def test_known(step: dict[str, Any] | None, content: dict[str, Any]) -> None:
    found = made(step, **content)
    assert names_layers(found) == (content.get("keep_float") != "auto")
    check_layers(found, MODEL)


@pytest.mark.parametrize(
    ("step", "content", "words"),
    [
        ({"prune": {"ignore": ["lost"]}}, {}, "variants.b.prune.ignore: 'lost' fits no layer of UNet; there are"),
        ({"prune": {"amounts": {"lost": 0.5}}}, {}, "variants.b.prune.amounts: 'lost'"),
        ({"prune": {"amounts": {"Conv2d": 0.5}}}, {}, "variants.b.prune.amounts: 'Conv2d'"),
        ({"channels": {"amounts": {"lost": 0.5}}}, {}, "variants.b.channels.amounts: 'lost'"),
        ({"cluster": {"ignore": ["Linear"]}}, {}, "variants.b.cluster.ignore: 'Linear'"),
        (None, {"keep_float": ["lost"]}, "keep_float: .*'lost' is no module of UNet"),
    ],
)
def test_unknown(step: dict[str, Any] | None, content: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=words):
        run(made(step, **content), tmp_path / "out", bridge=None)  # type: ignore[arg-type]
    assert not (tmp_path / "out" / "models").exists()

"""--set: settings of the command line instead of a recipe's."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import call

from torchshrink.errors import RecipeError
from torchshrink.pipeline.chosen import choose
from torchshrink.pipeline.recipe import Dense, Qat, parse


def test_values_take_the_place_of_the_recipe_s() -> None:
    found = choose(
        {"variants": {"v1.5": {"train": {"epochs": 9}}, "small": {"from": "v1.5", "qat": {}}}},
        None,
        trust=True,
        allow_pickle=False,
        settings=[
            "variants.v1.5.train.epochs=5",
            "variants.small.qat.lr=1e-4",
            "precisions=[int8]",
            "seed=3",
            "task.decides=dice",
        ],
    )
    assert isinstance(found.variants["v1.5"].train, Dense)
    assert isinstance(found.variants["small"].qat, Qat)
    assert (found.variants["v1.5"].train.epochs, found.variants["small"].qat.lr) == (5, 1e-4)
    assert (found.precisions, found.seed, found.task.decides) == (("int8",), 3, "dice")
    assert "data" not in found.model_fields_set  # so that a checkpoint's own data is still taken


def test_what_a_recipe_leaves_out_is_there_by_default() -> None:
    found = choose(None, None, trust=False, allow_pickle=False, settings=["variants.dense.train.epochs=5"])
    assert list(found.variants) == ["dense", "pruned", "pruned-qat"]
    assert found.variants["dense"].train is not None
    assert found.variants["dense"].train.epochs == 5
    assert found.variants["pruned"].prune == parse({}).variants["pruned"].prune


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("variants.dense.train.epohcs=5", "variants.dense.train.epohcs: unknown key"),
        ("variants.dense.train.epochs=many", "variants.dense.train.epochs: input should be a valid integer"),
        ("variants.dense.train.epochs=-1", "variants.dense.train.epochs"),
        ("seed", "expected KEY=VALUE"),
        ("=5", "expected KEY=VALUE"),
        ("seed.more=5", "seed holds 0, which has no keys"),
        ("precisions=[int8", "is not YAML"),
        ("model.allow_pickle=true", "only the command line can allow it"),
        ("nonsense=1", "nonsense: unknown key"),
    ],
)
def test_what_is_wrong_is_one_sentence(setting: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        choose(None, None, trust=False, allow_pickle=False, settings=[setting])
    assert said.lower() in str(caught.value).lower()
    assert "--set" in str(caught.value)
    result = call("run", "--set", setting, "--out", tmp_path / "out")
    assert result.code == 3
    assert said.lower() in result.said.lower()
    assert not (tmp_path / "out").exists()

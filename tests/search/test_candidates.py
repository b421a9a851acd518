"""Candidates as recipes."""

from pathlib import Path
from typing import Any

import pytest

from torchshrink.pipeline import recipe
from torchshrink.pipeline.recipe import Recipe, Search
from torchshrink.search.candidates import Plan
from torchshrink.search.space import Resolved, draw, shares

SETTINGS: dict[str, Any] = {
    "channels": 0.5, "channels_stage_1": 0.1, "sparsity": 0.6, "lr": 0.002, "round_to": 4, "pattern": "magnitude",
    "int8": "qat", "distillation": 0.5, "length": 1.0, "keep_float": 0,
}  # fmt: skip
SEARCH = Search(epochs=18, qat_epochs=4, final_epochs=90, final_qat_epochs=12)


def plan(base: Recipe, space: Resolved, search: Search = SEARCH, target: str = "litert") -> Plan:
    return Plan(base, space, search, target, Path("dense.safetensors"), Path("dense.tflite"))


def test_parts_grow_by_the_reduction(base: Recipe, space: Resolved) -> None:
    found = plan(base, space)(SETTINGS)
    assert found.rungs == (("dense", "slim"), ("tuned-2",), ("sparse", "int8"))
    assert found.epochs == (2, 6, 18)
    assert found.name == "int8"
    variants = found.recipe.variants
    assert [variants[name].source for name in ("slim", "tuned-2", "sparse", "int8")] == [
        "dense", "slim", "tuned-2", "sparse",
    ]  # fmt: skip
    assert [next(iter(variants[name].steps.values())).epochs for name in variants] == [0, 2, 4, 12, 4]
    slim = variants["slim"].channels
    assert slim is not None
    assert slim.amounts == {"encoder.0.0": 0.6, "encoder.0.3": 0.6, "encoder.1.0": 0.5}
    assert (slim.round_to, slim.lr) == (4, 0.002)
    assert variants["sparse"].prune is not None
    assert variants["sparse"].prune.amount == 0.6
    assert (found.recipe.distillation, found.recipe.formats, found.recipe.precisions) == (0.5, ("tflite",), ("int8",))


def test_recommended_models_are_trained_for_longer(base: Recipe, space: Resolved) -> None:
    found = plan(base, space, target="onnxruntime").final(SETTINGS)
    assert (found.epochs, found.rungs) == ((90,), (("dense", "slim", "sparse", "int8"),))
    variants = found.recipe.variants
    assert variants["int8"].qat is not None
    assert variants["int8"].qat.epochs == 12
    assert variants["dense"].train is not None
    assert variants["dense"].train.epochs == 2
    assert (found.recipe.formats, found.recipe.precisions) == (("onnx",), ("fp32", "int8"))


def test_trained_weights_are_not_trained_again(base: Recipe, space: Resolved) -> None:
    found = plan(base, space)(SETTINGS).recipe
    assert found.model.checkpoint == "dense.safetensors"
    assert found.model.arguments == {"widths": [8, 16]}
    dense = found.variants["dense"].train
    assert dense is not None
    assert dense.epochs == 0


@pytest.mark.parametrize(
    ("changes", "rungs"),
    [
        ({"sparsity": 0.5}, (("dense", "slim"), ("tuned-2",), ("tuned-3", "int8"))),
        ({"int8": "ptq"}, (("dense", "slim"), ("tuned-2",), ("sparse",))),
        ({"channels": 0.0, "channels_stage_1": -0.1}, (("dense", "tuned-1"), ("tuned-2",), ("sparse", "int8"))),
    ],
)
def test_what_is_not_done_has_no_step(
    base: Recipe, space: Resolved, changes: dict[str, Any], rungs: tuple[tuple[str, ...], ...]
) -> None:
    assert plan(base, space)({**SETTINGS, **changes}).rungs == rungs


def test_a_single_rung_shares_its_epochs(base: Recipe, space: Resolved) -> None:
    found = plan(base, space, Search(epochs=10, rungs=1))(SETTINGS)
    assert found.rungs == (("dense", "slim", "sparse", "int8"),)
    assert [next(iter(found.recipe.variants[name].steps.values())).epochs for name in ("slim", "sparse")] == [5, 5]


def test_layers_stay_float_in_their_order(base: Recipe, space: Resolved) -> None:
    assert plan(base, space)({**SETTINGS, "keep_float": 1}).recipe.keep_float == ("head",)
    assert plan(base, space)(SETTINGS).recipe.keep_float == ()


def test_recipes_survive_being_written(base: Recipe, space: Resolved) -> None:
    found = plan(base, space)(SETTINGS).recipe
    assert recipe.parse(recipe.dump(found)) == found


class _Fixed:
    """Chooses the greatest value of everything, and writes down what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[Any, ...]] = {}

    def suggest_float(self, name: str, low: float, high: float, **how: Any) -> float:
        self.asked[name] = (low, high, how.get("log", False))
        return high

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = tuple(choices)
        return choices[-1]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.asked[name] = (low, high)
        return high


def test_only_what_varies_is_asked(space: Resolved) -> None:
    trial = _Fixed()
    settings = draw(trial, space)  # type: ignore[arg-type]
    assert trial.asked == {
        "channels": (0.0, 0.8, False),
        "channels_stage_1": (-0.1, 0.1, False),
        "sparsity": (0.0, 0.9, False),
        "lr": (1e-3, 1e-2, True),
        "round_to": (1, 4),
        "int8": ("qat", "ptq"),
        "distillation": (0.0, 0.5),
        "keep_float": (0, 1),
    }
    assert settings["pattern"] == "magnitude"
    assert settings["length"] == 1.0
    assert settings["keep_float"] == 1


def test_shares_stay_below_all_channels(space: Resolved) -> None:
    assert shares({"channels": 0.94, "channels_stage_1": 0.1}, space) == {
        "encoder.0.0": 0.95, "encoder.0.3": 0.95, "encoder.1.0": 0.94,
    }  # fmt: skip

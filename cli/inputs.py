"""What commands take: models, data, recipes, shapes, and places to write to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from torchshrink.errors import ModelError, OutputError
from torchshrink.parallel.launch import is_main

if TYPE_CHECKING:
    from torch import Tensor, nn

    from torchshrink.pipeline.recipe import Recipe
    from torchshrink.task import Task


def check_output(path: Path, overwrite: bool, endings: tuple[str, ...], option: str = "--out") -> None:
    """Refuse a name that says another format, and to replace a file that nobody said to replace."""
    if path.suffix.lower() not in endings:
        raise typer.BadParameter(f"{path}: expected a name ending in {', '.join(endings)}", param_hint=option)
    if is_main() and path.exists() and not overwrite:
        raise OutputError(f"{path} exists: choose another {option}, or pass --overwrite")


def parse_shape(shape: str) -> list[int]:
    """Return the sizes that --shape names."""
    parts = shape.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise typer.BadParameter(f"{shape!r}: expected sizes such as 1,1,128,128", param_hint="--shape")
    return [int(part) for part in parts]


def load_network(path: Path, factory: str | None, allow_pickle: bool) -> nn.Module:
    """Return a checkpoint's model, built by ``module:factory`` where one is given."""
    from torchshrink import checkpoint
    from torchshrink.pipeline.assemble import resolve

    return checkpoint.load(path, resolve(factory, "model") if factory else None, allow_pickle)


def load_model(
    path: Path, shape: str | None, factory: str | None, allow_pickle: bool
) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    """Return a checkpoint's model, an example input and the metadata that travels with it."""
    import torch

    model, description = load_network(path, factory, allow_pickle), _describe(path)
    sizes = parse_shape(shape) if shape else description.get("input_shape")
    if sizes is None:
        raise ModelError(f"{path} does not say what shape its input has: pass --shape, such as --shape 1,1,128,128")
    kept = ("normalization", "class_names", "input_shape", "prepared")
    return model, torch.zeros(sizes), {key: description[key] for key in kept if key in description}


def load_task(path: Path, data: str, seed: int, factory: str | None, allow_pickle: bool) -> tuple[Task, nn.Module]:
    """Return the data, normalised as the model was trained with, and the model."""
    from torchshrink.data import open_task
    from torchshrink.task import Normalization

    model, known = load_network(path, factory, allow_pickle), _describe(path)
    stored = known.get("normalization")
    normalization = Normalization(tuple(stored["mean"]), tuple(stored["std"]), stored["raw"]) if stored else None
    return open_task(data, seed=seed, normalization=normalization, prepared=known.get("prepared", "")), model


def load_recipe(path: Path | None, data: str | None, trust: bool, allow_pickle: bool) -> Recipe:
    """Return the recipe of a command, with what the command line says instead of it.

    Raises:
        RecipeError: When it is wrong, or names code that nobody said to trust.
    """
    from torchshrink.pipeline import recipe as recipes
    from torchshrink.pipeline import trust as trusted

    recipe = recipes.load(path) if path is not None else recipes.Recipe()
    if not trust:
        its_own = recipe if data is None else recipe.model_copy(update={"data": "synthetic:cells"})
        trusted.check(its_own, str(path))
    recipe = recipe if data is None else recipe.model_copy(update={"data": data})
    return recipes.trust_pickle(recipe) if allow_pickle else recipe


def _describe(path: Path) -> dict[str, Any]:
    from torchshrink import checkpoint

    return checkpoint.describe(path) if path.suffix == ".safetensors" else {}

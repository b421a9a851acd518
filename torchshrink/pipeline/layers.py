"""The layers that a recipe names, looked for in its model before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase

from torch import nn

from torchshrink.errors import ModelError, RecipeError
from torchshrink.pipeline.recipe import Recipe
from torchshrink.pipeline.teaching import student_of
from torchshrink.quantize import keep


def names_layers(recipe: Recipe) -> bool:
    """Return whether a recipe names layers at all."""
    return recipe.keep_float not in ("auto", ()) or any(True for _ in _named(recipe))


def check_layers(recipe: Recipe, model: nn.Module) -> None:
    """Refuse layers that the model does not have: steps keep the names that it has at the beginning.

    Args:
        recipe: Whose variants they are of.
        model: Made as the recipe says, untrained.

    Raises:
        RecipeError: Naming the key and the layer.
    """
    modules = {name: type(module).__name__ for name, module in model.named_modules() if name}
    for key, name, is_pattern in _named(recipe):
        fits = is_pattern and any(fnmatchcase(own, name) or fnmatchcase(kind, name) for own, kind in modules.items())
        if not fits and name not in modules:
            raise RecipeError(
                f"{key}: {name!r} fits no layer of {type(model).__name__}; there are {', '.join(modules)}"
            )
    if recipe.keep_float != "auto":
        try:
            keep.check(model, recipe.keep_float)
        except ModelError as error:
            raise RecipeError(f"keep_float: {error}") from error


def _named(recipe: Recipe) -> Iterator[tuple[str, str, bool]]:
    """Yield the key, the layer that stands there, and whether it may be a pattern or a type."""
    for variant, content in recipe.variants.items():
        if student_of(recipe, variant) is not None:
            continue  # its layers are others, and its own steps refuse names that it does not have
        for kind, step in content.steps.items():
            for part, is_pattern in (("ignore", True), ("amounts", False)):
                for name in getattr(step, part, None) or ():
                    yield f"variants.{variant}.{kind}.{part}", name, is_pattern

"""Which code a recipe may run: a recipe that a stranger wrote names any function, with any arguments.

Without the user's word, that is only what stands in Python files of the current folder. Nothing is imported to find
out.
"""

from __future__ import annotations

import ast
import sys
from importlib.machinery import FrozenImporter, PathFinder
from pathlib import Path

from torchshrink.errors import RecipeError
from torchshrink.pipeline.recipe import Recipe


def check(recipe: Recipe, name: str) -> None:
    """Refuse a recipe that names code which is not written in a Python file of the current folder.

    Args:
        recipe: As it was read, before anything on the command line replaced parts of it.
        name: What errors call it.

    Raises:
        RecipeError: Naming what would be imported.
    """
    foreign = [f"{what} {reference}" for what, reference in references(recipe).items() if not _is_local(reference)]
    if foreign:
        raise RecipeError(
            f"{name} would import and call {', '.join(foreign)}, which no Python file of this folder defines: pass "
            "--trust if you trust the recipe's author"
        )


def references(recipe: Recipe) -> dict[str, str]:
    """Return every ``module:callable`` that a recipe names, by what it is for."""
    from torchshrink.data.sources import is_callable
    from torchshrink.model.libraries import is_harmless

    own = not is_harmless(recipe.model.factory, recipe.model.arguments)
    named = {"model": recipe.model.factory if own else "", "loss": recipe.loss.name if recipe.loss else ""}
    own_loop = {
        "fit": recipe.fit,
        "optimizer": recipe.optimizer,
        "schedule": recipe.schedule,
        "augment": recipe.augment,
    }
    named |= {what: reference for what, reference in own_loop.items() if isinstance(reference, str)}
    named |= {f"metric {name}": choice.use or "" for name, choice in recipe.task.metrics.items()}
    named |= {f"student {name}": each.student.factory for name, each in recipe.variants.items() if each.student
              and each.student.factory}  # fmt: skip
    if recipe.search is not None and recipe.search.space.student is not None:
        named["student"] = recipe.search.space.student.factory or ""
    found = {what: reference for what, reference in named.items() if ":" in reference}
    return found | ({"data": recipe.data} if is_callable(recipe.data) else {})


def _is_local(reference: str) -> bool:
    """Return whether ``a.b:name`` is defined in ``a/b.py`` of the current folder and would be imported from there."""
    module, _, name = reference.partition(":")
    path = _source(module)
    return path is not None and _defines(path, module, name, set())


def _source(module: str) -> Path | None:
    """Return the file of a module when it is the current folder's own; of a package, its ``__init__.py``."""
    top, here = module.partition(".")[0], Path.cwd().resolve()
    if top in sys.builtin_module_names or FrozenImporter.find_spec(top) is not None:
        return None  # found before any folder is looked into
    known = sys.modules.get(top)
    spec = getattr(known, "__spec__", None) if known is not None else PathFinder.find_spec(top, [str(here), *sys.path])
    place = spec and (spec.origin or next(iter(spec.submodule_search_locations or ()), None))
    if not place or Path(place).resolve() not in (here / f"{top}.py", here / top / "__init__.py", here / top):
        return None
    whole = here.joinpath(*module.split("."))
    paths = [path for path in (whole / "__init__.py", whole.with_name(f"{whole.name}.py")) if path.is_file()]
    return paths[0] if paths and paths[0].resolve() == paths[0] else None


def _defines(path: Path, module: str, name: str, seen: set[Path]) -> bool:
    """Return whether a file defines a name, or takes it from another file of the current folder."""
    if path in seen:
        return False
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, OSError):
        return False
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef) and statement.name == name:
            return True
        if isinstance(statement, ast.Assign) and any(
            isinstance(to, ast.Name) and to.id == name for to in statement.targets
        ):
            return True
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    other = _absolute(statement, module, path)
                    source = _source(other)
                    return source is not None and _defines(source, other, alias.name, {*seen, path})
    return False


def _absolute(statement: ast.ImportFrom, module: str, path: Path) -> str:
    """Return the module that a ``from ... import`` means."""
    parts = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    base = parts[: len(parts) - statement.level + 1] if statement.level else []
    return ".".join([*base, *([statement.module] if statement.module else [])])

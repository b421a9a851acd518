"""The JSON Schema of recipes, with which editors complete and check them; published as docs/recipe.schema.json."""

from __future__ import annotations

import inspect
import re
from typing import Any

from torchshrink.pipeline import recipe, subject
from torchshrink.pipeline.recipe import Recipe

# What may be written shorter than it is kept: the definition, or the key of one, and what else stands there.
_NAME = {"type": "string"}
_SHORTER: dict[str, dict[str, Any]] = {"Loss": _NAME, "MetricChoice": {"anyOf": [_NAME, {"type": "null"}]}}
# What pydantic leaves as it is where a number is checked twice.
_LIMITS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema() -> dict[str, Any]:
    """Return the schema: every key with its type, limits and default."""
    schema = Recipe.model_json_schema(by_alias=True, mode="validation")
    kinds = schema["$defs"]
    metrics = kinds["TaskChoice"]["properties"]["metrics"]
    kinds["TaskChoice"]["properties"]["metrics"] = {"anyOf": [metrics, {"type": "array", "items": _NAME}]}
    _describe(schema, Recipe)
    for name, kind in kinds.items():
        _describe(kind, (vars(recipe) | vars(subject))[name])
    for name, shorter in _SHORTER.items():
        kinds[name] = {"anyOf": [kinds[name], shorter]}
    for kind in kinds.values():  # what no file may set
        kind.get("properties", {}).pop("allow_pickle", None)
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A torchshrink recipe"}
    found: dict[str, Any] = _with_limits(whole)
    return found


def _describe(part: dict[str, Any], kind: type) -> None:
    """Put what the docstring of a class and of those above it says of each attribute beside its key."""
    for each in reversed(kind.__mro__):
        _, _, told = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")
        for name, text in re.findall(r"^    (\w+): (.*(?:\n      .*)*)", told, re.MULTILINE):
            key = "from" if name == "source" else name
            if key in part["properties"]:
                part["properties"][key]["description"] = " ".join(text.replace("``", "`").split())
    part["description"] = part.get("description", "").partition("\n\nAttributes:")[0]


def _with_limits(part: Any) -> Any:
    if isinstance(part, list):
        return [_with_limits(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {_LIMITS.get(key, key): _with_limits(value) for key, value in part.items()}

"""docs/recipe.schema.json: what editors check recipes with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from program import RECIPE

from torchshrink.pipeline import recipe
from torchshrink.pipeline.recipe_schema import json_schema

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {"$ref", "$defs", "$schema", "anyOf", "title", "description", "default", "type", "properties", "required",
         "items", "additionalProperties", "enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
         "minItems", "maxItems", "prefixItems"}  # fmt: skip
TYPES: dict[str, Any] = {"string": str, "boolean": bool, "null": type(None), "object": dict, "array": list}


def fits(value: Any, schema: Any, defs: dict[str, Any]) -> bool:
    """As the standard has it, as far as this schema goes; a keyword that is not known here fails."""
    assert set(schema) <= KNOWN, set(schema) - KNOWN
    if "$ref" in schema:
        return fits(value, defs[schema["$ref"].rpartition("/")[2]], defs)
    if "anyOf" in schema and not any(fits(value, each, defs) for each in schema["anyOf"]):
        return False
    kind = schema.get("type")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("number", "integer"):
        if not is_number or (kind == "integer" and value != int(value)):
            return False
    elif kind is not None and not isinstance(value, TYPES[kind]):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if "const" in schema and value != schema["const"]:
        return False
    if is_number and not (
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and value > schema.get("exclusiveMinimum", value - 1)
        and value < schema.get("exclusiveMaximum", value + 1)
    ):
        return False
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0) or len(value) > schema.get("maxItems", len(value)):
            return False
        return all(fits(each, schema.get("items", {}), defs) for each in value)
    if isinstance(value, dict) and kind == "object":
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", {})
        for key, each in value.items():
            part = known.get(key, rest)
            if part is False or (isinstance(part, dict) and not fits(each, part, defs)):
                return False
    return True


def valid(content: Any) -> bool:
    schema = json_schema()
    return fits(content, schema, schema["$defs"])


def test_the_published_one_is_that_of_the_code() -> None:
    assert json.loads((ROOT / "docs" / "recipe.schema.json").read_text()) == json_schema()


def test_recipes_fit_and_so_does_what_may_be_written_shorter() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "reference" / "recipes.md").read_text(), re.DOTALL)[:1]
    for text in (RECIPE, block, recipe.template(Path("x.yaml"))):
        assert valid(yaml.safe_load(text))
    short = {"loss": "dice", "task": {"metrics": ["dice"]}}
    long = {"loss": {"name": "dice"}, "task": {"metrics": {"dice": None, "iou": {"better": "higher"}}}}
    for content in (short, long):
        assert valid(content)
        recipe.parse(content)


@pytest.mark.parametrize(
    "content",
    [
        {"varants": {}},
        {"variants": {"dense": {"train": {"epohcs": 5}}}},
        {"variants": {"dense": {"train": {"epochs": "many"}}}},
        {"validation": 1},
        {"precisions": []},
        {"model": {"allow_pickle": True}},
        {"loss": 3},
    ],
)
def test_what_a_recipe_refuses_does_not_fit(content: Any) -> None:
    assert not valid(content)


def test_every_key_says_what_it_is() -> None:
    schema = json_schema()
    parts = [each for part in (schema, *schema["$defs"].values()) for each in (part, *part.get("anyOf", ()))]
    for part in parts:
        for key, value in part.get("properties", {}).items():
            assert value["description"], key
    assert schema["$defs"]["Pruning"]["properties"]["epochs"]["description"] == "Passes over the training data."
    assert "Attributes" not in json.dumps(schema)

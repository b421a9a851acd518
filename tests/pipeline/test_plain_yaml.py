"""Settings in YAML: what is read, and what of the language is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from torchshrink.errors import RecipeError
from torchshrink.pipeline import plain_yaml, recipe

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_what_is_read() -> None:
    assert plain_yaml.load("[trueish, true false, falsehood, False]") == ["trueish", "true false", "falsehood", False]
    text = "a: 1\nb: [2.5, true, null, word]\nc: &c {d: 2020-01-01, e: yes}\nf: *c\ng: {<<: *c, e: no}\n"
    dates = {"d": "2020-01-01", "e": "yes"}
    wanted = {"a": 1, "b": [2.5, True, None, "word"], "c": dates, "f": dates, "g": {"d": "2020-01-01", "e": "no"}}
    assert plain_yaml.load(text) == wanted
    numbers = "[010, 1:30, 1:30.5, 1_000, 0b1, 0, -5, +5, 0x1F, .5, -1.5e+3, 1., .inf, 12]"
    assert plain_yaml.load(numbers) == [
        "010", "1:30", "1:30.5", "1_000", "0b1", 0, -5, 5, 31, 0.5, -1500.0, 1.0, float("inf"), 12,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "'a' stands there twice.*line 3"),
        ("a: {b: 1, b: 1}", "'b' stands there twice"),
        ("a: !!python/name:os.system", "tags such as .*python"),
        ("a: !!binary aGk=", "tags such as"),
        ("a: !!set {x}", "tags such as"),
        ("a: !own 3", "tags such as !own"),
        (BOMB, "aliases stand for more than"),
        ("a: &a [*a]", "holds itself"),
        ("&a {b: *a}", "holds itself"),
        ("[" * 5000, "more than 50 levels"),
        ("a: [1, 2", "line 1"),
        ("a: " + "9" * 5000, "."),
        ("a: \x00", "."),
        ("{[1, 2]: 3}", "unhashable"),
        ("a: 1\n---\nb: 2", "single document"),
    ],
)
def test_what_is_not(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plain_yaml.load(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\nseed: 2", "'seed' stands there twice"),
        ("variants: {dense: {train: {epochs: yes}}}", "variants.dense.train.epochs"),
        ("variants: {dense: {train: {epochs: true}}}", "should be a number, not true"),
        ("validation: true", "should be a number, not true"),
        ("measure: {runs: false}", "should be a number, not false"),
        ("measure: {threads: 100000}", "measure.threads: .*1024"),
        ("seed: 123456789012345678901234567890", "seed: "),
        ("seed: 9000000000", "seed: .*4000000000"),
        ("data: 2020-01-01\nseed: 2020-01-01", "seed: "),
        ("1: 2", "."),
        ("variants: {dense: {train: {}}, dense-ptq: {train: {}}}", "rename it"),
        ("variants: {dense-graph: {train: {}}, dense: {train: {}}}", "rename it"),
        ("variants: {a: {train: {}}, b: {from: a, channels: {amount: 0.5, target_macs: 0.5}}}", "exactly one of"),
    ],
)
def test_recipes(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words) as caught:
        recipe.load(path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.yaml")
    with pytest.raises(RecipeError, match="no regular file"):
        recipe.load(tmp_path / "r.yaml")


def test_a_variant_may_end_like_a_model() -> None:
    """Where nothing else has that name."""
    assert list(recipe.parse({"variants": {"small-ptq": {"train": {}}}}).variants) == ["small-ptq"]

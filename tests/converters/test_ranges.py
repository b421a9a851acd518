"""Ranges: what is rejected, and that a scale comes back from its limits as the same float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchshrink.converters import ranges
from torchshrink.converters.ranges import Range
from torchshrink.errors import ModelError


def test_limits_of_an_activation() -> None:
    low, high = Range((0.5,), (-28,)).limits
    assert (low.tolist(), high.tolist()) == ([-50.0], [77.5])  # 0.5 * (-128 + 28), 0.5 * (127 + 28)


def test_limits_of_a_weight() -> None:
    low, high = Range((0.5, 2.0), (0, 0), axis=0).limits
    assert (low.tolist(), high.tolist()) == ([-63.5, -254.0], [63.5, 254.0])


def test_an_activation_comes_back_from_its_limits() -> None:
    """As a quantizer computes them: scale = (high - low) / 255 in float32, code of 0 = -128 - low / scale."""
    generator = np.random.default_rng(0)
    scale = np.exp(generator.uniform(-20, 10, 1000)).astype(np.float32)
    zero_point = generator.integers(-128, 128, 1000)
    for expected, code in zip(scale, zero_point, strict=True):
        low, high = (limit.item() for limit in Range((float(expected),), (int(code),)).limits)
        found = np.float32((high - low) / 255)
        assert found == expected
        assert np.rint(-128 - low / np.float64(found)) == code


def test_a_weight_comes_back_from_its_limits() -> None:
    generator = np.random.default_rng(0)
    scale = np.exp(generator.uniform(-20, 10, 1000)).astype(np.float32)
    low, high = Range(tuple(map(float, scale)), (0,) * 1000, axis=1).limits
    assert np.array_equal((np.maximum(-low, high) / 127).astype(np.float32), scale)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1.0, 2.0), (0,), 0), "2 scales, 1 zero points"),
        (((1.0, 2.0), (0, 0), None), "2 scales, 2 zero points, axis None"),
        (((), (), None), "0 scales"),
        (((), (), 0), "0 scales"),
        (((0.0,), (0,), None), "positive"),
        (((-1.0,), (0,), None), "positive"),
        (((1.0, 0.0), (0, 0), 0), "positive"),
        (((float("nan"),), (0,), None), "positive and finite"),
        (((float("inf"),), (0,), None), "positive and finite"),
    ],
)
def test_contradictions_are_rejected(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Range(*arguments)


def test_a_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    """0.1 as a float32 has no short decimal: text must not round it."""
    tenth = float(np.float32(0.1))
    known = {"x": Range((tenth,), (-5,)), "weight": Range((tenth, 2.0), (0, 0), axis=1)}
    ranges.save(known, tmp_path / "ranges.json")
    assert ranges.load(tmp_path / "ranges.json") == known


def test_the_format_of_the_file(tmp_path: Path) -> None:
    ranges.save({"x": Range((0.5,), (-5,), origin="trained")}, tmp_path / "ranges.json")
    assert json.loads((tmp_path / "ranges.json").read_text()) == {
        "schema": 2,
        "tensors": {"x": {"scale": [0.5], "zero_point": [-5], "axis": None, "origin": "trained", "is_partial": False}},
    }


def test_a_file_of_the_first_version(tmp_path: Path) -> None:
    """It knew of no origin; all of its ranges were trained."""
    entry = {"scale": [0.5], "zero_point": [-5], "axis": None}
    (tmp_path / "ranges.json").write_text(json.dumps({"schema": 1, "tensors": {"x": entry}}))
    found = ranges.load(tmp_path / "ranges.json")
    assert found == {"x": Range((0.5,), (-5,))}
    assert found["x"].origin == "trained"


def test_an_origin_survives_and_is_no_part_of_a_comparison(tmp_path: Path) -> None:
    ranges.save({"x": Range((0.5,), (-5,), origin="calibrated", is_partial=True)}, tmp_path / "ranges.json")
    found = ranges.load(tmp_path / "ranges.json")["x"]
    assert (found.origin, found.is_partial, found) == ("calibrated", True, Range((0.5,), (-5,), origin="fixed"))


def test_what_is_fixed_was_not_learned() -> None:
    found = ranges.learned({"x": Range((0.5,), (0,)), "s": Range((1 / 256,), (-128,), origin="fixed")}, "trained")
    assert {name: item.origin for name, item in found.items()} == {"x": "trained", "s": "fixed"}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"schema": 1, "tensors": []}',
        '{"schema": 1, "tensors": {"x": []}}',
        '{"schema": 1, "tensors": {"x": {"scale": [1.0], "zero_point": [0]}}}',
        '{"schema": 1, "tensors": {"x": {"scale": 1.0, "zero_point": [0], "axis": null}}}',
        '{"schema": 1, "tensors": {"x": {"scale": [-1.0], "zero_point": [0], "axis": null}}}',
        '{"schema": 3, "tensors": {}}',
        '{"schema": 2, "tensors": {"x": {"scale": [1.0], "zero_point": [0], "axis": null, "origin": "dreamt"}}}',
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"ranges\.json is not a file of ranges as torchshrink writes them"):
        ranges.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.json cannot be read: No such file"):
        ranges.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": "ab"}, "tensors.x.scale"),
        ({"scale": [None]}, "tensors.x.scale.0"),
        ({"zero_point": ["a"]}, "tensors.x.zero_point.0"),
        ({"zero_point": [0.5]}, "tensors.x.zero_point.0"),
        ({"zero_point": [2**40]}, "tensors.x.zero_point.0"),
        ({"axis": "b"}, "tensors.x.axis"),
        ({"axis": -1}, "tensors.x.axis"),
        ({"origin": "hearsay"}, "tensors.x.origin"),
    ],
)
def test_every_part_has_its_type(change: dict[str, object], words: str, tmp_path: Path) -> None:
    sound: dict[str, object] = {"scale": [0.5], "zero_point": [3], "axis": None}
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"schema": 2, "tensors": {"x": sound}}))
    assert ranges.load(path)["x"] == ranges.Range((0.5,), (3,))
    path.write_text(json.dumps({"schema": 2, "tensors": {"x": sound | change}}))
    with pytest.raises(ModelError, match=words):
        ranges.load(path)

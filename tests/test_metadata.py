"""What a file says of its model: every part is of its type, or the file is refused by the name of the part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from program import call
from safetensors.torch import save_file

from torchshrink import checkpoint, metadata
from torchshrink.errors import ModelError
from torchshrink.model.unet import UNet
from torchshrink.predict import shipped

SOUND: dict[str, Any] = {
    "normalization": {"mean": [0.5], "std": [2], "raw": "uint8 / 255"},
    "class_names": ["cell"],
    "input_shape": [1, 1, 16, 16],
    "keep_float": [],
    "history": {"epochs": []},
    "later": {"anything": 1},
}
WRONG = [
    ("normalization", 3, "normalization"),
    ("normalization", {"mean": [0.5]}, "normalization.std"),
    ("normalization", {"mean": ["a"], "std": [1.0]}, "normalization.mean.0"),
    ("normalization", {"mean": [float("nan")], "std": [1.0]}, "normalization.mean.0"),
    ("normalization", {"mean": [0.0], "std": [0.0]}, "normalization.std.0"),
    ("normalization", {"mean": [0.0, 1.0], "std": [1.0]}, "2 means and 1 deviations"),
    ("normalization", {"mean": [0.0], "std": [1.0], "raw": 3}, "normalization.raw"),
    ("class_names", "cell", "class_names"),
    ("class_names", [1], "class_names.0"),
    ("input_shape", "1,1,16,16", "input_shape"),
    ("input_shape", [1, 1, 0, 16], "input_shape.2"),
    ("input_shape", [], "input_shape"),
    ("input_shape", [1, 1, True, 16], "input_shape.2"),
    ("input_shape", [1, 1, 2**30, 2**30], "too many values"),
    ("history", [], "history"),
]


@pytest.mark.parametrize(("key", "value", "words"), WRONG)
def test_every_part_has_its_type(key: str, value: Any, words: str) -> None:
    assert metadata.check(SOUND, "m") == SOUND
    with pytest.raises(ModelError) as caught:
        metadata.check(SOUND | {key: value}, "m.onnx")
    assert str(caught.value).startswith("m.onnx has a description that cannot be used (")
    assert words in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*SOUND, "mean", "std", "raw"]), inner),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_used_or_refused(content: Any) -> None:
    try:
        found = metadata.parse(json.dumps(content), "m")
    except ModelError:
        return
    assert isinstance(found, dict)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "3", "null", '{"input_shape": 1e999}'])
def test_text_that_is_no_description(text: str) -> None:
    with pytest.raises(ModelError, match="m has a description that cannot be used"):
        metadata.parse(text, "m")


def test_checkpoints_and_commands(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    net = UNet(widths=(4, 8)).eval()
    header = (
        {"schema": 1, "architecture": {"name": "UNet", "arguments": net.config}} | SOUND | {"input_shape": ["a", 1]}
    )
    save_file(net.state_dict(), path, {"torchshrink": json.dumps(header)})
    with pytest.raises(ModelError, match=r"input_shape\.0"):
        checkpoint.describe(path)
    result = call("export", path, "--out", tmp_path / "m.onnx")
    assert (result.code, "input_shape.0" in result.said) == (3, True)
    save_file(net.state_dict(), path, {"torchshrink": json.dumps(header | {"input_shape": None})})
    result = call("export", path, "--out", tmp_path / "m.onnx", "--shape", "1,1,99999999,99999999")
    assert (result.code, "too many values" in result.said) == (3, True)


def test_exported_files(tmp_path: Path) -> None:
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 16, 16))] for name in ("x", "y")]
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", *ends))
    for content, words in ((SOUND, None), (SOUND | {"class_names": 3}, "class_names"), ([], "all of it")):
        helper.set_model_props(model, {"torchshrink": json.dumps(content)})
        onnx.save(model, tmp_path / "m.onnx")
        if words is None:
            assert shipped.read(tmp_path / "m.onnx").class_names == ("cell",)
        else:
            with pytest.raises(ModelError, match=words):
                shipped.read(tmp_path / "m.onnx")

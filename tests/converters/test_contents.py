"""Weights and input shapes, read back from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from torchshrink import checkpoint
from torchshrink.converters import contents
from torchshrink.errors import ModelError

DTYPES = {"fp32": np.float32, "int8": np.int8}


@pytest.mark.parametrize(
    "name", ["onnx-fp32", "onnx-int8", "tflite-fp32", "tflite-fp32-sparse", "tflite-int8", "tflite-int8-sparse"]
)
def test_every_weight_in_the_type_that_is_stored(unet: Any, name: str) -> None:
    found = contents.read_weights(unet.path(name))
    parameters = [value for value in unet.model.state_dict().values() if value.ndim > 1]
    assert sorted(array.size for array in found) == sorted(value.numel() for value in parameters)
    assert {array.dtype for array in found} == {np.dtype(DTYPES[unet.artefacts[name].precision])}


@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-fp32", "tflite-fp32-sparse"])
def test_float_values(unet: Any, name: str) -> None:
    """The two layers that no BatchNorm follows are those of PyTorch, to the bit."""
    found = [_sorted(array) for array in contents.read_weights(unet.path(name))]
    for layer in (unet.model.head, unet.model.ups[0]):
        expected = _sorted(layer.weight.detach().numpy())
        assert any(np.array_equal(values, expected) for values in found if values.shape == expected.shape)


@pytest.mark.parametrize("name", ["onnx-int8", "tflite-int8", "tflite-int8-sparse"])
def test_int8_codes(unet: Any, name: str, weights_of: Any) -> None:
    found = sorted(_sorted(array).tolist() for array in contents.read_weights(unet.path(name)))
    assert found == sorted(_sorted(weight.codes).tolist() for weight in weights_of(unet.quantized))


def test_a_checkpoint(unet2d: Any, tmp_path: Path) -> None:
    checkpoint.save(unet2d.model, tmp_path / "float.safetensors")
    checkpoint.save(unet2d.quantized, tmp_path / "int8.safetensors")
    expected = {name: value for name, value in unet2d.model.state_dict().items() if value.ndim > 1}
    found = contents.read_weights(tmp_path / "float.safetensors")
    assert sum(array.size for array in found) == sum(value.numel() for value in expected.values())
    codes = contents.read_weights(tmp_path / "int8.safetensors")
    assert {array.dtype for array in codes} == {np.dtype(np.int8)}
    assert sum(array.size for array in codes) == sum(array.size for array in found)


@pytest.mark.parametrize("name", ["onnx-fp32", "onnx-fp16", "onnx-int8", "tflite-fp32", "tflite-int8-sparse"])
def test_input_shape_in_the_layout_of_pytorch(unet: Any, name: str) -> None:
    assert contents.input_shape(unet.path(name)) == list(unet.inputs[:1].shape)


def test_input_shape_of_a_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(nn.Conv1d(1, 1, 1), tmp_path / "model.safetensors", {"input_shape": [1, 1, 64]})
    assert contents.input_shape(tmp_path / "model.safetensors") == [1, 1, 64]


def test_a_checkpoint_that_does_not_say(tmp_path: Path) -> None:
    checkpoint.save(nn.Conv1d(1, 1, 1), tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"does not say what shape its input has: pass --data"):
        contents.input_shape(tmp_path / "model.safetensors")


@pytest.mark.parametrize("ending", [".onnx", ".tflite", ".safetensors"])
@pytest.mark.parametrize("content", [None, b"", bytes(100), b"text" * 30], ids=["missing", "empty", "zeros", "text"])
@pytest.mark.parametrize("read", [contents.read_weights, contents.input_shape], ids=["weights", "shape"])
def test_a_damaged_file_is_named(tmp_path: Path, read: Any, ending: str, content: bytes | None) -> None:
    path = tmp_path / f"damaged{ending}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"damaged\{ending}"):
        read(path)


@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-int8"])
def test_a_truncated_file_is_named(unet2d: Any, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"cut.{name.split('-')[0]}"
    path.write_bytes(unet2d.path(name).read_bytes()[:3000])
    with pytest.raises(ModelError, match="cut"):
        contents.read_weights(path)


def _sorted(values: NDArray[Any]) -> NDArray[Any]:
    return np.sort(np.asarray(values).ravel())


def test_a_linear_layer_is_read(tmp_path: Path) -> None:
    """Rank 2 counts, a bias does not."""
    model = nn.Linear(3, 2)
    checkpoint.save(model, tmp_path / "model.safetensors")
    (found,) = contents.read_weights(tmp_path / "model.safetensors")
    assert torch.equal(torch.tensor(found), model.weight)

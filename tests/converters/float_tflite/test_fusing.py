"""Two operators written as one: the numbers stay, in LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.float_tflite import fusing

FLOAT32, INT32 = schema.TensorType.FLOAT32, schema.TensorType.INT32
Op = schema.BuiltinOperator
RELU = schema.ActivationFunctionType.RELU
X = np.random.default_rng(0).uniform(0.5, 4, (3, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
BIAS = np.array([-1, 0.5], np.float32)


def linear(build: Any, bias: np.ndarray[Any, Any] = BIAS, is_output: bool = False) -> Any:
    """A linear layer and a sum with a ReLU; the product may be an output, too."""
    entry, weight = build.tensor("input", X.shape, FLOAT32), build.tensor("weight", WEIGHT.shape, FLOAT32, WEIGHT)
    inner, output = build.tensor("inner", (3, 2), FLOAT32), build.tensor("output", (3, 2), FLOAT32)
    build.operator(Op.FULLY_CONNECTED, [entry, weight, -1], [inner], schema.FullyConnectedOptionsT())
    options = schema.AddOptionsT()
    options.fusedActivationFunction = RELU
    build.operator(Op.ADD, [inner, build.tensor("bias", bias.shape, FLOAT32, bias)], [output], options)
    return build.finish([entry], [output, *([inner] if is_output else [])])


def root(build: Any, one: float = 1, is_moved: bool = False) -> Any:
    entry, inner, output = (build.tensor(name, X.shape, FLOAT32) for name in ("input", "inner", "output"))
    numerator = build.tensor("one", (1,), FLOAT32, np.array([one], np.float32))
    if is_moved:
        before, shape = build.tensor("before", X.shape, FLOAT32), build.tensor("shape", (2,), INT32, np.int32(X.shape))
        build.operator(Op.SQRT, [entry], [before])
        build.operator(Op.RESHAPE, [before, shape], [inner], schema.ReshapeOptionsT())
    else:
        build.operator(Op.SQRT, [entry], [inner])
    build.operator(Op.DIV, [numerator, inner], [output], schema.DivOptionsT())
    return build.finish([entry], [output])


def kinds(model: Any) -> list[str]:
    return [tflite_file.op_name(model, operator) for operator in model.subgraphs[0].operators]


def computed(model: Any, path: Path, interpreter: Callable[[Path], Any]) -> Any:
    tflite_file.write(model, path)
    runner = interpreter(path)
    runner.set_tensor(runner.get_input_details()[0]["index"], X)
    runner.invoke()
    return runner.get_tensor(runner.get_output_details()[0]["index"])


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
def test_a_linear_layer_adds_its_bias(
    tflite_builder: Any, tmp_path: Path, interpreter: Callable[[Path], Any], shape: tuple[int, ...]
) -> None:
    model = linear(tflite_builder, BIAS.reshape(shape))
    fusing.fuse(model)
    assert kinds(model) == ["FULLY_CONNECTED"]
    expected = np.maximum(X @ WEIGHT.T + BIAS, 0)
    np.testing.assert_allclose(computed(model, tmp_path / "m.tflite", interpreter), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_moved", [False, True])
def test_a_reciprocal_root_is_one_operator(
    tflite_builder: Any, tmp_path: Path, interpreter: Callable[[Path], Any], is_moved: bool
) -> None:
    model = root(tflite_builder, is_moved=is_moved)
    fusing.fuse(model)
    assert kinds(model) == ["RSQRT", *["RESHAPE"] * is_moved]
    np.testing.assert_allclose(computed(model, tmp_path / "m.tflite", interpreter), 1 / np.sqrt(X), rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda build: linear(build, is_output=True),
        lambda build: linear(build, np.ones((3, 1), np.float32)),
        lambda build: root(build, 2),
    ],
    ids=["also an output", "one bias for each sample", "two divided"],
)
def test_others_stay_two(tflite_builder: Any, make: Callable[[Any], Any]) -> None:
    model = make(tflite_builder)
    before = kinds(model)
    fusing.fuse(model)
    assert kinds(model) == before

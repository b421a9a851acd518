"""Products that share a second factor, in LiteRT's own kernels and beside numpy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from torchshrink.converters import tflite_file
from torchshrink.converters.float_tflite import passes, products

FLOAT32, Op = schema.TensorType.FLOAT32, schema.BuiltinOperator
Shape = tuple[int, ...]
SHARED = {
    "two of one": ((2, 4, 3), (1, 5, 4), True),
    "second as it is": ((2, 4, 3), (1, 4, 5), False),
    "attention of one head": ((1, 8, 16, 1), (1, 1, 4, 16), True),
    "shared by some": ((2, 3, 4, 5), (1, 3, 6, 4), True),
}
OTHERS = {"as many": ((2, 4, 3), (2, 5, 4), True, True), "first as it is": ((2, 3, 4), (1, 5, 4), False, True)}


def product(build: Any, first: Shape, second: Shape, is_first_turned: bool, is_second_turned: bool) -> Any:
    size = np.matmul(*factors(first, second, is_first_turned, is_second_turned)).shape
    entries = [build.tensor(name, shape, FLOAT32) for name, shape in (("first", first), ("second", second))]
    output, options = build.tensor("output", size, FLOAT32), schema.BatchMatMulOptionsT()
    options.adjX, options.adjY = is_first_turned, is_second_turned
    build.operator(Op.BATCH_MATMUL, entries, [output], options)
    return build.finish(entries, [output])


def factors(first: Shape, second: Shape, *are_turned: bool) -> list[NDArray[Any]]:
    """Return them as they are multiplied."""
    random = np.random.default_rng(0)
    values = [random.standard_normal(shape).astype(np.float32) for shape in (first, second)]
    return [value.swapaxes(-1, -2) if turned else value for value, turned in zip(values, are_turned, strict=True)]


def kinds(model: Any) -> list[str]:
    return [tflite_file.op_name(model, operator) for operator in model.subgraphs[0].operators]


@pytest.mark.parametrize("name", SHARED)
def test_a_shared_second_factor_is_multiplied_with_all(
    tflite_builder: Any, name: str, tmp_path: Path, interpreter: Callable[[Path], Any]
) -> None:
    first, second, is_turned = SHARED[name]
    model = product(tflite_builder, first, second, True, is_turned)
    products.turn_first_factors(model)
    assert kinds(model) == ["TRANSPOSE", "BATCH_MATMUL"]
    tflite_file.write(model, tmp_path / "m.tflite")
    runner, turned = interpreter(tmp_path / "m.tflite"), factors(first, second, True, is_turned)
    for detail, value, was_turned in zip(runner.get_input_details(), turned, (True, is_turned), strict=True):
        runner.set_tensor(detail["index"], value.swapaxes(-1, -2) if was_turned else value)
    runner.invoke()
    found = runner.get_tensor(runner.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, np.matmul(*turned), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_other_products_stay(tflite_builder: Any, name: str) -> None:
    model = product(tflite_builder, *OTHERS[name])
    products.turn_first_factors(model)
    assert kinds(model) == ["BATCH_MATMUL"]


def test_every_file_goes_through_it() -> None:
    assert products.turn_first_factors in [getattr(make(), "after", None) for make in passes.PASSES]

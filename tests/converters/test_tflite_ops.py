"""The table of operators: LiteRT is asked whether it tells the truth."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from torchshrink.converters import tflite_file
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_ops import OPERATORS, Op, row

FLOAT32, INT32 = schema.TensorType.FLOAT32, schema.TensorType.INT32
BOX = (1, 2, 4, 3)


def _pool() -> Any:
    options = schema.Pool2DOptionsT()
    options.filterHeight = options.filterWidth = options.strideH = options.strideW = 2
    return options


# By operator: the shape of its output, its second input, its options.
MOVES: dict[str, tuple[tuple[int, ...], Any, Callable[[], Any]]] = {
    "TILE": ((1, 4, 4, 3), [1, 2, 1, 1], schema.TileOptionsT),
    "GATHER": ((2, 2, 4, 3), [0, 0], schema.GatherOptionsT),
    "GATHER_ND": ((1, 4, 3), [[0, 1]], schema.GatherNdOptionsT),
    "MIRROR_PAD": ((1, 4, 4, 3), [[0, 0], [1, 1], [0, 0], [0, 0]], schema.MirrorPadOptionsT),
    "BROADCAST_TO": ((2, 2, 4, 3), [2, 2, 4, 3], schema.BroadcastToOptionsT),
    "REDUCE_MAX": ((1, 3), [1, 2], schema.ReducerOptionsT),
    "REDUCE_MIN": ((1, 3), [1, 2], schema.ReducerOptionsT),
    "MEAN": ((1, 3), [1, 2], schema.ReducerOptionsT),
    "SUM": ((1, 3), [1, 2], schema.ReducerOptionsT),
    "RESIZE_NEAREST_NEIGHBOR": ((1, 3, 5, 3), [3, 5], schema.ResizeNearestNeighborOptionsT),
    "RESIZE_BILINEAR": ((1, 3, 5, 3), [3, 5], schema.ResizeBilinearOptionsT),
    "MAX_POOL_2D": ((1, 1, 2, 3), None, _pool),
    "AVERAGE_POOL_2D": ((1, 1, 2, 3), None, _pool),
    "ABS": (BOX, None, schema.AbsOptionsT),
}


@pytest.mark.parametrize("kind", MOVES)
def test_what_only_moves_gives_out_what_it_got(
    tflite_builder: Any, interpreter: Callable[[Path], Any], tmp_path: Path, kind: str
) -> None:
    shape, second, options = MOVES[kind]
    entry, output = tflite_builder.tensor("input", BOX, FLOAT32), tflite_builder.tensor("output", shape, FLOAT32)
    extra = [] if second is None else [_constant(tflite_builder, np.array(second, np.int32))]
    tflite_builder.operator(getattr(schema.BuiltinOperator, kind), [entry, *extra], [output], options())
    tflite_builder.model.operatorCodes[0].version = 2 if kind == "BROADCAST_TO" else 1
    tflite_file.write(tflite_builder.finish([entry], [output]), tmp_path / "model.tflite")
    values = np.random.default_rng(0).standard_normal(BOX).astype(np.float32)
    opened = interpreter(tmp_path / "model.tflite")
    opened.set_tensor(opened.get_input_details()[0]["index"], values)
    opened.invoke()
    found = opened.get_tensor(opened.get_output_details()[0]["index"])
    assert (set(found.ravel()) <= {*values.ravel(), np.float32(0)}) == row(kind).moves


def _constant(builder: Any, values: NDArray[Any]) -> int:
    index: int = builder.tensor("second", values.shape, INT32, values)
    return index


def test_every_row_is_an_operator() -> None:
    assert [kind for kind in OPERATORS if not hasattr(schema.BuiltinOperator, kind)] == []


def test_what_has_no_row_stays_float() -> None:
    unknown = row("BUCKETIZE")
    assert unknown.demanded_grid(Range((0.1,), (0,))) is None
    assert (unknown.stands_alone, unknown.moves, unknown.edge_tpu) == (False, False, False)


@pytest.mark.parametrize(
    ("columns", "message"),
    [({"moves": True, "grid": "own"}, "grid is 'input'"), ({"weight": 1}, "a weight has an axis")],
)
def test_a_row_that_contradicts_itself(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Op(**columns)


@pytest.mark.parametrize(("grid", "expected"), [("own", None), ("output", None), ("input", 0.1), ("fixed", 0.5)])
def test_which_grid_a_kernel_demands(grid: Any, expected: float | None) -> None:
    found = Op(Range((0.5,), (0,)) if grid == "fixed" else grid).demanded_grid(Range((0.1,), (3,)))
    assert (found.scale[0] if found is not None else None) == expected

"""``DEQUANTIZE -> operation -> QUANTIZE`` becomes the operation, where its int8 kernel computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.int8_tflite import mend
from torchshrink.converters.ranges import Range

FLOAT32, INT8, INT32 = schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.INT32
Op = schema.BuiltinOperator


def _model(builder: Any, kind: int, scales: tuple[float, ...], shape: tuple[int, ...] = (2, 3)) -> Any:
    """``input`` -> DEQUANTIZE -> operation -> one QUANTIZE -> RELU per further scale, whose outputs are the model's."""
    entry = builder.tensor("input", shape, INT8, scale=scales[0])
    before, after = builder.tensor("before", shape, FLOAT32), builder.tensor("after", (shape[1], shape[0]), FLOAT32)
    inputs, options = [before], None
    if kind == Op.RESHAPE:
        target = np.array([shape[1], shape[0]], np.int32)
        inputs.append(builder.tensor("shape", (2,), INT32, target))
        options = schema.ReshapeOptionsT()
    elif kind == Op.TRANSPOSE:
        inputs.append(builder.tensor("order", (2,), INT32, np.array([1, 0], np.int32)))
        options = schema.TransposeOptionsT()
    elif kind == Op.LEAKY_RELU:
        options = schema.LeakyReluOptionsT()
        options.alpha = 0.5
    builder.operator(Op.DEQUANTIZE, [entry], [before])
    builder.operator(kind, inputs, [after], options)
    outputs = []
    for index, scale in enumerate(scales[1:]):
        codes = builder.tensor(f"codes{index}", (shape[1], shape[0]), INT8, scale=scale)
        outputs.append(builder.tensor(f"output{index}", (shape[1], shape[0]), INT8, scale=scale))
        builder.operator(Op.QUANTIZE, [after], [codes])
        builder.operator(Op.RELU, [codes], [outputs[-1]])
    return builder.finish([entry], outputs)


def _kinds(model: Any) -> list[str]:
    return [tflite_file.op_name(model, operator) for operator in model.subgraphs[0].operators]


@pytest.mark.parametrize("kind", ["RESHAPE", "TRANSPOSE", "LEAKY_RELU"])
def test_absorbed(tflite_builder: Any, tmp_path: Path, interpreter: Callable[[Path], Any], kind: str) -> None:
    """The file computes before and after what it computed."""
    shape = (3, 3) if kind == "LEAKY_RELU" else (2, 3)
    model = _model(tflite_builder, getattr(Op, kind), (0.1, 0.1), shape)
    tflite_file.write(model, tmp_path / "before.tflite")
    assert mend.absorb(model) == 1
    assert _kinds(model) == [kind, "RELU"]
    tflite_file.write(model, tmp_path / "after.tflite")
    entry = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    found = []
    for name in ("before", "after"):
        opened = interpreter(tmp_path / f"{name}.tflite")
        opened.set_tensor(opened.get_input_details()[0]["index"], entry)
        opened.invoke()
        found.append(opened.get_tensor(opened.get_output_details()[0]["index"]))
    assert np.array_equal(*found)


@pytest.mark.parametrize(("kind", "own"), [("RESHAPE", 0.1), ("LOGISTIC", 1 / 256)])
def test_a_grid_that_the_kernel_does_not_compute_on(
    tflite_builder: Any, tmp_path: Path, interpreter: Callable[[Path], Any], kind: str, own: float
) -> None:
    """It computes on its own, and what quantized the float result rescales."""
    shape = (3, 2) if kind == "RESHAPE" else (3, 3)
    model = _model(tflite_builder, getattr(Op, kind), (0.1, 0.02), shape)
    tflite_file.write(model, tmp_path / "before.tflite")
    assert mend.absorb(model) == 1
    assert mend.restore_grids(model, {"after": Range((0.02,), (0,))}) == 0
    assert _kinds(model) == [kind, "QUANTIZE", "RELU"]
    computed = model.subgraphs[0].tensors[model.subgraphs[0].operators[0].outputs[0]]
    assert (computed.type, computed.quantization.scale) == (INT8, [pytest.approx(own)])
    tflite_file.write(model, tmp_path / "after.tflite")
    entry = np.random.default_rng(0).integers(-30, 31, shape).astype(np.int8)
    found = []
    for name in ("before", "after"):
        opened = interpreter(tmp_path / f"{name}.tflite")
        opened.set_tensor(opened.get_input_details()[0]["index"], entry)
        opened.invoke()
        found.append(opened.get_tensor(opened.get_output_details()[0]["index"]).astype(int))
    assert np.abs(found[0] - found[1]).max() <= (0 if kind == "RESHAPE" else 1)


def test_a_rescaling_operation_has_its_own_output_scale(tflite_builder: Any) -> None:
    model = _model(tflite_builder, Op.LEAKY_RELU, (0.1, 0.2), (3, 3))
    assert mend.absorb(model) == 1


@pytest.mark.parametrize(
    ("scale", "has_floats", "count"),
    [(0.02, True, 0), (0.02, False, 1), (0.1, True, 1), (0.2, True, 1)],
    ids=["smaller steps", "no floats", "equal steps", "larger steps"],
)
def test_an_average_is_not_rounded_to_larger_steps_than_the_result_has(
    tflite_builder: Any, scale: float, has_floats: bool, count: int
) -> None:
    model = _model(tflite_builder, Op.AVERAGE_POOL_2D, (0.1, scale), (3, 3))
    assert mend.absorb(model, has_floats) == count


def test_several_readers_of_the_same_codes(tflite_builder: Any) -> None:
    model = _model(tflite_builder, Op.RESHAPE, (0.1, 0.1, 0.1))
    assert mend.absorb(model) == 1
    assert _kinds(model) == ["RESHAPE", "RELU", "RELU"]
    moved, *readers = model.subgraphs[0].operators
    assert [list(reader.inputs) for reader in readers] == [list(moved.outputs)] * 2


@pytest.mark.parametrize(
    ("kind", "scales"),
    [
        (Op.RESHAPE, (0.1, 0.1, 0.2)),
        (Op.LEAKY_RELU, (0.1, 0.1, 0.2)),  # two readers want two scales
        (Op.SIN, (0.1, 0.1)),  # no int8 kernel
        (Op.RESHAPE, (0.1,)),  # nobody quantizes the result
    ],
    ids=["readers differ", "readers differ, rescaling", "float kernel", "no reader"],
)
def test_left_alone(tflite_builder: Any, kind: int, scales: tuple[float, ...]) -> None:
    model = _model(tflite_builder, kind, scales)
    before = _kinds(model)
    assert mend.absorb(model) == 0
    assert _kinds(model) == before


def test_a_float_output_is_left_alone(tflite_builder: Any) -> None:
    """The float result is what the caller of the model gets."""
    model = _model(tflite_builder, Op.RESHAPE, (0.1, 0.1))
    model.subgraphs[0].outputs = [model.subgraphs[0].operators[1].outputs[0]]
    assert mend.absorb(model) == 0


def test_a_dequantized_tensor_that_others_read_stays(tflite_builder: Any) -> None:
    model = _model(tflite_builder, Op.RESHAPE, (0.1, 0.1))
    before = model.subgraphs[0].operators[0].outputs[0]
    other = tflite_builder.tensor("other", (2, 3), FLOAT32)
    tflite_builder.operator(Op.SIN, [before], [other])
    assert mend.absorb(model) == 1
    assert _kinds(model) == ["DEQUANTIZE", "RESHAPE", "RELU", "SIN"]


# --- rescaling that changes nothing ---


def _rescaled(builder: Any, before: float, after: float) -> Any:
    """``input`` -> QUANTIZE -> RELU -> ``output``."""
    entry, codes = builder.tensor("input", (4,), INT8, scale=before), builder.tensor("codes", (4,), INT8, scale=after)
    output = builder.tensor("output", (4,), INT8, scale=after)
    builder.operator(Op.QUANTIZE, [entry], [codes])
    builder.operator(Op.RELU, [codes], [output])
    return builder.finish([entry], [output])


def test_an_idle_rescaling_is_removed(tflite_builder: Any) -> None:
    model = _rescaled(tflite_builder, 0.1, 0.1)
    assert mend.drop_idle(model) == 1
    assert _kinds(model) == ["RELU"]
    assert list(model.subgraphs[0].operators[0].inputs) == list(model.subgraphs[0].inputs)


def test_a_rescaling_that_changes_codes_stays(tflite_builder: Any) -> None:
    model = _rescaled(tflite_builder, 0.1, 0.2)
    assert mend.drop_idle(model) == 0
    assert _kinds(model) == ["QUANTIZE", "RELU"]


def test_an_idle_rescaling_that_computes_an_output_stays(tflite_builder: Any) -> None:
    model = _rescaled(tflite_builder, 0.1, 0.1)
    model.subgraphs[0].outputs = list(model.subgraphs[0].operators[0].outputs)
    assert mend.drop_idle(model) == 0


@pytest.mark.parametrize(
    ("kind", "scale", "zero_point", "is_idle"),
    [
        ("RELU", 0.1, -128, True),
        ("RELU", 0.1, -127, False),
        ("RELU6", 6 / 255, -128, True),
        ("RELU6", 0.1, -128, False),
        ("RELU_N1_TO_1", 1 / 128, 0, True),
        ("TANH", 0.1, -128, False),
    ],
)
def test_a_clamp_to_what_its_grid_reaches_is_removed(
    tflite_builder: Any, kind: str, scale: float, zero_point: int, is_idle: bool
) -> None:
    ends = [tflite_builder.tensor(f"t{index}", (4,), INT8, scale=scale) for index in range(3)]
    for index in ends:
        tflite_builder.model.subgraphs[0].tensors[index].quantization.zeroPoint = [zero_point]
    tflite_builder.operator(getattr(Op, kind), ends[:1], ends[1:2])
    tflite_builder.operator(Op.ABS, ends[1:2], ends[2:])
    model = tflite_builder.finish(ends[:1], ends[2:])
    assert mend.drop_idle(model) == is_idle


# --- grids that a reader imposed ---

WRONG, SIGMOID = 0.02, Range((1 / 256,), (-128,))


def _sigmoid(builder: Any) -> Any:
    """``input`` -> LOGISTIC on the grid of its reader, which no kernel computes -> RELU -> ``output``."""
    entry, shape = builder.tensor("input", (256,), INT8, scale=0.05), (256,)
    sigmoid, output = (builder.tensor(name, shape, INT8, scale=WRONG) for name in ("sigmoid", "output"))
    builder.operator(Op.LOGISTIC, [entry], [sigmoid])
    builder.operator(Op.RELU, [sigmoid], [output])
    return builder.finish([entry], [output])


def test_a_sigmoid_is_computed_on_its_own_grid(
    tflite_builder: Any, tmp_path: Path, interpreter: Callable[[Path], Any]
) -> None:
    model = _sigmoid(tflite_builder)
    assert mend.restore_grids(model, {"sigmoid": SIGMOID}) == 1
    assert _kinds(model) == ["LOGISTIC", "QUANTIZE", "RELU"]
    tflite_file.write(model, tmp_path / "model.tflite")
    opened = interpreter(tmp_path / "model.tflite")
    entry = np.arange(-128, 128).astype(np.int8)
    opened.set_tensor(opened.get_input_details()[0]["index"], entry)
    opened.invoke()
    found = opened.get_tensor(opened.get_output_details()[0]["index"])
    own = np.minimum(np.rint(256 / (1 + np.exp(-0.05 * entry.astype(np.float64)))), 255) / 256
    # Half a step of the reader's grid, and the one of the sigmoid's that the kernel's fixed-point table may be off.
    assert np.abs(found - own / WRONG).max() <= 0.5 + 1 / 256 / WRONG


@pytest.mark.parametrize("learned", [{}, {"sigmoid": Range((WRONG,), (0,))}], ids=["unknown", "same"])
def test_other_grids_are_left_alone(tflite_builder: Any, learned: dict[str, Range]) -> None:
    model = _sigmoid(tflite_builder)
    assert mend.restore_grids(model, learned) == 0
    assert _kinds(model) == ["LOGISTIC", "RELU"]


def test_a_move_keeps_the_grid_of_its_input(tflite_builder: Any) -> None:
    """Its kernel has no other, whatever was learned."""
    entry, moved = (tflite_builder.tensor(name, (4,), INT8, scale=0.1) for name in ("input", "moved"))
    output = tflite_builder.tensor("output", (4,), INT8, scale=0.1)
    tflite_builder.operator(Op.RESHAPE, [entry], [moved])
    tflite_builder.operator(Op.RELU, [moved], [output])
    model = tflite_builder.finish([entry], [output])
    assert mend.restore_grids(model, {"moved": SIGMOID}) == 0


# --- real files ---


def test_the_int8_unet_has_no_rescaling_left(unet2d: Any) -> None:
    kinds = _kinds(tflite_file.read(unet2d.path("tflite-int8")))
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(kinds)


def test_no_operator_does_nothing(unet: Any) -> None:
    """A QUANTIZE between two tensors of equal parameters costs a pass over memory and changes no bit."""
    model = tflite_file.read(unet.path("tflite-int8"))
    graph = model.subgraphs[0]
    idle = []
    for operator in graph.operators:
        if tflite_file.op_name(model, operator) == "QUANTIZE":
            ends = [graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0])]
            ranges = [tflite_file.quantization(model, tensor) for tensor in ends]
            idle += [tflite_file.tensor_name(ends[1])] if ranges[0] == ranges[1] else []
    assert idle == []

"""What a file computes in, which detours through float it takes, and how many multiply-accumulates: all by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import NodeProto, TensorProto, helper

from torchshrink.bench import count_macs
from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy import onnx_operations, tflite_operations
from torchshrink.converters.anatomy.inspect import Anatomy, inspect, to_dict
from torchshrink.converters.anatomy.operations import Operation, detours
from torchshrink.errors import ModelError, RecipeError

FLOAT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
Op = schema.BuiltinOperator


def step(kind: str, precision: Any, inputs: str, outputs: str, ms: float = 1.0) -> Operation:
    return Operation(kind, outputs.split()[0], precision, tuple(inputs.split()), tuple(outputs.split()), 0, ms)


# --- detours ---


def test_no_detour_where_only_the_ends_are_float() -> None:
    operations = [
        step("QUANTIZE", "conversion", "x", "a"),
        step("CONV_2D", "int8", "a", "b"),
        step("DEQUANTIZE", "conversion", "b", "y"),
    ]
    assert detours(operations) == ()


def test_two_branches_that_meet_in_float_are_one_detour() -> None:
    """a -> SIN and b -> COS, added in float, quantized for two readers; the file's ends are apart from them."""
    operations = [
        step("CONV_2D", "int8", "x", "a"),
        step("CONV_2D", "int8", "x", "b"),
        step("DEQUANTIZE", "conversion", "a", "a_real", 2.0),
        step("DEQUANTIZE", "conversion", "b", "b_real", 3.0),
        step("SIN", "float", "a_real", "sine", 5.0),
        step("COS", "float", "b_real", "cosine", 7.0),
        step("ADD", "float", "sine cosine", "sum", 11.0),
        step("QUANTIZE", "conversion", "sum", "c", 13.0),
        step("CONV_2D", "int8", "c", "d"),
        step("RELU", "int8", "c", "e"),
        step("DEQUANTIZE", "conversion", "d", "y"),
    ]
    (found,) = detours(operations)
    assert [item.name for item in found.entries] == ["a_real", "b_real"]
    assert [item.kind for item in found.operations] == ["SIN", "COS", "ADD"]
    assert [item.name for item in found.exits] == ["c"]
    assert [item.name for item in found.sources] == ["a", "b"]
    assert [item.name for item in found.targets] == ["d", "e"]
    assert found.ms == 41.0
    assert found.is_pair


def test_a_pair_with_nothing_in_it_and_two_detours_in_a_row() -> None:
    operations = [
        step("DEQUANTIZE", "conversion", "a", "b"),
        step("QUANTIZE", "conversion", "b", "c"),
        step("DEQUANTIZE", "conversion", "c", "d"),
        step("SIN", "float", "d", "e"),
    ]
    first, second = detours(operations)
    assert (first.operations, first.is_pair) == ((), True)
    assert ([item.kind for item in second.operations], second.is_pair) == (["SIN"], False)


def test_dequantized_weights_belong_to_the_detour_and_are_no_entry() -> None:
    operations = [
        step("DequantizeLinear", "conversion", "", "weight"),
        step("DequantizeLinear", "conversion", "a", "b"),
        step("Conv", "float", "b weight", "c"),
        step("QuantizeLinear", "conversion", "c", "d"),
    ]
    (found,) = detours(operations)
    assert [item.name for item in found.weights] == ["weight"]
    assert [item.name for item in found.entries] == ["b"]
    assert found.ms == 4.0


# --- TFLite ---


def _options(kind: type, **settings: Any) -> Any:
    found = kind()
    for name, value in settings.items():
        setattr(found, name, value)
    return found


CONV = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
MACS = {
    # out 1x4x4x8, each the sum of a 3x3 window of 2 channels
    "CONV_2D": ([(1, 4, 4, 2)], (8, 3, 3, 2), (1, 4, 4, 8), 4 * 4 * 8 * 3 * 3 * 2),
    # out 1x4x4x2, each the sum of a 3x3 window of its own channel
    "DEPTHWISE_CONV_2D": ([(1, 4, 4, 2)], (1, 3, 3, 2), (1, 4, 4, 2), 4 * 4 * 2 * 3 * 3),
    # in 1x4x4x2, each goes to 2x2 positions of 8 channels
    "TRANSPOSE_CONV": ([(1, 4, 4, 2)], (8, 2, 2, 2), (1, 8, 8, 8), 4 * 4 * 2 * 2 * 2 * 8),
    "FULLY_CONNECTED": ([(1, 6)], (5, 6), (1, 5), 30),
    "BATCH_MATMUL": ([(2, 3, 4)], (2, 4, 5), (2, 3, 5), 2 * 3 * 5 * 4),
}


@pytest.mark.parametrize("kind", MACS)
def test_macs_of_a_tflite_operator(tflite_builder: Any, kind: str) -> None:
    (entry_shape,), weight_shape, output_shape, expected = MACS[kind]
    entry = tflite_builder.tensor("input", entry_shape, INT8, scale=0.1)
    weight = tflite_builder.tensor("weight", weight_shape, INT8, np.ones(weight_shape, np.int8), 0.1)
    output = tflite_builder.tensor("output", output_shape, INT8, scale=0.1)
    shape = tflite_builder.tensor("shape", (4,), schema.TensorType.INT32, np.array(output_shape, np.int32))
    inputs = [shape, weight, entry] if kind == "TRANSPOSE_CONV" else [entry, weight, -1]
    tflite_builder.operator(getattr(Op, kind), inputs, [output])
    ((found,), _) = tflite_operations.read(tflite_builder.finish([entry], [output]))
    assert (found.kind, found.precision, found.macs) == (kind, "int8", expected)
    assert (found.inputs, found.outputs) == (("input",), ("output",))


def test_transposed_batch_matmul(tflite_builder: Any) -> None:
    first = tflite_builder.tensor("first", (4, 3), FLOAT32)
    second = tflite_builder.tensor("second", (4, 5), FLOAT32)
    output = tflite_builder.tensor("output", (3, 5), FLOAT32)
    options = _options(schema.BatchMatMulOptionsT, adjX=True)
    tflite_builder.operator(Op.BATCH_MATMUL, [first, second], [output], options)
    ((found,), _) = tflite_operations.read(tflite_builder.finish([first, second], [output]))
    assert (found.precision, found.macs) == ("float", 3 * 5 * 4)


def test_precisions_of_tflite_operators(tflite_builder: Any) -> None:
    """Requantizing is int8, a shape is neither, an int8 weight under a float input is quantized on the fly."""
    real, codes, again, result = (
        tflite_builder.tensor("real", (1, 4), FLOAT32),
        tflite_builder.tensor("codes", (1, 4), INT8, scale=0.1),
        tflite_builder.tensor("again", (1, 4), INT8, scale=0.2),
        tflite_builder.tensor("result", (1, 4), FLOAT32),
    )
    size = tflite_builder.tensor("size", (2,), schema.TensorType.INT32)
    weight = tflite_builder.tensor("weight", (4, 4), INT8, np.ones((4, 4), np.int8), 0.1)
    tflite_builder.operator(Op.QUANTIZE, [real], [codes])
    tflite_builder.operator(Op.QUANTIZE, [codes], [again])
    tflite_builder.operator(Op.SHAPE, [codes], [size])
    tflite_builder.operator(Op.FULLY_CONNECTED, [real, weight, -1], [result])
    found, positions = tflite_operations.read(tflite_builder.finish([real], [again, result]))
    assert [item.precision for item in found] == ["conversion", "int8", "int8", "int8"]
    assert positions == [0, 1, 2, 3]


def test_tensors_of_one_name_are_told_apart(tflite_builder: Any) -> None:
    tensors = [tflite_builder.tensor("same", (1, 4), FLOAT32) for _ in range(3)]
    tflite_builder.operator(Op.RELU, tensors[:1], tensors[1:2])
    tflite_builder.operator(Op.RELU, tensors[1:2], tensors[2:])
    found, _ = tflite_operations.read(tflite_builder.finish(tensors[:1], tensors[2:]))
    assert [(item.inputs, item.outputs) for item in found] == [(("same#0",), ("same#1",)), (("same#1",), ("same#2",))]


def test_a_custom_operator_has_its_own_name(tflite_builder: Any) -> None:
    entry, output = (tflite_builder.tensor(name, (1, 4), FLOAT32) for name in ("input", "output"))
    tflite_builder.operator(Op.CUSTOM, [entry], [output])
    tflite_builder.model.operatorCodes[0].customCode = b"FlexErf"
    ((found,), _) = tflite_operations.read(tflite_builder.finish([entry], [output]))
    assert found.label == "FlexErf output"


def test_macs_of_the_unet_are_those_of_pytorch(unet: Any) -> None:
    expected = count_macs(unet.model, unet.inputs[:1])
    for name in ("tflite-fp32", "tflite-int8", "tflite-int8-sparse", "tflite-fp16"):
        operations, _ = tflite_operations.read(tflite_file.read(unet.path(name)))
        assert sum(item.macs for item in operations) == expected, name
    assert sum(item.macs for item in onnx_operations.read(unet.path("onnx-int8"))) == expected


def test_what_is_expanded_when_the_file_is_loaded_is_no_operation(unet2d: Any) -> None:
    """DENSIFY of sparse weights and DEQUANTIZE of float16 ones."""
    for name, kind in (("tflite-int8-sparse", "DENSIFY"), ("tflite-fp16", "DEQUANTIZE")):
        model = tflite_file.read(unet2d.path(name))
        kinds = [tflite_file.op_name(model, operator) for operator in model.subgraphs[0].operators]
        operations, positions = tflite_operations.read(model)
        assert kind in kinds
        assert [item.kind for item in operations] == [each for each in kinds if each != kind]
        assert [kinds[position] for position in positions] == [item.kind for item in operations]


# --- ONNX ---


def _pair(source: str, target: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{target}_codes"]),
        helper.make_node("DequantizeLinear", [f"{target}_codes", "scale", "zero"], [target]),
    ]


QUANTIZATION = {"scale": np.float32(0.1), "zero": np.uint8(128)}
ONNX_MACS = {
    "Conv": ({"kernel_shape": [3, 3], "group": 2}, (1, 4, 6, 6), (6, 2, 3, 3), (1, 6, 4, 4), 6 * 4 * 4 * 2 * 9),
    "ConvTranspose": ({"kernel_shape": [2, 2]}, (1, 4, 6, 6), (4, 3, 2, 2), (1, 3, 7, 7), 4 * 6 * 6 * 3 * 4),
    "Gemm": ({"transA": 1}, (6, 2), (6, 5), (2, 5), 2 * 5 * 6),
    "MatMul": ({}, (3, 2, 6), (6, 5), (3, 2, 5), 3 * 2 * 5 * 6),
}


@pytest.mark.parametrize("kind", ONNX_MACS)
def test_macs_of_an_onnx_operator(onnx_model: Any, tmp_path: Path, kind: str) -> None:
    settings, entry, weight, output, expected = ONNX_MACS[kind]
    node = helper.make_node(kind, ["x", "weight"], ["y"], **settings)
    model = onnx_model([node], {"x": entry}, {"y": output}, {"weight": np.ones(weight, np.float32)})
    onnx.save(model, str(tmp_path / "model.onnx"))
    (found,) = onnx_operations.read(tmp_path / "model.onnx")
    assert (found.kind, found.precision, found.macs) == (kind, "float", expected)


def test_macs_of_an_integer_matrix_product(onnx_model: Any, tmp_path: Path) -> None:
    nodes = [*_pair("x", "a"), *_pair("weight", "b"), helper.make_node("MatMul", ["a", "b"], ["c"]), *_pair("c", "y")]
    constants = {**QUANTIZATION, "weight": np.ones((6, 5), np.float32)}
    onnx.save(onnx_model(nodes, {"x": (2, 6)}, {"y": (2, 5)}, constants), str(tmp_path / "model.onnx"))
    found = {item.kind: item for item in onnx_operations.read(tmp_path / "model.onnx")}
    assert (found["QLinearMatMul"].precision, found["QLinearMatMul"].macs) == ("int8", 2 * 5 * 6)
    assert found["QuantizeLinear"].precision == "conversion"


def test_a_chain_of_float_operations_in_an_onnx_file(onnx_model: Any, tmp_path: Path) -> None:
    """Not only the one that reads dequantized values."""
    nodes = [
        *_pair("x", "a"),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        *_pair("s", "b"),
        helper.make_node("Sin", ["b"], ["c"]),
        helper.make_node("Cos", ["c"], ["d"]),
        *_pair("d", "y"),
    ]
    onnx.save(onnx_model(nodes, {"x": (1, 8)}, {"y": (1, 8)}, QUANTIZATION), str(tmp_path / "model.onnx"))
    found = inspect(tmp_path / "model.onnx", runs=3)
    assert [item.label for item in found.detours[0].operations] == ["Sin c", "Cos d"]
    content = to_dict(found)
    assert content["islands"] == ["Sin c", "Cos d"]
    (detour,) = content["detours"]
    assert detour["from"] == ["QLinearSigmoid b_codes"]
    assert (detour["dequantize"], detour["quantize"]) == (["b_codes"], ["d"])
    assert 0 < detour["time_share"] < 1


def _free_size(path: Path) -> Path:
    node = helper.make_node("ConvTranspose", ["x", "weight"], ["y"], kernel_shape=[1, 1])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, "h", "w"]) for name in "xy"]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, (1, 1, 1, 1), [2.0])
    graph = helper.make_graph([node], "graph", ends[:1], ends[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))
    return path


def test_an_onnx_file_of_any_size_needs_a_shape(tmp_path: Path) -> None:
    path = _free_size(tmp_path / "free.onnx")
    with pytest.raises(ModelError, match=r"free\.onnx takes inputs of any size: pass --shape"):
        inspect(path)
    assert inspect(path, shape=(1, 1, 3, 5), runs=1).macs == 15
    for shape in ((1, 2, 3, 5), (1, 1, 3)):
        with pytest.raises(ModelError, match=r"takes inputs of shape \['any', 1, 'any', 'any'\], not \[1, "):
            inspect(path, shape=shape)


# --- whole files ---


@pytest.mark.parametrize("name", ["onnx-int8", "tflite-int8", "tflite-int8-sparse"])
def test_an_int8_unet(unet2d: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torchshrink.converters.anatomy.inspect.has_dot_products", lambda: True)
    found = inspect(unet2d.path(name), runs=3)
    assert found.share_of_macs("int8") == 1
    assert found.share_of_time("float") == 0
    assert found.unmeasured == ()
    assert (found.detours, found.findings) == ((), ())
    assert found.verdict.startswith("All of it computes in int8")
    assert found.operations_ms > 0 < found.file_ms


@pytest.mark.parametrize("name", ["onnx-fp32", "tflite-fp32", "tflite-fp16"])
def test_a_float_unet(unet2d: Any, name: str) -> None:
    found = inspect(unet2d.path(name), runs=3)
    assert found.is_float
    assert found.share_of_macs("int8") == 0
    assert found.share_of_macs("float") == found.share_of_time("float") == 1
    assert found.verdict.startswith("It is a float file")
    assert found.findings == ()
    assert to_dict(found)["islands"] == to_dict(found)["detours"] == []


def test_a_processor_that_multiplies_int8_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said of a file that multiplies in int8, with what the probe measured."""
    monkeypatch.setattr("torchshrink.converters.anatomy.inspect.has_dot_products", lambda: False)
    monkeypatch.setattr("torchshrink.converters.anatomy.inspect.instructions", lambda: ("SSE4.1", "AVX2"))
    operations = [step("CONV_2D", "int8", "x", "y")]
    monkeypatch.setattr("torchshrink.converters.anatomy.inspect._timed_tflite", lambda *_: (operations, 1.0))
    gain = 0.94
    monkeypatch.setattr("torchshrink.converters.probe.int8_gain", lambda runtimes: dict.fromkeys(runtimes, gain))
    assert "dot products" not in str(inspect(tmp_path / "m.tflite").findings)
    operations[0] = dataclasses.replace(operations[0], macs=9)
    (found,) = inspect(tmp_path / "m.tflite").findings
    assert found.startswith(
        "This processor has no int8 dot products (AVX2 only), so that a convolution in int8 is 0.9x as fast as in float"
    )
    gain = 2.1  # it has other kernels that are fast
    assert inspect(tmp_path / "m.tflite").findings == ()


def test_shares_add_up() -> None:
    operations = (
        dataclasses.replace(step("CONV_2D", "int8", "x", "a", 1.0), macs=300),
        dataclasses.replace(step("CONV_2D", "float", "a", "b", 2.0), macs=100),
        step("QUANTIZE", "conversion", "b", "c", 1.0),
        dataclasses.replace(step("WHILE", "other", "c", "d"), ms=None),
    )
    found = Anatomy(Path("x"), "LiteRT", 1, 3, operations, (), 5.0, "", "", ())
    assert (found.share_of_macs("int8"), found.share_of_macs("float")) == (0.75, 0.25)
    shares = [found.share_of_time(precision) for precision in ("int8", "float", "conversion", "other")]
    assert shares == [0.25, 0.5, 0.25, 0]
    assert found.unmeasured == operations[3:]


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.h5"])
def test_what_is_no_model(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"not a model at all")
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        inspect(tmp_path / name)


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="runs=0"):
        inspect(tmp_path / "model.onnx", runs=0)

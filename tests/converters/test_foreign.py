"""QDQ files of other tools: ONNX Runtime's own, and the forms that NNCF and Brevitas write, built by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from torchshrink import bench
from torchshrink.converters import foreign, onnx_file, qdq, tflite, tflite_file
from torchshrink.converters.onnx_file import save
from torchshrink.converters.ranges import Range
from torchshrink.errors import ConversionError

Build = Callable[..., onnx.ModelProto]
SIZE = (1, 3, 8, 12)
ENTRY = "pixel values/0"  # as a user may call it

# --- files of ONNX Runtime ---

SIGNED = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8}
UNSIGNED = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
SETTINGS: dict[str, dict[str, Any]] = {
    "signed per channel": {**SIGNED, "per_channel": True},
    "unsigned per tensor": {**UNSIGNED, "per_channel": False},
    "reduced range": {**UNSIGNED, "per_channel": True, "reduce_range": True},
    "weights quantized in the graph": {**SIGNED, "per_channel": True, "extra_options": {"AddQDQPairToWeight": True}},
}


class _Samples(CalibrationDataReader):
    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.items = iter([{ENTRY: random.standard_normal(SIZE).astype(np.float32)} for _ in range(4)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self.items, None)


def _float_model() -> onnx.ModelProto:
    """Two convolutions, a pool with a grid of its own, and a classifier; a free batch, a Constant and an Identity."""
    random = np.random.default_rng(1)

    def normal(*shape: int) -> NDArray[np.float32]:
        return random.normal(0, 0.4, shape).astype(np.float32)

    constants = {"w1": normal(6, 3, 3, 3), "b1": normal(6), "w2": normal(6, 1, 3, 3), "b2": normal(6),
                 "w3": normal(4, 36) / 3, "b3": normal(4)}  # fmt: skip
    nodes = [
        helper.make_node("Conv", [ENTRY, "w1", "b1"], ["c1"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Identity", ["r1"], ["i1"]),
        helper.make_node("Conv", ["i1", "w2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=6),
        helper.make_node("Add", ["c2", "i1"], ["sum"]),
        helper.make_node("AveragePool", ["sum"], ["pool"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([-1, 36], np.int64))),
        helper.make_node("Reshape", ["pool", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3", "b3"], ["logits"], transB=1),
        helper.make_node("Softmax", ["logits"], ["classes"]),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])]
        for name, shape in ((ENTRY, SIZE[1:]), ("classes", (4,)))
    ]
    graph = helper.make_graph(nodes, "g", *ends, [numpy_helper.from_array(v, k) for k, v in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@dataclass(frozen=True)
class Imported:
    path: Path
    ranges: dict[str, Range]
    tflite: Path


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Imported]:
    """Every file of ONNX Runtime, converted in one start of TensorFlow."""
    folder = tmp_path_factory.mktemp("ort")
    onnx.save(_float_model(), str(folder / "float.onnx"))
    parts = []
    for index, settings in enumerate(SETTINGS.values()):
        path = folder / f"{index}.onnx"
        quantize_static(str(folder / "float.onnx"), str(path), _Samples(), quant_format=QuantFormat.QDQ, **settings)
        floats, ranges = qdq.split(foreign.normalise(onnx.load(str(path)), path.name))
        save(floats, folder / f"{index}-float.onnx")
        parts.append((path, ranges, folder / f"{index}-float.onnx"))
    found = {}
    with tflite.float_files([part[2] for part in parts]) as files:
        for name, (path, ranges, floats), item in zip(SETTINGS, parts, files, strict=True):
            tflite.write(item, floats, path.with_suffix(".tflite"), "int8", ranges)
            found[name] = Imported(path, ranges, path.with_suffix(".tflite"))
    return found


@pytest.fixture(params=SETTINGS)
def case(imported: dict[str, Imported], request: pytest.FixtureRequest) -> Imported:
    return imported[request.param]


def _stored(path: Path) -> tuple[set[Any], list[NDArray[Any]]]:
    """Return the grids of the activations of a file, as int8, and the scales of its weights, without our code."""
    model = onnx.load(str(path))
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    grids, weights = set(), []
    for node in model.graph.node:
        if "Linear" not in node.op_type:
            continue
        if node.op_type == "QuantizeLinear" and node.input[0] not in arrays:
            scale, zero = (arrays[name] for name in node.input[1:])
            grids.add((np.float32(scale), int(zero) - (128 if zero.dtype == np.uint8 else 0)))
        quantized = arrays.get(node.input[0])
        if quantized is not None and quantized.ndim > 1:
            weights.append(arrays[node.input[1]])
    return grids, weights


def test_the_scales_of_the_file_arrive(case: Imported) -> None:
    """As float32, bit for bit; in the place of one scale for a whole weight stands the same one for each channel."""
    model = tflite_file.read(case.tflite)
    grids, weights = _stored(case.path)
    found = {
        (np.float32(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0]))
        for tensor in model.subgraphs[0].tensors
        if tensor.type == schema.TensorType.INT8 and model.buffers[tensor.buffer].data is None
    }
    imposed = {(np.float32(1 / 256), -128)}  # the only grid on which the kernel computes a softmax
    fused = {item for item in grids if item not in found}
    assert found - grids <= imposed
    assert len(fused) <= 1  # of a convolution, between it and its ReLU
    shipped = [
        np.asarray(tensor.quantization.scale, np.float32)
        for tensor in model.subgraphs[0].tensors
        if tensor.type == schema.TensorType.INT8 and model.buffers[tensor.buffer].data is not None
    ]
    assert len(shipped) == len(weights) == 3
    expected = sorted(np.unique(scale).astype(np.float32).tolist() for scale in weights)
    assert sorted(np.unique(scale).tolist() for scale in shipped) == expected


def test_the_file_computes_what_onnx_runtime_computes(case: Imported, run_onnx: Callable[..., NDArray[Any]]) -> None:
    entry = np.random.default_rng(2).standard_normal((32, *SIZE[1:])).astype(np.float32)
    expected = run_onnx(case.path, entry)
    found = bench.predict(case.tflite, entry)
    steps = np.rint(np.abs(found - expected) / max(scale for scale in case.ranges["classes"].scale))
    assert np.mean(steps <= 1) >= 0.95
    assert expected.std() > 0.01


def test_nothing_is_left_in_float(case: Imported) -> None:
    model = tflite_file.read(case.tflite)
    assert not [op for op in model.subgraphs[0].operators if tflite_file.op_name(model, op) == "DEQUANTIZE"]


def test_ranges_are_imported(case: Imported) -> None:
    assert {range_.origin for name, range_ in case.ranges.items()} == {"imported"}


# --- forms, built by hand ---

CODES = np.random.default_rng(3).integers(-120, 121, (2, 3, 1, 1)).astype(np.int8)
SCALE = np.array([0.5, 0.25], np.float32)
REAL = CODES * SCALE.reshape(2, 1, 1, 1)


def _pair(source: str, target: str, scale: str = "s", zero: str = "z") -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{target}_codes"]),
        helper.make_node("DequantizeLinear", [f"{target}_codes", scale, zero], [target]),
    ]


def _model(build: Build, nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: Any = SIZE) -> onnx.ModelProto:
    base = {"s": np.float32(0.05), "z": np.int8(3), "ws": SCALE, "wz": np.zeros(2, np.int8), "w": CODES}
    return build(nodes, {"x": shape}, {"y": (1, 2, 8, 12)}, base | constants)


def _conv(**weight: Any) -> list[onnx.NodeProto]:
    entry = weight.get("entry", ["w", "ws", "wz"])
    return [
        *_pair("x", "a"),
        helper.make_node("DequantizeLinear", entry, ["wr"], axis=0),
        helper.make_node("Conv", ["a", "wr"], ["c"], name="first"),
        *_pair("c", "y"),
    ]


def _weight(model: onnx.ModelProto) -> NDArray[Any]:
    floats, _ = qdq.split(model)
    return onnx_file.constants(floats)["wr"]


def test_weights_that_the_graph_quantizes(onnx_model: Build) -> None:
    """NNCF and AddQDQPairToWeight: a float weight, QuantizeLinear with an axis, DequantizeLinear."""
    nodes = [helper.make_node("QuantizeLinear", ["wf", "ws", "wz"], ["w2"], axis=0), *_conv(entry=["w2", "ws", "wz"])]
    values = (REAL + np.float32(0.05)).astype(np.float32)  # is rounded to the same codes
    model = foreign.normalise(_model(onnx_model, nodes, {"wf": values}), "m.onnx")
    assert np.array_equal(_weight(model), REAL)
    assert [node.op_type for node in model.graph.node].count("QuantizeLinear") == 2


def test_one_scale_for_a_weight(onnx_model: Build) -> None:
    constants = {"one": np.float32(0.5), "zero": np.int8(0)}
    model = foreign.normalise(_model(onnx_model, _conv(entry=["w", "one", "zero"]), constants), "m.onnx")
    _, ranges = qdq.split(model)
    assert ranges["wr"] == Range((0.5, 0.5), (0, 0), axis=0)
    assert np.array_equal(_weight(model), CODES * np.float32(0.5))


def test_unsigned_weights_with_their_zero_in_the_middle(onnx_model: Build) -> None:
    constants = {"u": (CODES.astype(np.int16) + 128).astype(np.uint8), "uz": np.full(2, 128, np.uint8)}
    model = foreign.normalise(_model(onnx_model, _conv(entry=["u", "ws", "uz"]), constants), "m.onnx")
    assert np.array_equal(_weight(model), REAL)


def test_a_batch_norm_is_multiplied_into_scales(onnx_model: Build, run_onnx: Callable[..., NDArray[Any]]) -> None:
    """NNCF leaves it where it was; TensorFlow would fold it into the weights, whose scales then are no one's."""
    nodes = _conv()
    nodes[3].input.append("b")
    nodes[3].output[0] = "before"
    nodes.insert(4, helper.make_node("BatchNormalization", ["before", "g", "e", "m", "v"], ["c"], epsilon=0.0))
    constants = {"b": np.float32([1, 2]), "g": np.float32([-2, 0]), "e": np.float32([0.5, 1]), "m": np.float32([3, 1]),
                 "v": np.float32([4, 1])}  # fmt: skip
    model = _model(onnx_model, nodes, constants)
    folded = foreign.normalise(model, "m.onnx")
    assert "BatchNormalization" not in {node.op_type for node in folded.graph.node}
    _, ranges = qdq.split(folded)
    assert ranges["wr"].scale[0] == 0.5  # 0.5 * |-2| / 2; the sign is in the codes
    assert np.array_equal(_weight(folded)[0], -REAL[0])
    assert not _weight(folded)[1].any()
    entry = np.random.default_rng(4).standard_normal(SIZE).astype(np.float32)
    assert np.abs(run_onnx(folded, entry) - run_onnx(model, entry)).max() <= 0.0501  # one step


def test_a_narrow_range(onnx_model: Build) -> None:
    """Brevitas clips codes to [-127, 127] after QuantizeLinear."""
    nodes = _conv()
    nodes.insert(1, helper.make_node("Clip", ["a_codes", "low", "high"], ["a_clipped"]))
    nodes[2].input[0] = "a_clipped"
    model = foreign.normalise(_model(onnx_model, nodes, {"low": np.int8(-127), "high": np.int8(127)}), "m.onnx")
    assert "Clip" not in {node.op_type for node in model.graph.node}
    assert qdq.split(model)[1]["x"] == Range((float(np.float32(0.05)),), (3,))


def test_a_relu_as_a_clip_on_codes(onnx_model: Build, run_onnx: Callable[..., NDArray[Any]]) -> None:
    nodes = _conv()
    nodes.insert(-1, helper.make_node("Clip", ["y_codes", "z"], ["y_clipped"]))
    nodes[-1].input[0] = "y_clipped"
    model = _model(onnx_model, nodes, {})
    plain = foreign.normalise(model, "m.onnx")
    assert [node.op_type for node in qdq.split(plain)[0].graph.node] == ["Conv", "Relu"]
    entry = np.random.default_rng(4).standard_normal(SIZE).astype(np.float32)
    assert np.array_equal(run_onnx(plain, entry), run_onnx(model, entry))


def test_a_relu_that_the_quantizer_took_over(onnx_model: Build, run_onnx: Callable[..., NDArray[Any]]) -> None:
    """ONNX Runtime drops it where the lowest code stands for zero; the float graph needs it."""
    nodes = [*_conv()[:-2], *_pair("c", "y", zero="lowest")]
    model = _model(onnx_model, nodes, {"lowest": np.int8(-128)})
    plain = foreign.normalise(model, "m.onnx")
    floats, ranges = qdq.split(plain)
    assert [node.op_type for node in floats.graph.node] == ["Conv", "Relu"]
    assert ranges["y"].zero_point == (-128,)
    entry = np.random.default_rng(4).standard_normal(SIZE).astype(np.float32)
    assert run_onnx(floats, entry).min() == 0
    assert np.array_equal(run_onnx(plain, entry), run_onnx(model, entry))


def test_a_bias_of_int32(onnx_model: Build) -> None:
    """Its scale follows from two others: it has no range of its own."""
    nodes = _conv()
    nodes.insert(0, helper.make_node("DequantizeLinear", ["bi", "bs", "bz"], ["b"], axis=0))
    nodes[4].input.append("b")
    constants = {"bi": np.array([40, -8], np.int32), "bs": SCALE * np.float32(0.05), "bz": np.zeros(2, np.int32)}
    floats, ranges = qdq.split(foreign.normalise(_model(onnx_model, nodes, constants), "m.onnx"))
    assert np.allclose(onnx_file.constants(floats)["b"], [1.0, -0.1], rtol=1e-6)
    assert set(ranges) == {"x", "wr", "y"}


def test_a_free_batch_becomes_one(onnx_model: Build) -> None:
    model = foreign.normalise(_model(onnx_model, _conv(), {}, shape=("N", 3, 8, 12)), "m.onnx")
    assert [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim] == list(SIZE)
    (convolution,) = [node for node in model.graph.node if node.op_type == "Conv"]
    assert onnx_file.attribute(convolution, "kernel_shape") == [1, 1]


def test_the_argument_is_left_alone(onnx_model: Build) -> None:
    model = _model(onnx_model, _conv(), {}, shape=("N", 3, 8, 12))
    before = model.SerializeToString()
    foreign.normalise(model, "m.onnx")
    assert model.SerializeToString() == before


# --- what cannot be ---


def test_a_free_size_is_refused(onnx_model: Build) -> None:
    with pytest.raises(ConversionError, match=r"m\.onnx: input 'x' has the shape \[1, 3, 'H', 12\]; .* fixed sizes"):
        foreign.normalise(_model(onnx_model, _conv(), {}, shape=(1, 3, "H", 12)), "m.onnx")


@pytest.mark.parametrize(
    ("constants", "entry", "message"),
    [
        ({"zz": np.array([0, 5], np.int8)}, ["w", "ws", "zz"], r"weight of Conv 'first' is asymmetric .zero point 5"),
        ({"low": np.full_like(CODES, -128)}, ["low", "ws", "wz"], r"weight of Conv 'first' has the code -128"),
    ],
    ids=["asymmetric", "-128"],
)
def test_weights_that_no_kernel_takes(
    onnx_model: Build, constants: dict[str, Any], entry: list[str], message: str
) -> None:
    with pytest.raises(ConversionError, match=message):
        foreign.normalise(_model(onnx_model, _conv(entry=entry), constants), "m.onnx")


def test_scales_along_the_input_channels(onnx_model: Build) -> None:
    nodes = _conv(entry=["w", "three", "zeros"])
    nodes[2].attribute[0].i = 1
    constants = {"three": np.ones(3, np.float32), "zeros": np.zeros(3, np.int8)}
    with pytest.raises(ConversionError, match="a scale for each slice of dimension 1"):
        foreign.normalise(_model(onnx_model, nodes, constants), "m.onnx")


def test_fewer_bits(onnx_model: Build) -> None:
    """As Brevitas writes 4-bit activations: a clip on 8-bit codes."""
    nodes = _conv()
    nodes.insert(1, helper.make_node("Clip", ["a_codes", "low", "high"], ["a_clipped"]))
    nodes[2].input[0] = "a_clipped"
    with pytest.raises(ConversionError, match=r"keeps codes in \[-8, 7\], which is less than 8 bits"):
        foreign.normalise(_model(onnx_model, nodes, {"low": np.int8(-8), "high": np.int8(7)}), "m.onnx")


def test_sixteen_bits(tmp_path: Path) -> None:
    onnx.save(_float_model(), str(tmp_path / "float.onnx"))
    settings = {"activation_type": QuantType.QInt16, "weight_type": QuantType.QInt8}
    quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "m.onnx"), _Samples(), **settings)
    with pytest.raises(ConversionError, match="its codes are int16"):
        tflite.to_tflite(tmp_path / "m.onnx", tmp_path / "m.tflite", "int8")


def test_the_qoperator_format(tmp_path: Path) -> None:
    onnx.save(_float_model(), str(tmp_path / "float.onnx"))
    quantize_static(
        str(tmp_path / "float.onnx"), str(tmp_path / "m.onnx"), _Samples(), quant_format=QuantFormat.QOperator
    )
    with pytest.raises(ConversionError, match=r"m\.onnx holds QLinearConv, the QOperator format: .*QuantFormat\.QDQ"):
        tflite.to_tflite(tmp_path / "m.onnx", tmp_path / "m.tflite")


def test_dynamic_quantization(tmp_path: Path) -> None:
    onnx.save(_float_model(), str(tmp_path / "float.onnx"))
    quantize_dynamic(str(tmp_path / "float.onnx"), str(tmp_path / "m.onnx"))
    with pytest.raises(ConversionError, match=r"m\.onnx is quantized dynamically \(DynamicQuantizeLinear\)"):
        tflite.to_tflite(tmp_path / "m.onnx", tmp_path / "m.tflite")


def test_a_tensor_on_two_grids_at_once(onnx_model: Build) -> None:
    nodes = [*_conv()[:-2], *_pair("c", "p"), *_pair("c", "q", scale="other"),
             helper.make_node("Add", ["p", "q"], ["y"])]  # fmt: skip
    model = foreign.normalise(_model(onnx_model, nodes, {"other": np.float32(0.1)}), "m.onnx")
    with pytest.raises(ConversionError, match=r"'c' is quantized twice, with the scales 0\.05 and 0\.1"):
        qdq.split(model)


def test_codes_as_the_output(onnx_model: Build) -> None:
    model = _model(onnx_model, _conv(), {})
    model.graph.node.pop()
    model.graph.output[0].name = "y_codes"
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT8
    with pytest.raises(ConversionError, match="takes or gives codes"):
        foreign.normalise(model, "m.onnx")

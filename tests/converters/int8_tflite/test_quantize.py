"""Int8 TFLite files of QDQ graphs in which not everything has a range, beside ONNX Runtime's results."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import NodeProto, helper

from torchshrink.converters import environment, qdq, tflite, tflite_file
from torchshrink.converters.int8_tflite import matching, quantize
from torchshrink.converters.int8_tflite.matching import Match
from torchshrink.converters.onnx_file import save
from torchshrink.converters.ranges import Range
from torchshrink.errors import ConversionError

SIZE = (1, 4, 6, 8)
FLOAT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8


class Graph:
    """A QDQ graph being written, every quantized tensor on a grid of its own."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, Any] = {}
        self.grids: dict[str, Range] = {}
        self.random = np.random.default_rng(0)

    def grid(self, source: str, target: str, scale: float, zero: int = 0) -> str:
        """Quantize and dequantize a tensor; its range in the store has the name of what it is read from."""
        self.constants |= {f"{target}_scale": np.float32(scale), f"{target}_zero": np.int8(zero)}
        names = [f"{target}_scale", f"{target}_zero"]
        self.nodes.append(helper.make_node("QuantizeLinear", [source, *names], [f"{target}_codes"]))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{target}_codes", *names], [target]))
        self.grids[target] = Range((float(np.float32(scale)),), (zero,))
        return target

    def conv(self, source: str, target: str, channels: int = 4) -> str:
        """A convolution whose weight and output are quantized."""
        real = f"{target}_real"
        self.nodes.append(helper.make_node("Conv", [source, self.weight(target, channels), f"{target}_bias"], [real],
                                           kernel_shape=[1, 1]))  # fmt: skip
        self.constants[f"{target}_bias"] = self.random.normal(size=channels).astype(np.float32)
        return self.grid(real, target, 0.02, -3)

    def weight(self, target: str, channels: int) -> str:
        name = f"{target}_weight"
        codes = self.random.integers(-127, 128, (channels, 4, 1, 1)).astype(np.int8)
        codes[:, 0] = 127  # the largest one of every channel, so that no scale can be told from the values alone
        self.constants |= {
            f"{name}_codes": codes,
            f"{name}_scale": self.random.uniform(0.002, 0.004, channels).astype(np.float32),
            f"{name}_zero": np.zeros(channels, np.int8),
        }
        entry = [f"{name}_{part}" for part in ("codes", "scale", "zero")]
        self.nodes.append(helper.make_node("DequantizeLinear", entry, [name], axis=0))
        return name

    def op(self, kind: str, source: str, target: str, **settings: Any) -> str:
        self.nodes.append(helper.make_node(kind, [*source.split()], [target], **settings))
        return target


def island() -> Graph:
    """Two operations without an int8 kernel, and without a range between them."""
    graph = Graph()
    first = graph.conv(graph.grid("x", "a", 0.03, 2), "b")
    middle = graph.op("Cos", graph.op("Sin", first, "sine"), "cosine")
    graph.conv(graph.grid(middle, "c", 1 / 127), "y")
    return graph


def normalised() -> Graph:
    """One operation that TFLite has as several, some of which have int8 kernels."""
    graph = Graph()
    first = graph.conv(graph.grid("x", "a", 0.03, 2), "b")
    graph.constants |= {"gamma": np.float32([1, 2, 0.5, 1]), "beta": np.float32([0, 1, 0, -1])}
    middle = graph.op("InstanceNormalization", f"{first} gamma beta", "norm")
    graph.conv(graph.grid(middle, "c", 0.04), "y")
    return graph


def outputs() -> Graph:
    """Three outputs: an int8 one that a convolution and a sine read, the sine, and the convolution."""
    graph = Graph()
    graph.op("Sin", graph.conv(graph.grid("x", "a", 0.03, 2), "h"), "s")
    graph.conv("h", "y")
    return graph


def twins() -> Graph:
    """Two tensors of equal values, all zeros, on two grids, of which each has readers of its own."""
    graph = Graph()
    entry = graph.grid("x", "a", 0.03, 2)
    for name, scale in (("p", 0.01), ("q", 0.05)):
        weight, bias = graph.weight(name, 4), f"{name}_bias"
        graph.constants[bias] = np.full(4, -1000, np.float32)
        graph.op("Conv", f"{entry} {weight} {bias}", f"{name}_sum", kernel_shape=[1, 1])
        graph.grid(graph.op("Relu", f"{name}_sum", f"{name}_relu"), name, scale, -128)
    total = graph.op("Add", f"{graph.conv('p', 'm')} {graph.conv('q', 'n')}", "total")
    graph.conv(graph.grid(total, "t", 0.05), "y")
    return graph


def clipped() -> Graph:
    """One quantized operation that TFLite has as two."""
    graph = Graph()
    first = graph.conv(graph.grid("x", "a", 0.03, 2), "b")
    graph.constants |= {"low": np.float32(-0.5), "high": np.float32(0.75)}
    graph.grid(graph.op("Clip", f"{first} low high", "cut"), "y", 0.01)
    return graph


def centred() -> Graph:
    """The mean of what a mean was taken from: rounding in float, and half a step in int8."""
    graph = Graph()
    graph.constants["axes"] = np.int64([2, 3])
    before = graph.conv(graph.grid("x", "a", 0.03, 2), "b")
    for mean, scale, after in (("m", 0.01, "c"), ("n", 0.0002, "d")):
        graph.op("ReduceMean", f"{before} axes", f"{mean}_real")
        graph.grid(f"{mean}_real", mean, scale)
        before = graph.grid(graph.op("Sub", f"{before} {mean}", f"{after}_real"), after, 0.02, -3)
    graph.conv(before, "y")
    return graph


def nearly_centred() -> Graph:
    """The mean of what was centred, to which little was added: next to nothing, of which rounding is a large share."""
    graph = Graph()
    graph.constants |= {"axes": np.int64([2, 3]), "little": np.float32(0.0001)}
    before = graph.conv(graph.grid("x", "a", 0.03, 2), "b")
    added = graph.grid(graph.op("Mul", f"{before} little", "faint_real"), "faint", 0.000004)
    graph.op("ReduceMean", f"{before} axes", "m_real")
    centred = graph.grid(graph.op("Sub", f"{before} {graph.grid('m_real', 'm', 0.01)}", "c_real"), "c", 0.02, -3)
    total = graph.grid(graph.op("Add", f"{centred} {added}", "t_real"), "t", 0.02, -3)
    graph.op("ReduceMean", f"{total} axes", "n_real")
    graph.op("Sub", f"{total} {graph.grid('n_real', 'n', 0.0002)}", "d_real")
    graph.conv(graph.grid("d_real", "d", 0.02, -3), "y")
    return graph


def unrounded() -> Graph:
    """What a convolution computes: the next one reads it rounded, a sine and an output that is a part of it do not."""
    graph = Graph()
    first = graph.conv(graph.grid("x", "a", 0.03, 2), "b")
    graph.constants |= {name: np.int64([value]) for name, value in (("start", 1), ("stop", 4), ("axis", 2))}
    graph.op("Sin", "b_real", "s")
    graph.op("Slice", "b_real start stop axis", "h")
    graph.conv(first, "y")
    return graph


GRAPHS = {
    "island": island,
    "normalised": normalised,
    "outputs": outputs,
    "twins": twins,
    "clipped": clipped,
    "centred": centred,
    "nearly centred": nearly_centred,
    "unrounded": unrounded,
}
ENDS = {"outputs": {"y": SIZE, "s": SIZE, "h": SIZE}, "unrounded": {"y": SIZE, "s": SIZE, "h": (1, 4, 3, 8)}}


@dataclass(frozen=True)
class Case:
    graph: Graph
    model: onnx.ModelProto
    floats: Path
    ranges: dict[str, Range]
    files: Any

    def write(self, path: Path, ranges: Any = None, **settings: Any) -> Match:
        written = tflite.write(self.files, self.floats, path, "int8", ranges or self.ranges, **settings)
        assert written.match is not None
        return written.match


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory, onnx_model: Callable[..., onnx.ModelProto]) -> Iterator[Any]:
    """Every graph, converted in one start of TensorFlow."""
    folder = tmp_path_factory.mktemp("graphs")
    parts = {}
    for name, make in GRAPHS.items():
        graph = make()
        model = onnx_model(graph.nodes, {"x": SIZE}, ENDS.get(name, {"y": SIZE}), graph.constants)
        floats, ranges = qdq.split(model)
        save(floats, folder / f"{name}.onnx")
        parts[name] = (graph, model, folder / f"{name}.onnx", ranges)
    with tflite.float_files([part[2] for part in parts.values()]) as files:
        yield {name: Case(*part, item) for (name, part), item in zip(parts.items(), files, strict=True)}


@pytest.fixture
def case(cases: Any, request: pytest.FixtureRequest) -> Case:
    found: Case = cases[request.param]
    return found


def _kinds(path: Path) -> list[str]:
    """Return the operators, those that compute in float in small letters."""
    model = tflite_file.read(path)
    tensors = model.subgraphs[0].tensors
    names = [(tflite_file.op_name(model, op), tensors[op.outputs[0]].type) for op in model.subgraphs[0].operators]
    return [name.lower() if kind == FLOAT32 else name for name, kind in names]


def _run(interpreter: Callable[[Path], Any], path: Path, entry: NDArray[Any]) -> list[NDArray[np.float64]]:
    """Return the real outputs of a file in PyTorch's layout."""
    opened = interpreter(path)
    detail = opened.get_input_details()[0]
    scale, zero = detail["quantization"]
    codes = np.clip(np.rint(np.moveaxis(entry, 1, -1) / np.float32(scale)) + zero, -128, 127)
    opened.set_tensor(detail["index"], codes.astype(np.int8))
    opened.invoke()
    found = []
    for item in opened.get_output_details():
        values, (scale, zero) = opened.get_tensor(item["index"]), item["quantization"]
        found.append(np.moveaxis((values.astype(np.float64) - zero) * scale if scale else values, -1, 1))
    return found


def _expected(model: onnx.ModelProto, entry: NDArray[Any]) -> list[NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, {"x": entry})
    return found


@pytest.mark.parametrize("case", GRAPHS, indirect=True)
def test_a_file_computes_what_its_graph_computes(
    case: Case, tmp_path: Path, interpreter: Callable[[Path], Any]
) -> None:
    case.write(tmp_path / "model.tflite")
    entry = np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
    found, expected = _run(interpreter, tmp_path / "model.tflite", entry), _expected(case.model, entry)
    assert len(found) == len(expected)
    for name, one, other in zip("ysh", found, expected, strict=False):
        step = case.graph.grids[name].scale[0] if name in case.graph.grids else 1e-4
        assert np.abs(one - other).max() <= step * 1.01


@pytest.mark.parametrize(
    ("case", "kinds"),
    [
        ("island", ["CONV_2D", "dequantize", "sin", "cos", "QUANTIZE", "CONV_2D"]),
        ("outputs", ["CONV_2D", "dequantize", "sin", "CONV_2D"]),
        ("clipped", ["CONV_2D", "dequantize", "minimum", "maximum", "QUANTIZE"]),
        ("unrounded", ["dequantize", "conv_2d", "sin", "strided_slice", "QUANTIZE", "CONV_2D"]),
    ],
    indirect=["case"],
)
def test_only_what_has_no_range_is_float(case: Case, kinds: list[str], tmp_path: Path) -> None:
    case.write(tmp_path / "model.tflite")
    assert sorted(_kinds(tmp_path / "model.tflite")) == sorted(kinds)


def test_a_normalisation_in_parts_is_float_as_a_whole(cases: Any, tmp_path: Path) -> None:
    match = cases["normalised"].write(tmp_path / "model.tflite")
    kinds = _kinds(tmp_path / "model.tflite")
    assert (kinds[0], kinds[1], kinds[-2], kinds[-1]) == ("CONV_2D", "dequantize", "QUANTIZE", "CONV_2D")
    assert all(kind.islower() for kind in kinds[1:-2])
    assert len(match.floating) == len(kinds) - 5  # the last of its parts has the range of the whole


@pytest.mark.parametrize("case", GRAPHS, indirect=True)
def test_every_learned_grid_is_in_the_file(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path / "model.tflite")
    model = tflite_file.read(tmp_path / "model.tflite")
    grids = [tflite_file.quantization(model, tensor) for tensor in model.subgraphs[0].tensors if tensor.type == INT8]
    missing = [name for name, grid in case.graph.grids.items() if grid not in grids]
    assert missing == []


def test_float_operations_keep_float_constants(cases: Any, tmp_path: Path) -> None:
    cases["normalised"].write(tmp_path / "model.tflite")
    model = tflite_file.read(tmp_path / "model.tflite")
    tensors = model.subgraphs[0].tensors
    for operator in model.subgraphs[0].operators:
        if tflite_file.op_name(model, operator) in ("ADD", "MUL", "SUB"):
            assert {tensors[index].type for index in operator.inputs} == {FLOAT32}


def test_an_output_is_int8_where_it_has_a_range(cases: Any, tmp_path: Path, interpreter: Callable[..., Any]) -> None:
    """ai-edge-quantizer would make all of them int8, or none, and rewire the last operator."""
    cases["outputs"].write(tmp_path / "model.tflite")
    details = interpreter(tmp_path / "model.tflite").get_output_details()
    assert [(item["name"], item["dtype"].__name__) for item in details] == [
        ("y", "int8"),
        ("s", "float32"),
        ("h", "int8"),
    ]
    model = tflite_file.read(tmp_path / "model.tflite")
    (signature,) = model.signatureDefs
    assert {entry.tensorIndex for entry in signature.outputs} == set(model.subgraphs[0].outputs)
    assert not [t for t in model.subgraphs[0].tensors if "no_reader" in tflite_file.tensor_name(t)]


def test_equal_tensors_get_the_range_of_their_place_in_the_graph(cases: Any, tmp_path: Path) -> None:
    """Both are zeros; the convolution that reads the first must not be told the scale of the second."""
    case = cases["twins"]
    case.write(tmp_path / "model.tflite")
    model = tflite_file.read(tmp_path / "model.tflite")
    tensors = model.subgraphs[0].tensors
    found = {}
    for operator in model.subgraphs[0].operators:
        if tflite_file.op_name(model, operator) == "CONV_2D":
            weight = tflite_file.quantization(model, tensors[operator.inputs[1]])
            assert weight is not None
            found[weight.scale] = tflite_file.quantization(model, tensors[operator.inputs[0]])
    for name, grid in (("m", "p"), ("n", "q")):
        scale = tuple(float(each) for each in case.graph.constants[f"{name}_weight_scale"])
        assert found[scale] == case.graph.grids[grid]


def test_share_of_learned_ranges(cases: Any, tmp_path: Path) -> None:
    match = cases["island"].write(tmp_path / "model.tflite")
    assert (match.share, match.calibrated, len(match.floating)) == (1.0, [], 1)
    assert len(match.quantized) == 4  # input, two convolutions, and the cosine


def test_what_a_converter_added_inside_of_an_operation_is_calibrated(
    cases: Any, tmp_path: Path, interpreter: Callable[[Path], Any]
) -> None:
    """On samples, if there are any: MINIMUM then has a range, -1.2 to 0.75, and computes in int8."""
    case = cases["clipped"]
    entry = np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
    match = case.write(tmp_path / "model.tflite", samples=[[entry]])
    assert len(match.calibrated) == 1
    assert match.share == 3 / 4
    assert match.floating == []
    (found,), (expected,) = _run(interpreter, tmp_path / "model.tflite", entry), _expected(case.model, entry)
    assert np.mean(np.abs(found - expected) <= 0.0101) >= 0.95


def test_the_quantizer_of_another_environment_writes_the_same_bytes(
    cases: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases["island"]
    case.write(tmp_path / "here.tflite")
    monkeypatch.setenv(environment.VARIABLE, sys.executable)
    case.write(tmp_path / "elsewhere.tflite")
    assert (tmp_path / "here.tflite").read_bytes() == (tmp_path / "elsewhere.tflite").read_bytes()


def test_ranges_of_another_model_are_refused(cases: Any, tmp_path: Path) -> None:
    case = cases["island"]
    ranges = case.ranges | {"elsewhere": Range((1.0,), (0,))}
    with pytest.raises(ConversionError, match=r"1 of 7 ranges name no tensor of island\.onnx, first 'elsewhere'"):
        case.write(tmp_path / "model.tflite", ranges)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_any_integer_operation_is_refused(cases: Any, tmp_path: Path) -> None:
    case = cases["island"]
    with pytest.raises(ConversionError, match=r"no operation of .* could be quantized"):
        case.write(tmp_path / "model.tflite", {"b_weight": case.ranges["b_weight"]})


def test_a_float_file_that_is_wrong_is_refused(cases: Any, tmp_path: Path) -> None:
    """A converter that mistook channels for height writes a file that loads, and whose tensors are no one's."""
    case = cases["island"]
    model = tflite_file.read(case.files.fp32)
    weight = next(
        tensor
        for tensor in model.subgraphs[0].tensors
        if list(tensor.shape) == [4, 1, 1, 4] and tflite_file.constant(model, tensor) is not None
    )
    values = np.frombuffer(bytes(model.buffers[weight.buffer].data), np.float32)
    model.buffers[weight.buffer].data = np.frombuffer(values[::-1].tobytes(), np.uint8)
    tflite_file.write(model, tmp_path / "wrong.tflite")
    with pytest.raises(ConversionError, match=r"wrong\.tflite does not compute what its ONNX file computes"):
        quantize.quantize(tmp_path / "wrong.tflite", case.floats, case.ranges, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()


def test_one_of_two_random_inputs_must_agree(onnx_model: Any) -> None:
    """Deep models amplify the rounding of the larger one."""
    model = onnx_model([helper.make_node("Neg", ["x"], ["y"])], {"x": (1, 3)}, {"y": (1, 3)}, {})
    graph: Any = SimpleNamespace(outputs=[0])
    expected = np.array([[0, 1, 2], [-40, 0, 90]], np.float32)
    for row, is_wrong in ([0], False), ([1], False), ([0, 1], True):
        found = expected.copy()
        found[row] += 1
        with pytest.raises(ConversionError, match="is off by 1;") if is_wrong else contextlib.nullcontext():
            matching._check_outputs(graph, Path("m.tflite"), model, {"y": expected}, {0: found})

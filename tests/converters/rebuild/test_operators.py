"""Every row, in the forms that exporters write: `from_onnx` refuses what differs from ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx_graphs import normal, write

from torchshrink.converters.rebuild import operators
from torchshrink.converters.rebuild.from_onnx import from_onnx
from torchshrink.errors import UnsupportedOpError

IMAGE = (1, 4, 6, 8)


@dataclass(frozen=True)
class Case:
    op: str
    constants: tuple[Any, ...] = ()  # after the data; None for an input that is left out, "x" for the data once more
    attributes: dict[str, Any] = field(default_factory=dict)
    opset: int = 18
    shape: tuple[int, ...] = IMAGE
    outputs: int = 1
    first: Any = None  # a constant before the data
    positive: bool = False


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


def floats(*values: float) -> Any:
    return np.array(values, np.float32)


SAME = {"auto_pad": "SAME_UPPER"}
CORNER, ALIGNED = ({"coordinate_transformation_mode": mode} for mode in ("asymmetric", "align_corners"))
# fmt: off
CASES = [
    # convolutions
    Case("Conv", (normal(5, 4, 3, 3), normal(5)), {"pads": [1, 1, 1, 1]}),
    Case("Conv", (normal(5, 4, 3, 3),), {"pads": [0, 1, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
    Case("Conv", (normal(4, 1, 3, 3), normal(4)), {"group": 4, "strides": [2, 2], **SAME}),
    Case("Conv", (normal(5, 4, 4, 3),), {"strides": [1, 3], "auto_pad": "SAME_LOWER"}),
    Case("Conv", (normal(5, 4, 3),), {"auto_pad": "VALID"}, shape=(1, 4, 9)),
    Case("Conv", (normal(5, 4, 3), normal(5)), {"pads": [2, 0]}, shape=(1, 4, 9)),
    Case("ConvTranspose", (normal(4, 3, 3, 3), normal(3)), {"strides": [2, 2], "pads": [1, 1, 1, 1],
                                                               "output_padding": [1, 1]}),
    Case("ConvTranspose", (normal(4, 3, 3, 3),), {"strides": [2, 2], "pads": [0, 0, 1, 1]}),
    Case("ConvTranspose", (normal(4, 3, 3, 3),), {"strides": [2, 2], **SAME}),
    Case("ConvTranspose", (normal(4, 3, 3, 3),), {"strides": [2, 2], "output_shape": [12, 16]}, opset=9),
    Case("ConvTranspose", (normal(4, 1, 2),), {"group": 2, "strides": [2]}, shape=(1, 4, 9)),
    # products
    Case("MatMul", (normal(8, 5),)),
    Case("MatMul", (normal(1, 4, 8, 5),)),
    Case("MatMul", first=normal(5, 6)),
    Case("Gemm", (normal(4, 5), normal(5)), {"alpha": 0.5, "beta": 2.0}, shape=(1, 4)),
    Case("Gemm", (normal(5, 4), normal(1)), {"transB": 1}, shape=(1, 4), opset=9),
    Case("Gemm", (normal(5, 4),), {"transB": 1}, shape=(1, 4), opset=11),
    Case("Einsum", (normal(8, 5),), {"equation": "bchw,wo->bcho"}),
    # norms
    Case("BatchNormalization", (normal(4), normal(4), normal(4), abs(normal(4))), {"epsilon": 1e-3}),
    Case("BatchNormalization", (normal(4), normal(4), normal(4), abs(normal(4))), shape=(1, 4), opset=9),
    Case("BatchNormalization", (normal(4), normal(4), normal(4), abs(normal(4))), shape=(1, 4, 9), opset=14),
    Case("InstanceNormalization", (normal(4), normal(4))),
    Case("LayerNormalization", (normal(8), normal(8))),
    Case("LayerNormalization", (normal(6, 8),), {"axis": 2}),
    Case("GroupNormalization", (normal(2), normal(2)), {"num_groups": 2}),
    Case("GroupNormalization", (normal(4), normal(4)), {"num_groups": 2}, opset=21),
    Case("LpNormalization", (), {"axis": 1}),
    Case("LRN", (), {"size": 3, "alpha": 0.2, "beta": 0.6, "bias": 2.0}, opset=9),
    Case("LRN", (), {"size": 5}),
    # activations
    *[Case(op) for op in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "HardSwish", "Identity", "Mish", "Neg", "Relu",
                          "Round", "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Tanh")],
    *[Case(op, positive=True) for op in ("Log", "Reciprocal", "Sqrt")],
    *[Case(op, (), {"alpha": 0.3}) for op in ("Celu", "Elu", "LeakyRelu", "ThresholdedRelu", "HardSigmoid")],
    Case("HardSigmoid", (), {"alpha": 1 / 6, "beta": 0.5}),
    Case("Gelu", opset=20),
    Case("Gelu", (), {"approximate": "tanh"}, opset=20),
    Case("Clip", (), {"min": -0.3, "max": 0.2}, opset=9),
    Case("Clip", (), {"max": 0.2}, opset=9),
    Case("Clip", (), {}, opset=9),
    Case("Clip", (np.float32(0), np.float32(6))),
    Case("Clip", (None, np.float32(0.4))),
    Case("Clip", (np.float32(0),), opset=11),
    Case("PRelu", (normal(4, 1, 1),)),
    Case("PRelu", (normal(6, 1),)),
    Case("Softmax", opset=11),  # over all from axis 1 on
    Case("Softmax", (), {"axis": 3}, opset=11),
    Case("Softmax", (), {"axis": 1}),
    Case("LogSoftmax", (), {"axis": -2}, opset=9),
    Case("LogSoftmax"),
    Case("Dropout", (), {"ratio": 0.3}, opset=9),
    Case("Dropout", (np.float32(0.5), np.array(False))),
    # two and more
    *[Case(op, (normal(4, 1, 1),)) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")],
    *[Case(op, first=np.float32(2)) for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max")],
    *[Case(op, (floats(3),)) for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")],
    Case("Max", (np.float32(0),)),
    Case("Mul", ("x",)),
    Case("Mod", (floats(0.3),), {"fmod": 1}),
    Case("Sum", ("x", normal(6, 1)), opset=9),
    Case("Mean", ("x", normal(6, 1))),
    Case("Where", (normal(*IMAGE), np.float32(-1)), first=normal(1, 1, 6, 8) > 0),
    # over dimensions
    *[Case(op, (), {"axes": [1, -1], "keepdims": 0}, opset=11, positive=True)
      for op in ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
                 "ReduceProd", "ReduceSum", "ReduceSumSquare")],
    *[Case(op, (ints(2, 3),)) for op in ("ReduceMax", "ReduceMean", "ReduceSum")],
    Case("CumSum", (ints(1)[0],)),
    # windows
    Case("MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    Case("MaxPool", (), {"kernel_shape": [3, 3], "strides": [2, 2], **SAME}),
    Case("MaxPool", (), {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    Case("MaxPool", (), {"kernel_shape": [2], "pads": [0, 1]}, shape=(1, 4, 9)),
    Case("AveragePool", (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
    Case("AveragePool", (), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    Case("AveragePool", (), {"kernel_shape": [3, 3], "strides": [2, 2], **SAME}),
    Case("AveragePool", (), {"kernel_shape": [2, 2], "pads": [0, 0, 1, 1], "count_include_pad": 1}),
    Case("GlobalAveragePool"),
    Case("GlobalAveragePool", shape=(1, 4, 9)),
    Case("GlobalMaxPool"),
    Case("Pad", (), {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 0.5}, opset=9),
    Case("Pad", (ints(0, 0, 1, 2, 0, 0, 3, 1), np.float32(-1)), opset=11),
    Case("Pad", (ints(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "reflect"}),
    Case("Pad", (ints(1, 2, 0, 1), None, ints(3, 2)), {"mode": "edge"}, opset=18),
    Case("Upsample", (floats(1, 1, 2, 3),), {"mode": "nearest"}, opset=9),
    Case("Upsample", (floats(1, 1, 2, 2),), {"mode": "linear"}, opset=9),
    Case("Resize", (floats(1, 1, 2, 2),), {"mode": "linear"}, opset=10),
    Case("Resize", (floats(1, 1, 0.5, 0.5),), {"mode": "nearest"}, opset=10),
    Case("Resize", (floats(), floats(1, 1, 2, 2)), {"mode": "nearest"}, opset=11),
    Case("Resize", (floats(), floats(1, 1, 2, 2)), {"mode": "linear", **CORNER}, opset=13),
    Case("Resize", (None, None, ints(1, 4, 9, 5)), {"mode": "linear"}, opset=13),
    Case("Resize", (None, None, ints(1, 4, 12, 16)), {"mode": "linear", **ALIGNED}),
    Case("Resize", (None, floats(1, 1, 3, 3)), {"mode": "cubic", "cubic_coeff_a": -0.75}),
    Case("Resize", (None, None, ints(12, 16)), {"mode": "nearest", "axes": [2, 3], "nearest_mode": "floor", **CORNER}),
    Case("Resize", (None, floats(1, 1, 2)), {"mode": "linear"}, shape=(1, 4, 9)),
    # moved
    Case("Concat", ("x", normal(1, 2, 6, 8)), {"axis": 1}),
    Case("Concat", ("x",), {"axis": -1}, opset=9),
    Case("DepthToSpace", (), {"blocksize": 2}),
    Case("DepthToSpace", (), {"blocksize": 2, "mode": "CRD"}, opset=11),
    Case("SpaceToDepth", (), {"blocksize": 2}),
    Case("Expand", (ints(1, 4, 6, 5),), shape=(1, 4, 1, 1)),
    Case("Flatten"),
    Case("Flatten", (), {"axis": -3}),
    Case("Gather", (ints(2)[0],), {"axis": 1}),
    Case("Gather", (ints(1, 2, 3),), {"axis": 3}),
    Case("Gather", (np.array([[0, -1], [3, 2]]),), {"axis": 1}),
    Case("GatherElements", (np.arange(96).reshape(1, 4, 3, 8) % 6 - 6,), {"axis": 2}),
    Case("GatherElements", (np.arange(48).reshape(1, 1, 6, 8) % 8,), {"axis": 3}),
    Case("Trilu"),
    Case("Trilu", (np.int64(-1),), {"upper": 0}),
    Case("Reshape", (ints(0, 2, -1),)),
    Case("Reshape", (ints(1, 4, 48),)),
    Case("Reshape", (ints(2, 2, 6, 8),)),
    Case("Slice", (), {"starts": [1, -3], "ends": [2**31 - 1, -1], "axes": [2, 3]}, opset=9),
    Case("Slice", (ints(5), ints(-100), ints(2), ints(-2))),
    Case("Slice", (ints(0, 1), ints(1, 7), ints(0, 3), ints(1, 2)), opset=10),
    Case("Split", (), {"axis": 1, "split": [1, 3]}, outputs=2, opset=11),
    Case("Split", (ints(2, 6),), {"axis": -1}, outputs=2, opset=13),
    Case("Split", (), {"axis": 1, "num_outputs": 2}, outputs=2),
    Case("Squeeze", (), {"axes": [2]}, opset=11, shape=(1, 4, 1, 8)),
    Case("Squeeze", (ints(-2),), shape=(1, 4, 1, 8)),
    Case("Tile", (ints(1, 2, 1, 2),)),
    Case("Transpose", (), {"perm": [0, 2, 3, 1]}),
    Case("Unsqueeze", (), {"axes": [2, -1]}, opset=11),
    Case("Unsqueeze", (ints(1),)),
]
# fmt: on


def _write(case: Case, path: Path, old: bool = False) -> Path:
    rest = ["x" if isinstance(each, str) else "" if each is None else f"c{place}"
            for place, each in enumerate(case.constants)]  # fmt: skip
    kept = [(place, each) for place, each in enumerate(case.constants) if isinstance(each, np.ndarray | np.generic)]
    constants: dict[str, Any] = {f"c{place}": each for place, each in kept}
    names = ["x", *rest]
    nodes, results = [], [f"y{place}" for place in range(case.outputs)]
    if case.positive:
        nodes = [helper.make_node("Abs", ["x"], ["size"]), helper.make_node("Add", ["size", "one"], ["more"])]
        constants["one"], names = floats(0.5), ["more", *rest]
    if case.first is not None:
        constants["first"], names = np.asarray(case.first), ["first", *(["x"] if case.op != "Where" else []), *rest]
        if case.op == "Where":
            names[1] = "x"
    nodes.append(helper.make_node(case.op, names, results, name="it", **case.attributes))
    return write(path, nodes, {"x": case.shape}, constants, results, case.opset, old=old)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.opset}")
def test_a_row_computes_what_onnx_runtime_does(case: Case, tmp_path: Path) -> None:
    # alone: one batch; two batches at once are what shows that no size of the sample is baked in
    from_onnx(_write(case, tmp_path / "m.onnx"))
    if case.opset < 11 and case.constants:
        from_onnx(_write(case, tmp_path / "old.onnx", old=True))


def test_every_row_is_tried_or_made_of_constants() -> None:
    elsewhere = {"Not", "And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "ArgMax",
                 "ArgMin", "TopK", "LSTM", "GRU", "Cast", "Constant", "ConstantOfShape", "Range", "Shape",
                 "Size"}  # fmt: skip
    assert set(operators.OPERATORS) == {case.op for case in CASES} | elsewhere


def test_comparisons_choices_and_types(tmp_path: Path) -> None:
    names = ["Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"]
    nodes = [helper.make_node(name, ["x", "zero"], [name]) for name in names]
    nodes += [
        helper.make_node("And", ["Greater", "LessOrEqual"], ["a"]),
        helper.make_node("Or", ["a", "Less"], ["b"]),
        helper.make_node("Xor", ["b", "GreaterOrEqual"], ["c"]),
        helper.make_node("Not", ["c"], ["d"]),
        helper.make_node("ArgMax", ["x"], ["most"], axis=1),
        helper.make_node("ArgMin", ["x"], ["least"], axis=1),
        helper.make_node("TopK", ["x", "two"], ["best", "places"], axis=-1),
        helper.make_node("Cast", ["most"], ["f1"], to=1),
        helper.make_node("Cast", ["least"], ["f2"], to=1),
        helper.make_node("Where", ["d", "f1", "f2"], ["chosen"]),
        helper.make_node("ReduceSum", ["best"], ["sum"], keepdims=1),
        helper.make_node("Sub", ["chosen", "equals"], ["y"]),
        helper.make_node("Cast", ["Equal"], ["equals"], to=1),
    ]
    nodes = [*nodes[:-3], nodes[-1], nodes[-2]]
    file = write(tmp_path / "m.onnx", nodes, {"x": IMAGE}, {"zero": np.float32(0), "two": ints(2)}, ["y", "best"])
    from_onnx(file)


@pytest.mark.parametrize(("op", "gates", "states"), [("LSTM", 4, 2), ("GRU", 3, 1)])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_recurrent_layers(op: str, gates: int, states: int, direction: str, tmp_path: Path) -> None:
    """As exporters write them, samples first outside and second inside; once from zeros, once from given states."""
    ways = 2 if direction == "bidirectional" else 1
    settings = {"hidden_size": 5, "direction": direction} | ({} if op == "LSTM" else {"linear_before_reset": 1})
    given = ["h", "c"][:states]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node(op, ["t", "w", "r", "b", "", *["zeros"] * states], ["o"], **settings),
        helper.make_node("Transpose", ["o"], ["p"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["p", "flat"], ["q"]),
        helper.make_node("Transpose", ["q"], ["y"], perm=[1, 0, 2]),
        *[helper.make_node("Transpose", [name], [f"{name}t"], perm=[1, 0, 2]) for name in given],
        helper.make_node(op, ["t", "w", "r", "", "", *[f"{name}t" for name in given]], ["", "last"], **settings),
        helper.make_node("Transpose", ["last"], ["z"], perm=[1, 0, 2]),
    ]
    constants = {"w": normal(ways, 5 * gates, 4), "r": normal(ways, 5 * gates, 5, seed=1),
                 "b": normal(ways, 10 * gates), "flat": ints(0, 0, -1),
                 "zeros": np.zeros((ways, 1, 5), np.float32)}  # fmt: skip
    entries = {"x": (1, 6, 4)} | dict.fromkeys(given, (1, ways, 5))
    from_onnx(write(tmp_path / "m.onnx", nodes, entries, constants, ["y", "z"], opset=14))


@pytest.mark.parametrize(
    ("op", "settings", "reason"),
    [("GRU", {}, "linear_before_reset=0"), ("LSTM", {"clip": 3.0}, "clip"),
     ("LSTM", {"activations": ["Relu"] * 3}, "activations")],
)  # fmt: skip
def test_recurrent_layers_of_another_form(op: str, settings: dict[str, Any], reason: str, tmp_path: Path) -> None:
    gates = 4 if op == "LSTM" else 3
    nodes = [helper.make_node(op, ["x", "w", "r"], ["y"], name="it", hidden_size=5, **settings)]
    constants = {"w": normal(1, 5 * gates, 4), "r": normal(1, 5 * gates, 5)}
    with pytest.raises(UnsupportedOpError, match=rf"node 'it' \({op}\) has {reason}"):
        from_onnx(write(tmp_path / "m.onnx", nodes, {"x": (6, 1, 4)}, constants, opset=14))


def test_shapes_that_the_graph_works_out_are_constants(tmp_path: Path) -> None:
    """As TorchScript writes ``x.view(x.size(0), -1)`` and an interpolation to twice the size."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Constant", [], ["place"], value=numpy_helper.from_array(ints(0)[0])),
        helper.make_node("Gather", ["shape", "place"], ["count"]),
        helper.make_node("Unsqueeze", ["count"], ["counts"], axes=[0]),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(ints(-1))),
        helper.make_node("Concat", ["counts", "rest"], ["goal"], axis=0),
        helper.make_node("Slice", ["shape", "two", "four"], ["size"]),
        helper.make_node("Mul", ["size", "factor"], ["twice"]),
        helper.make_node("Slice", ["shape", "zero", "two"], ["front"]),
        helper.make_node("Concat", ["front", "twice"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x", "none", "nothing", "sizes"], ["large"], mode="nearest"),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("Range", ["start", "end", "step"], ["numbers"]),
        helper.make_node("Size", ["x"], ["all"]),
        helper.make_node("Cast", ["all"], ["every"], to=1),
        helper.make_node("Reshape", ["large", "goal"], ["flat"]),
        helper.make_node("Div", ["flat", "every"], ["y"]),
        helper.make_node("Add", ["x", "zeros"], ["z0"]),
        helper.make_node("Mul", ["z0", "numbers"], ["z"]),
    ]
    constants = {"two": ints(2), "four": ints(4), "zero": ints(0), "factor": ints(2), "none": floats(),
                 "nothing": floats(), "start": np.float32(0), "end": np.float32(8), "step": np.float32(1)}  # fmt: skip
    module = from_onnx(write(tmp_path / "m.onnx", nodes, {"x": ("N", 4, 6, 8)}, constants, ["y", "z"], opset=12))
    assert [name for name, _ in module.named_children()] == ["large", "flat", "y", "z0", "z"]


def test_what_has_no_row_is_refused_by_node_and_operator(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["places"], name="where")]
    nodes.append(helper.make_node("Cast", ["places"], ["y"], to=1))
    file = write(tmp_path / "net.onnx", nodes, {"x": IMAGE}, {})
    with pytest.raises(UnsupportedOpError, match=r"net\.onnx .* node 'where' \(NonZero\) is an operator that"):
        from_onnx(file)


def test_the_number_of_largest_values_was_an_attribute(tmp_path: Path) -> None:
    nodes = [helper.make_node("TopK", ["x"], ["best", "places"], k=2, axis=1)]
    file = write(tmp_path / "m.onnx", nodes, {"x": IMAGE}, {}, ["best"], 9)
    assert from_onnx(file)(torch.zeros(1, *IMAGE[1:])).shape == (1, 2, *IMAGE[2:])


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case("Pad", (ints(0, 0, 1, 2, 0, 0, 3, 1),), {"mode": "wrap"}, opset=21), "pads with mode 'wrap'"),
        (
            Case(
                "Resize",
                (None, None, ints(1, 4, 9, 9)),
                {"mode": "linear", "coordinate_transformation_mode": "half_pixel_symmetric"},
                opset=21,
            ),
            "half_pixel_symmetric",
        ),
        (Case("CumSum", (ints(1)[0],), {"reverse": 1}), "in reverse"),
        (Case("BatchNormalization", (normal(4),) * 4, opset=9, outputs=5), "as in training"),
        (Case("Conv", ("x",)), "computes 'x' from data"),
    ],
)
def test_a_form_without_a_counterpart_is_refused(case: Case, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOpError, match=rf"node 'it' \({case.op}\) .*{reason}"):
        from_onnx(_write(case, tmp_path / "m.onnx"))


def test_a_result_that_is_not_computed_is_no_output(tmp_path: Path) -> None:
    case = Case("Dropout", (), {"ratio": 0.3}, opset=9, outputs=2)
    with pytest.raises(UnsupportedOpError, match=r"output 'y1' is a result of Dropout .* leave it out of the file"):
        from_onnx(_write(case, tmp_path / "m.onnx"))


def test_another_domain_is_refused(tmp_path: Path) -> None:
    model = onnx.load(str(_write(Case("Relu"), tmp_path / "m.onnx")))
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(UnsupportedOpError, match=r"operator of com\.microsoft"):
        from_onnx(tmp_path / "m.onnx")

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_graphs import normal, write
from torch import nn

from torchshrink.converters import onnx_file, to_onnx
from torchshrink.converters.rebuild import operators
from torchshrink.converters.rebuild.from_onnx import from_onnx
from torchshrink.converters.rebuild.module import Operation, Rebuilt
from torchshrink.errors import ModelError, ParityError, UnsupportedOpError


def _net(path: Path, opset: int = 18, old: bool = False, batch: Any = 1) -> Path:
    """Convolution, norm, ReLU, pool, and a product with the sum that belongs to it."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="/stem/conv.0/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "g", "s", "m", "v"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="norm/"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "k"], ["h"], name="head"),
        helper.make_node("Add", ["o", "h"], ["y"]),
    ]
    constants = {"w": normal(6, 3, 3, 3), "b": normal(6), "g": normal(6), "s": normal(6), "m": normal(6),
                 "v": abs(normal(6)), "k": normal(6, 5), "o": normal(5)}  # fmt: skip
    return write(path, nodes, {"x": (batch, 3, 8, 8)}, constants, opset=opset, old=old)


@pytest.mark.parametrize(("opset", "old", "batch"), [(9, True, 1), (13, False, "N"), (21, False, 2)])
def test_layers_of_pytorch_named_after_the_nodes(opset: int, old: bool, batch: Any, tmp_path: Path) -> None:
    module = from_onnx(_net(tmp_path / "m.onnx", opset, old, batch))
    kinds = {name: type(part) for name, part in module.named_children()}
    assert kinds == {"stem_conv_0_Conv": nn.Conv2d, "norm": nn.BatchNorm2d, "norm_2": nn.ReLU,
                     "p": nn.AdaptiveAvgPool2d, "f": kinds["f"], "head": nn.Linear}  # fmt: skip
    assert module.get_submodule("head").bias is not None


def test_weights_beside_the_file(tmp_path: Path) -> None:
    model = onnx.load(str(_net(tmp_path / "m.onnx")))
    onnx.save(model, str(tmp_path / "big.onnx"), save_as_external_data=True, location="big.bin", size_threshold=0)
    from_onnx(tmp_path / "big.onnx")


def test_what_pytorch_exported_comes_back_the_same(tmp_path: Path) -> None:
    """The other direction, which is the independent reference: the module itself."""
    torch.manual_seed(0)
    front = [nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Upsample(scale_factor=2), nn.Conv2d(8, 4, 1), nn.Flatten()]
    model = nn.Sequential(*front, nn.LayerNorm(256), nn.GELU(), nn.Linear(256, 3), nn.Softmax(1)).eval()
    x = torch.rand(4, 3, 8, 8)
    to_onnx(model, x, tmp_path / "m.onnx")
    module = from_onnx(tmp_path / "m.onnx")
    torch.testing.assert_close(module(x), model(x))


def test_an_operator_that_is_written_wrong_is_found_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(operators.OPERATORS, "Relu", lambda _node: nn.LeakyReLU(0.1))
    with pytest.raises(ParityError, match=r"m\.onnx computes another 'r' .* at node 'norm/' \(Relu\)"):
        from_onnx(_net(tmp_path / "m.onnx"))


def test_samples_that_are_mixed_are_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[0]), helper.make_node("Sub", ["x", "m"], ["d"]),
             helper.make_node("Add", ["d", "x"], ["y"])]  # fmt: skip
    file = write(tmp_path / "m.onnx", nodes, {"x": (1, 3, 4)}, {}, opset=13)
    with pytest.raises(ModelError, match="does not treat the samples of a batch one by one"):
        from_onnx(file)


def test_a_free_size_needs_an_example(tmp_path: Path) -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
    file = write(tmp_path / "m.onnx", nodes, {"x": ("N", 3, "H", "W")}, {"w": normal(4, 3, 3, 3)})
    with pytest.raises(ModelError, match=r"input 'x' has the free sizes N,3,H,W: say which, such as --shape"):
        from_onnx(file)
    assert tuple(from_onnx(file, torch.zeros(1, 3, 8, 8))(torch.zeros(5, 3, 8, 8)).shape) == (5, 4, 6, 6)
    with pytest.raises(ModelError, match=r"takes 1 inputs \(x\), not 2"):
        from_onnx(file, (torch.zeros(1), torch.zeros(1)))


@pytest.mark.parametrize(
    ("name", "sides", "said"),
    [
        ("rate", (), "input 'rate' is one number for all samples"),
        ("state", (2, "N", 4), r"input 'state' \(2,N,4\) counts the samples, 'N', in its size 2"),
    ],
)
def test_an_input_without_samples_in_front_is_named(
    name: str, sides: tuple[int | str, ...], said: str, tmp_path: Path
) -> None:
    nodes = [helper.make_node("Add", ["x", name], ["y"])]
    file = write(tmp_path / "m.onnx", nodes, {"x": ("N", 4), name: sides}, {})
    with pytest.raises(ModelError, match=said):
        from_onnx(file)
    with pytest.raises(ModelError, match=said):
        from_onnx(file, (torch.zeros(1, 4), torch.zeros(2, 1, 4)))


def _branch(nodes: list[onnx.NodeProto], output: str, constants: dict[str, Any] | None = None) -> onnx.GraphProto:
    stored = [onnx.numpy_helper.from_array(np.asarray(value), key) for key, value in (constants or {}).items()]
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(output, 1, None)], stored)


def _squeezed(path: Path) -> Path:
    """What exporters make of ``squeeze(1)`` where the size is free, another If in it, which reads from outside."""
    inner = helper.make_node(
        "If", ["one"], ["t"],
        then_branch=_branch([helper.make_node("Add", ["s", "bias"], ["u"])], "u"),
        else_branch=_branch([helper.make_node("Neg", ["s"], ["u"])], "u"),
    )  # fmt: skip
    then = [helper.make_node("Squeeze", ["r", "axes"], ["s"]), inner, helper.make_node("Mul", ["t", "half"], ["v"])]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Shape", ["r"], ["shape"], start=1, end=2),
        helper.make_node("Equal", ["shape", "unit"], ["is_one"]),
        helper.make_node("If", ["is_one"], ["z"], then_branch=_branch(then, "v", {"half": np.float32(0.5)}),
                         else_branch=_branch([helper.make_node("Identity", ["r"], ["v"])], "v")),
        helper.make_node("Neg", ["z"], ["y"]),
    ]  # fmt: skip
    constants = {"axes": np.array([1]), "unit": np.array([1]), "one": np.array(True), "bias": np.float32(2.0)}
    return write(path, nodes, {"x": ("N", "C", 4)}, constants)


@pytest.mark.parametrize("size", [1, 3])
def test_a_branch_that_shapes_choose_takes_the_place_of_if(size: int, tmp_path: Path) -> None:
    x = torch.randn(2, size, 4)
    wanted = -(x.relu()[:, 0] + 2) / 2 if size == 1 else -x.relu()
    torch.testing.assert_close(from_onnx(_squeezed(tmp_path / "m.onnx"), x)(x), wanted)


def test_a_product_that_a_branch_reads_stays_apart_from_the_sum_after_it(tmp_path: Path) -> None:
    then = _branch([helper.make_node("Sub", ["s", "p"], ["v"])], "v")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["s"]),
             helper.make_node("If", ["one"], ["d"], then_branch=then, else_branch=then),
             helper.make_node("Add", ["d", "s"], ["y"])]  # fmt: skip
    weight, bias = normal(4, 3), normal(3, seed=1)
    file = write(tmp_path / "m.onnx", nodes, {"x": ("N", 4)}, {"w": weight, "b": bias, "one": np.array(True)})
    x = torch.randn(2, 4)
    torch.testing.assert_close(from_onnx(file)(x), x @ torch.from_numpy(weight) + 2 * torch.from_numpy(bias))


def test_a_branch_that_data_choose_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "zero"], ["is_loud"]),
        helper.make_node("If", ["is_loud"], ["y"], "gate",
                         then_branch=_branch([helper.make_node("Relu", ["x"], ["v"])], "v"),
                         else_branch=_branch([helper.make_node("Neg", ["x"], ["v"])], "v")),
    ]  # fmt: skip
    file = write(tmp_path / "m.onnx", nodes, {"x": ("N", 4)}, {"zero": np.float32(0)})
    with pytest.raises(UnsupportedOpError, match=r"'gate' \(If\) chooses its branch by 'is_loud', .* from data"):
        from_onnx(file)


def test_what_is_quantized_or_constant_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["c"], ["y"]), helper.make_node("Relu", ["x"], ["z"])]
    file = write(tmp_path / "m.onnx", nodes, {"x": (1, 3)}, {"c": normal(3)}, ["y", "z"])
    with pytest.raises(ModelError, match="output 'y' does not depend on the inputs"):
        from_onnx(file)
    pair = (("QuantizeLinear", "x", "q"), ("DequantizeLinear", "q", "y"))
    nodes = [helper.make_node(op, [source, "s"], [result]) for op, source, result in pair]
    file = write(tmp_path / "q.onnx", nodes, {"x": (1, 3)}, {"s": np.float32(0.1)})
    with pytest.raises(ModelError, match=r"q\.onnx is quantized already"):
        from_onnx(file)
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    file = write(tmp_path / "r.onnx", nodes, {"x": (1, 3)}, {"s": np.array([1, 4])})
    with pytest.raises(ModelError, match="form that PyTorch does not compute"):
        from_onnx(file)
    assert onnx_file.inputs(onnx.load(str(file)))[0].name == "x"


def test_parts_of_long_names_can_be_kept_in_a_graph() -> None:
    """Names of TensorFlow's nodes: all that a node consists of, joined."""
    rebuilt = Rebuilt(["x"], ["z"])
    for source, target in (("x", "y"), ("y", "z")):
        rebuilt.add("model_1/re_lu_3/Relu;" * 20 + target, source, Operation(torch.relu, {}), [source], [target])
    graph = torch.export.export(rebuilt.eval(), (torch.zeros(1, 2),)).module()
    assert all(len(step.part) < 200 for step in rebuilt.steps)
    assert len({step.part for step in rebuilt.steps}) == 2
    assert torch.equal(graph(torch.ones(1, 2)), torch.ones(1, 2))

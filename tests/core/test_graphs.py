"""Graphs as JSON. A file comes from anywhere: it must compute with tensors, and nothing else."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from torchshrink import graphs, quantize
from torchshrink.errors import ModelError

X: dict[str, Any] = {"op": "placeholder", "name": "x"}


def node(name: str) -> dict[str, str]:
    return {"node": name}


def call(name: str, target: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return {"op": "call", "name": name, "target": target, "args": list(args), "kwargs": kwargs}


def graph_of(*entries: dict[str, Any], output: str) -> dict[str, Any]:
    return {"nodes": [X, *entries], "output": [node(output)]}


def test_a_graph_written_by_hand() -> None:
    content = graph_of(
        {"op": "get_attr", "name": "w"},
        call("product", "aten.mul.Tensor", node("x"), node("w")),
        call("total", "aten.sum.dim_IntList", node("product"), [1], True),
        output="total",
    )
    module = graphs.from_json(content, {"w": torch.tensor([1.0, 2.0, 3.0])})
    assert module(torch.tensor([[4.0, 5.0, 6.0]])).tolist() == [[32.0]]
    assert not module.training
    assert list(module.state_dict()) == ["w"]


class Everything(nn.Module):
    """Keyword arguments, lists, types, numbers of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(2, 4, 3, padding="same")
        self.register_buffer("shift", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        halves = torch.split(x, 2, dim=1)
        x = torch.cat([halves[1], halves[0] * 0.5], 1).clamp(-1.0, float("inf"))
        x = torch.where(x > 0, x, torch.zeros_like(x, dtype=torch.float32)) + self.shift
        return x.reshape(x.shape[0], -1).to(torch.float64)


def test_captured_graphs_survive_json_exactly() -> None:
    inputs = torch.randn(3, 2, 6, 6)
    module = Everything().eval()
    content, tensors = graphs.to_json(quantize.capture(module, inputs))
    again = graphs.from_json(json.loads(json.dumps(content)), tensors)
    found = again(inputs)
    assert found.dtype == torch.float64
    assert torch.equal(found, module(inputs))
    assert torch.equal(again(inputs[:1]), module(inputs[:1]))  # any batch size


def test_quantized_graph_holds_only_what_it_uses(ptq_graph: GraphModule) -> None:
    content, tensors = graphs.to_json(ptq_graph)
    named = {entry["name"] for entry in content["nodes"] if entry["op"] == "get_attr"}
    assert named == set(tensors)
    # 8 layers: codes, scales, zero points and a bias
    assert len(tensors) == 8 * 4


def test_other_functions_are_not_written() -> None:
    def forward(x: Tensor) -> Tensor:
        return torch.fft.fft(x)

    with pytest.raises(ModelError, match=r"fft.* cannot be written to a file"):
        graphs.to_json(symbolic_trace(forward))


# --- Reading files that do not come from us


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "posix.system",
        "builtins.eval",
        "operator.attrgetter",
        "operator.methodcaller",
        "torch.load",
        "aten",
        "aten.relu",
        "aten.no_such_operation.default",
        "aten.relu.no_such_overload",
        "aten.relu.default.decompose",
        "aten.relu.__call__",
        "aten._dir.append",  # a list of torch's own; its `sort` calls any function
        "aten.__class__.__getattribute__",
        "aten.__getattr__.__getattribute__",
        "prims.relu.default",
        "",
        5,
        None,
    ],
)
def test_unknown_targets_are_refused(target: Any) -> None:
    with pytest.raises(ModelError, match=r"the graph in this file (calls|is damaged)"):
        graphs.from_json(graph_of(call("a", target, node("x")), output="a"), {})


def names(path: Path) -> list[str]:
    """Names that are code, where a graph's Python source has them: ``def forward(self, NAME)``, ``NAME = ...``."""
    create = f"open({str(path)!r}, 'w').close()"
    return [
        f"x=[{create}]",
        f"x = [{create}]; y",
        f"x): {create}\n    return self\ndef other(self",
        f"x: [{create}]",
    ]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("op", ["placeholder", "get_attr", "call"])
def test_names_are_not_code(tmp_path: Path, op: str, index: int) -> None:
    created = tmp_path / "created"
    name = names(created)[index]
    entry = call(name, "aten.relu.default", node("x")) if op == "call" else {"op": op, "name": name}
    content = {"nodes": [entry] if op == "placeholder" else [X, entry], "output": [node(name)]}
    with suppress(ModelError):  # or the name is made harmless
        graphs.from_json(content, {name: torch.zeros(1)})(torch.zeros(1))
    assert not created.exists()


@pytest.mark.parametrize("name", ["self", "def", "torch", "__import__", "a b", "", "1a", 5, None])
def test_names_are_identifiers(name: Any) -> None:
    content = {"nodes": [{"op": "placeholder", "name": name}], "output": [{"node": name}]}
    with suppress(ModelError):
        assert torch.equal(graphs.from_json(content, {})(torch.ones(2)), torch.ones(2))


def test_files_of_the_user_are_out_of_reach(tmp_path: Path) -> None:
    """`aten.from_file` maps a file into a tensor; shared, it creates and grows the file, and writes what is written."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    content = graph_of(
        call("mapped", "aten.from_file.default", str(victim), True, 4, dtype={"constant": "torch.uint8"}),
        call("filled", "aten.fill_.Scalar", node("mapped"), 65),
        output="filled",
    )
    with pytest.raises(ModelError):
        graphs.from_json(content, {})(torch.zeros(1))
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "content",
    [
        None,
        5,
        [],
        {},
        {"nodes": [X]},
        {"nodes": "x", "output": []},
        {"nodes": [1], "output": []},
        {"nodes": [X], "output": [node("absent")]},
        {"nodes": [X], "output": {"unknown": 1}},
        {"nodes": [X], "output": {"constant": "torch.nothing"}},
        {"nodes": [X, {"op": "what", "name": "w"}], "output": [node("x")]},
        {"nodes": [X, {"op": "get_attr", "name": "absent"}], "output": [node("x")]},
        {"nodes": [X, {"op": "call", "name": "a", "target": "aten.relu.default", "args": 5}], "output": [node("a")]},
        {"nodes": [X, X], "output": [node("x")]},
        graph_of(call("a", "aten.relu.default", node("x")), call("a", "aten.relu.default", node("x")), output="a"),
        graph_of(call("a", "aten.relu.default", node("b")), call("b", "aten.relu.default", node("x")), output="a"),
    ],
)
def test_damaged_graphs(content: Any) -> None:
    with pytest.raises(ModelError, match="the graph in this file"):
        graphs.from_json(content, {})

"""Graphs as JSON. A file comes from anywhere: it must compute with tensors, and nothing else."""

import copy
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule, symbolic_trace

from torchshrink import quantize
from torchshrink.errors import ModelError
from torchshrink.model import graph_operators, graphs

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


# --- What reaches the source that torch.fx writes


def code(path: Path) -> str:
    """A keyword whose text is an argument of its own: ``relu(x, inplace=open(PATH).close(), y=1)``."""
    return f"inplace=open({str(path)!r}, 'w').close(), y"


def test_keywords_are_not_code(tmp_path: Path) -> None:
    created = tmp_path / "created"
    content = graph_of(call("a", "aten.relu.default", node("x"), **{code(created): 1}), output="a")
    with pytest.raises(ModelError, match=r"aten\.relu\.default does not take .inplace=open"):
        graphs.from_json(content, {})(torch.zeros(1))
    assert not created.exists()


def test_the_exploit_would_work(tmp_path: Path) -> None:
    """The meta-test of the one above: torch.fx writes keywords as they are."""
    created = tmp_path / "created"
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    graph.output(graph.call_function(torch.relu, (x,), {code(created): 1}))
    with pytest.raises(TypeError):
        GraphModule(nn.Module(), graph)(torch.zeros(1))
    assert created.exists()


@pytest.mark.parametrize(
    "entry",
    [
        call("a", "aten.relu.default"),
        call("a", "aten.relu.default", node("x"), 1),
        call("a", "aten.relu.default", node("x"), out=node("x")),
        call("a", "aten.relu.default", node("x"), self=node("x")),
        call("a", "aten.relu.default", "x"),
        call("a", "aten.relu.default", {"constant": "cpu"}),
        call("a", "aten.gelu.default", node("x"), approximate="tanh') or open('/x"),
        call("a", "aten.gelu.default", node("x"), approximate=node("x")),
        call("a", "aten.to.dtype", node("x"), {"constant": "cpu"}),
        call("a", "aten.to.dtype", node("x"), 6),
        call("a", "aten.abs.out", node("x"), out=node("x")),
        call("a", "aten.add.out", node("x"), node("x"), out=node("x")),
        call("a", "aten.sum.dim_IntList", node("x"), [0.5]),
        call("a", "aten.sum.dim_IntList", node("x"), [2**64]),
        call("a", "operator.mul", [1], 2**40),
        call("a", "operator.getitem", False, 0),
        call("a", "operator.add", node("x"), 1, extra=1),
        # what reads and writes files, trusts pointers or sizes, or is not the same twice
        call("a", "aten.save.default", node("x"), "file"),
        call("a", "aten.from_file.default", "file"),
        call("a", "aten.set_.source_Tensor", node("x"), node("x")),
        call("a", "aten.resize_.default", node("x"), [1000]),
        call("a", "aten.as_strided.default", node("x"), [9], [9]),
        call("a", "aten.empty.memory_format", [9]),
        call("a", "aten.rand.default", [9]),
        call("a", "aten._unsafe_index.Tensor", node("x"), [node("x")]),
        call("a", "aten.fbgemm_linear_fp16_weight.default", node("x"), node("x"), node("x")),
        call("a", "aten._print.default", "text"),
        # more memory than there is
        call("a", "aten.zeros.default", [2**40]),
        call("a", "aten.full.default", [2**20, 2**20], 1),
        call("a", "aten.arange.default", 2**40),
        call("a", "aten.repeat.default", node("x"), [2**20, 2**20]),
    ],
)
def test_calls_are_checked_against_their_schema(entry: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"the graph in this file is damaged: nodes\.1\.call"):
        graphs.from_json(graph_of(entry, output="a"), {})


def test_what_may_be_written_may_be_read() -> None:
    """One list for both directions: nothing is saved that cannot be loaded."""

    def forward(x: Tensor) -> Tensor:
        return torch.ops.aten.resize_.default(x, [4])

    with pytest.raises(ModelError, match=r"resize_.* cannot be written to a file"):
        graphs.to_json(symbolic_trace(forward))


def test_listed_operators_exist() -> None:
    missing = [name for name in graph_operators._ATEN if not hasattr(torch.ops.aten, name)]
    assert missing == []


def test_nesting_without_end() -> None:
    deep: Any = node("x")
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ModelError, match="the graph in this file is damaged"):
        graphs.from_json({"nodes": [X], "output": deep}, {})


SOME_CODE = "open('created-by-a-graph', 'w').close()"
VALID = graph_of(
    {"op": "get_attr", "name": "w"},
    call("a", "aten.conv2d.padding", node("x"), node("w"), None, [1, 1], "same"),
    call("b", "aten.clamp.default", node("a"), -1.0, float("inf")),
    call("c", "aten.to.dtype", node("b"), {"constant": "torch.float64"}, copy=True),
    call("d", "operator.getitem", node("c"), 0),
    output="d",
)
LEAVES = st.one_of(
    st.sampled_from([SOME_CODE, f"x={SOME_CODE}, y", f"x\n    {SOME_CODE}", f"'+{SOME_CODE}+'", "x", "w", "self"]),
    st.sampled_from(["node", "dict", "constant", "cpu", "torch.float32", "aten.relu.default", "aten.add_.Tensor"]),
    st.none() | st.booleans() | st.integers() | st.floats(),
    st.text(max_size=8),
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(LEAVES.map(str), inner, max_size=3)
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON tree."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(places(VALID)), st.booleans(), LEAVES.map(str), TREES), min_size=1, max_size=3)
)
def test_any_change_is_refused_or_harmless(changes: list[tuple[tuple[Any, ...], bool, str, Any]]) -> None:
    """Values and keys anywhere: the text of ours never runs, and what is wrong is a sentence."""
    content = copy.deepcopy(VALID)
    for place, is_key, key, value in changes:
        with suppress(KeyError, IndexError, TypeError):  # an earlier change took the place away
            target: Any = content
            for step in place[:-1]:
                target = target[step]
            if is_key and isinstance(target, dict):
                target[key] = value
            elif place:
                target[place[-1]] = value
            else:
                content = value
    with suppress(ModelError):
        module = graphs.from_json(content, {"w": torch.ones(1, 1, 3, 3)})
        assert "open" not in module.code
        with suppress(Exception):
            module(torch.zeros(2, 1, 4, 4))
    assert not Path("created-by-a-graph").exists()


def test_the_graph_that_is_changed_is_valid() -> None:
    module = graphs.from_json(VALID, {"w": torch.ones(1, 1, 3, 3)})
    assert module(torch.zeros(2, 1, 4, 4)).dtype == torch.float64

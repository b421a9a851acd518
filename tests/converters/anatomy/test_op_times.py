"""Operators in files of their own compute what they compute in the whole file, and equal ones are timed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy import kernels, op_times, tflite_operations
from torchshrink.converters.tflite_file import Graph
from torchshrink.errors import ModelError

FLOAT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
Op = schema.BuiltinOperator


@pytest.mark.parametrize("name", ["tflite-int8-sparse", "tflite-fp16", "tflite-fp32"])
def test_an_operator_alone_computes_the_same(unet2d: Any, interpreter: Any, tmp_path: Path, name: str) -> None:
    model = tflite_file.read(unet2d.path(name))
    whole = interpreter(unet2d.path(name))
    entry = whole.get_input_details()[0]
    rng = np.random.default_rng(0)
    whole.set_tensor(entry["index"], (20 * rng.standard_normal(entry["shape"])).astype(entry["dtype"]))
    whole.invoke()
    _, positions = tflite_operations.read(model)
    for position in positions:
        operator, path = model.subgraphs[0].operators[position], tmp_path / f"{position}.tflite"
        tflite_file.write(op_times.alone(model, position), path)
        single = interpreter(path)
        sources = [index for index in operator.inputs if index >= 0]
        computed = [index for index in sources if index not in tflite_operations.constant_tensors(Graph(model))]
        for detail, index in zip(single.get_input_details(), computed, strict=True):
            single.set_tensor(detail["index"], whole.get_tensor(index))
        single.invoke()
        (detail,) = single.get_output_details()
        assert np.array_equal(single.get_tensor(detail["index"]), whole.get_tensor(operator.outputs[0])), position
        assert path.stat().st_size < unet2d.path(name).stat().st_size


def _chain(builder: Any, path: Path, *kinds: int, shape: tuple[int, ...] = (1, 8)) -> Any:
    """One operator after the other, all on float tensors of one shape."""
    tensors = [builder.tensor(f"t{index}", shape, FLOAT32) for index in range(len(kinds) + 1)]
    for kind, entry, output in zip(kinds, tensors[:-1], tensors[1:], strict=True):
        builder.operator(kind, [entry], [output])
    tflite_file.write(builder.finish(tensors[:1], tensors[-1:]), path)
    return tflite_file.read(path)


def test_equal_operators_are_timed_once(tflite_builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    original = op_times._open
    monkeypatch.setattr(op_times, "_open", lambda path, *rest: (opened.append(path.name), original(path, *rest))[1])
    path = tmp_path / "model.tflite"
    model = _chain(tflite_builder, path, Op.SIN, Op.RELU, Op.SIN, Op.COS)
    file_ms, times = op_times.measure(path, model, range(4), runs=3, threads=1)
    assert opened == ["model.tflite", "0.tflite", "1.tflite", "3.tflite"]
    assert times[0] == times[2]
    assert all(ms is not None and ms > 0 for ms in [file_ms, *times])


@pytest.mark.parametrize("difference", ["shape", "options", "constant"])
def test_operators_that_differ_are_timed_apart(tflite_builder: Any, tmp_path: Path, difference: str) -> None:
    """A pooling, then one like it but for one thing, as keys see them."""
    entry, first, second = (tflite_builder.tensor(name, (1, 4, 4, 1), FLOAT32) for name in "abc")
    weight = tflite_builder.tensor("w", (1, 4, 4, 1), FLOAT32, np.ones((1, 4, 4, 1), np.float32))
    small = tflite_builder.tensor("d", (1, 2, 2, 1), FLOAT32)
    options = [schema.AddOptionsT(), schema.AddOptionsT()]
    other = [first, first]
    if difference == "shape":
        other = [first, small]
    elif difference == "constant":
        other = [first, weight]
    else:
        options[1].fusedActivationFunction = schema.ActivationFunctionType.RELU
    tflite_builder.operator(Op.ADD, [entry, entry], [first], options[0])
    tflite_builder.operator(Op.ADD, other, [second], options[1])
    path = tmp_path / "model.tflite"
    inputs = [entry, small] if difference == "shape" else [entry]
    model = tflite_builder.finish(inputs, [second])
    tflite_file.write(model, path)
    graph = Graph(model)
    constants = tflite_operations.constant_tensors(graph)
    keys = {op_times._key(graph, operator, constants) for operator in graph.operators}
    assert len(keys) == 2


def test_operators_get_the_values_that_occur(
    tflite_builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logarithm of an absolute value never sees negative numbers."""
    seen: list[Any] = []
    original = op_times._try_open
    monkeypatch.setattr(
        op_times, "_try_open", lambda path, threads, values: (seen.append(values), original(path, threads, values))[1]
    )
    path = tmp_path / "model.tflite"
    model = _chain(tflite_builder, path, Op.ABS, Op.LOG, shape=(1, 64))
    op_times.measure(path, model, range(2), runs=1, threads=1)
    (first,), (second,) = seen
    assert first.min() < 0
    assert np.array_equal(second, abs(first))


def test_an_operator_that_does_not_run_alone(
    tflite_builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = op_times._open

    def refuse(path: Path, *rest: Any) -> Any:
        if path.name == "1.tflite":
            raise RuntimeError("no such resource")
        return original(path, *rest)

    monkeypatch.setattr(op_times, "_open", refuse)
    path = tmp_path / "model.tflite"
    _, times = op_times.measure(path, _chain(tflite_builder, path, Op.SIN, Op.COS), range(2), runs=1, threads=1)
    assert times[0] is not None
    assert times[1] is None


def test_a_file_that_litert_does_not_run(tflite_builder: Any, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "model.tflite"
    model = _chain(tflite_builder, path, Op.CUSTOM)
    model.operatorCodes[0].customCode = b"FlexErf"
    tflite_file.write(model, path)
    with pytest.raises(ModelError, match=r"LiteRT does not run .*model\.tflite: .*FlexErf"):
        op_times.measure(path, tflite_file.read(path), range(1), runs=1, threads=1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["ABS", "ELU", "EXP", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "RELU", "TANH",
                                  "CEIL", "COS", "FLOOR", "ROUND", "SIN", "SQUARE"])  # fmt: skip
def test_the_table_of_int8_kernels_is_true(tflite_builder: Any, interpreter: Any, tmp_path: Path, kind: str) -> None:
    """LiteRT is asked; a tanh's output has a scale of its own."""
    scale = 1 / 128 if kind == "TANH" else 0.1
    entry = tflite_builder.tensor("input", (1, 8), INT8, scale=0.1)
    output = tflite_builder.tensor("output", (1, 8), INT8, scale=scale)
    options = {"GELU": schema.GeluOptionsT, "LEAKY_RELU": schema.LeakyReluOptionsT}.get(kind)
    operator = tflite_builder.operator(getattr(Op, kind), [entry], [output], options() if options else None)
    tflite_file.write(tflite_builder.finish([entry], [output]), tmp_path / "model.tflite")
    best = 2 if kind in ("ABS", "EXP", "GELU", "LEAKY_RELU", "LOG", "RELU", "TANH") else 1
    tflite_builder.model.operatorCodes[operator.opcodeIndex].version = best
    tflite_file.write(tflite_builder.model, tmp_path / "model.tflite")
    try:
        interpreter(tmp_path / "model.tflite")
        takes_int8 = True
    except (RuntimeError, ValueError):
        takes_int8 = False
    assert takes_int8 == kernels.has_int8(kind, "LiteRT")

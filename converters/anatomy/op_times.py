"""How long each operator of a TFLite file takes.

LiteRT's Python interpreter has no profiler. Each operator is written to a file of its own, which LiteRT then runs with
its default delegates, as it runs the whole file.
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy.tflite_operations import constant_tensors
from torchshrink.converters.tflite_file import Graph
from torchshrink.errors import ModelError
from torchshrink.quiet import silent_stderr

_ROUNDS = 3  # so that a machine that slows down slows all alike


def timed(path: Path, *, positions: Sequence[int], runs: int, threads: int) -> tuple[float, list[float | None]]:
    """Return `measure` of a file that is read here."""
    return measure(path, tflite_file.read(path), positions, runs=runs, threads=threads)


def measure(
    path: Path, model: Any, positions: Sequence[int], *, runs: int, threads: int
) -> tuple[float, list[float | None]]:
    """Return the median time of the whole file and of some of its operators, in ms.

    Args:
        path: The file.
        model: Its content.
        positions: Which operators of the main graph. Those that differ in nothing but values are measured once.
        runs: Timed inferences of each.
        threads: How many threads LiteRT may use.

    Returns:
        The file's time, and one per operator; None for one that LiteRT does not run alone, such as a loop.

    Raises:
        ModelError: When LiteRT does not run the file.
    """
    graph = Graph(model)
    constants = constant_tensors(graph)
    keys = [_key(graph, graph.operators[position], constants) for position in positions]
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder, silent_stderr():
        try:
            whole = _open(path, threads)
            values = _values(path, whole)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(f"LiteRT does not run {path}: {reason}") from error
        runners = {"": whole}
        for key, position in zip(keys, positions, strict=True):
            if key not in runners:
                single = Path(folder, f"{position}.tflite")
                tflite_file.write(alone(model, position), single)
                entries = _entries(graph, graph.operators[position], constants)
                runners[key] = _try_open(single, threads, [values.get(index) for index in entries])
        # Of one thread, what it computed: what other work on the machine took in between is no cost of an operator.
        clock = time.process_time_ns if threads == 1 else time.perf_counter_ns
        found = _medians({key: runner for key, runner in runners.items() if runner is not None}, runs, clock)
    return found[""], [found.get(key) for key in keys]


def alone(model: Any, position: int) -> Any:
    """Return a model that holds one operator of the main graph, what it computes with, and nothing else.

    Its computed inputs are inputs of the model; operators that compute constants for it come along.
    """
    graph = Graph(model)
    constants = constant_tensors(graph)
    operator = graph.operators[position]
    needed = [item for item in graph.operators if set(item.outputs) <= constants & set(operator.inputs)]
    operators = [copy.copy(item) for item in (*needed, operator)]
    parts = ("inputs", "outputs", "intermediates")
    used = sorted({int(i) for item in operators for part in parts for i in _indices(item, part) if i >= 0})
    renumbered = {index: position for position, index in enumerate(used)} | {-1: -1}

    single, kept = schema.ModelT(), schema.SubGraphT()
    single.version, single.operatorCodes, single.subgraphs = model.version, model.operatorCodes, [kept]
    single.buffers, kept.tensors, kept.operators = [schema.BufferT()], [], operators
    for index in used:
        tensor = copy.copy(graph.tensors[index])
        data = model.buffers[tensor.buffer].data if graph.has_data(index) else b""
        tensor.buffer = tflite_file.add_buffer(single, bytes(data)) if graph.has_data(index) else 0
        kept.tensors.append(tensor)
    for item in operators:
        for part in parts:
            setattr(item, part, [renumbered[int(index)] for index in _indices(item, part)])
    kept.inputs = [renumbered[index] for index in _entries(graph, operator, constants)]
    kept.outputs = [renumbered[int(index)] for index in operator.outputs]
    return single


def _entries(graph: Graph, operator: Any, constants: set[int]) -> list[int]:
    """Return the tensors that an operator must be given: neither constants nor what it keeps between inferences."""
    computed = [int(index) for index in operator.inputs if index >= 0 and index not in constants]
    return [index for index in dict.fromkeys(computed) if not graph.tensors[index].isVariable]


def _indices(operator: Any, part: str) -> list[int]:
    found = getattr(operator, part)
    return [] if found is None else list(found)


def _key(graph: Graph, operator: Any, constants: set[int]) -> str:
    """Return what decides the time of an operator: all but the values that it computes with."""
    tensors = [
        (
            list(tensor.shape) if tensor.shape is not None else [],
            tensor.type,
            index in constants,
            _is_per_channel(tensor),
        )
        for index in (*operator.inputs, *operator.outputs)
        for tensor in ([graph.tensors[index]] if index >= 0 else [])
    ]
    options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
    custom = operator.customOptions
    content = None if custom is None else bytes(custom)
    return repr((operator.opcodeIndex, sorted(options.items()), content, tensors))


def _is_per_channel(tensor: Any) -> bool:
    parameters = tensor.quantization
    return parameters is not None and parameters.scale is not None and len(parameters.scale) > 1


def _open(path: Path, threads: int, values: Sequence[NDArray[Any] | None] = ()) -> Any:
    """Return an interpreter that holds the values, or random ones, as its inputs and has run once."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=threads)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(0)
    for detail, value in zip_longest(interpreter.get_input_details(), values):
        is_known = value is not None
        interpreter.set_tensor(detail["index"], value if is_known else _random(rng, detail["shape"], detail["dtype"]))
    interpreter.invoke()
    return interpreter


def _try_open(path: Path, threads: int, values: Sequence[NDArray[Any] | None]) -> Any | None:
    try:
        return _open(path, threads, values)
    except (RuntimeError, ValueError):
        return None


def _values(path: Path, whole: Any) -> dict[int, NDArray[Any]]:
    """Return what every tensor of a file holds for the inputs of ``whole``.

    Some kernels take longer for values that never occur, such as a logarithm for negative numbers.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # delegates keep their tensors to themselves: it has to run without any
        interpreter = Interpreter(
            str(path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    for detail in whole.get_input_details():
        interpreter.set_tensor(detail["index"], whole.get_tensor(detail["index"]))
    interpreter.invoke()
    found = {}
    for detail in interpreter.get_tensor_details():
        try:
            found[int(detail["index"])] = interpreter.get_tensor(detail["index"])
        except ValueError:
            continue  # a temporary tensor without data
    return found


def _random(rng: np.random.Generator, shape: Sequence[int], dtype: Any) -> NDArray[Any]:
    """Return random values; wide integers are indices or sizes, for which only 0 is safe."""
    if np.issubdtype(dtype, np.floating):
        return rng.standard_normal(shape).astype(dtype)
    if np.dtype(dtype).itemsize == 1 and np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return np.zeros(shape, dtype)


def _medians(runners: dict[str, Any], runs: int, clock: Callable[[], int]) -> dict[str, float]:
    spent: dict[str, list[float]] = {key: [] for key in runners}
    for turn in range(_ROUNDS):
        for key, runner in runners.items():
            runner.invoke()  # others ran in between: the caches hold their weights
            for _ in range(turn, runs, _ROUNDS):
                start = clock()
                runner.invoke()
                spent[key].append((clock() - start) / 1e6)
    return {key: float(np.median(values)) for key, values in spent.items()}

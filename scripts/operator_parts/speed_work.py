"""Convert some operators and time them, float and int8 taking turns. Run as a script: FOLDER NAME...

It prints ``{"rows": [...]}``, a row for each operator: what it is made of in each runtime, and its microseconds.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import speed_alone
import speed_cases
import torch
from torch import nn

from torchshrink import quantize
from torchshrink.converters import onnx_file, tflite_file, to_onnx, to_tflite
from torchshrink.converters.anatomy import op_times, tflite_operations
from torchshrink.converters.anatomy.inspect import inspect
from torchshrink.converters.anatomy.operations import Operation
from torchshrink.quiet import silent_stderr

ROUNDS, RUNS = 7, 30
FILES = {"onnx": "ONNX Runtime", "tflite": "LiteRT"}
PRECISIONS = ("float", "int8")


def main() -> None:
    """Measure the operators that the command line names."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    converted = [name for name in names if name in speed_cases.CASES]
    rows = between_convolutions(converted, folder) if converted else []
    print(json.dumps({"rows": rows + [alone(name, folder) for name in names if name in speed_alone.NAMES]}))


def between_convolutions(names: list[str], folder: Path) -> list[dict[str, Any]]:
    """Return a row for each operator, all of them converted together."""
    write(speed_cases.build(names), speed_cases.entry(), folder)
    timed = {ending: time(folder, ending, len(names)) for ending in FILES}
    outside = outside_xnnpack(folder / "int8.tflite", len(names))
    return [
        {"name": name, "outside": outside[index]}
        | {ending: {precision: found[precision, index] for precision in PRECISIONS} for ending, found in timed.items()}
        for index, name in enumerate(names)
    ]


def alone(kind: str, folder: Path) -> dict[str, Any]:
    """Return the row of an operator of TFLite in files of its own."""
    for precision in PRECISIONS:
        speed_alone.write(kind, folder / f"{precision}.tflite", precision == "int8")
    found = time(folder, "tflite", 1)
    outside = outside_xnnpack(folder / "int8.tflite", 1)[0]
    return {"name": kind, "outside": outside, "tflite": {each: found[each, 0] for each in PRECISIONS}}


def write(model: nn.Module, entry: torch.Tensor, folder: Path) -> None:
    """Write the four files of a model, calibrated on one input."""
    prepared = quantize.prepare_ptq(model, entry)
    with torch.no_grad():
        prepared(entry)
    graph = quantize.convert(prepared)
    to_onnx(model, entry, folder / "float.onnx")
    to_onnx(graph, entry, folder / "int8.onnx", "int8")
    to_onnx(graph, entry, folder / "generic.onnx", "int8", "generic")
    to_tflite(folder / "float.onnx", folder / "float.tflite", "fp32")
    to_tflite(folder / "generic.onnx", folder / "int8.tflite", "int8")


def time(folder: Path, ending: str, count: int) -> dict[tuple[str, int], dict[str, Any]]:
    """Return by precision and output what is between the convolutions: its kinds, and its least time in microseconds.

    The least of several rounds: other work on the machine only ever adds to a time.
    """
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for _ in range(ROUNDS):
        for precision in PRECISIONS:
            path = folder / f"{precision}.{ending}"
            operations = inspect(path, runs=RUNS).operations
            for index, output in enumerate(outputs(path)[:count]):
                inner = between(operations, output)
                now = {"us": sum(each.ms or 0.0 for each in inner) * 1e3, "kinds": [each.full_kind for each in inner]}
                found[precision, index] = min(found.get((precision, index), now), now, key=lambda each: each["us"])
    return found


def outputs(path: Path) -> list[str]:
    """Return the names of a file's outputs, in order."""
    if path.suffix == ".onnx":
        return [item.name for item in onnx_file.load(path).graph.output]
    graph = tflite_file.Graph(tflite_file.read(path))
    return [graph.name(int(index)) for index in graph.outputs]


def between(operations: Sequence[Operation], output: str) -> list[Operation]:
    """Return what lies between the first and the last convolution on the way to an output; to it, where there is one.

    A file of one operation is that. Conversions at the end of a file are no part of it.
    """
    needed, chain = {output}, []
    for operation in reversed(operations):
        if needed & set(operation.outputs):
            needed |= set(operation.inputs)
            chain.append(operation)
    chain.reverse()
    if len(chain) == 1:
        return chain
    places = [place for place, operation in enumerate(chain) if "conv" in operation.kind.lower()]
    inner = chain[places[0] + 1 :] if len(places) == 1 else chain[places[0] + 1 : places[-1]]
    while len(places) == 1 and inner and inner[-1].precision == "conversion":
        inner = inner[:-1]
    return inner


def outside_xnnpack(path: Path, count: int) -> list[list[str]]:
    """Return by output the kinds of a TFLite file's operators that XNNPACK does not take over: each is asked alone."""
    from ai_edge_litert.interpreter import Interpreter

    model = tflite_file.read(path)
    operations, positions = tflite_operations.read(model)
    left = set()
    for operation, position in zip(operations, positions, strict=True):
        single = path.with_name("single.tflite")
        tflite_file.write(op_times.alone(model, position), single)
        with silent_stderr():
            interpreter = Interpreter(str(single), num_threads=1)
            interpreter.allocate_tensors()
        if all(each["op_name"] != "DELEGATE" for each in interpreter._get_ops_details()):
            left.add(operation)
    inner = [between(operations, output) for output in outputs(path)[:count]]
    return [list(dict.fromkeys(each.kind for each in branch if each in left)) for branch in inner]


if __name__ == "__main__":
    main()

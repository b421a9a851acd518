"""Keep the order and the names of several inputs and outputs through TensorFlow, which sorts them by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from torchshrink.converters import onnx_file, tflite_file
from torchshrink.converters.onnx_file import load
from torchshrink.errors import ConversionError


@dataclass(frozen=True)
class Names:
    """What a graph calls its inputs and outputs, by what TensorFlow is told they are called."""

    inputs: dict[str, str]
    outputs: dict[str, str]


def number(path: Path) -> Names:
    """Rename the inputs and outputs of the ONNX file at ``path`` to names that sort in their order.

    A single one keeps its name, and so do inputs with default values.
    """
    model = load(path)
    names = Names(
        _numbered("input", [item.name for item in onnx_file.inputs(model)]),
        _numbered("output", [item.name for item in model.graph.output]),
    )
    numbers = {old: new for new, old in (names.inputs | names.outputs).items()}
    if numbers:
        for item in (*model.graph.input, *model.graph.output):
            item.name = numbers.get(item.name, item.name)
        for node in model.graph.node:
            for side in (node.input, node.output):
                for index, name in enumerate(side):
                    side[index] = numbers.get(name, name)
        onnx.save(model, str(path))
    return names


def restore(path: Path, names: Names) -> None:
    """Give the TFLite file that was made of a numbered graph its order and names back.

    Raises:
        ConversionError: When one of them is missing from the file.
    """
    if not names.inputs and not names.outputs:
        return
    model = tflite_file.read(path)
    graph, (signature,) = model.subgraphs[0], model.signatureDefs
    if names.inputs:
        signature.inputs, graph.inputs = _ordered(graph, signature.inputs, names.inputs)
    if names.outputs:
        signature.outputs, graph.outputs = _ordered(graph, signature.outputs, names.outputs)
    tflite_file.write(model, path)


def _numbered(kind: str, names: list[str]) -> dict[str, str]:
    return {f"{kind}{index:03d}": name for index, name in enumerate(names)} if len(names) > 1 else {}


def _ordered(graph: Any, entries: list[Any], names: dict[str, str]) -> tuple[list[Any], list[int]]:
    """Return the signature's entries in the order of ``names``, renamed like their tensors, and the tensors."""
    found = {entry.name.decode() if isinstance(entry.name, bytes) else entry.name: entry for entry in entries}
    if missing := [name for number_, name in names.items() if number_ not in found]:
        raise ConversionError(f"onnx2tf lost {', '.join(missing)} of the model's inputs and outputs")
    ordered = [found[number_] for number_ in names]
    for entry, name in zip(ordered, names.values(), strict=True):
        entry.name = name
        graph.tensors[entry.tensorIndex].name = name
    return ordered, [int(entry.tensorIndex) for entry in ordered]

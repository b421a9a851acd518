"""Keep the order and the names of several inputs and outputs through TensorFlow, which sorts them by name."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

from torchshrink.converters import onnx_file
from torchshrink.errors import ConversionError


class Names:
    """Numbers inputs and outputs where there are several, and gives them their names back."""

    def __init__(self) -> None:
        self._inputs: dict[str, str] = {}
        self._outputs: dict[str, str] = {}

    def before(self, model: ModelProto) -> ModelProto:
        """Rename inputs and outputs to names that sort in their order; a single one keeps its name.

        So do inputs with default values.
        """
        self._inputs = _numbered("input", [item.name for item in onnx_file.inputs(model)])
        self._outputs = _numbered("output", [item.name for item in model.graph.output])
        onnx_file.rename(model, {old: new for new, old in (self._inputs | self._outputs).items()})
        return model

    def after(self, tflite: Any) -> None:
        """Give the order and the names back.

        Raises:
            ConversionError: When one of them is missing from the file.
        """
        graph = tflite.subgraphs[0]
        if self._inputs:
            (signature,) = tflite.signatureDefs
            signature.inputs, graph.inputs = _ordered(graph, signature.inputs, self._inputs)
        if self._outputs:
            (signature,) = tflite.signatureDefs
            signature.outputs, graph.outputs = _ordered(graph, signature.outputs, self._outputs)


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

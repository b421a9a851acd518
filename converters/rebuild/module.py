"""The module that an ONNX graph becomes: one part for each node, called in their order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

_LONGEST = 100  # letters of a part's name


class Step(NamedTuple):
    """A call of a part: the part's name, what an error calls its node, and the tensors that it takes and gives."""

    part: str
    node: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Operation(nn.Module):
    """A function, with the constants among its arguments as buffers.

    Args:
        function: Of all arguments.
        constants: By the place among the arguments.
    """

    def __init__(self, function: Callable[..., Any], constants: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.function, self.places = function, sorted(constants)
        for place in self.places:
            self.register_buffer(f"operand_{place}", constants[place])

    def forward(self, *operands: Tensor) -> Any:
        """Call the function on ``operands`` with the constants at their places."""
        arguments = list(operands)
        for place in self.places:
            arguments.insert(place, getattr(self, f"operand_{place}"))
        return self.function(*arguments)


class Rebuilt(nn.Module):
    """A module that computes what an ONNX graph does; its parts bear the names of the nodes.

    Args:
        inputs: Names of the graph's inputs, in order.
        outputs: Names of its outputs.
    """

    def __init__(self, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.inputs, self.outputs, self.steps = tuple(inputs), tuple(outputs), list[Step]()

    def add(self, name: str, node: str, part: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Append a part; its name is the node's, in letters that a module's name may have.

        TensorFlow joins the names of all that a node consists of: hundreds of letters, and no graph is read with such.
        """
        plain = name = re.sub(r"\W+", "_", name).strip("_")[:_LONGEST] or "node"
        count = 1
        while hasattr(self, name):
            count += 1
            name = f"{plain}_{count}"
        self.add_module(name, part)
        self.steps.append(Step(name, node, tuple(inputs), tuple(outputs)))

    def forward(self, *inputs: Tensor) -> Any:
        """Return the graph's output, or a tuple of them, for any batch size."""
        values = dict(zip(self.inputs, inputs, strict=True))
        for step in self.steps:
            values.update(self.computed(step, values))
        outputs = tuple(values[name] for name in self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def computed(self, step: Step, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what one part gives, by the names of the tensors."""
        result = self.get_submodule(step.part)(*(values[name] for name in step.inputs))
        results = result if isinstance(result, tuple | list) else (result,)
        return dict(zip(step.outputs, results, strict=False))

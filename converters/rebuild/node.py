"""A node of an ONNX graph, as the rows of `torchshrink.converters.rebuild.operators` ask about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnx import NodeProto
from torch import Tensor

from torchshrink.converters.onnx_file import attribute
from torchshrink.errors import UnsupportedOpError


class Node:
    """A node, with the values that its inputs have for one sample.

    Settings moved from attributes to inputs over the opsets; `setting` finds them in either. What a row asks for as a
    setting or a constant is no operand any more: the others are given to the operation whenever it runs.

    Args:
        proto: The node.
        file: What errors call the file.
        opset: Of the file.
        values: Of each input for one sample; None where an optional one is left out.
        known: Whether each input is a constant of the file.
    """

    def __init__(
        self, proto: NodeProto, file: str, opset: int, values: Sequence[Tensor | None], known: Sequence[bool]
    ) -> None:
        self.proto, self.file, self.opset, self.values, self.known = proto, file, opset, values, known
        self._taken: set[int] = set()

    def __str__(self) -> str:
        """Return what an error calls it."""
        name = self.proto.name or next(iter(self.proto.output), "")
        return f"node {name!r} ({self.proto.op_type})"

    @property
    def is_constant(self) -> bool:
        """Whether all that it depends on are constants."""
        return all(self.known)

    @property
    def operands(self) -> list[int]:
        """The places of the inputs that are given to the operation."""
        return [place for place in range(len(self.values)) if self.has(place) and place not in self._taken]

    def has(self, place: int) -> bool:
        """Return whether an input is given."""
        return place < len(self.values) and self.values[place] is not None

    def is_known(self, place: int) -> bool:
        """Return whether an input is given, and a constant."""
        return self.has(place) and self.known[place]

    def value(self, place: int = 0) -> Tensor:
        """Return what an input is for one sample."""
        value = self.values[place] if place < len(self.values) else None
        if value is None:
            raise self.refusal(f"lacks its input {place}")
        return value

    def constant(self, place: int) -> Tensor:
        """Return the value of an input that must not depend on data."""
        value = self.value(place)
        if not self.known[place]:
            raise self.refusal(f"computes {self.proto.input[place]!r} from data, which must be a constant")
        self._taken.add(place)
        return value

    def setting(self, name: str, place: int | None = None, default: Any = None) -> Any:
        """Return an attribute, or the input that later opsets made of it, as numbers or text."""
        if place is not None and self.has(place):
            return self.constant(place).tolist()
        found = attribute(self.proto, name, default)
        return found.decode() if isinstance(found, bytes) else found

    def axis(self, default: int, dims: int | None = None) -> int:
        """Return the attribute ``axis``, counted from the first dimension."""
        return int(self.setting("axis", default=default)) % max(1, dims or self.value().dim())

    def axes(self, place: int | None = 1) -> list[int] | None:
        """Return the setting ``axes``, or None where it is not given; those below zero count from the end."""
        found = self.setting("axes", place)
        return None if found is None else [int(found)] if isinstance(found, int) else [int(each) for each in found]

    def refusal(self, reason: str) -> UnsupportedOpError:
        """Return the error that says why a file cannot be rebuilt."""
        return UnsupportedOpError(
            f"{self.file} cannot be quantized as it is: {self} {reason}; export the model without it, or quantize the "
            "PyTorch model (torchshrink ptq)"
        )

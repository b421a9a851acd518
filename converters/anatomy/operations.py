"""What the operations of a file compute in, and where the file leaves int8 for float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# "other" touches neither float nor 8-bit values, such as the arithmetic of shapes.
Precision = Literal["int8", "float", "conversion", "other"]

_TO_FLOAT = {"DEQUANTIZE", "DequantizeLinear"}


@dataclass(frozen=True)
class Operation:
    """One step of an inference, as the runtime takes it.

    Attributes:
        kind: The format's name of it, such as CONV_2D or QLinearConv.
        name: Its first output tensor.
        precision: What it computes in; a conversion is between 8-bit integers and float.
        inputs: The tensors that it reads and that are not constants.
        outputs: The tensors that it computes.
        macs: Multiply-accumulates of one inference.
        ms: How long it takes; None where that was not measured.
        is_depthwise: Whether it convolves every channel alone.
    """

    kind: str
    name: str
    precision: Precision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    macs: int = 0
    ms: float | None = None
    is_depthwise: bool = False

    @property
    def full_kind(self) -> str:
        """Kind, and whether it is depthwise."""
        return f"depthwise {self.kind}" if self.is_depthwise else self.kind

    @property
    def label(self) -> str:
        """Kind and name."""
        return f"{self.kind} {self.name}"

    @property
    def is_to_float(self) -> bool:
        """Whether it is a conversion from integers to float."""
        return self.precision == "conversion" and self.kind in _TO_FLOAT


@dataclass(frozen=True)
class Detour:
    """A connected stretch of float computation inside an int8 file, with the conversions around it.

    Attributes:
        entries: Dequantize values that were computed in int8.
        operations: What computes in float; none where values are only converted back and forth.
        exits: Quantize the results.
        weights: Dequantize constants, at every inference.
        sources: Which operations compute what the entries read.
        targets: Which operations read what the exits write.
    """

    entries: tuple[Operation, ...]
    operations: tuple[Operation, ...]
    exits: tuple[Operation, ...]
    weights: tuple[Operation, ...]
    sources: tuple[Operation, ...]
    targets: tuple[Operation, ...]

    @property
    def is_pair(self) -> bool:
        """Whether it begins and ends in int8: a dequantize/quantize pair."""
        return bool(self.entries and self.exits)

    @property
    def steps(self) -> tuple[Operation, ...]:
        """All that would not be there if everything were int8."""
        return (*self.entries, *self.weights, *self.operations, *self.exits)

    @property
    def ms(self) -> float:
        """What was measured of it."""
        return sum(operation.ms or 0.0 for operation in self.steps)


def detours(operations: Sequence[Operation]) -> tuple[Detour, ...]:
    """Return the stretches of float, in the order of the file.

    Quantizing the input of the file and dequantizing its output are none.
    """
    found = (_detour(stretch, operations) for stretch in _stretches(operations))
    return tuple(item for item in found if item.operations or item.is_pair)


def _stretches(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Group what float tensors connect."""
    groups: list[tuple[set[str], list[Operation]]] = []
    for operation in operations:
        tensors = _float_side(operation)
        if not tensors:
            continue
        joined = [group for group in groups if group[0] & tensors]
        groups = [group for group in groups if not group[0] & tensors]
        members = [member for group in joined for member in group[1]]
        groups.append((tensors.union(*(group[0] for group in joined)), [*members, operation]))
    order = {id(operation): position for position, operation in enumerate(operations)}
    sorted_groups = [sorted(members, key=lambda member: order[id(member)]) for _, members in groups]
    return sorted(sorted_groups, key=lambda members: order[id(members[0])])


def _float_side(operation: Operation) -> set[str]:
    if operation.precision == "float":
        return {*operation.inputs, *operation.outputs}
    if operation.precision == "conversion":
        return set(operation.outputs if operation.is_to_float else operation.inputs)
    return set()


def _detour(stretch: list[Operation], operations: Sequence[Operation]) -> Detour:
    entries = tuple(item for item in stretch if item.is_to_float and item.inputs)
    exits = tuple(item for item in stretch if item.precision == "conversion" and not item.is_to_float)
    read = {tensor for item in entries for tensor in item.inputs}
    written = {tensor for item in exits for tensor in item.outputs}
    return Detour(
        entries,
        tuple(item for item in stretch if item.precision == "float"),
        exits,
        tuple(item for item in stretch if item.is_to_float and not item.inputs),
        tuple(item for item in operations if read & set(item.outputs)),
        tuple(item for item in operations if written & set(item.inputs)),
    )

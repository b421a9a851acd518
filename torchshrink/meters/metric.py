"""What a metric is: a figure with a direction, summed up by a meter over the batches of a part."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch.utils import _pytree as tree


class Meter(Protocol):
    """What sums a figure up over batches, as torchmetrics has it."""

    def reset(self) -> None:
        """Forget everything."""

    def update(self, output: Any, truth: Any, /) -> None:
        """Take a batch."""

    def compute(self) -> Any:
        """Return the figure over all batches so far."""


@dataclass(frozen=True)
class Metric:
    """One figure of how well outputs match truths.

    Attributes:
        measure: A torchmetrics object, or a function of all outputs and all truths of a part, as the model and the
            data set give them, that returns one number.
        higher_is_better: Its direction.
        unit: Of its numbers, such as ``dB``; empty for shares and for the units of the truth.
    """

    measure: Callable[[Any, Any], Any] | Meter
    higher_is_better: bool
    unit: str = ""

    def meter(self) -> Meter:
        """Return a meter that has seen nothing yet."""
        if not all(callable(getattr(self.measure, name, None)) for name in ("reset", "update", "compute")):
            return _Gathered(cast(Callable[[Any, Any], Any], self.measure))
        meter: Meter = copy.deepcopy(self.measure)  # type: ignore[assignment]
        meter.reset()
        return meter


class _Gathered:
    """Calls a function once, with everything that there is."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self._function = function
        self.reset()

    def reset(self) -> None:
        self._seen: list[tuple[Any, Any]] = []

    def update(self, output: Any, truth: Any) -> None:
        self._seen.append((output, truth))

    def compute(self) -> Any:
        outputs, truths = zip(*self._seen, strict=True)
        return self._function(_joined(outputs), _joined(truths))


def _joined(parts: tuple[Any, ...]) -> Any:
    """Return batches of tensors, or of dictionaries and sequences of them, as one."""
    return tree.tree_map(lambda *tensors: torch.cat(tensors) if torch.is_tensor(tensors[0]) else tensors[0], *parts)

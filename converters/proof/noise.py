"""How much noise rounding makes: of the quantized graph against itself unrounded, and of a file against the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Interpreter

from torchshrink.model.signature import tensors

_FIXED_STEPS = (1 / 256, 1 / 128)  # of a sigmoid, softmax or tanh, whatever the data
_BATCH = 8


class InFloat(Interpreter):
    """Runs a quantized graph, with the weights that its codes stand for, without rounding any activation."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Pass over what quantizes an activation, and what takes it back."""
        is_rounding = "quantize_per_tensor" in str(target) and args[0].is_floating_point()
        return args[0] if is_rounding else super().call_function(target, args, kwargs)


def unrounded(graph: GraphModule, inputs: Sequence[Tensor]) -> list[NDArray[np.float32]]:
    """Return what a quantized graph computes for ``[N, C, *size]`` of each argument when activations stay float."""
    with torch.inference_mode():
        parts = [
            tensors(InFloat(graph).run(*batch))
            for batch in zip(*(torch.split(value, _BATCH) for value in inputs), strict=True)
        ]
    return [torch.cat(part).float().numpy() for part in zip(*parts, strict=True)]


def power(values: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the mean squared difference."""
    return float(np.square(values.astype(np.float64) - reference).mean())


def is_lost(graph_values: NDArray[Any], float_values: NDArray[Any], step: float | None) -> bool:
    """Return whether a graph gives out one number where, unrounded, it tells inputs or places apart.

    On a fixed grid, as a sigmoid's, differences of up to two steps may be nothing but small ones.
    """
    if graph_values.size < 2 or np.ptp(graph_values) > 0:
        return False
    spread = float(np.ptp(float_values))
    is_fixed = step is not None and any(np.isclose(step, fixed) for fixed in _FIXED_STEPS)
    return spread > (2 * step if is_fixed and step is not None else 1e-2 * float(np.abs(float_values).max()))

"""What a model takes and gives: one tensor, or several of them in tuples, lists and dictionaries."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from torchshrink.errors import ModelError

Inputs = Tensor | Sequence[Tensor]


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Return the arguments of ``forward``: one tensor is one argument."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def first(inputs: Inputs, count: int = 1) -> tuple[Tensor, ...]:
    """Return the arguments cut to ``[count, ...]``; where there are fewer samples, the last one is repeated."""
    return tuple(torch.cat([value[:count], *[value[-1:]] * (count - len(value[:count]))]) for value in as_tuple(inputs))


def lively(example: Inputs, count: int = 4) -> tuple[Tensor, ...]:
    """Return a few samples that differ, of the shape and about the size of an example's."""
    generator = torch.Generator().manual_seed(0)
    return tuple(_varied(value, generator) for value in first(example, count))


def _varied(value: Tensor, generator: torch.Generator) -> Tensor:
    value = value.detach()
    if not value.is_floating_point():
        return value
    if not bool(value.isfinite().all()) or bool((value == value.flatten()[0]).all()):  # it only tells the shape
        return torch.rand(value.shape, generator=generator).to(value)
    factor = 1 + 0.2 * torch.randn(value.shape, generator=generator).clamp(-2, 2)
    return value * factor.to(value)  # signs stay: the model may take logarithms


def batch_shapes(model: nn.Module, count: int) -> tuple[Any, ...]:
    """Return for torch.export that the first size of each of ``count`` arguments is free, ``*inputs`` included."""
    shapes: tuple[Any, ...] = ({0: Dim.DYNAMIC},) * count
    parameters = list(inspect.signature(model.forward).parameters.values())
    rest = next((place for place, item in enumerate(parameters) if item.kind is item.VAR_POSITIONAL), count)
    return shapes if rest >= count else (*shapes[:rest], shapes[rest:])


def tensors(outputs: Any) -> list[Tensor]:
    """Return the tensors of an output in the order in which files hold them.

    Raises:
        ModelError: When something else than tensors is among them.
    """
    found = [leaf for _, leaf in leaves(outputs)]
    for leaf in found:
        if not isinstance(leaf, Tensor):
            raise ModelError(
                f"the model returns a {type(leaf).__name__} where a file can hold tensors only: return tensors, or "
                "tuples, lists or dictionaries of them"
            )
    return found


def leaves(outputs: Any, name: str = "") -> list[tuple[str, Any]]:
    """Return what tuples, lists and dictionaries hold, with the name that a file gives it."""
    if isinstance(outputs, dict):
        parts = [(f"{name}_{key}" if name else str(key), value) for key, value in outputs.items()]
    elif isinstance(outputs, list | tuple):
        parts = [(f"{name or 'output'}_{index}", value) for index, value in enumerate(outputs)]
    else:
        return [(name, outputs)]
    return [leaf for key, value in parts for leaf in leaves(value, key)]


def input_names(model: nn.Module, count: int) -> list[str]:
    """Return what a file calls its inputs: ``input``, or where there are several, what ``forward`` calls them."""
    if count == 1:
        return ["input"]
    parameters = list(inspect.signature(model.forward).parameters.values())[:count]
    is_named = len(parameters) == count and all(item.kind is item.POSITIONAL_OR_KEYWORD for item in parameters)
    return [item.name for item in parameters] if is_named else [f"input_{index}" for index in range(count)]


def output_names(outputs: Any) -> list[str]:
    """Return what a file calls its outputs: ``output``, the keys of a dictionary, or ``output_0`` and so on.

    Raises:
        ModelError: When something else than tensors is among them.
    """
    tensors(outputs)
    if isinstance(outputs, list | tuple) and len(outputs) == 1:
        return output_names(outputs[0])
    return [name or "output" for name, _ in leaves(outputs)]

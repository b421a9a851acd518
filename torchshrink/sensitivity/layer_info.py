"""The layers of a model that can be pruned: what they are, hold and compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchshrink.errors import ModelError, ShrinkError
from torchshrink.model.macs import count_macs, count_parameters
from torchshrink.prune.layers import Layer, prunable_layers
from torchshrink.sensitivity.substitutes import TRANSPOSED


@dataclass(frozen=True)
class LayerInfo:
    """What a layer is.

    Attributes:
        name: As in ``model.named_modules()``.
        kind: Its class, such as ``"Conv2d"``.
        shape: Of its weight.
        parameters: Weights and biases.
        macs: Multiply-accumulates of one sample in all calls of the layer; 0 when the model never calls it, also when
            it uses the layer's weight in a function of its own (they count as other operations of the model then).
        sparsity: Share of the weights that are exactly zero, in [0, 1].
        least: The smallest weight.
        greatest: The largest weight.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    macs: int
    sparsity: float
    least: float
    greatest: float


def layers(model: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> list[LayerInfo]:
    """Return every layer that can be pruned: convolutions, transposed ones too, and linear layers.

    Their ``macs`` add up to `torchshrink.bench.count_macs`, but for products that are not of such a layer, as those of
    an attention or an LSTM.

    Args:
        model: Any module; it is left as it was.
        example_input: ``[N, C, *size]``, or a tuple of inputs; their first samples are used.

    Raises:
        ModelError: When there is no such layer, or the model does not run on the input.

    >>> [(layer.name, layer.parameters, layer.macs) for layer in layers(nn.Linear(3, 2), torch.zeros(1, 3))]
    [('', 8, 6)]
    """
    found = found_layers(model)
    macs = dict.fromkeys(found, 0)

    def counter(name: str) -> Callable[..., None]:
        def count(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            # Each output of a convolution is a sum of so many products; each input of a transposed one makes so many.
            values = (args[0] if args else kwargs["input"]) if isinstance(layer, TRANSPOSED) else output
            macs[name] += values.numel() * math.prod(layer.weight.shape[1:])

        return count

    with ExitStack() as stack:
        for name, layer in found.items():
            stack.callback(layer.register_forward_hook(counter(name), with_kwargs=True).remove)
        try:
            count_macs(model, example_input)
        except ShrinkError:
            raise
        except Exception as error:  # whatever the model does with an input that does not fit it
            first = example_input[0] if isinstance(example_input, tuple) else example_input
            raise ModelError(
                f"{type(model).__name__} does not run on an input of shape {tuple(first.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    return [_describe(name, layer, macs[name]) for name, layer in found.items()]


def layer_costs(model: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> list[dict[str, Any]]:
    """Return one entry per convolution and linear layer, in the order of the model.

    Args:
        model: A float module; it is left as it was.
        example_input: ``[N, C, *size]``, or a tuple of inputs; their first samples are used.

    Returns:
        ``name`` as in ``model.named_modules()``, or the layer's class when the model is that layer alone; ``params``,
        weights and biases; ``nonzero``, how many of these are not zero; ``macs``, multiply-accumulates of one sample,
        zero weights included.

    Raises:
        ModelError: When there is no such layer, or the model does not run on the input.
    """
    found = []
    for layer in layers(model, example_input):
        params, nonzero = count_parameters(model.get_submodule(layer.name))
        found.append({"name": layer.name or layer.kind, "params": params, "nonzero": nonzero, "macs": layer.macs})
    return found


def found_layers(model: nn.Module, ignore: Sequence[str] = ()) -> dict[str, Layer]:
    """Return what can be pruned by its name; raises ModelError when there is nothing."""
    found = prunable_layers(model, ignore)
    if not found:
        raise ModelError(f"{type(model).__name__} has no convolution or linear layer: give the float model")
    return found


def check_plain(found: Mapping[str, Layer]) -> None:
    """Refuse weights that are computed from others: exchanging them would have no effect."""
    for name, layer in found.items():
        if "weight" not in dict(layer.named_parameters(recurse=False)):
            raise ModelError(
                f"the weight of {name or type(layer).__name__} is masked or parametrized: make it permanent first, "
                "a mask with torchshrink.prune.remove"
            )


def _describe(name: str, layer: Layer, macs: int) -> LayerInfo:
    weight = layer.weight.detach()
    least, greatest = torch.aminmax(weight)
    return LayerInfo(
        name=name,
        kind=type(layer).__name__,
        shape=tuple(weight.shape),
        parameters=sum(parameter.numel() for parameter in layer.parameters()),
        macs=macs,
        sparsity=sparsity(weight),
        least=float(least),
        greatest=float(greatest),
    )


def sparsity(weight: Tensor) -> float:
    """Return the share of the weights that are exactly zero."""
    return 1 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)

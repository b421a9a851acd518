"""What each layer of a model holds and computes, as a report has it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from torchshrink.model.macs import count_parameters
from torchshrink.sensitivity import layers


def costs(model: nn.Module, example_input: Tensor | tuple[Tensor, ...]) -> list[dict[str, Any]]:
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

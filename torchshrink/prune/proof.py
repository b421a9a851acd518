"""Whether what remains without channels computes what the whole model does when nothing reads them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchshrink.prune.surgery import Cut, remove_channels, silence_channels

Inputs = Tensor | tuple[Tensor, ...]
MIXING = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)


def removed(model: nn.Module, cuts: Mapping[str, Cut]) -> nn.Module:
    """Return a copy of ``model`` without channels."""
    slim = copy.deepcopy(model)
    remove_channels(slim, cuts)
    _forget(slim)
    return slim


def _forget(model: nn.Module) -> None:
    """Let modules drop what they keep for evaluation, computed from weights, as they do when the mode changes."""
    modes = {module: module.training for module in model.modules()}
    model.train(model.training)
    for module, mode in modes.items():
        module.training = mode


def problem(model: nn.Module, cuts: Mapping[str, Cut], example_input: Inputs) -> str | None:
    """Return what is wrong with the model that remains: it must compute what the model whose readers are zero does."""
    silent = copy.deepcopy(model)
    silence_channels(silent, cuts)
    expected = _outputs(silent, example_input)
    try:
        found = _outputs(removed(model, cuts), example_input)
    except Exception as error:  # the user's module sees other widths than it was written for
        return f"does not run without the channels ({type(error).__name__}: {error})"
    shapes = [[tuple(output.shape) for output in outputs] for outputs in (found, expected)]
    if shapes[0] != shapes[1]:
        return f"would return {shapes[0]} instead of {shapes[1]}"
    if not all(_is_close(one, other) for one, other in zip(found, expected, strict=True)):
        return "computes something else when channels are gone than when nothing reads them"
    return None


@torch.no_grad()
def _outputs(model: nn.Module, example_input: Inputs) -> list[Tensor]:
    """Run a throwaway model, with what normalises across channels left out: it would see which of them are gone."""
    for module in model.eval().modules():
        if isinstance(module, MIXING):
            module.register_forward_hook(lambda _module, inputs, _output: inputs[0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = model(*example_input) if isinstance(example_input, tuple) else model(example_input)
    return [output for output in tree_leaves(outputs) if isinstance(output, Tensor)]


def _is_close(found: Tensor, expected: Tensor) -> bool:
    """Whether two results differ by rounding only."""
    if not expected.is_floating_point() or not expected.isfinite().all():
        return True  # indices may jump, overflow says nothing
    tolerance = math.sqrt(torch.finfo(expected.dtype).eps)
    return bool((found - expected).abs().amax() <= tolerance * expected.abs().amax())

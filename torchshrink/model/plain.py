"""Weights that are computed from others (weight_norm, spectral_norm, any parametrization), made plain parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

_HOOKS = {"WeightNorm": remove_weight_norm, "SpectralNorm": remove_spectral_norm}  # the older ones


def computed(model: nn.Module) -> dict[str, list[str]]:
    """Return which tensors of which modules are computed from others, by the modules' names."""
    found = {name: _computed(module) for name, module in model.named_modules()}
    return {name: tensors for name, tensors in found.items() if tensors}


def make_plain(model: nn.Module, names: Iterable[str]) -> None:
    """Let modules hold, in place, what they compute in evaluation."""
    with torch.no_grad():
        for name in names:
            module = model.get_submodule(name)
            modes = {part: part.training for part in module.modules()}
            module.eval()  # in training spectral_norm moves its vectors whenever the weight is read
            if parametrize.is_parametrized(module):
                _take_parametrizations_off(module)
            for hook in _hooks(module):
                _HOOKS[type(hook).__name__](module, hook.name)
            for part, is_training in modes.items():
                part.training = is_training


def leaves(model: nn.Module) -> dict[int, Any]:
    """Return what `copy.deepcopy` has to know of a model whose modules hold results, as the older weight_norm's do."""
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }


def plain_weights(model: nn.Module) -> nn.Module:
    """Return ``model``, or a copy with plain weights when some of its weights are computed from others."""
    names = computed(model)
    if not names:
        return model
    copied = copy.deepcopy(model, leaves(model))
    make_plain(copied, names)
    return copied


def _computed(module: nn.Module) -> list[str]:
    parametrized = list(module.parametrizations) if parametrize.is_parametrized(module) else []  # type: ignore[arg-type]
    return [*parametrized, *(hook.name for hook in _hooks(module))]


def _hooks(module: nn.Module) -> list[Any]:
    """Return what computes a weight before every call, as the older weight_norm and spectral_norm do."""
    return [hook for hook in module._forward_pre_hooks.values() if type(hook).__name__ in _HOOKS]


def _take_parametrizations_off(module: nn.Module) -> None:
    """Let a module hold what it computed; torch's own function would change the class, which the original shares."""
    parts: Any = module._modules["parametrizations"]
    values = {name: getattr(module, name).detach().clone() for name in parts}
    trained = {name: any(value.requires_grad for value in parts[name].parameters()) for name in parts}
    del module._modules["parametrizations"]
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value, requires_grad=trained[name]))

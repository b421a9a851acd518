"""Give a module the channel counts of another that was pruned from the same architecture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torchshrink.errors import ModelError

# What a layer calls the sizes that channel pruning changes.
_SIZES = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_channels",
    "num_parameters", "embedding_dim", "hidden_size", "input_size", "normalized_shape",
)  # fmt: skip


def sizes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the channel counts of every layer that has some, by its name; JSON-like."""
    found = {name: _sizes(module) for name, module in model.named_modules()}
    return {name: values for name, values in found.items() if values}


def resize(model: nn.Module, wanted: dict[str, dict[str, Any]], state: dict[str, Tensor]) -> None:
    """Change, in place, the layers of ``model`` whose channel counts differ from ``wanted``.

    Args:
        model: The architecture before its channels were removed.
        wanted: What `sizes` returned for the pruned module.
        state: The pruned module's tensors; only their shapes are used.

    Raises:
        ModelError: When a layer is unknown or its counts are not counts.
    """
    modules = dict(model.named_modules())
    for name, values in wanted.items():
        if name not in modules:
            raise ModelError(f"{type(model).__name__} has no layer {name!r}, which the checkpoint describes")
        module = modules[name]
        known = _sizes(module)
        if values == known:
            continue
        if set(values) != set(known) or not all(_is_count(value) for value in values.values()):
            raise ModelError(f"the checkpoint gives layer {name!r} the sizes {values}, but it has {sorted(known)}")
        for key, value in values.items():
            setattr(module, key, tuple(value) if isinstance(value, list) else value)
        _reshape(module, f"{name}." if name else "", state)


def _reshape(module: nn.Module, prefix: str, state: dict[str, Tensor]) -> None:
    for key, parameter in list(module.named_parameters(recurse=False)):
        if f"{prefix}{key}" in state:
            shape = state[f"{prefix}{key}"].shape
            setattr(module, key, nn.Parameter(torch.zeros(shape, dtype=parameter.dtype), parameter.requires_grad))
    for key, buffer in list(module.named_buffers(recurse=False)):
        if f"{prefix}{key}" in state:
            setattr(module, key, torch.zeros(state[f"{prefix}{key}"].shape, dtype=buffer.dtype))


def _sizes(module: nn.Module) -> dict[str, Any]:
    values = {name: getattr(module, name) for name in _SIZES if _is_count(getattr(module, name, None))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _is_count(value: Any) -> bool:
    values = value if isinstance(value, tuple | list) else [value]
    return bool(values) and all(isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in values)

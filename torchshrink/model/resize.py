"""Give a module the channel counts of another that was pruned from the same architecture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from torchshrink.errors import ModelError
from torchshrink.model.attention import FewerHeads, take_heads
from torchshrink.model.plain import computed, make_plain

# What a layer calls the sizes that channel pruning changes.
_SIZES = (
    "in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "num_channels",
    "num_parameters", "embedding_dim", "normalized_shape",
)  # fmt: skip
_NOTED = "_pruned_sizes"  # where a module of another kind keeps the names of what pruning changed besides parameters
_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.PReLU)  # every tensor of theirs has that many elements
_LAYERS = (_ConvNd, nn.Linear, nn.Embedding, *_NORMS)


def sizes(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return the channel counts of every layer that has some, by its name; JSON-like.

    For modules of other kinds it is the shapes of their own parameters, by the parameters' names, and what was noted.
    """
    found = {name: _sizes(module) for name, module in model.named_modules()}
    return {name: values for name, values in found.items() if values}


def note(module: nn.Module, names: Iterable[str]) -> None:
    """Remember that pruning changed those attributes, whole numbers or buffers, of a module that is no known layer."""
    if not names:
        return
    setattr(module, _NOTED, sorted({*getattr(module, _NOTED, ()), *names}))


def resize(model: nn.Module, wanted: dict[str, dict[str, Any]], state: dict[str, Tensor]) -> None:
    """Make the layers of ``model`` smaller, in place, whose channel counts differ from ``wanted``.

    Args:
        model: The architecture before its channels were removed.
        wanted: What `sizes` returned for the pruned module.
        state: The pruned module's tensors, whose shapes must agree with ``wanted``.

    Raises:
        ModelError: When a layer is unknown, or its counts are not what can remain of it.
    """
    if not isinstance(wanted, dict):
        raise ModelError(f"the checkpoint describes its layers by {wanted!r}, not by their names")
    _make_plain(model, state if wanted else {})
    modules = dict(model.named_modules())
    for name, values in wanted.items():
        if name not in modules:
            raise ModelError(f"{type(model).__name__} has no layer {name!r}, which the checkpoint describes")
        if isinstance(values, dict):
            _take_over(model, name, values)
        known = _sizes(modules[name])
        if values == known:
            continue
        if not _can_remain(values, known):
            raise ModelError(f"the checkpoint gives layer {name!r} the sizes {values}, which {known} cannot shrink to")
        _shrink(modules[name], f"{name}." if name else "", values, state)


def _make_plain(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Make plain what the pruned module held as plain weights, and the architecture computes from others."""
    for name, tensors in computed(model).items():
        if any((f"{name}.{tensor}" if name else tensor) in state for tensor in tensors):
            make_plain(model, [name])


def _take_over(model: nn.Module, name: str, values: dict[str, Any]) -> None:
    """Note what was noted of the pruned module, where this one has it, and make attention of PyTorch's a pruned one."""
    module = model.get_submodule(name)
    if isinstance(module, nn.MultiheadAttention):
        count = values.get("num_heads", module.num_heads)
        if _is_count(count) and isinstance(count, int) and count < module.num_heads:
            take_heads(model, name, count)
    elif not isinstance(module, _LAYERS):
        whole = {key for key, value in vars(module).items() if type(value) is int and not key.startswith("_")}
        note(module, (whole | set(module._buffers)).intersection(values))


def _shrink(module: nn.Module, prefix: str, values: dict[str, Any], state: dict[str, Tensor]) -> None:
    for key, value in values.items():
        if not isinstance(getattr(module, key), Tensor):
            setattr(module, key, tuple(value) if isinstance(value, list) else value)
    for key, shape in _shapes(module, values).items():
        found = tuple(state[prefix + key].shape) if prefix + key in state else shape
        if found != shape:
            raise ModelError(f"the checkpoint holds {prefix + key} of shape {found}, but describes it as {shape}")
        old = getattr(module, key)
        new = old.detach().new_zeros(shape)
        module._non_persistent_buffers_set.discard(key)  # the checkpoint has it
        setattr(module, key, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _shapes(module: Any, values: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a module's tensors that follow from its sizes."""
    found: dict[str, tuple[int, ...]]
    if isinstance(module, _ConvNd):
        into, out = module.in_channels, module.out_channels
        rows, columns = (into, out) if module.transposed else (out, into)
        found = {"weight": (rows, columns // module.groups, *module.kernel_size), "bias": (out,)}
    elif isinstance(module, nn.Linear):
        found = {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
    elif isinstance(module, nn.Embedding):
        found = {"weight": (module.num_embeddings, module.embedding_dim)}
    elif isinstance(module, _NORMS):
        (count,) = values.values()
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        shape = tuple(count) if isinstance(count, list) else (count,)
        found = {key: shape for key, value in tensors if value.dim() > 0}
    else:
        found = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return {key: shape for key, shape in found.items() if getattr(module, key) is not None}


def _sizes(module: nn.Module) -> dict[str, Any]:
    if isinstance(module, _LAYERS):
        values = {name: getattr(module, name) for name in _SIZES if hasattr(module, name)}
    else:
        values = {name: tuple(value.shape) for name, value in module.named_parameters(recurse=False) if value.dim() > 0}
        noted = ("num_heads",) if isinstance(module, FewerHeads) else getattr(module, _NOTED, ())
        for name, value in ((name, getattr(module, name)) for name in noted):
            values[name] = tuple(value.shape) if isinstance(value, Tensor) else value
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _can_remain(values: Any, known: dict[str, Any]) -> bool:
    """Whether a layer of the known sizes can have shrunk to those values."""
    if not isinstance(values, dict) or set(values) != set(known):
        return False
    for key, value in values.items():
        if not _is_count(value) or isinstance(value, list) != isinstance(known[key], list):
            return False
        new, old = ([item] if isinstance(item, int) else item for item in (value, known[key]))
        if len(new) != len(old) or any(one > other for one, other in zip(new, old, strict=True)):
            return False
    groups = values.get("groups", 1)
    return all(values.get(key, groups) % groups == 0 for key in ("in_channels", "out_channels"))


def _is_count(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(item, int) and not isinstance(item, bool) and item > 0 for item in values)

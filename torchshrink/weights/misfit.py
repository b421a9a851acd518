"""What of a model's weights is not in a file, and the other way round: first the pattern, then every name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

from torch import Tensor, nn


def misfit(model: nn.Module, state: Mapping[str, Tensor]) -> str:
    """Return what keeps ``state`` from being loaded into ``model``; empty when nothing does.

    A tensor that shares its memory with one that is there is not missing: files of safetensors hold it once.
    """
    wanted = model.state_dict(keep_vars=True)
    present = {wanted[name].data_ptr() for name in state if name in wanted}
    missing = [name for name, value in wanted.items() if name not in state and value.data_ptr() not in present]
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # as files before 0.4.1 of torch
    unknown = [name for name in state if name not in wanted]
    shaped = [name for name, value in state.items() if name in wanted and value.shape != wanted[name].shape]
    if not (missing or unknown or shaped):
        return ""
    shapes = [f"{name} {list(state[name].shape)} instead of {list(wanted[name].shape)}" for name in shaped]
    said = (
        ("not in the file", missing, missing, len(wanted)),
        ("not in the model", unknown, unknown, len(state)),
        ("of another shape", shaped, shapes, len(state)),
    )
    alike = not any(name in wanted for name in state)
    parts = [_renamed(list(wanted), list(state))] if alike else []
    parts += [f"{len(names)} of {total} tensors {what}{_where(names)}" for what, names, _, total in said if names]
    return "; ".join([", ".join(parts), *(f"{what}: {', '.join(listed)}" for what, _, listed, _ in said if listed)])


def _renamed(wanted: Sequence[str], found: Sequence[str]) -> str:
    """Say how two sets of names without a common one begin."""
    return f"no name is the same, the file's begin with {_beginnings(found)} and the model's with {_beginnings(wanted)}"


def _where(names: Sequence[str]) -> str:
    """Name the part of a model that all of several names are in; nothing for a single name."""
    if len(names) < 2:
        return ""
    levels = zip(*(name.split(".") for name in names), strict=False)
    common = ".".join(level[0] for level in takewhile(lambda level: len(set(level)) == 1, levels))
    return f" (all of them in {common})" if common else f" (in {_beginnings(names)})"


def _beginnings(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))

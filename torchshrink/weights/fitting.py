"""Find a model's weights in what somebody saved, and put them into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from torchshrink.errors import ModelError
from torchshrink.model.checked import unwrapped
from torchshrink.weights.misfit import misfit

State = dict[str, Tensor]
_COMPILED = "_orig_mod."  # torch.compile puts it wherever a module was compiled
_DEPTH = 3  # of dictionaries in dictionaries
# What the model itself is called beside others that fit as well, such as a teacher; first the averaged weights, which
# are the ones that were trained to be used.
_AVERAGED = ("ema", "averaged", "swa", "shadow")
_PLAIN = ("", "module", "model", "net", "network", "student", "online", "state_dict", "model_state_dict")


@dataclass(frozen=True)
class Candidate:
    """Tensors that may be a model's.

    Attributes:
        origin: Where they were found: keys of dictionaries and the prefix of their names, joined by dots.
        state: The tensors, without the prefix.
        fitting: How many have a name and shape of the model's.
        names: How many have a name of the model's.
    """

    origin: str
    state: State
    fitting: int
    names: int


def put(content: Any, model: nn.Module, path: Path) -> None:
    """Put the weights that somebody saved into ``model``.

    They are looked for in dictionaries, under any key (``"state_dict"``, ``"model"``, ``"generator"``), and behind any
    prefix of their names that DataParallel, torch.compile, AveragedModel, Lightning and others put there: what has the
    names and shapes of the model is it. Averaged weights ("ema") go before others that fit as well.

    Args:
        content: A state_dict, a module, or dictionaries of them.
        model: Changed in place.
        path: What errors call it.

    Raises:
        ModelError: When nothing fits; what does not is named in whole.
    """
    model = unwrapped(model)
    own = model.state_dict()
    actual = {name.replace(_COMPILED, ""): name for name in own}
    wanted = {name: own[full] for name, full in actual.items()}
    found = [candidate for origin, state in states(content) for candidate in _candidates(origin, state, wanted)]
    if not found:
        raise ModelError(f"{path} holds neither a module nor a state_dict")
    state = {**_best(found, path).state, **_averaged(found, model, wanted)}
    state = {actual.get(name, name): value for name, value in state.items() if name in wanted or not _is_counter(name)}
    if reason := misfit(model, state):
        raise ModelError(f"{path} does not fit {type(model).__name__}: {reason}")
    try:
        model.load_state_dict(state, strict=False)  # what is missing shares its memory with what is not
    except RuntimeError as error:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {' '.join(str(error).split())}") from error


def states(content: Any, origin: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """Yield every set of named tensors in a content, with the keys that lead to it."""
    if isinstance(content, nn.Module):
        content = content.state_dict()
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    state = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if state:
        yield origin, {name.replace(_COMPILED, ""): value for name, value in state.items()}
    for key, value in content.items():
        yield from states(value, f"{origin}.{key}" if origin else str(key), depth + 1)


def _candidates(origin: str, state: State, wanted: Mapping[str, Tensor]) -> list[Candidate]:
    """Return the tensors as they are named, and without each prefix that leaves names of the model."""
    prefixes = {"": None}  # in their order
    for name in state:
        parts = name.split(".")
        for depth in range(1, len(parts)):
            if ".".join(parts[depth:]) in wanted:
                prefixes[".".join(parts[:depth]) + "."] = None
    found = []
    for prefix in prefixes:
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        names = [name for name in own if name in wanted]
        fitting = sum(own[name].shape == wanted[name].shape for name in names)
        place = ".".join(part for part in (origin, prefix.rstrip(".")) if part)
        found.append(Candidate(place, own, fitting, len(names)))
    return found


def _best(found: list[Candidate], path: Path) -> Candidate:
    """Return the candidate that has most of the model; of several, the one whose name says that it is the model."""
    most = max((candidate.fitting, candidate.names) for candidate in found)
    equal = [candidate for candidate in found if (candidate.fitting, candidate.names) == most]
    if most[1] == 0:
        return max(found, key=lambda candidate: len(candidate.state))
    ranks = [_rank(candidate.origin) for candidate in equal]
    first = [candidate for candidate, rank in zip(equal, ranks, strict=True) if rank == min(ranks)]
    if min(ranks) == len(_PLAIN) and len(first) > 1:
        names = ", ".join(candidate.origin for candidate in first)
        raise ModelError(f"{path} holds several sets of weights that fit ({names}): save the one that you mean alone")
    return first[0]


def _averaged(found: list[Candidate], model: nn.Module, wanted: Mapping[str, Tensor]) -> State:
    """Return averaged weights that have every parameter of the model, and often none of its buffers."""
    parameters = {name.replace(_COMPILED, "") for name, _ in model.named_parameters()}
    for candidate in found:
        own = {name: value for name, value in candidate.state.items() if name in wanted}
        if _rank(candidate.origin) < 0 and parameters <= {n for n, v in own.items() if v.shape == wanted[n].shape}:
            return own
    return {}


def _rank(origin: str) -> int:
    """Return -1 for averaged weights, then the place among the names of a model itself."""
    parts = origin.lower().split(".")
    if any(word in _AVERAGED for part in parts for word in part.split("_")):
        return -1
    return max(_PLAIN.index(part) if part in _PLAIN else len(_PLAIN) for part in parts)


def _is_counter(name: str) -> bool:
    """Return whether a tensor is one that AveragedModel or a counter of operations leaves among the weights."""
    return name == "n_averaged" or name.rpartition(".")[2] in ("total_ops", "total_params")

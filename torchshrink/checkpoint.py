"""Save and load models as safetensors, with a JSON description in the file's own header.

Nothing that runs code is ever unpickled unless the caller says so, and no code that a file names is ever imported: the
project's own networks are rebuilt from their arguments, a traced (quantized) graph from its operations, and any other
model needs its factory from the caller. Files of other tools are read by `torchshrink.weights`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import metadata
from torchshrink.errors import ModelError, OutputError
from torchshrink.files import atomic
from torchshrink.model import graphs
from torchshrink.model.built_in import BUILT_IN, config_of
from torchshrink.model.checked import unwrapped
from torchshrink.model.graph_operators import LARGEST
from torchshrink.model.resize import resize, sizes
from torchshrink.weights import is_foreign, opened, put, read, tensors

SCHEMA = 1
_KEY = "torchshrink"
_AT_A_TIME = 2**20
Factory = Callable[[], nn.Module]


def save(model: nn.Module, path: Path, description: dict[str, Any] | None = None) -> None:
    """Write the weights and buffers of ``model`` and what is needed to rebuild it.

    Args:
        model: A plain module (pruning made permanent).
        path: A file ending in ``.safetensors``.
        description: JSON-like extras, such as the normalisation and the training history.

    Raises:
        ModelError: When the path has another ending, or a weight is not a number.
        OutputError: When it cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise ModelError(f"{path}: checkpoints are written as .safetensors")
    _check_numbers(
        model, f"{path} is not written", "train again with a lower lr, or look for extreme values in the data"
    )
    architecture: dict[str, Any] = {"name": type(model).__name__}
    if isinstance(model, GraphModule):
        architecture["graph"], state = graphs.to_json(model)
        architecture["noise"] = model.meta.get("noise", [])  # see `torchshrink.quantize.noise`
    else:
        architecture["arguments"] = config_of(model)
        architecture["layers"] = sizes(model)
        state = model.state_dict()
    header = {"schema": SCHEMA, "architecture": architecture, **(description or {})}
    values = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with atomic(Path(path)) as temporary:
        try:
            save_file(values, temporary, metadata={_KEY: json.dumps(header)})
        except SafetensorError as error:  # its own words for a full disk
            raise OutputError(f"cannot write {path}: {error}") from error


def load(path: Path, factory: Factory | None = None, allow_pickle: bool = False) -> nn.Module:
    """Return the model of a checkpoint, in evaluation mode.

    Args:
        path: ``.safetensors``; what ``torch.save`` wrote (``.pt``, ``.pth``, ``.ckpt`` of Lightning, ``.bin``); or a
            folder as Hugging Face saves models. See `torchshrink.weights.put` for what weights are found in them.
        factory: Makes the module whose weights the file holds; not needed for a built-in model, and for a whole
            module that was pickled.
        allow_pickle: Unpickle what holds more than tensors, which can run any code that its author put in.

    Raises:
        ModelError: When the file is missing, truncated, a pickle of more than tensors, or does not fit the model.
    """
    path = Path(path)
    architecture = {} if is_foreign(path) else describe(path).get("architecture", {})
    # What the file holds goes before its copy in the model is looked at.
    model = _built(path, architecture, read(path, allow_pickle) if is_foreign(path) else tensors(path), factory)
    _check_numbers(model, f"{path} cannot be used", "train it again")
    return model.eval()


def _built(path: Path, architecture: dict[str, Any], content: Any, factory: Factory | None) -> nn.Module:
    if "graph" in architecture:
        graph = graphs.from_json(architecture["graph"], content)
        graph.meta["noise"] = architecture.get("noise", [])
        return graph
    if factory is None and (module := _whole_module(content)) is not None:
        return module
    model = factory() if factory is not None else _rebuild(path, architecture)
    try:
        resize(model, architecture.get("layers", {}), content)  # channels may have been removed
    except ModelError as error:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {error}") from error
    put(content, model, path)
    return model


def _check_numbers(model: nn.Module, what: str, advice: str) -> None:
    """Refuse weights that are NaN or infinite; a buffer may be a mask, where infinity has its place."""
    weights = {name for name, _ in model.named_parameters()}
    for name, value in model.state_dict().items():
        is_odd = isinstance(value, Tensor) and value.is_floating_point() and not _is_finite(value)
        if is_odd and (name in weights or value.isnan().any()):
            raise ModelError(f"{what}: {name} holds numbers that are not finite: {advice}")


def _is_finite(values: Tensor) -> bool:
    """Look at so many values at a time: what is asked of each takes more memory than they do."""
    return all(bool(some.isfinite().all()) for some in torch.split(values.flatten(), _AT_A_TIME))


def is_self_contained(path: Path) -> bool:
    """Return whether a checkpoint says itself how its built-in model is built."""
    if Path(path).suffix != ".safetensors":
        return False
    architecture = describe(path).get("architecture", {})
    return str(architecture.get("name")) in BUILT_IN and bool(architecture.get("arguments"))


def describe(path: Path) -> dict[str, Any]:
    """Return the JSON description in a checkpoint's header; empty when another tool wrote the file.

    Raises:
        ModelError: When the file is missing or truncated.
    """
    with opened(path) as file:
        text = (file.metadata() or {}).get(_KEY, "{}")
    content = metadata.parse(text, str(path))
    try:
        if not isinstance(content.get("architecture", {}), dict):
            raise ValueError("architecture is not an object")
        if content.get("schema", SCHEMA) != SCHEMA:
            raise ValueError(f"schema {content['schema']}, this version reads schema {SCHEMA}")
    except ValueError as error:
        raise ModelError(f"{path} has a description that cannot be used ({error}): train or export it again") from error
    return content


def _whole_module(content: Any) -> nn.Module | None:
    """Return a module that was pickled whole, alone or beside what else a training keeps; averaged weights first."""
    held = {"": content, **(content if isinstance(content, dict) else {})}
    modules = {str(name): value for name, value in held.items() if isinstance(value, nn.Module)}
    found = modules.get("ema") or next(iter(modules.values()), None)
    return None if found is None else unwrapped(found)


def _rebuild(path: Path, architecture: dict[str, Any]) -> nn.Module:
    name = str(architecture.get("name", "an unknown model"))
    if name not in BUILT_IN or not architecture.get("arguments"):
        raise ModelError(f"{path} holds the weights of {name}: say how to build it with --model MODULE:FACTORY")
    try:
        with torch.device("meta"):  # takes no memory
            weights = sum(value.numel() for value in BUILT_IN[name](**architecture["arguments"]).parameters())
        if weights > LARGEST:
            raise ValueError(f"it would have {weights} weights")
        return BUILT_IN[name](**architecture["arguments"])
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ModelError(f"{path} describes a {name} that cannot be built: {reason}") from error

"""Save and load models as safetensors, with a JSON description in the file's own header.

Nothing is ever unpickled unless the caller says so, and no code that a file names is ever imported: the built-in U-Net
is rebuilt from its arguments, a traced (quantized) graph from its operations, and any other model needs its factory
from the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink.errors import ModelError, OutputError
from torchshrink.files import atomic
from torchshrink.model import graphs
from torchshrink.model.graph_operators import LARGEST
from torchshrink.model.resize import resize, sizes
from torchshrink.model.unet import UNet

SCHEMA = 1
_KEY = "torchshrink"
Factory = Callable[[], nn.Module]


def save(model: nn.Module, path: Path, description: dict[str, Any] | None = None) -> None:
    """Write the weights and buffers of ``model`` and what is needed to rebuild it.

    Args:
        model: A plain module (pruning made permanent).
        path: A file ending in ``.safetensors``.
        description: JSON-like extras, such as the normalisation and the training history.

    Raises:
        ModelError: When the path has another ending.
        OutputError: When it cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise ModelError(f"{path}: checkpoints are written as .safetensors")
    architecture: dict[str, Any] = {"name": type(model).__name__}
    if isinstance(model, GraphModule):
        architecture["graph"], state = graphs.to_json(model)
        architecture["noise"] = model.meta.get("noise", [])  # see `torchshrink.quantize.noise`
    else:
        architecture["arguments"] = model.config if isinstance(model, UNet) else None
        architecture["layers"] = sizes(model)
        state = model.state_dict()
    header = {"schema": SCHEMA, "architecture": architecture, **(description or {})}
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with atomic(Path(path)) as temporary:
        try:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(header)})
        except SafetensorError as error:  # its own words for a full disk
            raise OutputError(f"cannot write {path}: {error}") from error


def load(path: Path, factory: Factory | None = None, allow_pickle: bool = False) -> nn.Module:
    """Return the model of a checkpoint, in evaluation mode.

    Args:
        path: ``.safetensors``; or ``.pt`` / ``.pth`` with ``allow_pickle``.
        factory: Makes the module whose weights the file holds; not needed for the built-in U-Net.
        allow_pickle: Unpickle ``.pt`` files, which can run any code that their author put in.

    Raises:
        ModelError: When the file is missing, truncated, a pickle, or does not fit the model.
    """
    path = Path(path)
    tensors = _read_pickle(path, allow_pickle) if path.suffix in (".pt", ".pth") else _read_tensors(path)
    architecture = describe(path).get("architecture", {}) if path.suffix == ".safetensors" else {}
    if "graph" in architecture:
        graph = graphs.from_json(architecture["graph"], tensors)
        graph.meta["noise"] = architecture.get("noise", [])
        return graph
    model = factory() if factory is not None else _rebuild(path, architecture)
    try:
        resize(model, architecture.get("layers", {}), tensors)  # channels may have been removed
    except ModelError as error:
        raise ModelError(f"{path} does not fit {type(model).__name__}: {error}") from error
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]]
        raise ModelError(f"{path} does not fit {type(model).__name__}: {' '.join(lines)[:300]}") from error
    return model.eval()


def is_self_contained(path: Path) -> bool:
    """Return whether a checkpoint says itself how its built-in U-Net is built."""
    if Path(path).suffix != ".safetensors":
        return False
    architecture = describe(path).get("architecture", {})
    return architecture.get("name") == UNet.__name__ and bool(architecture.get("arguments"))


def describe(path: Path) -> dict[str, Any]:
    """Return the JSON description in a checkpoint's header; empty when another tool wrote the file.

    Raises:
        ModelError: When the file is missing or truncated.
    """
    with _open(path) as file:
        text = (file.metadata() or {}).get(_KEY, "{}")
    try:
        content = json.loads(text)
        if not isinstance(content, dict) or not isinstance(content.get("architecture", {}), dict):
            raise ValueError("not an object")
        if content.get("schema", SCHEMA) != SCHEMA:
            raise ValueError(f"schema {content['schema']}, this version reads schema {SCHEMA}")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} has a description that cannot be used ({error}): train or export it again") from error
    return content


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"no such checkpoint: {path}")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or not a safetensors file ({error}): copy or train it again") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    with _open(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dictionary


def _read_pickle(path: Path, allow_pickle: bool) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"no such checkpoint: {path}")
    if not allow_pickle:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is opened: if you trust its author, pass --allow-pickle, "
            "or save it as .safetensors"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ModelError(f"{path} cannot be unpickled: {error}") from error
    if isinstance(content, nn.Module):
        return content.state_dict()
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path} holds neither a module nor a state_dict")
    return content


def _rebuild(path: Path, architecture: dict[str, Any]) -> nn.Module:
    if architecture.get("name") != UNet.__name__ or not architecture.get("arguments"):
        name = architecture.get("name", "an unknown model")
        raise ModelError(f"{path} holds the weights of {name}: say how to build it with --model MODULE:FACTORY")
    try:
        with torch.device("meta"):  # takes no memory
            weights = sum(value.numel() for value in UNet(**architecture["arguments"]).parameters())
        if weights > LARGEST:
            raise ValueError(f"it would have {weights} weights")
        return UNet(**architecture["arguments"])
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ModelError(f"{path} describes a U-Net that cannot be built: {reason}") from error

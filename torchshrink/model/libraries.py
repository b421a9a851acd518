"""Models of timm and torchvision by name, such as ``timm:resnet18?num_classes=10``, where those are installed."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import nn

from torchshrink.errors import MissingExtraError, ModelError

# A name alone: neither a hub's address nor a path, from which timm would download.
_REFERENCE = re.compile(r"(timm|torchvision):([\w.-]+)(?:\?(.*))?")


def is_library(reference: str) -> bool:
    """Return whether a factory is a library's model by its name."""
    return _REFERENCE.fullmatch(reference) is not None


def is_harmless(reference: str, arguments: dict[str, Any]) -> bool:
    """Return whether building a model can neither read a file nor run other code than its library's.

    Text among the arguments could name a file or a place to download from; numbers and truth values cannot.
    """
    match = _REFERENCE.fullmatch(reference)
    return match is not None and all(isinstance(value, int | float) for value in (_options(match) | arguments).values())


def factory(reference: str) -> Callable[..., nn.Module]:
    """Return what builds a library's model, without trained weights unless the arguments say so.

    Args:
        reference: ``timm:NAME`` or ``torchvision:NAME``, with arguments of the library's as ``?num_classes=10``.

    Raises:
        MissingExtraError: When the library is not installed.
        ModelError: When called, and it has no such model or the model no such argument.
    """
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ModelError(f"model {reference!r}: expected timm:NAME or torchvision:NAME, such as timm:resnet18")
    library, name = match[1], match[2]
    try:
        module = importlib.import_module("torchvision.models" if library == "torchvision" else library)
    except ModuleNotFoundError as error:
        missing = (error.name or library).partition(".")[0]  # timm needs torchvision too
        raise MissingExtraError(
            f"model {reference!r} needs {missing}, which is not installed: pip install {missing}"
        ) from error
    except Exception as error:  # such as a torchvision that was built for another torch
        raise MissingExtraError(
            f"model {reference!r} needs {library}, which is installed but cannot be imported ({error}): install the "
            f"version that fits torch {torch.__version__}"
        ) from error
    create = module.get_model if library == "torchvision" else module.create_model
    options = _options(match)

    def make(**arguments: Any) -> nn.Module:
        try:
            model: nn.Module = create(name, **{**options, **arguments})
        except (RuntimeError, ValueError, TypeError) as error:
            reason, given = " ".join(str(error).split()), options | arguments
            near = difflib.get_close_matches(name, [*module.list_models()], 3)
            raise ModelError(
                f"{library} cannot make {name!r}{f' with {given}' if given else ''}: {reason}"
                + (f"; near it are {', '.join(near)}" if near and name not in near else "")
            ) from error
        return model

    return make


def _options(match: re.Match[str]) -> dict[str, Any]:
    return {key: _value(text) for key, text in parse_qsl(match[3] or "", keep_blank_values=True)}


def _value(text: str) -> int | float | str:
    """Return the number or truth value that a text writes, or else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

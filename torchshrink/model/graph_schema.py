"""What a graph's description in a file may hold, checked as a whole before anything is built from it.

torch.fx writes a graph as Python source and runs it. Of what a file says, nothing reaches that source but names,
numbers, results of earlier nodes, and what `torchshrink.model.graph_operators` lists.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from typing_extensions import TypeAliasType  # typing's own needs Python 3.12

from torchshrink.model import graph_operators
from torchshrink.model.graph_operators import Reference

_MOST_NODES = 100_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")
_KEY = re.compile(r"[\w .:/-]{1,200}")
MODULE = re.compile(r"[\w .:/@-]{1,500}")
_RESERVED = {
    "self",
    "torch",
    "device",
    "inf",
    "nan",
    "math",
    "fx_pytree",
    "pytree",
}  # of the source that torch.fx writes
CONSTANTS: dict[str, Any] = {"cpu": torch.device("cpu")} | {
    str(value): value
    for value in (
        *(getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16", "bool", "uint8", "int8")),
        *(getattr(torch, name) for name in ("int16", "int32", "int64", "strided", "complex64", "complex128")),
        *(getattr(torch, name) for name in ("contiguous_format", "preserve_format", "channels_last")),
    )
}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or name in _RESERVED:
        raise ValueError(f"{name[:50]!r} cannot be a name")
    return name


def _checked_key(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise ValueError(f"{key[:50]!r} cannot be a key")
    return key


def _checked_module(name: str) -> str:
    if not MODULE.fullmatch(name):
        raise ValueError(f"{name[:50]!r} cannot be a module's name")
    return name


def _known(name: str) -> str:
    if name not in CONSTANTS:
        raise ValueError(f"{name[:50]!r} is no constant")
    return name


Name = Annotated[str, AfterValidator(_checked_name)]


class Result(_Part):
    """What an earlier node returned."""

    node: Name


class Constant(_Part):
    """A type, layout or device."""

    constant: Annotated[str, AfterValidator(_known)]


class Named(_Part):
    """Values by name."""

    items: dict[Annotated[str, AfterValidator(_checked_key)], Value] = Field(alias="dict")


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return next((key for key in ("node", "dict") if key in value), "constant")
    kinds = {list: "list", str: "text", bool: "flag", int: "integer", float: "number"}
    return kinds.get(type(value), "nothing")


if TYPE_CHECKING:
    Value = Any  # mypy does not follow a type that contains itself through models
else:
    Value = TypeAliasType(
        "Value",
        Annotated[
            Annotated[Result, Tag("node")]
            | Annotated[Constant, Tag("constant")]
            | Annotated[Named, Tag("dict")]
            | Annotated[list["Value"], Tag("list")]
            | Annotated[str, Tag("text")]
            | Annotated[bool, Tag("flag")]
            | Annotated[int, Field(ge=-(2**63), lt=2**63), Tag("integer")]
            | Annotated[float, Tag("number")]
            | Annotated[None, Tag("nothing")],
            Discriminator(_kind),
        ],
    )


class Entry(_Part):
    """An input, or a tensor of the file."""

    op: Literal["placeholder", "get_attr"]
    name: Name


class Call(_Part):
    """An operation; its arguments are those of its schema. Calls of the model's modules that end with it are named."""

    op: Literal["call"]
    name: Name
    target: Annotated[str, Field(max_length=200)]
    args: list[Value]
    kwargs: dict[str, Value] = {}
    modules: list[Annotated[str, AfterValidator(_checked_module)]] = []

    @model_validator(mode="after")
    def _is_as_its_schema_says(self) -> Call:
        arguments = [_argument(value) for value in self.args]
        by_name = {key: _argument(value) for key, value in self.kwargs.items()}
        graph_operators.check_arguments(graph_operators.find(self.target), arguments, by_name)
        return self


class Description(_Part):
    """A whole graph: every name is new, every argument comes from above."""

    nodes: Annotated[
        list[Annotated[Entry | Call, Field(discriminator="op")]], Field(min_length=1, max_length=_MOST_NODES)
    ]
    output: Value

    @model_validator(mode="after")
    def _is_in_order(self) -> Description:
        known: set[str] = set()
        for node in self.nodes:
            if isinstance(node, Call):
                _check_known([*node.args, *node.kwargs.values()], known, node.name)
            if node.name in known:
                raise ValueError(f"two nodes are called {node.name!r}")
            known.add(node.name)
        _check_known([self.output], known, "the output")
        if any(isinstance(value, str) for value in _leaves(self.output)):
            raise ValueError("the output holds a text")
        return self


def _check_known(values: list[Any], known: set[str], user: str) -> None:
    for value in _leaves(values):
        if isinstance(value, Result) and value.node not in known:
            raise ValueError(f"{user} uses {value.node!r}, which is not above it")


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, list | Named):
        for item in value if isinstance(value, list) else value.items.values():
            yield from _leaves(item)
    else:
        yield value


def _argument(value: Any) -> Any:
    """Return a value as the operator's schema is compared with."""
    if isinstance(value, list):
        return [_argument(item) for item in value]
    if isinstance(value, Result):
        return Reference(value.node)
    return CONSTANTS[value.constant] if isinstance(value, Constant) else value

"""What a search keeps of a candidate in its store, looked at as a whole before any of it is computed with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Required

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic wants it before Python 3.12

_partly = with_config(ConfigDict(extra="allow", strict=True))


@_partly
class _Settings(TypedDict):
    sparsity: float
    lr: float
    pattern: str
    int8: str
    distillation: float
    length: float
    keep_float: int


@_partly
class _Rung(TypedDict):
    epochs: int
    loss: float
    loss_increase: float


@_partly
class _Estimated(TypedDict, total=False):
    size: Required[float]
    macs: Required[float]
    latency: Required[float]
    arena: float


@_partly
class _Costs(TypedDict, total=False):
    size: Required[float]
    latency: Required[float]
    rss: Required[float]
    loss_increase: Required[float]
    arena: float


@_partly
class _Candidate(TypedDict, total=False):
    settings: _Settings
    estimated: _Estimated
    costs: _Costs
    rungs: list[_Rung]
    violations: dict[str, float]
    begun: int
    lost: int
    spent: float
    at: float | None
    reason: str
    state: str


_CANDIDATE = TypeAdapter(_Candidate)


def fault(candidate: Mapping[str, Any]) -> str | None:
    """Return which part of what is kept of a candidate cannot be used, ``costs.size``; None when all can."""
    try:
        _CANDIDATE.validate_python(candidate)
    except ValidationError as error:
        return ".".join(map(str, error.errors(include_url=False)[0]["loc"])) or "all"
    return None

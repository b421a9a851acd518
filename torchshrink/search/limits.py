"""What a model may cost at most, and what is made as small as possible instead."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torchshrink.errors import RecipeError

COSTS = ("size", "latency", "rss", "arena", "loss_increase")
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


@dataclass(frozen=True)
class Limits:
    """Upper limits; what has none is an objective, and the loss is one when everything is limited.

    Attributes:
        size: Bytes of the file.
        latency: Of one inference: a share of the dense float file's in the same runtime, or milliseconds.
        latency_unit: Which of them.
        rss: Peak memory of a fresh process that loads the file and runs it once, in MB.
        loss_increase: How much worse than the dense model's what decides may be on the validation part: the loss above
            it, or the metric below or above.
        loss_share: The same as a share of the dense model's figure; see `resolved`.
        arena: Bytes that TensorFlow Lite Micro needs beside the file.
        is_micro: Whether the file is for a microcontroller, whose memory is an arena and no process.
    """

    size: float | None = None
    latency: float | None = None
    latency_unit: Literal["ratio", "ms"] = "ratio"
    rss: float | None = None
    loss_increase: float | None = None
    loss_share: float | None = None
    arena: float | None = None
    is_micro: bool = False

    @classmethod
    def parse(
        cls,
        size: str | None = None,
        latency: str | None = None,
        rss: str | None = None,
        loss_increase: float | str | None = None,
        arena: str | None = None,
        is_micro: bool = False,
    ) -> Limits:
        """Read limits as people write them: ``120kB``, ``2ms`` or ``0.2x``, ``60MB``, ``2%`` or 0.01.

        Raises:
            RecipeError: Naming the option that cannot be read.

        >>> Limits.parse("120kB", "0.2x").limited
        {'size': 120000.0, 'latency': 0.2}
        """
        time = _split(latency, "--max-latency", "such as 2ms, or 0.2x for a share of the dense file's")
        if time is not None and time[1] not in ("ms", "x"):
            raise RecipeError(f"--max-latency {latency}: give 2ms, or 0.2x for a share of the dense file's latency")
        if arena is not None and not is_micro:
            raise RecipeError(f"--max-arena {arena} is of a microcontroller: add --target micro, or give --max-rss")
        if rss is not None and is_micro:
            raise RecipeError(f"--max-rss {rss}: a microcontroller has no processes, give --max-arena")
        memory = _bytes(rss, "--max-rss")
        increase, is_share = _increase(loss_increase)
        return cls(
            size=_bytes(size, "--max-size"),
            latency=None if time is None else time[0],
            latency_unit="ms" if time is not None and time[1] == "ms" else "ratio",
            rss=None if memory is None else memory / 1e6,
            loss_increase=None if is_share else increase,
            loss_share=increase if is_share else None,
            arena=_bytes(arena, "--max-arena"),
            is_micro=is_micro,
        )

    def resolved(self, dense: Mapping[str, float]) -> Limits:
        """Return the limits with a share of the dense model's figure in its units."""
        if self.loss_share is None:
            return self
        return replace(self, loss_increase=self.loss_share * abs(dense["loss"]), loss_share=None)

    @property
    def limited(self) -> dict[str, float]:
        """Return the limits that there are, by the name of the cost."""
        return {name: getattr(self, name) for name in COSTS if getattr(self, name) is not None}

    @property
    def objectives(self) -> tuple[str, ...]:
        """Return the costs that are to be as small as possible."""
        unknown = "rss" if self.is_micro else "arena"
        return tuple(name for name in COSTS if name not in self.limited and name != unknown) or ("loss_increase",)

    def violations(self, costs: Mapping[str, float | None], dense: Mapping[str, float]) -> dict[str, float]:
        """Return by how much costs exceed their limits, as a share of the limit.

        Args:
            costs: By name; what is not known is not judged.
            dense: The dense model's costs; its ``"loss"`` takes the place of a limit of the loss that is not positive.
        """
        found = {}
        for name, limit in self.limited.items():
            cost = costs.get(name)
            if cost is not None and cost > limit:
                unit = limit if limit > 0 else abs(dense["loss"])
                found[name] = (cost - limit) / max(unit, 1e-12)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return what a report holds."""
        return {"limits": self.limited, "latency_unit": self.latency_unit, "objectives": list(self.objectives)}


def _increase(given: float | str | None) -> tuple[float | None, bool]:
    """Return by how much what decides may become worse, and whether that is a share."""
    if given is None:
        return None, False
    text = str(given).strip()
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = math.nan
    if not -1e9 < number < 1e9:
        raise RecipeError(f"--max-loss-increase {given}: expected a number such as 0.01, or a share such as 2%")
    return (number / 100, True) if text.endswith("%") else (number, False)


def _split(text: str | None, option: str, expected: str) -> tuple[float, str] | None:
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", text)
    if found is None or float(found[1]) <= 0:
        raise RecipeError(f"{option} {text}: expected a positive number, {expected}")
    return float(found[1]), found[2].lower()


def _bytes(text: str | None, option: str) -> float | None:
    found = _split(text, option, "such as 120kB or 2MB")
    if found is None:
        return None
    if found[1] not in _BYTES:
        raise RecipeError(f"{option} {text}: expected a unit of B, kB, MB, GB, KiB, MiB or GiB")
    return found[0] * _BYTES[found[1]]

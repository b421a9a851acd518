"""Which of the processes that a launcher started this one is; known before PyTorch is loaded."""

from __future__ import annotations

import os

_NUMBERS = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_PORT")
_SET_BY_LAUNCHERS = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def count() -> int:
    """Return how many processes were launched together."""
    size = os.environ.get("WORLD_SIZE", "1")
    return int(size) if "LOCAL_RANK" in os.environ and size.isdecimal() else 1


def problem() -> str | None:
    """Return what a launcher has not set of what it should have, in a clause; None when nothing is wrong."""
    if "LOCAL_RANK" not in os.environ:
        return None
    missing = [name for name in _SET_BY_LAUNCHERS if name not in os.environ]
    wrong = [name for name in _NUMBERS if name not in missing and not os.environ[name].isdecimal()]
    faults = [f"{name} is not set" for name in missing]
    faults += [f"{name} is {os.environ[name]!r}, no number" for name in wrong]
    if not faults and int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        faults = [f"RANK {os.environ['RANK']} is none of WORLD_SIZE {os.environ['WORLD_SIZE']}, counted from 0"]
    return f"LOCAL_RANK is set, but {' and '.join(faults)}" if faults else None


def is_main() -> bool:
    """Return whether this process is the one that prints and writes files: the first of a launch, or the only one.

    Source: the environment variables that ``torchrun`` and ``accelerate launch`` set.
    """
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"

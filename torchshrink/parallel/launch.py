"""Which of the processes that a launcher started this one is; known before PyTorch is loaded."""

from __future__ import annotations

import os


def count() -> int:
    """Return how many processes were launched together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1


def is_main() -> bool:
    """Return whether this process is the one that prints and writes files: the first of a launch, or the only one.

    Source: the environment variables that ``torchrun`` and ``accelerate launch`` set.
    """
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"

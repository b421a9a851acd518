"""Which of the processes that a launcher started this one is; known before PyTorch is loaded."""

from __future__ import annotations

import os


def is_main() -> bool:
    """Return whether this process is the one that prints and writes files: the first of a launch, or the only one.

    Source: the environment variables that ``torchrun`` and ``accelerate launch`` set.
    """
    return "LOCAL_RANK" not in os.environ or os.environ.get("RANK", "0") == "0"

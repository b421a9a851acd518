"""What a process that opens somebody's file may use at most."""

from __future__ import annotations

import os


def memory_bytes() -> int:
    """Return how much memory this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def limit_memory() -> None:
    """Let this process hold no more memory than the machine has, and write no core file when it dies.

    What a file asks for beyond that is refused to its runtime, instead of bringing the machine down.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    most = memory_bytes()
    for kind, limit in ((resource.RLIMIT_DATA, most), (resource.RLIMIT_CORE, 0)):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))

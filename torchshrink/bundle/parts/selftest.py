"""Prove this folder in a process of its own: python -I selftest.py; prints JSON, ends with 1 when something is wrong.

Every file is held against its checksum in SHA256SUMS, and what the model gives for a recorded input against what it
gave when the folder was made.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

BEGAN = time.perf_counter()
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import run  # type: ignore[import-not-found]  # noqa: E402
from formats import read  # type: ignore[import-not-found]  # noqa: E402


def peak_rss_mb() -> float | None:
    """Return the most memory that this process held, in MB of 1e6 bytes; only Linux tells."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024 / 1e6
    except OSError:
        return None


def damaged() -> list[str]:
    """Return the files that are missing or do not have their checksum."""
    import hashlib

    wrong = []
    with open(os.path.join(HERE, "SHA256SUMS"), encoding="utf-8") as file:
        for line in file:
            digest, name = line.rstrip("\n").split("  ", 1)
            try:
                with open(os.path.join(HERE, name), "rb") as content:
                    is_whole = hashlib.sha256(content.read()).hexdigest() == digest
            except OSError:
                is_whole = False
            wrong += [] if is_whole else [name]
    return wrong


def main() -> int:
    """Print what was found."""
    found: dict[str, Any] = {"passed": False}
    try:
        model = run.Model()
        with open(os.path.join(HERE, "selftest", "input.npy"), "rb") as file:
            (sample,) = read(file.read(), "input.npy", model.spec)
        output = model(sample)
        found |= {"first_result_s": time.perf_counter() - BEGAN, "cpu_s": time.process_time()}
        found["peak_rss_mb"] = peak_rss_mb()
        with open(os.path.join(HERE, "selftest", "output.bin"), "rb") as file:
            wanted = type(output)(output.typecode, file.read())
        off = [abs(a - b) for a, b in zip(output, wanted, strict=True)]
        most = 1 if model.spec["output"]["scale"] else 1e-3 * max(1.0, *map(abs, wanted))
        found |= {"max_difference": max(off), "allowed": most, "equal": off.count(0) / len(off), "damaged": damaged()}
        found["passed"] = max(off) <= most and not found["damaged"]
    except Exception as error:  # whatever a damaged folder makes of it
        found["error"] = f"{type(error).__name__}: {error}"
    print(json.dumps(found))
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())

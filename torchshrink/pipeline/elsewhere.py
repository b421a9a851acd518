"""On which kinds of processors a file was shown to be right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from torchshrink.errors import ConversionError
from torchshrink.pipeline.artefacts import Artefact, Bridge, Source
from torchshrink.runtime.processors import HERE, launcher


def check_emulators(kinds: Sequence[str]) -> None:
    """Refuse processors that cannot be emulated, before any work.

    Raises:
        MissingExtraError: Naming what to install.
    """
    for kind in kinds:
        launcher(kind)


def elsewhere(
    bridge: Bridge, artefact: Artefact, source: Source, sample: Tensor, kinds: Sequence[str], parity: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Run an int8 file on other kinds of processors too and return how each compares, this one first.

    Float files compute the same everywhere but for rounding, and are run here only.

    Args:
        bridge: Compares.
        artefact: The file.
        source: What it was made from.
        sample: One input.
        kinds: Some of `torchshrink.runtime.processors.KINDS`.
        parity: Of the file here; it fails with the reason where the file is wrong on another processor.
    """
    found = {HERE: _result(parity)}
    for kind in kinds if artefact.precision == "int8" else ():
        if kind == HERE or not parity["passed"]:
            continue
        try:
            there = bridge.compare_on(artefact, source, sample, kind)
        except ConversionError as error:
            parity.update(passed=False, reason=f"on {kind}: {error}")
            continue
        found[kind] = _result(there)
        if not there["passed"]:
            parity.update(passed=False, reason=f"computes something else on {kind}: {there['reason']}")
    return found


def _result(parity: dict[str, Any]) -> dict[str, Any]:
    return {"passed": parity["passed"], "max_abs": parity["max_abs"]}

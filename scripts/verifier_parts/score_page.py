"""The page about the verifier: what it caught, by model and by kind of harm."""

from __future__ import annotations

import platform
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

INTRODUCTION = (
    "`torchshrink verify` on right int8 files, and on the same files with one thing wrong. Small models with random "
    "weights, calibrated; {count} harms of each file, drawn with seed {seed}. The verifier gets 32 random inputs. A "
    "harm counts where any output of the file changes on 256 other random inputs; *not seen* are those that change "
    "none, such as a missing clamp whose bound is the end of the int8 grid anyway. Made by `scripts/verifier_score`.",
    "Machine: {machine}. torch {torch}, Python {python}.",
)
REASONS = (
    "What refused them: {counts} (operators: one computes something else from the same inputs; scales: one differs "
    "from the learned one, or a stored weight or bias does, looked at last; noise: further from the float computation "
    "than the graph; runtime: it does not take the file)."
)
ELSEWHERE = (
    "The files of a run are judged in the same way, what they store included. With `--on` the operators of an ONNX "
    "file are judged on the processor that ran them, on one input: a file whose weights leave no room passes on "
    "x86-sse4, where it is off by a rounding, and fails on x86-avx2 by the first layer that saturates."
)
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "asimddp", "i8mm")


def key(verdict: dict[str, Any]) -> tuple[str, str, int]:
    """Return what a verdict is about."""
    return verdict["model"], verdict["format"], verdict["number"]


def write(verdicts: list[dict[str, Any]], seed: int) -> str:
    """Return the page."""
    harmed = [verdict for verdict in verdicts if verdict["number"]]
    right = [verdict for verdict in verdicts if not verdict["number"]]
    shown = [verdict for verdict in harmed if verdict["verdict"] != "not seen"]
    caught = [verdict for verdict in shown if verdict["verdict"] == "caught"]
    reasons = Counter(by for verdict in caught for by in verdict["by"])
    refused = [verdict for verdict in right if verdict["verdict"] == "refused"]
    facts = {
        "count": max((verdict["number"] for verdict in verdicts), default=0),
        "seed": seed,
        "machine": machine(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }
    lines = [
        "# What the verifier catches\n",
        *(f"{textwrap.fill(part.format(**facts), 120)}\n" for part in INTRODUCTION),
        f"**{len(caught)} of {len(shown)} caught ({_share(len(caught), len(shown))})**, "
        f"{len(harmed) - len(shown)} not seen; {len(refused)} of {len(right)} right files refused.\n",
        *_table("model", shown, [f"{each['model']}, {each['format']}" for each in shown]),
        "",
        *_table("harm", shown, [f"{each['harm']}, {each['format']}" for each in shown]),
        "",
        textwrap.fill(REASONS.format(counts=", ".join(f"{by} {n}" for by, n in reasons.most_common())), 120),
        "",
        textwrap.fill(ELSEWHERE, 120),
        "",
        *(_line(verdict) for verdict in [*refused, *(each for each in shown if each["verdict"] == "missed")]),
    ]
    return "\n".join(lines).rstrip() + "\n"


def machine() -> str:
    """Say which processor this is and which integer instructions it has."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.is_file() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in fields.items()}
    flags = (known.get("flags") or known.get("Features") or "").split()
    found = [each for each in _INSTRUCTIONS if each in flags]
    return f"{known.get('model name', platform.machine())} ({', '.join(found) or 'none of those looked for'})"


def _table(heading: str, shown: list[dict[str, Any]], groups: list[str]) -> Iterable[str]:
    yield f"| {heading} | changes an output | caught | | without the scales |"
    yield "|---|---:|---:|---:|---:|"
    for group in dict.fromkeys(groups):
        rows = [verdict for verdict, name in zip(shown, groups, strict=True) if name == group]
        caught = sum(verdict["verdict"] == "caught" for verdict in rows)
        computed = sum(bool(verdict["by"].keys() - {"scales"}) for verdict in rows)
        yield f"| {group} | {len(rows)} | {caught} | {_share(caught, len(rows))} | {_share(computed, len(rows))} |"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _line(verdict: dict[str, Any]) -> str:
    return (
        f"- {verdict['verdict']}: {verdict['model']}, {verdict['format']}, {verdict['harm']} {verdict['where']} "
        f"{'; '.join(verdict['by'].values())}".rstrip()
    )

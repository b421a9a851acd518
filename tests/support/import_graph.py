"""Who imports whom: rooms (what stands on top of a folder, files and packages) and the arrows between them."""

from __future__ import annotations

import ast
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDERS = {"torchshrink": "torchshrink", "converters": "torchshrink.converters", "cli": "torchshrink.cli"}

# From the ground up: a room imports rooms before it only, in its own folder and in those above.
FLOORS: dict[str, tuple[str, ...]] = {
    "torchshrink": (
        "__init__", "lazy", "errors", "settings", "progress", "quiet", "harmless", "digits", "files", "usercode",
        "parallel", "losses", "meters", "kinds", "metadata", "model", "weights", "checkpoint", "prune", "task",
        "unlabelled", "metrics", "constant", "data", "quantize", "loops", "report", "runtime", "bench", "predict",
        "bundle", "own_loop", "training", "stages", "student", "sensitivity", "pipeline", "search", "__main__",
    ),
    "converters": (
        "environment", "_fork_host", "prepared", "onnx_file", "ranges", "runtimes", "qdq", "tflite_checks",
        "tflite_file", "tflite_ops", "correspondence", "foreign", "half", "int4", "sparse", "speed", "targets",
        "contents", "ends", "probe", "micro", "anatomy", "export", "float_tflite", "int8_tflite", "proof", "rebuild",
        "trim", "_litert_worker", "second_road", "tflite", "__init__", "sizes", "bridge", "calls",
    ),
    "cli": (
        "fit", "commands", "console", "options", "inputs", "shown", "noise", "calibrated", "doctor", "predict",
        "bundle", "train", "convert", "verify", "run", "report", "search", "bench", "inspection",
        "app", "__init__", "__main__",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Arrow:
    """One import between two rooms: the file that imports, its room, the imported room."""

    path: str
    source: str
    target: str


def sources(root: Path) -> list[Path]:
    """Return every source file, relative to the project's folder."""
    return sorted(path.relative_to(root) for folder in FOLDERS for path in (root / folder).rglob("*.py"))


def package_of(path: Path) -> str:
    """``converters/tflite.py`` and ``converters/__init__.py`` are both in ``torchshrink.converters``."""
    return ".".join([FOLDERS[path.parts[0]], *path.parts[1:-1]])


def imported(source: str, package: str) -> Iterator[str]:
    """Everything that a module of ``package`` imports at any depth, by its absolute name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def modules(source: str, package: str, known: Container[str]) -> set[str]:
    """Return which of the ``known`` modules a source imports; ``from a import b`` is of a.b alone where that is one."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            base, *names = imported(ast.unparse(node), package)
            of_names = [name if name in known else base for name in names] or [base]
            found |= set(of_names if isinstance(node, ast.ImportFrom) else [base, *names])
    return {name for name in found if name in known}


def rooms(paths: Sequence[Path]) -> dict[str, str]:
    """Return the room of every module: ``torchshrink.prune.weights`` is of ``torchshrink/prune``."""
    found = {}
    for path in paths:
        parts = path.with_suffix("").parts
        module = ".".join([package_of(path), *(() if parts[-1] == "__init__" else parts[-1:])])
        found[module] = "/".join(parts[:2])
    return found


def arrows(root: Path) -> list[Arrow]:
    """Return every import between two rooms, once for each file that has it."""
    paths = sources(root)
    known = rooms(paths)
    found = set()
    for path in paths:
        here = "/".join(path.with_suffix("").parts[:2])
        for name in modules((root / path).read_text(), package_of(path), known):
            if known[name] != here:
                found.add(Arrow(path.as_posix(), here, known[name]))
    return sorted(found, key=lambda arrow: (arrow.path, arrow.target))


def upward(found: Sequence[Arrow], floors: Mapping[str, Sequence[str]] = FLOORS) -> list[str]:
    """Return every import of a room that stands higher, and every room that has no floor."""
    places = [f"{folder}/{room}" for folder, names in floors.items() for room in names]
    order = {room: floor for floor, room in enumerate(places)}
    homeless = sorted({room for arrow in found for room in (arrow.source, arrow.target)} - set(order))
    return [f"{room} has no floor: give it one in FLOORS" for room in homeless] + [
        f"{arrow.path} imports {arrow.target}, which stands higher"
        for arrow in found
        if not {arrow.source, arrow.target} & set(homeless) and order[arrow.source] < order[arrow.target]
    ]


def circles(found: Sequence[Arrow]) -> list[list[str]]:
    """Return the groups of rooms that import each other, directly or by way of others."""
    targets: dict[str, set[str]] = {}
    for arrow in found:
        targets.setdefault(arrow.source, set()).add(arrow.target)
    reached = {room: _reached(room, targets) for room in targets}
    groups = {tuple(sorted({room, *(other for other in reached[room] if room in reached.get(other, ()))}))
              for room in targets if room in reached[room]}  # fmt: skip
    return [list(group) for group in sorted(groups)]


def _reached(start: str, targets: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = targets.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found

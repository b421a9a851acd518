"""Do each step of a run once: a finished one is recognised by what went into it and what came out.

A record that was edited, or that names a file outside of the run's folder, is not believed: the step is done again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torchshrink
from torchshrink.files import atomic, is_inside, read, sha256

FOLDER = ".steps"
_OF_PATHS = ("path", "variant", "format", "precision")  # the last three name what is kept of a file for the report
Result = dict[str, Any]
Work = Callable[[], tuple[Result, Sequence[Path]]]


class Steps:
    """The finished steps of the run in one folder.

    Args:
        out: The run's folder.
        is_fresh: Do everything again.
    """

    def __init__(self, out: Path, is_fresh: bool = False) -> None:
        self.out = out
        self.is_fresh = is_fresh

    def run(self, name: str, inputs: Any, work: Work) -> tuple[Result, str, bool]:
        """Do ``work`` unless the same step with the same inputs is done already.

        Args:
            name: The step's name; one result is kept per name.
            inputs: JSON-like: settings, and the keys of the steps before.
            work: Returns a JSON-like result and the files that it wrote in the run's folder.

        Returns:
            The result, a key that stands for inputs and outputs, and whether the step was done before.
        """
        key = digest([name, inputs, code_version()])
        record = self.out / FOLDER / f"{name.replace(':', '.')}.json"
        known = None if self.is_fresh else self._read(record)
        if known is not None and known["key"] == key and self._are_intact(known["outputs"]):
            return known["result"], known["stamp"], True
        result, paths = work()
        outputs = {str(path.relative_to(self.out)): sha256(path) for path in paths}
        stamp = digest([key, outputs])
        content = {"key": key, "outputs": outputs, "result": result, "stamp": stamp}
        with atomic(record) as temporary:
            temporary.write_text(json.dumps({**content, "digest": digest(content)}, indent=1))
        return result, stamp, False

    def _read(self, record: Path) -> dict[str, Any] | None:
        try:
            content: dict[str, Any] = json.loads(read(record))
            stated = content.pop("digest")
        except (OSError, ValueError, RecursionError, LookupError, AttributeError, TypeError):
            return None
        is_whole = set(content) == {"key", "outputs", "result", "stamp"} and stated == digest(content)
        is_own = is_whole and isinstance(content["outputs"], dict) and isinstance(content["result"], dict)
        return content if is_own and all(is_inside(self.out, name) for name in _paths(content)) else None

    def _are_intact(self, outputs: dict[str, str]) -> bool:
        paths = {self.out / name: expected for name, expected in outputs.items()}
        return all(path.is_file() and sha256(path) == expected for path, expected in paths.items())


def _paths(record: dict[str, Any]) -> Iterator[Any]:
    """Yield every path that a record states, and what paths are made of: whoever wrote it, they are written to."""
    yield from record["outputs"]
    waiting: list[Any] = [record["result"]]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield from (value[key] for key in _OF_PATHS if value.get(key) is not None)
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def digest(content: Any) -> str:
    """Return a SHA-256 of JSON-like content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def code_version() -> str:
    """Return a digest of the package's own sources: a changed program does not trust old results.

    What only shows results (the command line, the page) does not count.
    """
    root = Path(torchshrink.__file__).parent
    files = sorted(path for path in root.rglob("*.py") if not {"cli", "html"} & set(path.relative_to(root).parts))
    return digest([torchshrink.__version__, [[path.name, sha256(path)] for path in files]])

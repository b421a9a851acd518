"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchshrink.errors import OutputError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path`` and rename it to ``path`` when the block ends well.

    On any error, an interruption included, the temporary file goes and ``path`` stays as it was. The temporary name
    has the same ending, because many writers choose their format by it.

    Raises:
        OutputError: When the disk is full or the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)  # less what the umask takes away
        mode = os.fstat(handle).st_mode
        os.close(handle)
    except OSError as error:
        raise _output_error(path, error) from error
    try:
        yield temporary
        temporary.chmod(mode)  # some writers replace the file
        temporary.replace(path)
    except OSError as error:
        # An error about another file, read inside the block, is not about this one.
        if error.filename in (None, str(temporary), str(path)):
            raise _output_error(path, error) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_inside(folder: Path, name: Any) -> bool:
    """Return whether a name that a file states leads into a folder: no absolute path, no ``..``, no link out of it."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = Path(name)
    is_plain = not path.is_absolute() and ".." not in path.parts
    return is_plain and (folder / path).resolve().is_relative_to(folder.resolve())


def link_out(folder: Path) -> Path | None:
    """Return a link in a folder, or in one below it, that leads out of it; None when there is none."""
    root = folder.resolve()
    for place, folders, names in os.walk(root):
        for path in (Path(place, name) for name in (*folders, *names)):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                return path
    return None


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _output_error(path: Path, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(f"no space left on the disk of {path}: free some, then run the same command again")
    return OutputError(f"cannot write {path}: {error.strerror or error}")

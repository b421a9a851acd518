"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchshrink.errors import OutputError

LARGEST_TEXT = 256 * 2**20  # bytes of a recipe, a report or another file that is read as a whole
_TEMPORARY = re.compile(r"\..+-[0-9a-f]{8}(\.\w+)?")  # what `atomic` writes to


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


def is_temporary(path: Path) -> bool:
    """Return whether a name is one that `atomic` gives: a process that was killed leaves such files behind."""
    return _TEMPORARY.fullmatch(path.name) is not None


def read(path: Path, most: int = LARGEST_TEXT) -> bytes:
    """Return the content of a regular file: a pipe would have to be waited for, and a device has no end.

    Raises:
        OSError: When it is something else, cannot be read, or has more than ``most`` bytes.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        if status.st_size > most:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes, at most {most} are read", str(path))
        return file.read()


@contextmanager
def locked(path: Path, what: Path) -> Iterator[None]:
    """Let one process at a time use ``what``; ``path`` is a file that is made for that and stays.

    The lock goes with the process, however that ends.

    Raises:
        OutputError: When another process uses it, or the file cannot be made.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise _output_error(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{what} is in use by another process: wait until it is done, or choose another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def real(path: Path) -> Path:
    """Return an absolute path without links; one that leads to itself stays (`Path.resolve` raises RuntimeError)."""
    return Path(os.path.realpath(path))


def is_inside(folder: Path, name: Any) -> bool:
    """Return whether a name that a file states leads into a folder: no absolute path, no ``..``, no link out of it."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    path = Path(name)
    is_plain = not path.is_absolute() and ".." not in path.parts
    return is_plain and real(folder / path).is_relative_to(real(folder))


def link_out(folder: Path) -> Path | None:
    """Return a link in a folder, or in one below it, that leads out of it; None when there is none."""
    root = real(folder)
    for place, folders, names in os.walk(root):
        for path in (Path(place, name) for name in (*folders, *names)):
            if path.is_symlink() and not real(path).is_relative_to(root):
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

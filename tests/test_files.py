"""Atomic writing: a reader sees the old file or the new one, never half of one."""

import errno
import hashlib
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from torchshrink.errors import OutputError, ShrinkError
from torchshrink.files import atomic, is_inside, link_out, sha256


@contextmanager
def disk_of(limit_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a limit, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("old", [None, "old"])
def test_content_arrives(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "new" / "folder" / "model.onnx"
    if old is not None:
        path.parent.mkdir(parents=True)
        path.write_text(old)
    with atomic(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".onnx"
        assert temporary != path
        temporary.write_text("content")
        assert (path.read_text() if path.exists() else None) == old
    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_an_error_inside_leaves_everything_as_it_was(
    tmp_path: Path, error: type[BaseException], old: str | None
) -> None:
    path = tmp_path / "report.json"
    if old is not None:
        path.write_text(old)

    def write() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of")
            raise error

    with pytest.raises(error):
        write()
    assert [(item.name, item.read_text()) for item in tmp_path.iterdir()] == ([] if old is None else [(path.name, old)])


@pytest.mark.parametrize("where", ["write", "replace"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    if where == "replace":
        monkeypatch.setattr(os, "replace", no_space)
    else:
        monkeypatch.setattr(Path, "write_bytes", no_space)
    expected = r"no space left on the disk of .*report\.json: free some"
    with pytest.raises(OutputError, match=expected) as caught, atomic(path) as temporary:
        temporary.write_bytes(b"new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    assert isinstance(caught.value, ShrinkError)
    assert caught.value.exit_code == 3


def test_a_file_that_cannot_grow(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    expected = r"cannot write .*weights\.bin: File too large"
    with pytest.raises(OutputError, match=expected), disk_of(100), atomic(path) as temporary:
        temporary.write_bytes(bytes(1000))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"), atomic(tmp_path / "out" / "report.json"):
        pytest.fail("must not get here")


def test_a_target_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "report.json").mkdir()
    with pytest.raises(OutputError, match="cannot write"), atomic(tmp_path / "report.json") as temporary:
        temporary.write_text("content")
    assert [item.name for item in tmp_path.iterdir()] == ["report.json"]


def test_a_reader_before_the_end_sees_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader, atomic(path) as temporary:
        temporary.write_text("new")
        assert reader.read() == "old"


def test_errors_of_others_keep_their_name(tmp_path: Path) -> None:
    """A source that cannot be read inside the block is not an output that cannot be written."""
    with pytest.raises(Exception, match="absent"), atomic(tmp_path / "copy.txt") as temporary:
        temporary.write_bytes((tmp_path / "absent.txt").read_bytes())


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 7])
def test_sha256(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_the_umask_is_respected(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "model.onnx"
    before = os.umask(umask)
    try:
        with atomic(path) as temporary:
            assert temporary.stat().st_mode & 0o777 == 0o666 & ~umask  # nobody reads along before the end either
            temporary.unlink()
            temporary.write_text("by a writer that makes its own file")
            temporary.chmod(0o600)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_names_inside_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "files").mkdir(parents=True)
    (folder / "inner").symlink_to(folder / "files")
    assert all(is_inside(folder, name) for name in ("a", "files/a.onnx", "inner/a", "./a"))
    assert link_out(folder) is None
    for index, target in enumerate((tmp_path, tmp_path / "absent", "/etc/hostname")):
        link = folder / "files" / f"outer{index}"
        link.symlink_to(target)
        assert not is_inside(folder, f"files/{link.name}")
        assert link_out(folder) == link
        link.unlink()

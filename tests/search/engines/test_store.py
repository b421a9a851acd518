"""Files of candidates in a store: copied whole or not at all, and never trusted when damaged."""

import json
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from torchshrink.errors import MissingExtraError, OutputError
from torchshrink.search.engines.store import Mirror, MirroredSteps, Store

fsspec = pytest.importorskip("fsspec", reason="the extra 'ray' is not installed")


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(f"file://{tmp_path / 'store'}" if request.param == "file" else f"memory://{uuid.uuid4().hex}")


class Work:
    """Writes a file and counts its calls."""

    def __init__(self, out: Path, content: str) -> None:
        self.out, self.content, self.calls = out, content, 0

    def __call__(self) -> tuple[dict[str, Any], Sequence[Path]]:
        self.calls += 1
        path = self.out / "models" / "slim.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.content)
        return {"loss": 0.25}, [path]


def elsewhere(store: Store, folder: Path) -> MirroredSteps:
    """The same candidate on a machine that has nothing of it."""
    folder.mkdir()
    mirror = Mirror(store, "search/0003", folder)
    mirror.pull()
    return MirroredSteps(folder, mirror)


def test_files_come_back_as_they_were(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "a.bin"
    source.write_bytes(bytes(range(256)))
    store.put(source, "search/inputs/a.bin")
    assert store.names("search/inputs") == ["a.bin"]
    assert store.size("search/inputs/a.bin") == 256
    assert store.get("search/inputs/a.bin", tmp_path / "new" / "b.bin")
    assert (tmp_path / "new" / "b.bin").read_bytes() == bytes(range(256))


def test_a_file_is_replaced(store: Store, tmp_path: Path) -> None:
    for content in ("old", "new!"):
        (tmp_path / "a").write_text(content)
        store.put(tmp_path / "a", "a")
    store.get("a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "new!"


def test_what_is_not_there(store: Store, tmp_path: Path) -> None:
    assert not store.get("nothing", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    assert store.size("nothing") is None
    assert store.names("nothing") == []
    store.remove("nothing")


def test_a_folder_is_removed_whole(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    store.put(tmp_path / "a", "gone/deeper/a")
    store.put(tmp_path / "a", "kept/a")
    store.remove("gone")
    assert store.size("gone/deeper/a") is None
    assert store.size("kept/a") == 1


def test_an_interrupted_copy_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    (tmp_path / "a").write_text("whole")

    def half(source: str, target: str) -> None:
        Path(target).write_text("wh")
        raise OSError("connection lost")

    monkeypatch.setattr(store._files, "put_file", half)
    with pytest.raises(OutputError, match=r"cannot write x/a: connection lost"):
        store.put(tmp_path / "a", "x/a")
    assert list((tmp_path / "store" / "x").iterdir()) == []


def test_a_finished_step_is_not_done_again_elsewhere(store: Store, tmp_path: Path) -> None:
    first = Work(tmp_path / "one", "weights")
    elsewhere(store, first.out).run("make:slim", 1, first)
    second = Work(tmp_path / "two", "other weights")
    result, _, was_done = elsewhere(store, second.out).run("make:slim", 1, second)
    assert was_done
    assert second.calls == 0
    assert result == {"loss": 0.25}
    assert (second.out / "models" / "slim.safetensors").read_text() == "weights"


@pytest.mark.parametrize("damaged", ["models/slim.safetensors", ".steps/make.slim.json"])
@pytest.mark.parametrize("content", ["", '{"key": "x", "outputs"', None])
def test_a_damaged_step_is_done_again(tmp_path: Path, damaged: str, content: str | None) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    first = Work(tmp_path / "one", "weights")
    elsewhere(store, first.out).run("make:slim", 1, first)
    path = tmp_path / "store" / "search" / "0003" / damaged
    path.unlink()
    if content is not None:
        path.write_text(content)
    second = Work(tmp_path / "two", "weights")
    assert not elsewhere(store, second.out).run("make:slim", 1, second)[2]
    assert second.calls == 1
    third = Work(tmp_path / "three", "weights")
    assert elsewhere(store, third.out).run("make:slim", 1, third)[2]


def test_files_come_before_the_record_that_vouches_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    written: list[str] = []
    put = Store.put

    def noted(self: Store, source: Path, name: str) -> None:
        written.append(name)
        put(self, source, name)

    monkeypatch.setattr(Store, "put", noted)
    work = Work(tmp_path / "one", "weights")
    steps = elsewhere(store, work.out)
    steps.run("make:slim", 1, work)
    assert written == ["search/0003/models/slim.safetensors", "search/0003/.steps/make.slim.json"]
    steps.run("make:slim", 1, work)
    assert len(written) == 2  # nothing changed


def test_a_step_that_could_not_be_copied_is_copied_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    work = Work(tmp_path / "one", "weights")
    steps = elsewhere(store, work.out)
    with monkeypatch.context() as patched:
        patched.setattr(store._files, "put_file", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
        steps.run("make:slim", 1, work)
        with pytest.raises(OutputError, match="no route to host"):
            steps._mirror.push()
    assert store.names("search/0003/.steps") == []
    steps.run("other", 1, lambda: ({}, []))
    assert store.names("search/0003/.steps") == ["make.slim.json", "other.json"]


def test_a_record_cannot_name_files_outside(tmp_path: Path) -> None:
    store = Store(f"file://{tmp_path / 'store'}")
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"key": "", "outputs": {"../outside": ""}, "result": {}, "stamp": ""}))
    store.put(record, "search/0003/.steps/bad.json")
    store.put(record, "search/outside")
    elsewhere(store, tmp_path / "one")
    assert not (tmp_path / "outside").exists()


def test_a_relative_folder_is_the_same_for_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Store("shared/artefacts").url == f"file://{tmp_path}/shared/artefacts"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nonsense://me:secret@host/x", r"the artefact store nonsense://me@host/x cannot be used: Protocol not known"),
    ],
)
def test_a_store_that_cannot_be_used(url: str, expected: str) -> None:
    with pytest.raises(OutputError, match=expected):
        Store(url)


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torchshrink\[ray\]'"):
        Store("file:///tmp")


def test_a_missing_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"another package: .*s3fs"):
        Store("s3://bucket/prefix")

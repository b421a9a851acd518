"""The files of candidates where every machine reaches them: a folder or a bucket, whatever fsspec opens."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchshrink.errors import MissingExtraError, OutputError
from torchshrink.files import real, sha256
from torchshrink.harmless import without_passwords
from torchshrink.pipeline.steps import FOLDER, Result, Steps, Work

# Where a file appears only when it is complete; elsewhere it is written under another name and then renamed.
_APPEARS_WHOLE = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"}


class Store:
    """Files under one URL, by their names.

    Settings of a backend, such as the endpoint of an S3 server, come from fsspec's own configuration
    (``FSSPEC_S3_ENDPOINT_URL``), logins from the backend's usual places.

    Args:
        url: ``file:///shared/folder``, ``s3://bucket/prefix``, or any other that fsspec knows.

    Raises:
        MissingExtraError: When fsspec, or the package that it needs for this URL, is not installed.
        OutputError: When the URL cannot be used.
    """

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise MissingExtraError("fsspec is not installed: pip install 'torchshrink[ray]'") from error
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            scheme = url.partition(":")[0]
            raise MissingExtraError(f"the artefact store {scheme}://... needs another package: {error}") from error
        except Exception as error:  # of any backend
            raise OutputError(
                f"the artefact store {without_passwords(url)} cannot be used: {_reason(error)}"
            ) from error
        protocols = self._files.protocol
        self._protocols = {protocols} if isinstance(protocols, str) else set(protocols)
        # A relative path means another folder on every machine.
        self.url = self._files.unstrip_protocol(self._root) if "file" in self._protocols else url
        self.name = without_passwords(self._files.unstrip_protocol(self._root))

    def put(self, source: Path, name: str) -> None:
        """Write a file; who reads it at the same time gets the old one or the new one.

        Raises:
            OutputError: When it cannot be written.
        """
        path = f"{self._root}/{name}"
        with self._errors(f"cannot write {name}"):
            if self._protocols & _APPEARS_WHOLE:
                self._files.put_file(str(source), path)
                return
            folder, _, last = path.rpartition("/")
            temporary = f"{folder}/.{last}-{uuid.uuid4().hex}"
            self._files.makedirs(folder, exist_ok=True)
            try:
                self._files.put_file(str(source), temporary)
                self._files.mv(temporary, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._files.rm_file(temporary)
                raise

    def get(self, name: str, target: Path) -> bool:
        """Copy a file to ``target``; return whether there is one.

        Raises:
            OutputError: When it cannot be read.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._errors(f"cannot read {name}"):
            try:
                self._files.get_file(f"{self._root}/{name}", str(target))
            except FileNotFoundError:
                target.unlink(missing_ok=True)  # some backends have opened it by then
                return False
            return True

    def size(self, name: str) -> int | None:
        """Return the bytes of a file; None when there is none."""
        with self._errors(f"cannot look for {name}"):
            self._files.invalidate_cache()
            try:
                return int(self._files.size(f"{self._root}/{name}"))
            except FileNotFoundError:
                return None

    def names(self, folder: str) -> list[str]:
        """Return the last names of what lies in a folder, without what is being written; none when there is none."""
        with self._errors(f"cannot look into {folder}"):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
            names = [str(path).rstrip("/").rpartition("/")[2] for path in found]
            return sorted(name for name in names if not name.startswith("."))

    def remove(self, folder: str) -> None:
        """Remove a folder with everything in it, when there is one."""
        path = f"{self._root}/{folder}"
        with self._errors(f"cannot remove {folder}"):
            self._files.invalidate_cache()
            if self._files.exists(path):
                self._files.rm(path, recursive=True)

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any backend
            raise OutputError(f"the artefact store {self.name}: {what}: {_reason(error)}") from error


class Mirror:
    """The finished steps of one candidate: a local folder and its copy in a store.

    Args:
        store: Where the copy is.
        name: Of the candidate's folder in it.
        folder: The local one.
    """

    def __init__(self, store: Store, name: str, folder: Path) -> None:
        self._store, self._name, self._folder = store, name, folder
        self._records: dict[str, str] = {}  # what the store holds: the text of each record
        self._outputs: dict[str, str] = {}  # and the SHA-256 of each file

    def pull(self) -> None:
        """Copy every step that the store holds; what is damaged there is left out or recognised by `Steps`.

        Raises:
            OutputError: When the store cannot be read.
        """
        for name in self._store.names(f"{self._name}/{FOLDER}"):
            path = self._folder / FOLDER / name
            if not self._store.get(f"{self._name}/{FOLDER}/{name}", path):
                continue
            text = path.read_text(errors="replace")
            for output, expected in _outputs(text).items():
                target = self._folder / output
                is_inside = real(target).is_relative_to(real(self._folder))
                if is_inside and self._store.get(f"{self._name}/{output}", target) and sha256(target) == expected:
                    self._outputs[output] = expected
            if all(self._outputs.get(output) == expected for output, expected in _outputs(text).items()):
                self._records[name] = text  # else it is copied anew when it is done anew

    def push(self) -> None:
        """Copy every step that the store does not hold: its files first, and then the record that vouches for them.

        Raises:
            OutputError: When the store cannot be written.
        """
        for record in sorted((self._folder / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            text = record.read_text()
            if record.name.startswith(".") or self._records.get(record.name) == text:
                continue
            for output, content in _outputs(text).items():
                path = self._folder / output
                # A check removes the files that fail it, after the step that wrote them.
                if self._outputs.get(output) != content and path.is_file():
                    self._store.put(path, f"{self._name}/{output}")
                    self._outputs[output] = content
            self._store.put(record, f"{self._name}/{FOLDER}/{record.name}")
            self._records[record.name] = text


class MirroredSteps(Steps):
    """Steps that are copied to a store as soon as they are finished, so that another machine can go on after each."""

    def __init__(self, out: Path, mirror: Mirror) -> None:
        super().__init__(out)
        self._mirror = mirror

    def run(self, name: str, inputs: Any, work: Work) -> tuple[Result, str, bool]:
        """Do a step, or take it as done, and copy it."""
        found = super().run(name, inputs, work)
        with contextlib.suppress(OutputError):  # the next step's copy makes up for it, and the last one must succeed
            self._mirror.push()
        return found


def _outputs(text: str) -> dict[str, str]:
    """Return the files of a step's record with their SHA-256; none of a damaged record."""
    try:
        content = json.loads(text)
        return {str(name): str(value) for name, value in content["outputs"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _reason(error: Exception) -> str:
    return without_passwords(" ".join(str(error).split()))[:300] or type(error).__name__

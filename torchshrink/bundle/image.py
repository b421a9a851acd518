"""The image of a bundle: its Dockerfile, and its size: built where a container engine runs, else computed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import NamedTuple

from torchshrink.bundle import check, packages
from torchshrink.errors import MissingExtraError
from torchshrink.files import read

BASE = "python:3.13-slim-bookworm"
BASE_BYTES = 125_000_000  # rounded from what its publisher's `docker images` shows; not measured by this program
_ENGINES = ("docker", "podman")


class Size(NamedTuple):
    """Bytes of an image, and how they were found."""

    bytes: int
    how: str

    def __str__(self) -> str:
        return f"{self.bytes / 1e6:.0f} MB ({self.how})"


def dockerfile(wanted: list[str], with_server: bool) -> str:
    """Return the text of the Dockerfile; nothing but what requirements.txt names is installed."""
    hashes = "--require-hashes " if wanted and all("--hash=" in line for line in wanted) else ""
    install = [
        "COPY requirements.txt .",
        f"RUN pip install --no-cache-dir --no-deps {hashes}-r requirements.txt && pip uninstall -qy pip",
    ]
    entry = '["python", "server.py", "--host", "0.0.0.0"]' if with_server else '["python", "run.py"]'
    lines = [
        f"FROM {BASE}",
        "WORKDIR /model",
        *(install if wanted else []),
        "COPY . .",
        "RUN python -I selftest.py",
        "USER nobody",
        *(["EXPOSE 8000"] if with_server else []),
        f"ENTRYPOINT {entry}",
    ]
    return "\n".join(lines) + "\n"


def size(folder: Path) -> Size:
    """Return how large the image of a bundle is; what we did not write is not built."""
    return (_built(folder) if _is_ours(folder) else None) or computed(folder)


def _is_ours(folder: Path) -> bool:
    wanted, has_server = _lines(folder), (folder / "server.py").is_file()
    runtime = check.check_code(folder)
    try:
        known = [packages.requirements(runtime, with_pillow, has_server) for with_pillow in (False, True)]
    except (PackageNotFoundError, MissingExtraError, KeyError):
        return False
    return wanted in known and _lines(folder, "Dockerfile") == dockerfile(wanted, has_server).splitlines()


def _lines(folder: Path, name: str = "requirements.txt") -> list[str]:
    """Return the lines of a file; none of one that is missing or damaged, which the self-test says."""
    try:
        return read(folder / name).decode().splitlines()
    except (OSError, ValueError):
        return []


def computed(folder: Path) -> Size:
    """Return the size from the bytes of the base, of the packages and of the folder."""
    installed = packages.installed_bytes([line for line in _lines(folder) if line and not line.startswith("#")])
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and "lib" not in path.parts)
    total = BASE_BYTES + installed + own
    how = f"computed: base {BASE_BYTES / 1e6:.0f}, packages {installed / 1e6:.1f}, this folder {own / 1e6:.1f} MB"
    return Size(total, how)


def _built(folder: Path) -> Size | None:
    """Build the image and ask for its size; None where no engine answers or the base cannot be had."""
    for engine in _ENGINES:
        if shutil.which(engine) is None:
            continue
        with tempfile.TemporaryDirectory(prefix="torchshrink-") as place:
            mark = Path(place, "id")
            try:
                if subprocess.run([engine, "info"], capture_output=True, timeout=20, check=False).returncode:
                    continue
                build = [engine, "build", "--quiet", "--iidfile", str(mark), str(folder)]
                if subprocess.run(build, capture_output=True, timeout=900, check=False).returncode:
                    continue
                ask = [engine, "image", "inspect", "--format", "{{.Size}}", mark.read_text().strip()]
                return Size(int(subprocess.check_output(ask, timeout=60)), f"built with {engine}")
            except (subprocess.SubprocessError, OSError, ValueError):
                continue
    return None

"""Servers on this machine for the tests and scripts of a search on many machines: PostgreSQL, and nodes of Ray.

Nothing is left behind: processes are killed with their groups, folders removed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_START_S = 240
_ATTEMPTS = 3
_DATABASE = "torchshrink"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def postgres_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs; None when it is not installed."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)  # where Debian has them, off the path
    if found := shutil.which("initdb"):
        folders.append(Path(found).resolve().parent)
    needed = ("initdb", "postgres", "pg_isready", "createdb")
    return next((folder for folder in folders if all((folder / name).is_file() for name in needed)), None)


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Start a PostgreSQL server with an empty database and yield the URL of a store in it."""
    programs = postgres_programs()
    assert programs is not None, "PostgreSQL is not installed"
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = {}
    if os.geteuid() == 0:  # it refuses to run as root
        user = {"user": "nobody", "group": "nogroup"}
        shutil.chown(folder, "nobody", "nogroup")
    port, data = free_port(), folder / "data"
    login = ["-h", "127.0.0.1", "-p", str(port), "-U", "postgres"]
    try:
        initialize = [programs / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"]
        subprocess.run(initialize, check=True, capture_output=True, cwd=folder, timeout=_START_S, **user)
        serve = [programs / "postgres", "-D", data, "-p", str(port), "-k", folder, "-c", "listen_addresses=127.0.0.1"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(serve, stdout=log, stderr=log, cwd=folder, start_new_session=True, **user)
        try:
            _until(lambda: subprocess.run([programs / "pg_isready", *login], capture_output=True).returncode == 0)
            subprocess.run([programs / "createdb", *login, _DATABASE], check=True, capture_output=True)
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/{_DATABASE}"
        finally:
            server.send_signal(signal.SIGINT)  # ends its connections, then itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=20)
            _kill(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def token() -> dict[str, str]:
    """Return what keeps others on this machine out of a cluster, for the environment; Ray reads it when imported."""
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class RayNodes:
    """Nodes of one Ray cluster, each with a single CPU, as if they were machines; `token` must be in the environment.

    Attributes:
        address: ``HOST:PORT`` of the head.
    """

    def __init__(self, count: int) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # paths of sockets must be short
        self._nodes: list[subprocess.Popen[bytes]] = []
        try:
            for _ in range(count):
                self.start()
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Add a node; the first is the head."""
        port = self.address.rpartition(":")[2]
        role = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self._folder}"]
        if self._nodes:
            role = [f"--address={self.address}"]
        index = len(self._nodes)
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *role, "--num-cpus=1", "--block"]
        command += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"]
        for attempt in range(_ATTEMPTS):  # Ray gives itself half a minute, which is not enough on a busy machine
            path = self._folder / f"node-{index}-{attempt}.log"
            with path.open("wb") as log:
                node = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            self._nodes.append(node)
            if _comes_up(node, path):
                return
            _kill(self._nodes.pop())
        raise RuntimeError(f"Ray did not start: {path.read_text()[-2000:]}")

    def kill(self, index: int) -> None:
        """Kill everything that runs on a node at once, as a power failure would."""
        _kill(self._nodes[index])

    def workers(self, title: str) -> list[int]:
        """Return the processes on all nodes that do what has this title."""
        nodes = {node.pid for node in self._nodes}
        return [
            pid for pid, session, command in _processes() if session in nodes and command.startswith(f"ray::{title}")
        ]

    def node_of(self, pid: int) -> int:
        """Return the node that a process runs on."""
        return [node.pid for node in self._nodes].index(os.getsid(pid))

    def close(self) -> None:
        for node in self._nodes[::-1]:
            _kill(node)
        shutil.rmtree(self._folder, ignore_errors=True)


@contextlib.contextmanager
def ray_nodes(count: int = 2) -> Iterator[RayNodes]:
    """Start a cluster on this machine."""
    nodes = RayNodes(count)
    try:
        yield nodes
    finally:
        nodes.close()


def _comes_up(node: subprocess.Popen[bytes], log: Path) -> bool:
    with contextlib.suppress(TimeoutError):
        _until(lambda: node.poll() is not None or b"Ray runtime started" in log.read_bytes())
    return node.poll() is None and b"Ray runtime started" in log.read_bytes()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with everything in its session: Ray gives each worker a group of its own."""

    def members() -> list[int]:
        return [pid for pid, session, _ in _processes() if session == process.pid]

    def is_gone() -> bool:
        for pid in members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not members()

    _until(is_gone)
    process.wait(timeout=_START_S)


def _until(is_true: object, seconds: float = _START_S) -> None:
    assert callable(is_true)
    end = time.monotonic() + seconds
    while not is_true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.1)


def _processes() -> Iterator[tuple[int, int, str]]:
    """Yield the id, the session and the command line of every process that is not dead."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if state != "Z":
                    command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    yield int(folder.name), int(session), command

"""Where the rungs of candidates are computed: an interface, and worker processes on this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from torchshrink.errors import ShrinkError
from torchshrink.pipeline.steps import Steps
from torchshrink.search.engines.work import MakeBridge, Request, do

_TURNS = "GOMP_SPINCOUNT"


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        number: Of the candidate.
        result: What `torchshrink.search.engines.work.do` returned; None when it failed.
        error: Why it failed, in a sentence.
        is_lost: Whether the worker died, so that another may go on with the candidate.
    """

    number: int
    result: dict[str, Any] | None = None
    error: str | None = None
    is_lost: bool = False


class Engine(Protocol):
    """Computes requests, several at once."""

    @property
    def slots(self) -> int:
        """Return how many requests it computes at once."""

    def submit(self, request: Request) -> None:
        """Begin with a request; at most ``slots`` are under way."""

    def wait(self, seconds: float) -> list[Outcome]:
        """Return what has finished, after at most so many seconds."""

    def close(self) -> None:
        """Stop everything that is under way."""


class Local:
    """One process for each request, so that what kills one touches nothing else.

    Args:
        make_bridge: Called in the process.
        workers: How many at once.
    """

    def __init__(self, make_bridge: MakeBridge, workers: int = 1) -> None:
        self.slots = workers
        self._make_bridge = make_bridge
        self._threads = max(1, _processors() // workers)
        # A fork server imports PyTorch once, for all processes that follow; elsewhere than on Linux it is not safe.
        self._context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self._context.set_forkserver_preload(["torchshrink.search.engines.work", "accelerate", "torchao"])
        self._running: dict[Connection, tuple[int, Any, Any]] = {}

    def submit(self, request: Request) -> None:
        """Start a process."""
        request.folder.mkdir(parents=True, exist_ok=True)
        receiver, sender = self._context.Pipe(duplex=False)
        alive, held = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_work, args=(request, self._make_bridge, sender, alive, self._threads), daemon=False
        )
        with _patient_threads():
            process.start()
        sender.close()
        alive.close()
        self._running[receiver] = (request.number, process, held)

    def wait(self, seconds: float) -> list[Outcome]:
        """Return what has finished, after at most so many seconds."""
        if not self._running:
            return []
        outcomes = []
        for receiver in wait(list(self._running), timeout=seconds):
            assert isinstance(receiver, Connection)
            number, process, held = self._running.pop(receiver)
            try:
                outcomes.append(Outcome(number, *receiver.recv()))
            except EOFError:
                process.join()
                code = process.exitcode
                how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
                outcomes.append(Outcome(number, error=f"the worker died ({how})", is_lost=True))
            process.join()
            receiver.close()
            held.close()
        return outcomes

    def close(self) -> None:
        """Kill every process, with the ones that it started."""
        for receiver, (_, process, held) in self._running.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join(timeout=5)
            receiver.close()
            held.close()
        self._running.clear()


@contextlib.contextmanager
def _patient_threads() -> Iterator[None]:
    """Let threads of processes that are started wait asleep before long, unless the user said how.

    On two busy cores, threads of libgomp that spin until the other has done its part took twice the processor time of
    the same training, which a search would be charged; on idle ones, this many turns cost nothing.
    """
    is_set = any(name in os.environ for name in (_TURNS, "OMP_WAIT_POLICY"))
    if not is_set:
        os.environ[_TURNS] = "10000"
    try:
        yield
    finally:
        if not is_set:
            del os.environ[_TURNS]


def _processors() -> int:
    """Return how many processors this process may use, which is less than there are when it is pinned."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(request: Request, make_bridge: MakeBridge, sender: Any, alive: Any, threads: int) -> None:
    """Compute a request and send ``(result, error)``."""
    import torch

    with contextlib.suppress(OSError):
        os.setsid()  # a group of its own, which can be killed as a whole
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the search itself decides what an interruption ends
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    torch.set_num_threads(threads)
    with (request.folder / "log.txt").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        sender.send(attempt(request, make_bridge))
    sender.close()


def attempt(
    request: Request, make_bridge: MakeBridge, steps: Steps | None = None
) -> tuple[dict[str, Any] | None, str | None]:
    """Return what `do` returns and no error, or nothing and the error in a sentence."""
    try:
        return do(request, make_bridge, steps=steps), None
    except ShrinkError as error:
        return None, str(error)
    except Exception as error:  # a candidate that breaks must not end the search
        traceback.print_exc()
        return None, f"{type(error).__name__}: {error}"


def _end_with_parent(alive: Any) -> None:
    """End this process, and what it started, when the search that holds the pipe's other end is gone."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv()
    os.killpg(0, signal.SIGKILL)

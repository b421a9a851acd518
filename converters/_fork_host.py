"""Run scripts in forks of a Python that has imported what takes them seconds. Run as a script; `prepared.py` starts it.

Usage: ``python _fork_host.py MODULE...``: imports the modules, then reads orders from stdin, a line of JSON each:
``{"argv": [SCRIPT, ...], "folder": where it works, "environment": {...}, "log": the file for all that it prints}``. It
answers each with a line: the exit status, negative for a signal. It ends when stdin does, also in the middle of a
script, or when nothing is asked for as long as `IDLE_S`, and no script outlives it.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, NoReturn

IDLE_S = 120.0


def main() -> None:
    """Answer orders until there are no more."""
    replies = os.dup(1)
    os.dup2(2, 1)  # what imports print is no answer
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # forks share what they do not touch
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks is interrupted too, and then closes stdin
    while select.select([0], [], [], IDLE_S)[0] and (line := sys.stdin.readline()):
        os.write(replies, f"{_fork(json.loads(line))}\n".encode())


def _fork(order: Mapping[str, Any]) -> int:
    """Run a script in a fork and return its status; when stdin ends first, end and take the script along."""
    ours, theirs = socket.socketpair()  # each end closes when the process that holds it dies
    process = os.fork()
    if process == 0:
        ours.close()
        _become(order, theirs)
    theirs.close()
    with ours:
        if ours.fileno() not in select.select([0, ours.fileno()], [], [])[0]:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _become(order: Mapping[str, Any], host: socket.socket) -> NoReturn:
    """Be the process of a script, for as long as the host lives."""
    threading.Thread(target=_end_with, args=(host,), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for file, mode, copies in (
        (os.devnull, os.O_RDONLY, [0]),
        (order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, [1, 2]),
    ):
        opened = os.open(file, mode, 0o600)
        for each in copies:
            os.dup2(opened, each)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = order["argv"]
    status = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end_with(host: socket.socket) -> None:
    host.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()

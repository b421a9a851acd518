"""Start the server of this folder and load it: python load_test.py [REQUESTS] [CLIENTS]; prints JSON.

Every client sends the recorded input again and again over a connection of its own; refusals (503) are sent again. It
ends with 1 when an answer is lost or differs from the first.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
TYPE = {"Content-Type": "application/x-npy"}


def main(requests: int = 1000, clients: int = 8) -> int:
    """Print what was found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, os.path.join(HERE, "server.py"), "--port", str(port)])
    try:
        wait(port)
        found = load(port, requests, clients)
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(found))
    return 0 if found["lost"] == found["different"] == 0 else 1


def load(port: int, requests: int, clients: int) -> dict[str, Any]:
    """Return what ``clients`` at once saw."""
    with open(os.path.join(HERE, "selftest", "input.npy"), "rb") as file:
        body = file.read()
    first = ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), body)[1]
    for _ in range(20):  # what grows at first, such as pools of memory, is not what a leak is
        ask(http.client.HTTPConnection("127.0.0.1", port, timeout=60), body)
    before, seconds, refused, wrong, left = memory(port), [], [0], [0], list(range(requests))

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            try:
                left.pop()
            except IndexError:
                return
            began = time.perf_counter()
            status, answer = ask(connection, body)
            while status == 503:
                refused[0] += 1
                time.sleep(0.02)
                status, answer = ask(connection, body)
            seconds.append(time.perf_counter() - began)
            wrong[0] += answer != first

    began = time.perf_counter()
    workers = [threading.Thread(target=work) for _ in range(clients)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    spent, ordered = time.perf_counter() - began, sorted(seconds)
    return {
        "requests": requests,
        "clients": clients,
        "lost": requests - len(seconds),
        "different": wrong[0],
        "refused": refused[0],
        "per_second": len(seconds) / spent,
        "median_ms": 1e3 * ordered[len(ordered) // 2],
        "p99_ms": 1e3 * ordered[len(ordered) * 99 // 100],
        "rss_before_mb": before / 1e6,
        "rss_after_mb": memory(port) / 1e6,
    }


def ask(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, bytes]:
    """Send the input once."""
    connection.request("POST", "/predict", body, TYPE)
    response = connection.getresponse()
    return response.status, response.read()


def memory(port: int) -> int:
    """Return the server's resident bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rss_bytes")))


def wait(port: int) -> None:
    """Wait until the server answers."""
    for _ in range(300):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise OSError("the server did not start within 30 s")


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

"""Serve the model of this folder over HTTP: python server.py [--host 127.0.0.1] [--port 8000] [--threads 1].

``POST /predict`` takes a file as its body (``Content-Type: image/png``, ``application/x-npy`` or ``audio/wav``) and
answers with what run.py writes: a PNG, an NPY (always, with ``Accept: application/x-npy``), or JSON. ``GET /health``
and ``GET /metrics`` tell how it is. One inference runs at a time; more than WAITING requests are refused with 503.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import formats  # type: ignore[import-not-found]
import uvicorn
from run import Model, answers  # type: ignore[import-not-found]
from selftest import peak_rss_mb  # type: ignore[import-not-found]
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

MOST_BYTES = 16 * 2**20  # of a request
MOST_VALUES = 64 * 2**20  # of an image or array, unpacked
WAITING = 16  # requests that may wait for their turn
KINDS = {"image/png": "png", "application/x-npy": "npy", "audio/wav": "wav"}
TYPES = {"png": "image/png", "npy": "application/x-npy", "json": "application/json"}


class Service:
    """The model, one inference at a time, and what is counted."""

    def __init__(self, threads: int) -> None:
        self.model = Model(threads=threads)
        formats.most_pixels = MOST_VALUES // 4  # a few bytes can claim gigabytes, twice and not the same
        self.worker = ThreadPoolExecutor(1)
        self.waiting, self.seconds, self.counts = 0, 0.0, {"200": 0, "400": 0, "413": 0, "415": 0, "500": 0, "503": 0}

    async def health(self, _: Request) -> Response:
        """Say that the model is loaded."""
        return JSONResponse({"status": "ok", "model": self.model.spec["file"], "sha256": self.model.spec["sha256"]})

    async def metrics(self, _: Request) -> Response:
        """Return counters as Prometheus reads them."""
        lines = [f'requests_total{{status="{status}"}} {count}' for status, count in self.counts.items()]
        lines += [f"inference_seconds_total {self.seconds}", f"waiting {self.waiting}", f"rss_bytes {resident()}"]
        return PlainTextResponse("\n".join([*lines, f"peak_rss_bytes {(peak_rss_mb() or 0) * 1e6:.0f}"]) + "\n")

    async def predict(self, request: Request) -> Response:
        """Answer one request."""
        response = await self.answer(request)
        self.counts[str(response.status_code)] += 1
        return response

    async def answer(self, request: Request) -> Response:
        """Read the body within its limits, wait for the model's turn, and run it."""
        kind = KINDS.get(request.headers.get("content-type", "").partition(";")[0].strip())
        if kind is None:
            return refusal(415, f"expected Content-Type {', '.join(KINDS)}")
        if self.waiting >= WAITING:
            return refusal(503, "busy: try again", {"Retry-After": "1"})
        self.waiting += 1
        try:
            body = bytearray()
            async for part in request.stream():
                body += part
                if len(body) > MOST_BYTES:
                    return refusal(413, f"more than {MOST_BYTES} bytes")
            wants_array = request.headers.get("accept", "") == TYPES["npy"]
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self.worker, self.run, bytes(body), kind, wants_array)
        except formats.InputError as error:
            return refusal(400, str(error))
        except Exception as error:
            return refusal(500, f"{type(error).__name__}: {error}")
        finally:
            self.waiting -= 1

    def run(self, body: bytes, kind: str, wants_array: bool) -> Response:
        """Return the model's answer; one call at a time."""
        if claimed(body, kind) > MOST_VALUES:
            raise formats.InputError(f"the input claims more than {MOST_VALUES} values")
        began = time.perf_counter()
        samples = formats.read(body, f"input.{kind}", self.model.spec)
        files = answers(self.model, "input.npy" if wants_array else f"input.{kind}", samples)
        if len(files) > 1:  # a mask for each class
            files = answers(self.model, "input.npy", samples)
        self.seconds += time.perf_counter() - began
        ((name, data),) = files.items()
        return Response(data, media_type=TYPES[name.rpartition(".")[2]])


def claimed(body: bytes, kind: str) -> int:
    """Return how many values a PNG says that it holds: a few bytes can claim gigabytes."""
    width, height = int.from_bytes(body[16:20], "big"), int.from_bytes(body[20:24], "big")
    return width * height * 4 if kind == "png" else len(body)


def resident() -> int:
    """Return the bytes of memory that this process holds; only Linux tells."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except OSError:
        return 0


def refusal(status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """Return an error as JSON."""
    return JSONResponse({"error": text}, status, headers)


def application(threads: int = 1) -> Starlette:
    """Return the ASGI application."""
    service: Any = Service(threads)
    routes = [Route("/health", service.health), Route("/metrics", service.metrics)]
    return Starlette(routes=[*routes, Route("/predict", service.predict, methods=["POST"])])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    uvicorn.run(application(given.threads), host=given.host, port=given.port, log_level="warning", backlog=128)

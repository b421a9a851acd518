"""The server of a bundle: what it answers, what it refuses, and that it loses nothing under load."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Ask = Callable[..., tuple[int, str, bytes]]


@pytest.fixture
def served(part: Callable[..., Any], served_gray: Path) -> Any:
    """The module, of a folder whose model is a real one."""
    return part("server", served_gray)


@pytest.fixture
def ask(served: Any) -> Ask:
    """Ask the application by hand, without a network: status, type and body."""
    application = served.application()

    async def talk(method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str, bytes]:
        sent: list[dict[str, Any]] = []
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return parts.pop(0) if parts else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": b"", "root_path": ""}
        await application(scope, receive, send)
        kind = dict(sent[0]["headers"]).get(b"content-type", b"").decode()
        return sent[0]["status"], kind, b"".join(message.get("body", b"") for message in sent[1:])

    def call(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> tuple[int, str, bytes]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(talk(method, path, body, named))

    return call


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def test_an_image_gives_a_mask(ask: Ask) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 37), np.uint8)
    status, kind, body = ask("/predict", png(pixels), content_type="image/png")
    assert (status, kind) == (200, "image/png")
    mask = np.asarray(Image.open(io.BytesIO(body)))
    assert mask.shape == (40, 37)
    assert set(np.unique(mask)) <= {0, 255}
    status, kind, array = ask("/predict", png(pixels), content_type="image/png", accept="application/x-npy")
    assert (status, kind) == (200, "application/x-npy")
    assert np.array_equal(np.load(io.BytesIO(array))[0, 0] * 255, mask)
    assert json.loads(ask("/health", method="GET")[2])["status"] == "ok"
    assert 'requests_total{status="200"} 2' in ask("/metrics", method="GET")[2].decode()


def test_what_is_refused_says_why(ask: Ask, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("/predict", b"x", content_type="text/plain")[0] == 415
    status, _, body = ask("/predict", b"x", content_type="image/png")
    assert status == 400
    assert "cannot be read" in json.loads(body)["error"]
    header = png(np.zeros((4, 4), np.uint8))
    large = header[:16] + (60_000).to_bytes(4, "big") * 2 + header[24:]
    assert b"claims more than" in ask("/predict", large, content_type="image/png")[2]
    monkeypatch.setattr(served, "MOST_BYTES", 10)
    assert ask("/predict", bytes(11), content_type="image/png")[0] == 413
    assert ask("/predict", method="GET")[0] == 405


def test_who_would_wait_too_long_is_told_to_come_again(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One request is computed, one waits, the third is refused; the first two are answered."""
    monkeypatch.setattr(served, "WAITING", 2)
    service, go = served.Service(1), threading.Event()
    monkeypatch.setattr(service, "run", lambda *_: go.wait(10) and served.Response(b"done"))

    class Request:
        headers = {"content-type": "image/png"}  # noqa: RUF012

        async def stream(self) -> Any:
            yield b"x"

    async def three() -> list[int]:
        first, second = (asyncio.create_task(service.predict(Request())) for _ in range(2))
        await asyncio.sleep(0.05)
        third = await service.predict(Request())
        go.set()
        return [(await first).status_code, (await second).status_code, third.status_code]

    assert asyncio.run(three()) == [200, 200, 503]
    assert service.waiting == 0


def test_nothing_is_lost_under_load(served_gray: Path) -> None:
    command = [sys.executable, "-I", str(served_gray / "load_test.py"), "40", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["lost"], found["different"]) == (0, 0, 0)


def test_no_program_of_pillows_and_no_size_that_fills_the_memory(part: Callable[..., Any]) -> None:
    formats = part("formats")
    spec = {"prepared": {}, "channels": 1, "raw": "uint8 / 255"}
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"  # Ghostscript would run it
    with pytest.raises(formats.InputError, match="UnidentifiedImageError"):
        formats.read(script, "a.png", spec)
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, "TIFF")
    formats.most_pixels = 63 * 64
    with pytest.raises(formats.InputError, match="64 x 64 pixels"):
        formats.read(stream.getvalue(), "a.png", spec)

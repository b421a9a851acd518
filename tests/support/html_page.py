"""What tests of the page share: rows made by hand, and a parser that reads a page back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from torchshrink.bench.environment import environment
from torchshrink.report import samples

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
EVIL = "<script>alert(1)</script>&\"'{{ 7*7 }}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Fails on tags that are not closed in their order, and collects what is in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    @property
    def figures(self) -> dict[str, Any]:
        """What each figure draws, by its label."""
        places = [item for item in self.attributes("div") if "data-figure" in item]
        return {item["aria-label"] or "": json.loads(item["data-figure"] or "") for item in places}

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


REST = {  # of a row, which is the same in all of them
    "gzip_bytes": 900, "entropy_bytes": None, "params": 400, "nonzero": 200, "macs": 6400, "matched_ranges": None,
    "keep_float": [], "runtime_rss_mb": 40.0, "model_rss_mb": 10.0,
}  # fmt: skip
TASK = {
    "name": "cells", "train": 8, "validation": 2, "test": 3, "input": [1, 1, 8, 8], "output": [1, 1, 8, 8],
    "loss": "FocalTversky", "seed": 4, "threads": 1, "class_names": ["nucleus"],
    "normalization": {"mean": [1.0], "std": [2.0]},
}  # fmt: skip


def row(variant: str, file: str, size: float, ms: float, loss: float, **values: Any) -> dict[str, Any]:
    format_, precision = file.split("-")[:2]
    parity = {"reference": None if format_ == "torch" else variant, "max_abs": 1e-3, "mean_abs": 1e-4, "passed": True}
    defaults = {
        **REST,
        "name": f"{variant}/{file}",
        "variant": variant,
        "format": format_,
        "precision": precision,
        "path": f"files/{variant}-{file}",
        "bytes": round(size * 1e6),
        "sparsity": 0.5,
        "loss": loss,
        "metrics": {"dice": 0.9, "iou": 0.8},
        "latency_ms": {"median": ms, "p90": 2 * ms, "threads": 1, "runs": 50},
        "peak_rss_mb": 50 + ms,
        "parity": parity | {"lsb_match": 0.995 if precision == "int8" else None},
        "islands": [],
    }
    return defaults | values


def make_rows() -> list[dict[str, Any]]:
    return [
        row("dense", "torch-fp32", 2.0, 20, 0.13, peak_rss_mb=270.0),
        row("dense", "tflite-fp32", 1.9, 12, 0.13),
        row("dense", "tflite-int8", 0.5, 3, 0.132),
        row("pruned", "tflite-fp32-sparse", 0.51, 12, 0.12),
        row("pruned", "tflite-int8-sparse", 0.25, 3.5, 0.135, islands=["Sin x2"]),
        row("pruned", "onnx-int8", 0.52, 5, 0.136),
    ]


def make_content(rows: list[dict[str, Any]]) -> dict[str, Any]:
    task = TASK | {"test": 5, "input": [1, 1, 24, 32], "output": [1, 1, 24, 32]}
    failed = [{"name": "dense/onnx-fp16", "path": None, "reason": "differs by 0.5", "parity": None}]
    layers = {"dense": [layer("conv", 40, 40, 2_500_000)], "pruned": [layer("conv", 40, 9, 2_500_000)]}
    return {"task": task, "environment": environment(), "rows": rows, "layers": layers, "failed": failed}


def layer(name: str, params: int, nonzero: int, macs: int) -> dict[str, Any]:
    return {"name": name, "params": params, "nonzero": nonzero, "macs": macs}


def trial(number: int, state: str = "finished", **values: Any) -> dict[str, Any]:
    finished = {"size": 100_000, "latency": 0.15, "rss": 56.0, "loss_increase": 0.004}
    rungs = [{"epochs": 4, "loss_increase": 0.03}, {"epochs": 8, "loss_increase": 0.02}]
    defaults = {
        "number": number,
        "state": state,
        "settings": {"channels": 0.55, "pattern": "magnitude", "distillation": True},
        "rungs": rungs if state in ("finished", "stopped") else [],
        "size": None,
        "latency": None,
        "rss": None,
        "loss_increase": None,
        "estimated": {"size": 90_000, "macs": 0.2},
        "violations": {},
        "seconds": 61.0,
        "reason": None,
    }
    return defaults | (finished if state == "finished" else {}) | values


def search(**values: Any) -> dict[str, Any]:
    found = [
        trial(0),
        trial(1, "stopped"),
        trial(2, "infeasible", estimated={"size": 180_000, "macs": 0.5}, violations={"size": 0.5}),
        trial(3, size=50_000, latency=0.1, loss_increase=0.008),
        trial(10, "failed", estimated=None, reason="the loss is not finite:\n lower lr", settings={"lr": 0.002}),
    ]
    return {
        "limits": {"size": 120_000, "latency": 0.2, "rss": 60.0, "loss_increase": 0.01},
        "latency_unit": "ratio",
        "objectives": ["size", "loss_increase"],
        "target": "litert",
        "sampler": "tpe",
        "seed": 0,
        "seconds": 1234.5,
        "dense": {"size": 1_937_000, "latency_ms": 12.1, "rss": 64.0, "loss": 0.134},
        "trials": found,
        "front": [0, 3],
        "recommended": 3,
        "nearest": None,
        "binding": None,
        "importance": {"loss_increase": {"lr": 0.2, "channels": 0.8}, "size": {"channels": 1.0}},
        "hypervolume": [[60.5, 0.0], [121.0, 0.31]],
    } | values


def keep(out: Path, rows: list[dict[str, Any]], classes: int, *size: int, count: int = 5) -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((count, classes, *size)) > 0.5
    samples.keep_data(out, generator.random((count, 1, *size)), truth.astype(np.float32))
    for item in rows:
        kind = np.int8 if item["precision"] == "int8" else np.float32
        weights = (40 * generator.standard_normal((64, 8))).astype(kind)
        samples.keep(out, item["name"], generator.random((count, classes, *size)), [weights])


def said(figure: Any) -> list[str]:
    """Return what the points of a figure say, as people read it."""
    texts = [trace.get("hovertext", []) for trace in figure["data"]]
    return [unescape(text) for each in texts for text in ([each] if isinstance(each, str) else each)]


def without_scripts(text: str) -> str:
    return re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def section(text: str, name: str) -> str:
    return text[text.index(f'<section id="{name}">') :].partition("</section>")[0]


PHONE = """
<!DOCTYPE html><html><body><iframe src="page.html" width="360" height="800" style="border: 0"></iframe><script>
window.addEventListener("message", (event) => { document.title = event.data; });
</script></body></html>
"""


def open_page(text: str, folder: Path) -> Any:
    """Open a page as wide as a phone and return what its probe says; ``None`` when it says nothing."""
    (folder / "page.html").write_text(text)
    (folder / "phone.html").write_text(PHONE)
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000"]
    command = [str(CHROMIUM), *options, f"--user-data-dir={folder}/profile", "--dump-dom"]
    command.append((folder / "phone.html").as_uri())
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    titles = Page(done.stdout).texts.get("title")
    return json.loads(titles[0]) if titles else None

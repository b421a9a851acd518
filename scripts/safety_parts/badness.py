"""Good calls of every command, and what is put in the place of one of their words."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

OLD = Path(__file__).resolve().parents[2] / "tests" / "written_by_0_1_0" / "run"
DATA = "synthetic:cells?size=16&train=4&test=2"
RECIPE: dict[str, Any] = {
    "version": 1,
    "data": DATA,
    "seed": 0,
    "model": {"factory": "unet", "arguments": {"widths": [2, 4]}},
    "loss": {"name": "focal_tversky"},
    "variants": {
        "dense": {"train": {"epochs": 0}},
        "slim": {"from": "dense", "channels": {"amount": 0.5, "epochs": 0}},
        "sparse": {"from": "dense", "prune": {"amount": 0.5, "epochs": 0}, "export": False},
    },
    "formats": ["onnx"],
    "precisions": ["fp32"],
    "measure": {"threads": 1, "runs": 5},
}
# By command: its arguments and options, with which it does little and ends well. None of a flag is the flag alone.
GOOD: dict[str, dict[str, str]] = {
    "run": {"recipe": "recipe.yaml", "--out": "OUT"},
    "sweep": {"model_file": "dense.safetensors", "--data": DATA, "--sparsity": "50", "--channels": "", "--epochs": "1"},
    "search": {
        "recipe": "recipe.yaml", "--max-size": "1kB", "--trials": "1", "--target": "onnxruntime", "--out": "OUT",
    },
    "train": {"--data": DATA, "--widths": "2,4", "--epochs": "0", "--out": "OUT.safetensors"},
    "prune": {
        "model_file": "dense.safetensors", "--data": DATA, "--amount": "0.5", "--epochs": "0",
        "--out": "OUT.safetensors",
    },
    "qat": {"model_file": "dense.safetensors", "--data": DATA, "--epochs": "1", "--out": "OUT.safetensors"},
    "ptq": {"model_file": "dense.safetensors", "--data": DATA, "--out": "OUT.safetensors"},
    "student": {
        "model_file": "dense.safetensors", "--data": DATA, "--widths": "2,2", "--epochs": "0",
        "--out": "OUT.safetensors",
    },
    "export": {"model_file": "dense.safetensors", "--out": "OUT.onnx"},
    "convert": {"model_file": "dense.safetensors", "--out": "OUT.tflite"},
    "verify": {"file": "dense.onnx", "--against": "dense.safetensors", "--data": DATA},
    "inspect": {"model_file": "dense.safetensors"},
    "bench": {"files": "dense.onnx", "--runs": "5", "--threads": "1"},
    "compare": {"model_file": "dense.safetensors", "--out": "OUT"},
    "predict": {"file": "dense.onnx", "--data": "images", "--out": "OUT"},
    "bundle": {"file": "dense.onnx", "--out": "OUT"},
    "report": {"folder": "run"},
    "doctor": {},
}  # fmt: skip
_NUMBERS = ("-1", "0", "nan", "inf", "1e999", "-1e999", "99999999999999999999", "0x10", "", " ", "1,5", "text")
_WORDS = (
    "",
    " ",
    "nonsense",
    "\x1b[31mred",
    "../..",
    "a" * 5000,
    "[bold]",
    "module:callable",
    "os:system",
    "\u202e",
)
_OTHERS = (".", "images", "images/a.png", "run", "recipe.yaml", "dense.safetensors", "int8.safetensors", "dense.onnx")


def make(folder: Path) -> None:
    """Write the good files, and the bad ones into ``bad``."""
    from torchshrink.cli.app import app

    def call(*words: str) -> None:
        try:
            app([*words], prog_name="torchshrink")
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{words} ended with {end.code}") from end

    here = os.getcwd()
    os.chdir(folder)
    (folder / "recipe.yaml").write_text(json.dumps(RECIPE))
    call("train", *words({**GOOD["train"], "--out": "dense.safetensors"}))
    call("ptq", *words({**GOOD["ptq"], "--out": "int8.safetensors"}))
    call("export", "dense.safetensors", "--out", "dense.onnx")
    shutil.copytree(OLD, folder / "run")  # a report to draw again
    (folder / "images").mkdir()
    image = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
    Image.fromarray(image).save(folder / "images" / "a.png")
    os.chdir(here)
    bad = folder / "bad"
    bad.mkdir()
    for ending in ("onnx", "tflite", "safetensors", "pt", "pt2", "yaml", "json", "npz", "png", "csv", "wav"):
        (bad / f"empty.{ending}").write_bytes(b"")
        (bad / f"text.{ending}").write_text("not what it says it is\n")
        (bad / f"zeros.{ending}").write_bytes(bytes(4096))
    for name in ("dense.onnx", "dense.safetensors", "int8.safetensors"):
        content = (folder / name).read_bytes()
        (bad / f"half-{name}").write_bytes(content[: len(content) // 2])
        (bad / f"turned-{name}").write_bytes(content[:60] + bytes(255 - byte for byte in content[60:90]) + content[90:])
    (bad / "other.onnx").write_bytes((folder / "dense.safetensors").read_bytes())
    (bad / "other.safetensors").write_bytes((folder / "dense.onnx").read_bytes())
    os.mkfifo(bad / "pipe.onnx")
    (bad / "loop.onnx").symlink_to(bad / "loop.onnx")
    (bad / "null.json").write_text("null")
    (bad / "deep.json").write_text("[" * 100_000)
    (bad / "list.yaml").write_text("- 1\n")
    (bad / "folder.onnx").mkdir()


def words(good: Mapping[str, str]) -> Iterator[str]:
    """Yield the words of a call: arguments first, then options with their values."""
    for key, value in good.items():
        if not key.startswith("--"):
            yield value
    for key, value in good.items():
        if key.startswith("--"):
            yield from (key, value)


def values(parameter: Any, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield bad values of an argument or option, each with a name."""
    kind = str(parameter.type_descriptor.annotation)
    if "path" in kind or "file" in kind:
        yield from ((path.name, str(path)) for path in sorted((folder / "bad").iterdir()))
        yield from (
            ("missing", "missing.onnx"),
            ("device", "/dev/null"),
            ("long", "a" * 5000),
            ("nul", "a\\0b"),
            *((f"good {name}", name) for name in _OTHERS),
        )
    elif "int" in kind or "float" in kind:
        yield from ((repr(value), value) for value in _NUMBERS)
    else:
        yield from ((repr(value[:20]), value) for value in (*_WORDS, *_NUMBERS[:4]))
        yield from ((path.name, str(path)) for path in sorted((folder / "bad").iterdir())[::3])


def recipes() -> Iterator[tuple[str, str]]:
    """Yield recipes with one bad value, as text."""
    bad: tuple[Any, ...] = (None, [], {}, "nonsense", -1, 1e400, True, [[[]]], {"a": {"b": 1}}, 10**30, "", 0.5)
    for place in _places(RECIPE):
        for value in bad:
            content = json.loads(json.dumps(RECIPE))
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            if inner[place[-1]] == value:
                continue
            inner[place[-1]] = value
            yield f"{'.'.join(map(str, place))} = {value!r}"[:80], json.dumps(content)
    for text in (
        "",
        "- 1",
        "a: [",
        "? {a: b}: c",
        "!!python/object:os.system {}",
        "\t",
        "a: *b",
        "version: 2",
        "\ufeff{}",
        "{}",
    ):
        yield repr(text), text


def _places(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in pairs:
        yield (*before, key)
        yield from _places(value, (*before, key))

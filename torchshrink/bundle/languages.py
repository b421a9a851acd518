"""Snippets for other languages, with the file's own names, shapes and scales."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources import files
from math import prod
from typing import Any

ENDINGS = {"cpp": "cpp", "kt": "kotlin", "swift": "swift", "js": "javascript"}
_TYPES = {
    "float32": ("float", "Float", "Float32Array", 4),
    "int8": ("int8_t", "Int8", "Int8Array", 1),
    "uint8": ("uint8_t", "UInt8", "Uint8Array", 1),
}  # in C++, Swift and JavaScript, and bytes


def snippets(spec: dict[str, Any]) -> dict[str, str]:
    """Return the text of each file of the folder ``snippets``, by name.

    Args:
        spec: As `describe.describe` returns it.
    """
    runtime, words = ("onnx" if spec["channels_first"] else "tflite"), _words(spec)
    found = {}
    for ending in ENDINGS:
        text = files("torchshrink.bundle").joinpath("snippets", f"{runtime}.{ending}").read_text(encoding="utf-8")
        found[f"model.{ending}"] = _filled(text, words | (_in_kotlin(words) if ending == "kt" else {}))
    return found


def _filled(text: str, words: Mapping[str, str]) -> str:
    """Put words in their places, in one go: what a file says may look like a place."""
    return re.sub(f"@({'|'.join(words)})@", lambda match: words[match[1]], text)


def _in_kotlin(words: Mapping[str, str]) -> dict[str, str]:
    r"""Return the names of the ends as a string of Kotlin has them, where a ``$`` begins an expression."""
    return {name: words[name].replace("$", r"\$") for name in ("INPUT", "OUTPUT")}


def _words(spec: dict[str, Any]) -> dict[str, str]:
    entry, output = spec["input"], spec["output"]
    words = {
        "FILE": _quoted(spec["file"]),
        "RAW": in_comment(spec["raw"]),
        "CHANNELS": str(spec["channels"]),
        "MEAN": _numbers(spec["mean"]),
        "STD": _numbers(spec["std"]),
        "MEAN_F": _numbers(spec["mean"], "f"),
        "STD_F": _numbers(spec["std"], "f"),
        "INPUT_SIDES": ", ".join(map(str, entry["shape"])),
    }
    for name, end in (("INPUT", entry), ("OUTPUT", output)):
        cpp, swift, js, size = _TYPES[end["type"]]
        words |= {
            name: _quoted(end["name"]),
            f"{name}_TYPE": end["type"],
            f"{name}_SHAPE": json.dumps(end["shape"]),
            f"{name}_COUNT": str(prod(end["shape"])),
            f"{name}_BYTES": str(size),
            f"{name}_SCALE": repr(end["scale"] or 1.0),
            f"{name}_ZERO": str(end["zero_point"]),
            f"{name}_CPP": cpp,
            f"{name}_SWIFT": swift,
            f"{name}_JS": js,
        }
    return words | _encoding(entry) | _decoding(output)


def _encoding(end: dict[str, Any]) -> dict[str, str]:
    if end["type"] == "float32":
        return {
            "ENCODE_CPP": "value",
            "ENCODE_KT": "input.putFloat(value)",
            "ENCODE_SWIFT": "value",
            "ENCODE_JS": "value",
        }
    low, high = (-128, 127) if end["type"] == "int8" else (0, 255)
    scale, zero = end["scale"], end["zero_point"]
    rounded = "std::nearbyint(value / kInScale) + kInZero"
    swift = f"max({low}, min({high}, (value / {scale!r}).rounded(.toNearestOrEven) + ({zero})))"
    js = f"Math.max({low}, Math.min({high}, Math.round(value / {scale!r}) + ({zero})))"
    code = f"((value / {scale!r}f).roundToInt() + ({zero})).coerceIn({low}, {high})"
    return {
        "ENCODE_CPP": f"static_cast<{_TYPES[end['type']][0]}>(std::clamp({rounded}, {low}.0f, {high}.0f))",
        "ENCODE_KT": f"input.put({code}.toByte())",
        "ENCODE_SWIFT": f"{_TYPES[end['type']][1]}({swift})",
        "ENCODE_JS": js,
    }


def _decoding(end: dict[str, Any]) -> dict[str, str]:
    if end["type"] == "float32":
        return {
            "DECODE_CPP": "code",
            "DECODE_KT": "output.getFloat()",
            "DECODE_SWIFT": "$0",
            "DECODE_JS": "code",
        }
    scale, zero = end["scale"], end["zero_point"]
    code = "output.get().toInt()" if end["type"] == "int8" else "(output.get().toInt() and 255)"
    return {
        "DECODE_CPP": "(static_cast<int>(code) - kOutZero) * kOutScale",
        "DECODE_KT": f"({code} - ({zero})) * {scale!r}f",
        "DECODE_SWIFT": f"(Float($0) - ({zero})) * {scale!r}",
        "DECODE_JS": f"(code - ({zero})) * {scale!r}",
    }


def in_comment(text: str) -> str:
    r"""Return text that stays in a comment of one line, whatever a file says: no end of line, and none to be escaped.

    >>> in_comment("uint8 / 255\nsystem();")
    'uint8 / 255?system();'
    """
    return re.sub(r"[^ -\[\]-~]", "?", text)


def _quoted(text: str) -> str:
    """Return text as it stands between double quotes, in each of the languages."""
    return json.dumps(text)[1:-1]


def _numbers(values: list[float], ending: str = "") -> str:
    return ", ".join(f"{float(value)!r}{ending}" for value in values)

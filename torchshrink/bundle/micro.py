"""What a microcontroller's firmware takes of a file: a C array, its arena and a resolver with its operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from torchshrink.bundle.languages import in_comment
from torchshrink.errors import ModelError
from torchshrink.files import read, sha256

_HEADER = """// {file}, {size} bytes; the smallest arena on a machine of 64 bits, in tflite-micro {version}.
#pragma once
#include <cstdint>

constexpr int kArenaBytes = {arena};
extern const unsigned int kModelBytes;
extern const uint8_t kModel[];
"""
_MAIN = """// {file} in TensorFlow Lite Micro. Input {input_shape} {input_type}: code = value / {input_scale!r}
// + {input_zero}, of values normalised by mean {mean} and std {std}. Output {output_shape} {output_type}:
// value = (code - {output_zero}) * {output_scale!r}.
#include "model_data.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

alignas(16) static uint8_t arena[kArenaBytes];

tflite::MicroInterpreter* open() {{
  static tflite::MicroMutableOpResolver<{count}> resolver;
{adds}
  static tflite::MicroInterpreter interpreter(tflite::GetModel(kModel), resolver, arena, kArenaBytes);
  return interpreter.AllocateTensors() == kTfLiteOk ? &interpreter : nullptr;
}}
"""
_NAMES = {"CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "MAX_POOL_2D": "MaxPool2D",
          "AVERAGE_POOL_2D": "AveragePool2D", "PADV2": "PadV2"}  # fmt: skip


class _Needs(BaseModel):
    """What stands beside a file. It becomes source code: names are names."""

    model_config = ConfigDict(strict=True)

    arena_bytes: int = Field(gt=0)
    operators: list[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]]
    version: str = Field(pattern=r"^[\w.+-]*$")
    sha256: str


def sources(file: Path, spec: dict[str, Any]) -> dict[str, str]:
    """Return the files of the folder ``micro``, by name; none when ``convert --target micro`` did not make the file.

    Args:
        file: The ``.tflite`` file, with what `torchshrink.converters.micro` found beside it.
        spec: As `describe.describe` returns it.

    Raises:
        ModelError: As `needs` does.
    """
    found, content = needs(file), file.read_bytes()
    if found is None:
        return {}
    head = {
        "file": in_comment(file.name),
        "size": len(content),
        "arena": found["arena_bytes"],
        "version": found["version"],
    }
    lines = [", ".join(f"0x{byte:02x}" for byte in content[at : at + 16]) for at in range(0, len(content), 16)]
    data = ",\n".join(lines)
    ends = {
        f"{side}_{key.partition('_')[0]}": spec[side][key]
        for side in ("input", "output")
        for key in ("shape", "type", "scale", "zero_point")
    }
    adds = "\n".join(f"  resolver.Add{_name(operator)}();" for operator in found["operators"])
    return {
        "model_data.h": _HEADER.format(**head),
        "model_data.cc": '#include "model_data.h"\n\nconst unsigned int kModelBytes = '
        f"{len(content)};\nalignas(16) const uint8_t kModel[] = {{\n{data}}};\n",
        "main.cc": _MAIN.format(
            file=in_comment(file.name),
            mean=spec["mean"],
            std=spec["std"],
            count=len(found["operators"]),
            adds=adds,
            **ends,
        ),
        "operators.txt": "".join(f"{operator}\n" for operator in found["operators"]),
    }


def needs(file: Path) -> dict[str, Any] | None:
    """Return what ``convert --target micro`` wrote beside a file; None when there is nothing.

    Raises:
        ModelError: When it is about another file, or damaged.
    """
    beside = file.with_suffix(".micro.json")
    if file.suffix != ".tflite" or not beside.is_file():
        return None
    advice = f"convert it again with --target micro, or delete {beside.name}"
    try:
        found = _Needs.model_validate(json.loads(read(beside)))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{beside} is damaged ({' '.join(str(error).split())}): {advice}") from error
    if found.sha256 != sha256(file):
        raise ModelError(f"{beside} is about another file than {file.name}: {advice}")
    return found.model_dump()


def _name(operator: str) -> str:
    """Return what the resolver's method of an operator is called, after ``Add``."""
    return _NAMES.get(operator, "".join(word.capitalize() for word in operator.split("_")))

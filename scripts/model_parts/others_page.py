"""The page about other people's models: what became of each in every format, and what holds back the rest."""

from __future__ import annotations

import math
import platform
import textwrap
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import others_models

from torchshrink.bench.environment import environment
from torchshrink.harmless import markdown
from torchshrink.report.columns import markdown_table

FORMATS = [f"{runtime}-{precision}" for runtime in ("onnx", "tflite") for precision in ("fp32", "fp16", "int8")]
RUNTIMES = ("onnx", "tflite")
WANTED, MOST_SECONDS, MOST_MB, NOISE = 0.95, 120, 4000, 1.1
INTRODUCTION = (
    "{count} architectures of torchvision, timm, segmentation-models-pytorch, MONAI and transformers, and networks of "
    "signals, with random weights and BatchNorm statistics of some batches; those marked with * have fewer or "
    "narrower blocks of the same code. Each is exported in six formats, int8 calibrated on 16 inputs (ptq), and every "
    "file is run in its runtime and held against what it was made from on 4 others. Made by `scripts/model_zoo`, a "
    "process with limits for each.",
    "*dB*: signal to noise of the int8 file against the float module. "
    "*time*: int8 by float, the same runtime, one thread, in turns: **above 1 int8 is the slower**. *islands*: "
    "operations of the int8 file that are float. *channels*: what is left of the multiplications without 30 % of the "
    "channels, where the result computes what the model does in which nothing reads them. *s*, *MB*: processor "
    "seconds of quantization, six files and their proof, and the most memory that all its processes held together.",
)
Row = dict[str, Any]


def write(rows: list[Row], real: Sequence[Row] = ()) -> str:
    """Return the page; ``real`` is what `scripts/real_weights` found."""
    machine = environment()
    packages = ("torch", "onnxruntime", "ai-edge-litert", "onnx2tf", "tensorflow", "transformers")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    missing = [name for name in others_models.MODELS if name not in {row["name"] for row in rows}]
    unfinished = [row["name"] for row in rows if row["tried"] == ["onnx"]]
    headings = ["model", *FORMATS, *(f"{each} {what}" for each in RUNTIMES for what in ("dB", "time", "islands")),
                "channels", "s", "MB"]  # fmt: skip
    lines = [
        "# Other people's models\n",
        *(f"{textwrap.fill(part.format(count=len(others_models.MODELS)), 120)}\n" for part in INTRODUCTION),
        f"Machine: {machine['processor']}, {'with' if machine['int8_dot_products'] else 'no'} int8 dot products. "
        f"{versions}, Python {platform.python_version()}.\n",
        f"**{len(rows) - len(unfinished)} of {len(others_models.MODELS)} models were tried in every format, "
        f"{len(unfinished)} in ONNX only.**\n",
        *_targets(rows),
        "",
        *markdown_table(headings, [_cells(row) for row in rows]),
        "## What holds back the rest\n",
        *(f"- {line}" for row in rows for line in shortfall(row)),
        *_named("Tried in ONNX only", unfinished),
        *_named("Not tried yet", missing),
        *_real(real),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _real(rows: Sequence[Row]) -> list[str]:
    """Return what quantization costs models whose trained weights come inside a package."""
    if not rows:
        return []
    headings = ["model", "ptq dB", "ladder dB", "same answer", "right answer", "what the ladder said", "s"]
    modules = [
        [row["name"], f"{row['plain']:.1f}", f"{row['ladder']:.1f}", *_answers(row, "plain", "ladder"),
         "; ".join(row["steps"]), str(row["seconds"])]
        for row in rows if "plain" in row
    ]  # fmt: skip
    files = [
        [row["name"], *map(_said, (row["onnx"], row["tflite"])), *_answers(row, "onnx", "tflite"), str(row["seconds"])]
        for row in rows if "file" in row
    ]  # fmt: skip
    return [
        "\n## Trained weights\n",
        *textwrap.wrap(
            "Models whose weights come inside a package, without labels: calibrated on 96 inputs, judged on 32 others "
            "by `scripts/real_weights`. *ptq* calibrates only, the *ladder* is `effort=\"float\"` with its budget of "
            "30 dB, and its own figures are on a fifth of the 96. Sounds are spoken digits at the net's rate, "
            "silero-vad's with the states in which it came to them; pictures are microscopy, which the nets of faces "
            "were not trained on. *same answer*: how often what the float module decides stays (the pitch to 20 cents, "
            "whether a chunk is speech, is it a face, the class), ptq and ladder. *right answer*, where a truth "
            "can be made, float first: torchcrepe's pitch of 120 tones of known pitch, to 50 cents.", 120),
        "",
        *markdown_table(headings, modules),
        *([*textwrap.wrap(
            "ONNX files of other exporters, `convert FILE --precision int8 --data FOLDER`: calibrated on 16 inputs, "
            "judged on 32 others, dB against the file. Inputs are made: notes of a piano's middle for basic-pitch, "
            "printed letters and digits for rapidocr. *same answer*: how often what the file decides stays (a note at "
            "a time, the largest output, whether a pixel is text), onnx and tflite. *right answer*, the float file "
            "first: the note; which way up; a word to the letter.", 120),
           "", *markdown_table(["file", "onnx", "tflite", "same answer", "right answer", "s"], files)]
          if files else []),
    ]  # fmt: skip


def _answers(row: Row, *made: str) -> list[str]:
    """Return how often answers are the float model's, and how often they are right, as far as it is known."""
    kinds = [[f"{each}_same" for each in made], [f"{each}_right" for each in ("float", *made)]]
    return [", ".join(f"{row[key]:.0%}" for key in keys if key in row) for keys in kinds]


def _said(found: float | str) -> str:
    return f"{found:.1f} dB" if isinstance(found, float) else f"refused: {found}"


def merged(before: Row | None, row: Row) -> Row:
    """Return a row with what a later one says over what an earlier one said; runtimes may have been tried apart."""
    if before is None:
        return row
    kept = {key: value for key, value in before.items() if key != "error"}
    parts = {key: before[key] | row[key] for key in ("formats", "seconds")}
    tried = sorted({*before["tried"], *row["tried"]})
    apart = {} if tried == sorted(row["tried"]) else {"peak_mb": max(before["peak_mb"], row["peak_mb"])}
    return kept | row | parts | {"tried": tried} | apart


def outcomes(row: Row) -> str:
    """Return what became of a model in a few words."""
    found = Counter(each["outcome"] for each in row["formats"].values())
    said = [f"{count} {outcome}" for outcome, count in found.items()]
    return ", ".join(
        [*said, f"channels {row.get('channels', {}).get('outcome', '-')}", *filter(None, [row.get("error")])]
    )


def seconds(row: Row) -> float:
    """Return the processor time of a model's quantization, files and proof, TensorFlow's process included."""
    stages = row["seconds"]
    return row.get("cpu_seconds", sum(stages.values())) - stages.get("bench", 0) - stages.get("channels", 0)


def slowdown(row: Row, runtime: str) -> float | None:
    """Return int8's time by float's, where both were measured."""
    times = row.get(f"{runtime}_ms")
    return times[1] / times[0] if times else None


def shortfall(row: Row) -> list[str]:
    """Return what a model lacks, a sentence each: the formats that share a reason together."""
    reasons: dict[str, list[str]] = {}
    for format_ in FORMATS:
        found = row["formats"].get(format_)
        if found and found["outcome"] != "verified":
            reasons.setdefault(f"{found['outcome']}: {found['reason']}", []).append(format_)
    channels = row.get("channels")
    if channels and channels["outcome"] != "works":
        reasons.setdefault(f"{channels['outcome']}: {channels['reason']}", []).append("channels")
    lines = [f"{row['name']}, {', '.join(formats)}: {markdown(reason)}" for reason, formats in reasons.items()]
    return lines + ([f"{row['name']}: {row['error']}"] if "error" in row else [])


def _targets(rows: list[Row]) -> list[str]:
    """Return how many models of those tried are verified in each format, and which miss the other targets."""
    counts = [["format", "verified", "refused", "wrong", "crashed", "of", "target"]]
    for format_ in FORMATS:
        found = Counter(row["formats"][format_]["outcome"] for row in rows if format_ in row["formats"])
        total = sum(found.values())
        words = [str(found[each]) for each in ("verified", "refused", "wrong", "crashed")]
        is_met = found["verified"] >= WANTED * total
        verdict = "met" if is_met else f"{WANTED:.0%} missed"
        counts.append([format_, *words, str(total), verdict if total == len(others_models.MODELS) else "not all tried"])
    slow = [row["name"] for row in rows if (slowdown(row, "tflite") or 0) > NOISE
            and not row["formats"]["tflite-int8"].get("said")]  # fmt: skip
    slow_onnx = [row["name"] for row in rows if (slowdown(row, "onnx") or 0) > NOISE]
    second = [row["name"] for row in rows
              if any(each.get("road") == "litert-torch" for each in row["formats"].values())]  # fmt: skip
    works = [row for row in rows if row.get("channels", {}).get("outcome") == "works"]
    return [
        *markdown_table(counts[0], counts[1:]),
        f"Channels: {len(works)} of {sum('channels' in row for row in rows)} models lose some.",
        *_named("onnx2tf refused a TFLite file of these, and litert-torch converted it", second),
        *_named("Slower in int8 without a word, TFLite", slow),
        *_named("Slower in int8, ONNX", slow_onnx),
        *_named(
            f"Over {MOST_SECONDS} s of processor time", [row["name"] for row in rows if seconds(row) > MOST_SECONDS]
        ),
        *_named(f"Over {MOST_MB} MB", [row["name"] for row in rows if row["peak_mb"] > MOST_MB]),
    ]


def _named(what: str, names: list[str]) -> list[str]:
    return [f"\n{what} ({len(names)}): {', '.join(names)}."] if names else []


def _cells(row: Row) -> list[str]:
    mark = "*" if others_models.MODELS[row["name"]].is_small else ""
    formats, channels = row["formats"], row.get("channels", {})
    cells = [row["name"] + mark, *(formats.get(each, {}).get("outcome", "") for each in FORMATS)]
    for runtime in RUNTIMES:
        found, slow = formats.get(f"{runtime}-int8", {}), slowdown(row, runtime)
        loudness = found.get("db")
        cells.append("" if loudness is None else "inf" if math.isinf(loudness) else f"{loudness:.1f}")
        cells.append("" if slow is None else f"{slow:.2f}")
        cells.append(str(found.get("islands", "")))
    left = f"{channels['macs_left']:.0%}" if "macs_left" in channels else channels.get("outcome", "")
    return [*cells, left, f"{seconds(row):.0f}", f"{row['peak_mb']:.0f}"]

"""Write the comparison as a page: the table, and below it every figure in which another tool is better than ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torchshrink.bench import ratio

OURS = "torchshrink"
HEADINGS = (
    "toolkit", "how", "result", "MB", "latency, float = 1", "latency, float TFLite = 1", "peak RAM MB", "test loss",
    "dice",
)  # fmt: skip
NOT_TRIED = "not tried"
WRONG_BY = 0.05  # test loss above the float model's from which a file counts as wrong, not as less accurate

# Why another tool is better where it is known: (row or toolkit's prefix of it, column) -> reason.
REASONS: dict[tuple[str, str], str] = {
    ("onnxruntime-", "loss"): "the grid of its output, steps of 1/255, reaches 1.0, where the steps of 1/256 that the "
    "TFLite specification fixes for a sigmoid end at 0.9961; the float model's outputs rounded to either grid differ "
    "by as much",
    ("onnxruntime-dynamic", "loss"): "its output is not quantized",
    ("onnxruntime-", "size"): "it has fewer nodes; ours writes a transposed convolution as a convolution and a "
    "DepthToSpace, for which ONNX Runtime has int8 kernels",
    ("onnxruntime-tensor", "size"): "a weight tensor has one scale, not one per channel",
    ("ai_edge_quantizer-dynamic", "size"): "activations stay float and have no scales in the file",
    ("ai_edge_quantizer-dynamic", "loss"): "activations stay float, which costs latency",
    ("onnx2tf", "size"): "ours also holds the normalisation, the class names and longer names of tensors",
    ("tensorflow_model_optimization", "size"): "ours also holds the normalisation, the class names and longer names of "
    "tensors",
    (
        "openvino-int8",
        "latency",
    ): "OpenVINO compiles its kernels for the processor and the shapes when it loads a file, "
    "which takes memory; we write no files for it",
    ("openvino-float", "latency"): "OpenVINO compiles its kernels for the processor and the shapes when it loads a "
    "file, which takes memory; we write no files for it",
    ("openvino-int8", "loss"): "its output is not quantized",
    ("openvino-onnx", "size"): "it quantizes fewer tensors, and computes the rest in float",
}


@dataclass
class Row:
    """One file of the comparison, or the reason why there is none.

    Attributes:
        name: Of the row, unique.
        toolkit: Who made it.
        title: How.
        counterpart: The row of ours that it is compared with.
        error: Why there is no file, or why it does not run.
        runtime: What ran it.
        size: In bytes, all files that it consists of.
        loss: On the test set.
        dice: On the test set.
        peak_rss_mb: Of a fresh process after one inference, in MB of 1e6 bytes.
        rounds_ms: The median latency of each turn.
        reference: The row of the float file of the same format.
        note: What failed on the way.
        saturating: How many layers of an ONNX file can saturate on x86 without VNNI.
    """

    name: str
    toolkit: str
    title: str
    counterpart: str = ""
    error: str = ""
    runtime: str = ""
    size: int = 0
    loss: float = 0.0
    dice: float = 0.0
    peak_rss_mb: float = 0.0
    rounds_ms: list[float] = field(default_factory=list)
    reference: str = ""
    note: str = ""
    saturating: int = 0

    def is_wrong(self, dense_loss: float) -> bool:
        """Return whether it computes something else than the float model."""
        return not self.loss <= dense_loss + WRONG_BY


def table(rows: Sequence[Row], float_tflite: str, dense_loss: float) -> list[str]:
    """Return the table's lines."""
    found = {row.name: row for row in rows}
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|---|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        cells = [row.toolkit, row.title]
        if row.error:
            text = cell(row.error)
            cells += [text if text.startswith(NOT_TRIED) else f"**fails**: {text}", *[""] * 6]
        else:
            verdict = "**wrong**" if row.is_wrong(dense_loss) else "works"
            cells += [f"{verdict} in {row.runtime}{row.note and f'; {row.note}'}"]
            cells += [
                f"{row.size / 1e6:.3f}",
                *(slower(row, found.get(name)) for name in (row.reference, float_tflite)),
            ]
            cells += [f"{row.peak_rss_mb:.0f}", f"{row.loss:.4f}", f"{row.dice:.4f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def cell(text: str, most: int = 300) -> str:
    """Return text that fits a cell of a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= most else f"{text[:most]} ..."


def slower(row: Row, reference: Row | None) -> str:
    """Return the latency in units of a reference's, with the 10th and 90th percentile of the paired turns."""
    if reference is None or reference.error:
        return "?"
    found = ratio.paired(row.rounds_ms, reference.rounds_ms)
    return f"{found.median:.2f} ({found.low:.2f}-{found.high:.2f})"


def better(rows: Sequence[Row], dense_loss: float) -> list[str]:
    """Return a line for every row of another tool and what it does better than its counterpart of ours."""
    found = {row.name: row for row in rows}
    lines = []
    for row in rows:
        ours = found.get(row.counterpart)
        if row.toolkit == OURS or row.error or ours is None or ours.error or row.is_wrong(dense_loss):
            continue
        advantages = [
            text + (f": {why}" if (why := reason(row.name, column)) else "") for column, text in compared(row, ours)
        ]
        if advantages:
            lines.append(f"- **{row.toolkit}, {row.title}** against `{ours.name}`: {'; '.join(advantages)}.")
    return lines


def refused(rows: Sequence[Row]) -> list[str]:
    """Return a line for every file that a tool did not make, or made only after failures, beside the one of ours."""
    found = {row.name: row for row in rows}
    lines = []
    for row in rows:
        ours, why = found.get(row.counterpart), row.error or row.note
        if ours is not None and not ours.error and why and not why.startswith(NOT_TRIED):
            made = f"ours, `{ours.name}`, has {ours.size / 1e6:.3f} MB and a test loss of {ours.loss:.4f}"
            lines.append(f"- **{row.toolkit}, {row.title}**: {cell(why)}; {made}.")
    return lines


def wrong(rows: Sequence[Row], dense_loss: float, has_dots: bool) -> list[str]:
    """Return what is to be said of files that compute something else, and a line for each."""
    found = [row for row in rows if not row.error and row.is_wrong(dense_loss)]
    lines, ours = [], max((row.saturating for row in rows if row.toolkit == OURS), default=0)
    if any(row.saturating for row in found) and not has_dots:
        lines = [
            "This processor has no int8 dot products (VNNI): there ONNX Runtime adds products of unsigned activations "
            "and signed weights in pairs in 16 bits, which large weights exceed. On a processor that has them the same "
            "files may be right. ONNX Runtime's documentation advises weights of 7 bits (`reduce_range`) for such "
            "processors; here every tool was run with its defaults. How many layers can saturate is computed from the "
            f"weights, as `torchshrink verify` does; of ours at most {ours} can.",
            "",
        ]
    for row in found:
        layers = f"; {row.saturating} layers can saturate" if row.saturating else ""
        lines.append(f"- **{row.toolkit}, {row.title}**: test loss {row.loss:.4f}, dice {row.dice:.4f}{layers}.")
    return lines or ["Nothing in this run."]


def compared(row: Row, ours: Row) -> list[tuple[str, str]]:
    """Return the columns in which a row is better than ours, and by how much."""
    texts = []
    if row.size < ours.size:
        texts.append(("size", f"{row.size} bytes, ours {ours.size} ({row.size / ours.size - 1:+.1%})"))
    speed = ratio.paired(row.rounds_ms, ours.rounds_ms)
    if round(speed.median, 2) < 1:
        sure = "" if speed.high < 1 else ", which is within the spread"
        texts.append(("latency", f"{speed.median:.2f} ({speed.low:.2f}-{speed.high:.2f}) of the latency of ours{sure}"))
    if round(row.peak_rss_mb) < round(ours.peak_rss_mb):
        texts.append(("memory", f"{row.peak_rss_mb:.0f} MB of peak RAM, ours {ours.peak_rss_mb:.0f}"))
    if round(row.loss, 4) < round(ours.loss, 4):
        texts.append(("loss", f"test loss {row.loss:.4f}, ours {ours.loss:.4f}"))
    return texts


def reason(name: str, column: str) -> str:
    """Return the hand-written reason for a row and column, the most specific one."""
    known = [key for key in REASONS if key[1] == column and name.startswith(key[0])]
    return REASONS[max(known, key=lambda key: len(key[0]))] if known else ""


def write(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Return the page.

    Args:
        rows: In the order of the table.
        about: ``machine``, ``has_dots`` (int8 dot products), ``date``, ``command``, ``data``, ``versions`` (a line
            each), ``epochs``, ``float_tflite`` (the row's name) and ``dense_loss``.
    """
    lines = better(rows, about["dense_loss"])
    return "\n".join(
        [
            "# Other tools on the same model",
            "",
            f"Made on {about['date']} by `{about['command']}` on {about['machine']}. Data: {about['data']}.",
            "",
            "One U-Net, trained once by torchshrink, goes through every tool. Post-training tools get the same weights "
            "and the same 64 calibration samples. What is trained further is trained for as many epochs everywhere: "
            f"{about['epochs'][0]} while pruning, {about['epochs'][1]} for int8; Keras models start with the weights "
            "of the PyTorch model. Every file runs in its own runtime on one thread in fresh processes; latencies are "
            "taken in turns in one run and shown as the median ratio of paired turns with its 10th to 90th "
            "percentile. *float* is the float file of the same format (of ONNX for OpenVINO), made by torchshrink. "
            "Peak RAM is that of a fresh process after one inference. Loss (Focal-Tversky) and dice are computed by "
            "one function from the outputs for the whole test set; the PyTorch model's loss is "
            f"{about['dense_loss']:.4f}.",
            "",
            *table(rows, about["float_tflite"], about["dense_loss"]),
            "",
            "## What is wrong here",
            "",
            *wrong(rows, about["dense_loss"], about["has_dots"]),
            "",
            "## What others refuse",
            "",
            *(refused(rows) or ["Nothing in this run."]),
            "",
            "## Where another tool is better than ours",
            "",
            "Each file is compared with that file of ours which has had the same done to it. "
            "All figures count in which another tool's is smaller, however little.",
            "",
            *(lines or ["In no figure of this run."]),
            "",
            "## Versions",
            "",
            *(f"- {line}" for line in about["versions"]),
            "",
        ]
    )

"""The one answer of a report: which file to ship, why, and how it is used."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchshrink.report import processors
from torchshrink.report.judge import Judge
from torchshrink.report.schema import End, Report, Row, Task
from torchshrink.report.tradeoff import recommend, reference

_GOALS = ("smallest", "fastest", "least RAM")


@dataclass(frozen=True)
class Answer:
    """What to ship.

    Attributes:
        sentence: Which file, and why; or why none.
        row: The file; None when there is none to ship.
        others: A sentence for each goal that another file meets better.
        warnings: What must be known before: files that failed, a model that is of no use.
        proof: How it was shown that the file computes what the model does, and where.
        ends: What it takes and gives, a line each.
        code: Python that runs it, one line each.
    """

    sentence: str
    row: Row | None = None
    others: Sequence[str] = ()
    warnings: Sequence[str] = ()
    proof: str = ""
    ends: Sequence[str] = ()
    code: Sequence[str] = ()


def answer(report: Report, judge: Judge) -> Answer:
    """Return the file that is best for most goals, the smallest one where several are; none of a useless model."""
    rows, warnings = report["rows"], _failed(report)
    if not rows:
        return Answer("Ship nothing yet: no file was verified.", warnings=warnings)
    dense = reference(rows, "torch")
    if judge.learned_nothing(dense):
        figures = f"{judge.title} of {judge.text(judge.figure(dense))}"
        return Answer(f"Ship nothing: the dense model learned nothing ({figures}).", warnings=warnings)
    best = {item.goal: item for item in recommend(rows, judge=judge)}
    chosen = [row for goal in _GOALS if (row := best[goal].row) is not None]
    if not chosen:
        closest = best[_GOALS[0]].closest
        near = "" if closest is None else f"; {closest['name']} comes closest"
        limit = f"{judge.allowance()} of {dense['name']}"
        return Answer(
            f"Ship {dense['name']}: no exported file's {judge.title} is within {limit}{near}.", None, (), warnings
        )
    counts = Counter(row["name"] for row in chosen)
    row = max(chosen, key=lambda each: (counts[each["name"]], -each["bytes"]))
    meets = [goal for goal in _GOALS if best[goal].row is row]
    others = [_other(goal, best[goal].row, judge, dense) for goal in _GOALS if goal not in meets]
    within = f"within {judge.allowance()} of {dense['name']}"
    why = f"{_joined(_title(goal) for goal in meets)} of those whose {judge.title} is {within}"
    machine = processors.machine(report["environment"])
    return Answer(
        f"Ship {row['name']}: {why}, measured on {machine}.",
        row,
        [text for text in others if text],
        warnings,
        _proof(row),
        _ends(row, report["task"]),
        code(row, report["task"]),
    )


def code(row: Row, task: Task) -> list[str]:
    """Return lines of Python that run a file, from the run's folder; ``raw`` is an input as the data has it."""
    before = _prepared(task)
    if row["format"] == "onnx":
        return [
            "import numpy as np, onnxruntime",
            f"session = onnxruntime.InferenceSession({row['path']!r})",
            f"x = {before}  # raw: {_sides(task['input'])}, as the data has it",
            "outputs = session.run(None, {session.get_inputs()[0].name: x})",
        ]
    lines = [
        "import numpy as np; from ai_edge_litert.interpreter import Interpreter",
        f"file = Interpreter({row['path']!r}); file.allocate_tensors()",
        "first, last = file.get_input_details()[0], file.get_output_details()[0]",
        f"x = np.moveaxis({before}, 1, -1)  # raw: {_sides(task['input'])}; channels go last",
    ]
    if row["precision"] == "int8":
        lines += [
            "scale, zero = first['quantization']; x = np.clip(np.round(x / scale) + zero, -128, 127).astype(np.int8)"
        ]
    lines += ["file.set_tensor(first['index'], x); file.invoke(); output = file.get_tensor(last['index'])"]
    if row["precision"] == "int8":
        lines += ["scale, zero = last['quantization']; output = (output.astype(np.float32) - zero) * scale"]
    return lines


def look(row: Row, out: Path) -> list[tuple[str, str]]:
    """Return what shows the inside of a file and the command for it, from the run's folder."""
    file = shlex.quote(row["path"])
    found = [("Its graph in Netron", f"netron {file}")]
    models = [f"models/{row['variant']}-ptq.safetensors", f"models/{row['variant']}.safetensors"]
    checkpoint = next((each for each in models if (out / each).is_file()), None)
    if row["precision"] == "int8" and checkpoint is not None:
        reader = " --extensions=model_explorer_onnx" if row["format"] == "onnx" else ""
        made = f"torchshrink inspect {file} --against {shlex.quote(checkpoint)} --overlay noise.json"
        found.append(("What each operation loses, in Model Explorer",
                      f"{made}\nmodel-explorer {file} --node_data_paths=noise.json{reader}"))  # fmt: skip
    return found


def _prepared(task: Task) -> str:
    """Return the expression that normalises ``raw``, ``[1, C, *size]``."""
    kept = task["normalization"]
    mean, std = (_constant(values, len(task["input"])) for values in (kept["mean"], kept["std"]))
    return f"((raw - {mean}) / {std}).astype(np.float32)"


def _constant(values: Sequence[float], dims: int) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:.6g}"
    return f"np.reshape([{', '.join(f'{value:.6g}' for value in values)}], {[1, -1] + [1] * (dims - 2)})"


def _proof(row: Row) -> str:
    parity = row["parity"]
    within = (
        "" if parity["lsb_match"] is None else f", {parity['lsb_match']:.2%} of the outputs within one step of int8"
    )
    kinds = [kind for kind, shown in row.get("processors", {"here": {"passed": True}}).items() if shown["passed"]]
    where = _joined("this processor" if kind == "here" else kind for kind in kinds)
    return f"computes what {parity['reference']} does on {where}: largest difference {parity['max_abs']:.2g}{within}"


def _ends(row: Row, task: Task) -> list[str]:
    known = row.get("ends")
    if known is None:
        return [f"takes {_sides(task['input'])}", f"gives {_sides(task['output'])}"]
    return [*(f"takes {_end(each)}" for each in known["inputs"]), *(f"gives {_end(each)}" for each in known["outputs"])]


def _end(end: End) -> str:
    codes = f", value = (code - {end['zero_point']}) * {end['scale']:.9g}" if "scale" in end else ""
    return f"{end['name']}: {end['type']} {_sides(end['shape'])}{codes}"


def _sides(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _other(goal: str, row: Row | None, judge: Judge, dense: Row) -> str:
    if row is None:
        return ""
    title = _title(goal).capitalize()
    return (
        f"{title}: {row['name']} ({row['bytes'] / 1e6:.3f} MB, {row['latency_ms']['median']:.2f} ms, "
        f"{row['peak_rss_mb']:.0f} MB of RAM, {judge.title} {judge.text(judge.figure(row))}, "
        f"{judge.change_text(row, dense)})."
    )


def _title(goal: str) -> str:
    return {"smallest": "the smallest", "fastest": "the fastest", "least RAM": "the one with the least RAM"}[goal]


def _failed(report: Report) -> list[str]:
    return [f"{item['name']} failed and is not there: {item['reason']}" for item in report["failed"]]


def _joined(words: Iterable[str]) -> str:
    found = list(words)
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)

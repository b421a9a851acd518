"""The figures of a run as text: a table, Markdown, CSV, sentences."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from torchshrink.harmless import csv_cell
from torchshrink.harmless import markdown as md
from torchshrink.report import classes, noise, processors, trials
from torchshrink.report.columns import columns, figures, markdown_table, table
from torchshrink.report.judge import Judge
from torchshrink.report.schema import Report, Row
from torchshrink.report.tradeoff import Recommendation, recommend, reference


def table_csv(rows: Sequence[Row]) -> str:
    """Return one line per file, plain numbers under headings that say the unit, as RFC 4180 has it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(column.key for column in columns(rows) if column.key)
    writer.writerows(map(csv_cell, each.values()) for each in figures(rows))
    return text.getvalue()


def verdict(report: Report) -> str:
    """Return a sentence: the smallest verified file, of those within the budget if any is, against the dense ones.

    A dense model that learned nothing is said instead, and of files that did no size is praised. Where the smallest is
    int8 and its own float file is as fast, another sentence says so.
    """
    rows, judge = report["rows"], judge_of(report)
    if not rows:
        return "No file was verified."
    dense, torch_row = reference(rows), reference(rows, "torch")
    if judge.learned_nothing(torch_row):
        return nothing_learned(torch_row, judge)
    useful = [row for row in rows if not judge.learned_nothing(row)]
    smaller = [row for row in useful if row["bytes"] < dense["bytes"] and row["format"] != "torch"]
    has_budget = "budget" in report.get("task", {})
    within = [row for row in smaller if has_budget and judge.cost(row) <= judge.limit(torch_row)]
    best = min(within or useful, key=lambda row: row["bytes"])
    latency, latency_before = best["latency_ms"]["median"], reference(rows, best["format"])["latency_ms"]["median"]
    compared = _compared(_ratio(dense["bytes"], best["bytes"]), _ratio(latency_before, latency))
    slow = [pair for pair in processors.slow_int8(rows) if pair[0] is best]
    warning = f" {processors.saves_no_time(slow, report['environment'])}" if slow else ""
    change = judge.change_text(best, torch_row)
    if has_budget and not judge.cost(best) <= judge.limit(torch_row):
        change += f", beyond the budget of {judge.allowance()}"
    return (
        f"{best['name']} is {compared}, and its process needs "
        f"{_memory(_ratio(torch_row['peak_rss_mb'], best['peak_rss_mb']))} {torch_row['name']}, at a {judge.title} of "
        f"{judge.text(judge.figure(best))} ({change}).{warning}"
    )


def judge_of(report: Report) -> Judge:
    """Return what files of a report are judged by."""
    return Judge.of(report.get("task", {}))


def nothing_learned(dense: Row, judge: Judge) -> str:
    """Say that a model is no better than a constant answer."""
    return (
        f"The dense model learned nothing: its {judge.title} of {judge.text(judge.figure(dense))} is no better than "
        f"the {judge.text(judge.constant or 0.0)} of one and the same answer for every input. Train it longer, or look "
        "at its data, loss and learning rate, before any of its files is worth a look."
    )


def recommendations(report: Report) -> list[str]:
    """Return one sentence per goal: the file to take, with its figures; then what is to be known of int8.

    Of a dense model that learned nothing, no file is recommended.
    """
    rows, judge = report["rows"], judge_of(report)
    if rows and judge.learned_nothing(reference(rows, "torch")):
        return []
    slow = processors.said_of_speed(rows, report["environment"])
    return [*(_recommended(item, rows, judge) for item in recommend(rows, judge=judge)), *slow, *noise.warnings(rows)]


def markdown(report: Report) -> str:
    """Return the report as Markdown."""
    headings, cells = table(report["rows"])
    lines = ["# torchshrink report", "", md(verdict(report)), ""]
    lines += [*(f"- {md(sentence)}" for sentence in recommendations(report)), ""]
    lines += markdown_table(headings, [[cell.text for cell in line] for line in cells])
    lines += [f"![Size against {md(judge_of(report).decides)}](report.png)", ""]
    lines += classes.markdown(report)
    lines += trials.markdown(report["search"]) if "search" in report else []
    lines += ["## Islands", ""]
    lines += [f"- {md(row['name'])}: {md(islands(row))}" for row in report["rows"] if row["islands"]] or [
        "Every int8 file computes in integers from input to output."
    ]
    lines += ["", md(_matched(report["rows"])), *map(md, _roads(report["rows"])), "", "## Failed verification", ""]
    lines += [f"- {md(item['name'])}: {md(item['reason'])}" for item in report["failed"]] or ["None."]
    lines += [
        "",
        "## How this was measured",
        "",
        *(f"- {md(name)}: {md(text)}" for name, text in conditions(report).items()),
    ]
    return "\n".join(lines) + "\n"


def islands(row: Row) -> str:
    """Name the operations of an int8 file that compute in float and, where it is known, how much time they take."""
    names = ", ".join(row["islands"])
    return f"{names} ({row['float_time']:.0%} of the time in float)" if "float_time" in row else names


def conditions(report: Report) -> dict[str, str]:
    """Return how the figures came about, for one who wants to repeat them."""
    environment_, task = report["environment"], report["task"]
    packages = ", ".join(f"{name} {number}" for name, number in environment_["packages"].items() if number)
    return {
        "Task": f"{task['name']}, {task['train']} training, {task['validation']} validation and {task['test']} test "
        f"samples of shape {task['input']}, seed {task['seed']}.",
        **({"Data": f"{task['note']}."} if "note" in task else {}),
        _scored(report["rows"]): "computed with each file itself, in its runtime, over the whole test set.",
        "Latency": "median of one inference at batch 1, "
        f"{task['threads']} thread(s), the files taking turns; RAM: peak of a fresh process that imports only its "
        "runtime, after loading and one inference.",
        "Machine": f"{processors.machine(environment_)}, {environment_['cores']} cores, {environment_['system']}, "
        f"Python {environment_['python']}.",
        "Processors": processors.shown_on(report["rows"]),
        **noise.conditions(report["rows"]),
        "Packages": f"{packages}.",
        "Command": environment_.get("command", "not recorded"),
    }


def _scored(rows: Sequence[Row]) -> str:
    names = list(rows[0]["metrics"]) if rows else []
    return f"Loss and {names[0]}" if names else "Loss"


def _ratio(before: float, after: float) -> float:
    """Return how many times less it has become, 1 when the difference does not show in one decimal."""
    ratio = before / after
    return 1.0 if f"{max(ratio, 1 / ratio):.1f}" == "1.0" else ratio


def _compared(size: float, speed: float) -> str:
    """Say how a file compares with the dense one, both ratios larger than 1 when it is better."""
    words = ((size, "smaller", "larger"), (speed, "faster", "slower"))
    different = [f"{max(ratio, 1 / ratio):.1f}x {better if ratio > 1 else worse}" for ratio, better, worse in words
                 if ratio != 1]  # fmt: skip
    if not different:
        return "as large and as fast as the dense fp32 file"
    equal = " (and as large)" if size == 1 else " (and as fast)" if speed == 1 else ""
    return f"{' and '.join(different)} than the dense fp32 file{equal}"


def _memory(ratio: float) -> str:
    if ratio == 1:
        return "as much RAM as"
    return f"1/{ratio:.1f} of the RAM of" if ratio > 1 else f"{1 / ratio:.1f}x more RAM than"


def _recommended(item: Recommendation, rows: Sequence[Row], judge: Judge) -> str:
    goal = item.goal[0].upper() + item.goal[1:]
    if (row := item.row or item.closest) is None:
        return f"{goal}: no exported file was verified."
    torch_row = reference(rows, "torch")
    change = judge.change_text(row, torch_row)
    if item.row is not None:
        return (
            f"{goal}: {row['name']}, {row['bytes'] / 1e6:.3f} MB, {row['latency_ms']['median']:.2f} ms, "
            f"{row['peak_rss_mb']:.0f} MB of RAM, {judge.title} {judge.text(judge.figure(row))} ({change})."
        )
    sign = "-" if judge.higher_is_better else "+"
    return (
        f"{goal}: no file's {judge.title} is within {sign}{judge.allowance()} of {torch_row['name']}; {row['name']} "
        f"comes closest ({change})."
    )


def _matched(rows: Sequence[Row]) -> str:
    """Say how many of the int8 TFLite files' activations have a range that was learned, not seen while converting."""
    shares = {row["name"]: share for row in rows if (share := row.get("matched_ranges")) is not None}
    partly = [f"{name} {share:.0%}" for name, share in shares.items() if share < 1]
    if partly:
        return f"Activations whose range was learned in PyTorch: {', '.join(partly)}; in every other int8 file, all."
    return "Every int8 activation has the range that was learned in PyTorch." if shares else "No ranges were matched."


def _roads(rows: Sequence[Row]) -> list[str]:
    """Say which TFLite files took another road than the rest."""
    names = [row["name"] for row in rows if row.get("road", "onnx2tf") != "onnx2tf"]
    return ["", f"onnx2tf refused these, and litert-torch converted them: {', '.join(names)}."] if names else []

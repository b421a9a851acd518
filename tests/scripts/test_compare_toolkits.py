"""The comparison's own functions on made-up results: no toolkit is installed."""

from __future__ import annotations

import math
import stat
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from script import load

from torchshrink.errors import ModelError
from torchshrink.losses import FocalTversky

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "toolkits"))

import contenders  # noqa: E402
import environments  # noqa: E402
import measuring  # noqa: E402
import page  # noqa: E402
from contenders import Toolkit, Variant  # noqa: E402
from page import Row  # noqa: E402

script = load("compare_toolkits")
TOOL = Toolkit("tool", "tool", "tool.py", (Variant("a", "first", "mine"), Variant("b", "second", "mine")))


def row(name: str, toolkit: str = "tool", **changed: Any) -> Row:
    values: dict[str, Any] = {
        "counterpart": "mine",
        "runtime": "LiteRT",
        "size": 500_000,
        "loss": 0.13,
        "dice": 0.91,
        "peak_rss_mb": 60.0,
        "rounds_ms": [10.0, 10.0, 10.0],
        "reference": "float",
    }
    return Row(name, toolkit, f"the {name} way", **(values | changed))


FLOAT = row("float", "torchshrink", rounds_ms=[20.0, 20.0, 20.0], size=2_000_000, peak_rss_mb=70.0)
MINE = row("mine", "torchshrink")


def test_table_shows_ratios_of_paired_turns() -> None:
    other = row("other", rounds_ms=[5.0, 10.0, 20.0], note="slowly")  # the machine slowed down, for both
    reference = row("float", "torchshrink", rounds_ms=[10.0, 20.0, 40.0])
    line = page.table([reference, other], "float", 0.13)[-1]
    assert line == (
        "| tool | the other way | works in LiteRT; slowly | 0.500 | 0.50 (0.50-0.50) | 0.50 (0.50-0.50) | 60 | 0.1300 "
        "| 0.9100 |"
    )


def test_table_tells_what_failed_and_keeps_every_row() -> None:
    lines = page.table([FLOAT, Row("bad", "tool", "its way", error="ValueError: a | b\nc"), MINE], "float", 0.13)
    assert len(lines) == 5
    assert lines[3] == "| tool | its way | **fails**: ValueError: a \\| b c |  |  |  |  |  |  |"
    waits = Row("bad", "tool", "its way", error="not tried: it is not here")
    assert "| not tried: it is not here |" in page.table([waits], "float", 0.13)[-1]
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


@pytest.mark.parametrize(("loss", "word"), [(0.17, "works"), (0.2, "**wrong**"), (math.nan, "**wrong**")])
def test_table_says_when_a_file_computes_something_else(loss: float, word: str) -> None:
    assert f"| {word} in LiteRT |" in page.table([FLOAT, row("other", loss=loss)], "float", 0.13)[-1]


def test_table_says_when_there_is_nothing_to_compare_with() -> None:
    broken = Row("float", "torchshrink", "float", error="it broke")
    assert "| ? | ? |" in page.table([broken, row("other")], "float", 0.13)[-1]


def test_everything_that_is_better_is_told() -> None:
    other = row("other", size=450_000, loss=0.125, peak_rss_mb=50.0, rounds_ms=[8.0, 8.0, 8.0])
    assert page.better([FLOAT, MINE, other], 0.13) == [
        "- **tool, the other way** against `mine`: 450000 bytes, ours 500000 (-10.0%); "
        "0.80 (0.80-0.80) of the latency of ours; 50 MB of peak RAM, ours 60; test loss 0.1250, ours 0.1300."
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"size": 500_001},
        {"loss": 0.14},
        {"peak_rss_mb": 70.0},
        {"rounds_ms": [11.0, 11.0, 11.0]},
        {"rounds_ms": [9.99] * 3},
    ],
)
def test_what_is_as_good_or_worse_is_no_advantage(changed: dict[str, Any]) -> None:
    assert page.better([FLOAT, MINE, row("other", **changed)], 0.13) == []


def test_a_latency_within_the_spread_is_told_as_such() -> None:
    (line,) = page.better([MINE, row("other", rounds_ms=[9.0, 9.0, 12.0])], 0.13)
    assert "0.90 (0.90-1.14) of the latency of ours, which is within the spread" in line


def test_files_that_fail_or_are_wrong_are_better_in_nothing() -> None:
    smaller = {"size": 1}
    rows = [MINE, row("failed", error="it broke", **smaller), row("wrong", loss=0.9, **smaller)]
    assert page.better(rows, 0.13) == []
    assert page.better([row("mine", "torchshrink", error="it broke"), row("other", **smaller)], 0.13) == []


def test_what_others_refuse_stands_beside_what_we_make() -> None:
    rows = [MINE, row("failed", error="it broke"), row("late", note="failed twice before"), row("fine"),
            row("absent", error="not tried: it is not here")]  # fmt: skip
    made = "ours, `mine`, has 0.500 MB and a test loss of 0.1300."
    assert page.refused(rows) == [
        f"- **tool, the failed way**: it broke; {made}", f"- **tool, the late way**: failed twice before; {made}"
    ]  # fmt: skip


def test_the_most_specific_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {("oth", "size"): "general", ("other", "size"): "special", ("other", "loss"): "luck"}
    monkeypatch.setattr(page, "REASONS", known)
    (line,) = page.better([MINE, row("other", size=499_999)], 0.13)
    assert line.endswith("499999 bytes, ours 500000 (-0.0%): special.")


def test_page_says_how_it_was_made() -> None:
    about = {
        "machine": "a machine",
        "has_dots": False,
        "date": "2026-01-02",
        "command": "scripts/compare_toolkits --data d",
        "data": "d",
        "versions": ["tool: Python 3.11, tool==1"],
        "epochs": (8, 5),
        "float_tflite": "float",
        "dense_loss": 0.13,
    }
    text = page.write([FLOAT, MINE, row("other")], about)
    assert "Made on 2026-01-02 by `scripts/compare_toolkits --data d` on a machine." in text
    assert "8 while pruning, 5 for int8" in text
    assert "In no figure of this run." in text
    assert "- tool: Python 3.11, tool==1" in text


def test_wrong_files_are_told_with_what_the_processor_has_to_do_with_it() -> None:
    rows = [MINE, row("other", loss=0.2, dice=0.8, saturating=3), row("third", loss=math.nan, dice=0.0)]
    *text, other, third = page.wrong(rows, 0.13, has_dots=False)
    assert "no int8 dot products (VNNI)" in text[0]
    assert "of ours at most 0 can" in text[0]
    assert other == "- **tool, the other way**: test loss 0.2000, dice 0.8000; 3 layers can saturate."
    assert third == "- **tool, the third way**: test loss nan, dice 0.0000."
    assert page.wrong(rows, 0.13, has_dots=True) == [other, third]
    assert page.wrong([MINE], 0.13, has_dots=False) == ["Nothing in this run."]


def test_command_holds_no_folder_of_the_machine() -> None:
    given = ["--data", "/somewhere/nuclei", "--qat-epochs", "5"]
    assert script.command(given) == "scripts/compare_toolkits --data nuclei --qat-epochs 5"


def test_every_toolkit_has_its_script_and_pinned_requirements() -> None:
    ours = set(script.FILES)
    for toolkit in contenders.TOOLKITS:
        assert (SCRIPTS / "toolkits" / toolkit.script).is_file()
        assert toolkit.pins
        assert all("==" in line for line in toolkit.pins)
        assert {variant.counterpart for variant in toolkit.variants} <= ours
    names = [toolkit.row(variant) for toolkit in contenders.TOOLKITS for variant in toolkit.variants]
    assert len(names) == len(set(names))


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "install", lambda toolkit, folder: Path(sys.executable))
    return Namespace(environments=tmp_path, work=tmp_path, tinynn=None, limit=60)


def rows_of(toolkit: Toolkit, options: Namespace, folder: Path) -> list[tuple[Row, Path]]:
    found: list[tuple[Row, Path]] = script.rows_of(toolkit, options, folder, folder)
    return found


def write_tool(folder: Path, text: str) -> None:
    start = "import json, sys\nvariant, inputs, out = sys.argv[1:]\n"
    (folder / "tool.py").write_text(start + text)


def test_a_variant_that_fails_does_not_stop_the_next(options: Namespace, tmp_path: Path) -> None:
    write_tool(
        tmp_path,
        "answer = {'error': 'it broke'} if variant == 'a' else {'path': out + '.onnx', 'note': 'well'}\n"
        "print(json.dumps(answer))\n",
    )
    (first, _), (second, path) = rows_of(TOOL, options, tmp_path)
    assert (first.error, second.error, second.note) == ("it broke", "", "well")
    assert path == tmp_path / "tool-b.onnx"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("sys.exit('no such option')", "ended with exit code 1: no such option"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "ended with exit code -9: "),
        ("import time\ntime.sleep(60)", "no result in 0.5 s"),
    ],
)
def test_a_script_that_dies_or_hangs_is_told(options: Namespace, tmp_path: Path, text: str, reason: str) -> None:
    options.limit = 0.5 if "sleep" in text else 60
    write_tool(tmp_path, text)
    assert [row.error for row, _ in rows_of(TOOL, options, tmp_path)] == [reason, reason]


def test_an_error_holds_no_folder_of_the_machine(options: Namespace, tmp_path: Path) -> None:
    write_tool(tmp_path, "print(json.dumps({'error': f'there is no {out}'}))\n")
    assert rows_of(TOOL, options, tmp_path)[0][0].error == "there is no WORK/tool-a"


def test_what_was_made_is_not_made_again_and_what_failed_is(options: Namespace, tmp_path: Path) -> None:
    answer = "{'error': 'it broke'} if variant == 'a' else {'path': out + '.onnx', 'note': ''}"
    write_tool(tmp_path, f"open(out + '.calls', 'a').write('x')\nprint(json.dumps({answer}))\n")
    for _ in range(2):
        rows_of(TOOL, options, tmp_path)
    assert (tmp_path / "tool-a.calls").read_text() == "xx"
    assert (tmp_path / "tool-b.calls").read_text() == "x"


def test_a_toolkit_that_cannot_be_installed_is_told(options: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(toolkit: Toolkit, folder: Path) -> Path:
        raise environments.InstallationError("cannot be installed: ERROR: no such version")

    monkeypatch.setattr(environments, "install", install)
    errors = [row.error for row, _ in rows_of(TOOL, options, Path())]
    assert errors == ["cannot be installed: ERROR: no such version"] * 2


def test_installing_reports_what_pip_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    (tmp_path / "tool.txt").write_text("tool==1\n")
    python = environments.python_of(TOOL, tmp_path)
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'WARNING: x' >&2\necho 'ERROR: no such version' >&2\nexit 1\n")
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(environments.InstallationError, match=r"^cannot be installed: ERROR: no such version$"):
        environments.install(TOOL, tmp_path)
    python.write_text("#!/bin/sh\nexit 0\n")
    assert environments.install(TOOL, tmp_path) == python
    python.write_text("#!/bin/sh\nexit 1\n")
    assert environments.install(TOOL, tmp_path) == python  # is there already


def test_a_python_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    (tmp_path / "tool.txt").write_text("tool==1\n")
    toolkit = Toolkit("tool", "tool", "tool.py", (), python="0.0")
    with pytest.raises(environments.InstallationError, match=r"python0\.0"):
        environments.install(toolkit, tmp_path / "environments")


def test_a_toolkit_without_its_checkout_says_which_option(options: Namespace) -> None:
    toolkit = Toolkit("Tiny", "tinynn", "tool.py", (Variant("a", "first", "mine"),), needs_checkout=True)
    ((found, _),) = rows_of(toolkit, options, Path())
    assert found.error == "not tried: it is not on PyPI; pass a checkout with --tinynn"


def test_files_that_do_not_run_leave_the_others_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(path: Path, inputs: np.ndarray, python: Path | str) -> np.ndarray:
        if path.stem == "broken":
            raise ModelError("it does not load")
        return np.ones_like(inputs)

    monkeypatch.setattr(measuring, "predict", predict)
    cost = measuring.Cost([60.0, 61.0, 90.0], [3.0], "LiteRT")
    monkeypatch.setattr(measuring, "costs", lambda files, sample: dict.fromkeys(files, cost))
    paths = {"broken": tmp_path / "broken.onnx", "good": tmp_path / "good.xml"}
    for path in paths.values():
        path.write_bytes(b"12345")
    (tmp_path / "good.bin").write_bytes(b"123")
    rows = [Row(name, "tool", name) for name in paths]
    ones = np.ones((2, 1, 4, 4), np.float32)
    script.judge(rows, paths, dict.fromkeys(paths, "python"), ones, ones, FocalTversky())
    broken, good = rows
    assert broken.error == "ModelError: it does not load"
    assert (good.size, good.loss, good.dice, good.peak_rss_mb) == (8, 0.0, 1.0, 61.0)
    assert (good.runtime, good.reference) == ("LiteRT", "dense-fp32.onnx")


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file that returns twice its input."""
    import onnx
    from onnx import TensorProto, helper

    shape = (1, 1, 4, 4)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "doubling", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("model") / "doubling.onnx"
    onnx.save(model, path)
    return path


def test_files_are_run_in_processes_of_their_own(doubling: Path) -> None:
    inputs = np.arange(48, dtype=np.float32).reshape(3, 1, 4, 4)
    assert np.array_equal(measuring.predict(doubling, inputs), 2 * inputs)
    (cost,) = measuring.costs({doubling: sys.executable}, inputs[:1]).values()
    assert cost.runtime == "onnxruntime"
    assert len(cost.peaks_mb) == measuring.STARTS
    assert len(cost.rounds_ms) == measuring.STARTS * measuring.ROUNDS
    assert cost.peak_rss_mb > 10


def test_what_a_process_says_or_dies_of_is_an_error(doubling: Path, tmp_path: Path) -> None:
    inputs = np.zeros((1, 1, 4, 4), np.float32)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(doubling.read_bytes()[:40])
    with pytest.raises(ModelError):
        measuring.predict(damaged, inputs)
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\necho 'out of luck' >&2\nexit 3\n")
    dying.chmod(0o700)
    with pytest.raises(ModelError, match=r"^its process ended with 3: out of luck$"):
        measuring.predict(doubling, inputs, dying)


def test_a_toolkits_script_answers_with_one_line(tmp_path: Path) -> None:
    import subprocess

    text = (
        f"import sys\nsys.path.insert(0, {str(SCRIPTS / 'toolkits')!r})\nfrom toolkit import Made, answer\n"
        "def make(variant, inputs, out):\n"
        "    print('chatter')\n"
        "    if variant == 'bad':\n        raise ValueError('no\\n  way')\n"
        "    return Made(out, str(inputs.epochs))\n"
        "answer(make)\n"
    )
    (tmp_path / "tool.py").write_text(text)
    (tmp_path / "settings.json").write_text('{"prune_epochs": 8, "qat_epochs": 5}')
    said = {}
    for variant in ("good", "bad"):
        command = [sys.executable, str(tmp_path / "tool.py"), variant, str(tmp_path), "/out"]
        said[variant] = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said["good"] == '{"path": "/out", "note": "(8, 5)"}\n'
    assert said["bad"] == '{"error": "ValueError: no way"}\n'

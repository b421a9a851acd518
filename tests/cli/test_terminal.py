"""What people see: tables on terminals of several widths, progress, how loud the program is."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from html_page import REST, TASK
from program import Run, call

from torchshrink.cli import bench, console, fit, shown
from torchshrink.cli.app import app
from torchshrink.converters.sizes import comparison

ENVIRONMENT = {"python": "3.11", "system": "Linux", "processor": "x", "cores": 2, "packages": {}, "command": "run"}
NAMES = ("dense/torch-fp32", "pruned-qat/tflite-int8-sparse", "a-variant-of-a-rather-long-name/onnx-int8")
Terminal = Callable[[int], None]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    def make(width: int) -> None:
        for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(width)}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(console, "errors", console.Plain(stderr=True, highlight=False))

    return make


def lines(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


def joined(text: str) -> str:
    return "".join("".join(lines(text)).split())


def check(text: str, width: int) -> None:
    assert max(map(len, lines(text))) <= width
    assert "…" not in text


def row(name: str) -> dict[str, Any]:
    variant, _, kind = name.partition("/")
    return REST | {
        "name": name, "variant": variant, "format": kind.partition("-")[0], "precision": kind.split("-")[1],
        "path": f"files/{name}", "bytes": 1_234_567, "sparsity": 0.8, "loss": 0.1341,
        "metrics": {"dice": 0.9095, "iou": 0.8}, "latency_ms": {"median": 20.67, "p90": 22.0, "threads": 1, "runs": 50},
        "peak_rss_mb": 272.0, "islands": [],
        "parity": {"reference": "dense", "max_abs": 1e-6, "mean_abs": 1e-7, "lsb_match": 0.9997, "passed": True},
    }  # fmt: skip


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_of_a_run_fits(
    terminal: Terminal, capsys: pytest.CaptureFixture[str], tmp_path: Path, width: int, wide: bool
) -> None:
    terminal(width)
    report: Any = {"schema": 1, "task": TASK, "environment": ENVIRONMENT, "rows": list(map(row, NAMES)), "failed": []}
    shown.show_report(report, tmp_path, wide=wide)
    text = capsys.readouterr().out
    check(text.partition("report:")[0], width)
    words = joined(text)
    pieces = [piece for name in NAMES for piece in re.findall(r"[^-/]+", name)]
    for word in (*pieces, "smaller", "faster", "RAM", "proof", "1.235", "99.97%"):
        assert word in words
    assert ("dice" in words) == wide
    assert "loss" in words


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_of_bench_fits(terminal: Terminal, capsys: pytest.CaptureFixture[str], width: int) -> None:
    terminal(width)
    found = {
        "name": "pruned-qat-int8-sparse.tflite", "runtime": "LiteRT with XNNPACK", "bytes": 516_000, "threads": 1,
        "latency_ms": {"median": 3.45, "p10": 3.1, "p90": 4.2}, "ratio": {"median": 0.29, "low": 0.27, "high": 0.33},
        "cpu_ms": 3.2, "cold_start_ms": 120.0, "load_ms": 2.0, "peak_rss_mb": 57.0, "runtime_rss_mb": 40.0,
        "model_rss_mb": 17.0,
    }  # fmt: skip
    for wide in (False, True):
        bench._show_rows([found, found], "dense-fp32.tflite", wide)
        text = capsys.readouterr().out
        check(text, width)
        assert all(word in joined(text) for word in ("pruned", "sparse", "3.45", "median"))
        assert ("cold" in joined(text)) == wide


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_table_of_compare_fits_and_is_against_the_checkpoint(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_file: Path, width: int
) -> None:
    terminal(width)
    sizes = {"model.pt": 2_000_000, "saved_model": 9_000_000, "model-fp16.tflite": 1_000_000}
    rows = [
        comparison.Size(Path(name), "PyTorch", "fp32", size, size, size, None, None) for name, size in sizes.items()
    ]
    monkeypatch.setattr(comparison, "sizes", lambda *_: rows)
    result = call("compare", model_file, "--out", tmp_path / "sizes")
    assert result.code == 0, result.stderr
    check(result.stdout, width)
    (half,) = [line for line in lines(result.stdout) if line.startswith("model-fp16.tflite")]
    assert "2.00x" in half


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torchshrink as ts
    from torchshrink import checkpoint

    path = tmp_path_factory.mktemp("terminal") / "dense.safetensors"
    checkpoint.save(ts.UNet(1, 1, widths=(4, 8), dims=2), path, {"input_shape": [1, 1, 16, 16]})
    return path


@pytest.mark.parametrize("width", [80, 160])
def test_the_layers_of_a_model_and_their_sensitivity_fit(terminal: Terminal, model_file: Path, width: int) -> None:
    terminal(width)
    for extra in ((), ("--wide",), ("--data", "synthetic:cells?size=16&train=20&test=4", "--samples", "2")):
        result = call("inspect", model_file, *extra)
        assert result.code == 0, result.stderr
        check(result.stdout, width)
        assert "encoder." in joined(result.stdout)
        assert ("from" in joined(result.stdout)) == (extra == ("--wide",))
    assert "suggested" in result.stdout


def test_words_wrap_at_words_and_a_name_that_is_too_long_loses_nothing() -> None:
    cell = "a-name/that.is_rather long"
    ((_, ((wrapped, figure),)),) = fit.blocks(["file", "MB"], [[cell, "1234.567"]], 19)
    assert wrapped.split("\n") == ["a-name/", "that.", "is_rather", "long"] or wrapped.split("\n") == [
        "a-name/", "that.is_", "rather", "long"]  # fmt: skip
    assert figure == "1234.567"
    ((_, ((wrapped, _),)),) = fit.blocks(["file", "MB"], [["x" * 50, "1"]], 30)
    assert wrapped.replace("\n", "") == "x" * 50
    assert max(map(len, wrapped.split("\n"))) <= 26


def test_what_is_piped_has_whole_lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    console.show_table(["file", "what"], [["x" * 100, "y " * 100]])
    console.show("word " * 100)
    assert max(map(len, capsys.readouterr().out.splitlines())) >= 300


def progress_of(monkeypatch: pytest.MonkeyPatch, is_terminal: bool, width: int = 80) -> io.StringIO:
    file = io.StringIO()
    monkeypatch.setattr(console, "errors", console.Plain(file=file, force_terminal=is_terminal, width=width))
    return file


def test_piped_progress_is_lines_with_share_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    file = progress_of(monkeypatch, is_terminal=False)
    clock = iter([0.0, 0.0, *[20.0] * 9])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.Progress() as progress:
        progress.start("train")
        progress.start("train")
        progress.update(1, 4, "epoch 1/4")
    assert file.getvalue().splitlines() == ["train ...", "  25% (1/4) epoch 1/4, 1 min 0 s left"]


def test_the_first_of_many_pieces_is_nothing_to_guess_from() -> None:
    assert console._left(45.0, 1, 133) == ""
    assert console._left(45.0, 7, 133) == "13 min 30 s left"


def test_calibration_says_how_much_of_it_is_done(monkeypatch: pytest.MonkeyPatch, tiny_task: Any) -> None:
    from torchshrink import stages

    console.listen(logging.INFO)
    file = progress_of(monkeypatch, is_terminal=False)
    monkeypatch.setattr(console, "_SECONDS_BETWEEN_LINES", 0.0)
    with console.Progress() as progress:
        progress.start("calibrate")
        assert len(list(stages._calibration(tiny_task, batch_size=8, samples=100))) == 3
    said = re.findall(r"(\d+)% \((\d/\d)\) (batch \d)", file.getvalue())
    assert said == [("0", "0/3", "batch 1"), ("33", "1/3", "batch 2"), ("66", "2/3", "batch 3")]


def test_as_many_files_are_written_as_were_announced(finished: Run) -> None:
    """Only sparse files that would save nothing are left out of those that are counted."""
    from torchshrink.converters import bridge

    kinds = ("onnx", "tflite"), ("fp32", "fp16", "int8")
    made = {row["name"] for row in finished.rows(variant="pruned") if row["format"] != "torch"}
    assert len(made) == bridge._count(*kinds) == 8


def test_a_bar_fits_and_says_what_is_going_on(monkeypatch: pytest.MonkeyPatch) -> None:
    console.listen(logging.INFO)
    file = progress_of(monkeypatch, is_terminal=True)
    with console.Progress() as progress:
        progress.start("dense: export and convert")
        logging.getLogger("torchshrink.converters.bridge").info("write dense-fp16.tflite")
        progress._bars.refresh()
        progress.update(1, 2, "b" * 200)
        progress._bars.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert "write dense-fp16.tflite" in text
    assert "50%" in text
    assert max(len(line) for line in re.split(r"[\r\n]", text)) <= 80


def test_each_step_leaves_one_line_and_a_failed_one_none(monkeypatch: pytest.MonkeyPatch) -> None:
    file = progress_of(monkeypatch, is_terminal=True)
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with contextlib.suppress(ValueError), console.Progress() as progress:
        for title, ends in (("train", 75.0), ("blink", 75.1), ("verify", 80.0)):
            progress.start(title)
            progress.start(title)
            now[0] = ends
        progress.start("measure")
        now[0] = 90.0
        raise ValueError("wrong")
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert re.findall(r"(\w+): (\d[^\r\n]*?)\s*[\r\n]", text) == [("train", "1 min 15 s"), ("verify", "5 s")]


def test_what_a_run_took_stands_below_its_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    file = progress_of(monkeypatch, is_terminal=True)
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.Progress() as progress:
        progress.start("measure")
        progress.note("on the way")
        now[0] = 64.0
        progress.update(1, 1)
        progress.note("took 64 s")
        progress.update(1, 1)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue())
    assert re.findall(r"on the way|measure: 1 min 4 s|took 64 s", text) == [
        "on the way",
        "measure: 1 min 4 s",
        "took 64 s",
    ]


@pytest.fixture
def loudness() -> Any:
    yield
    console.listen(logging.INFO)


def test_quiet_and_verbose(loudness: Any, monkeypatch: pytest.MonkeyPatch, model_file: Path) -> None:
    monkeypatch.setattr(console, "errors", console.Plain(stderr=True, highlight=False))
    assert "inspect dense.safetensors" in call("inspect", model_file).stderr
    assert call("inspect", model_file, "-q").stderr == ""
    assert call("-q", "inspect", model_file).stderr == ""
    assert call("-q", "inspect", model_file, "-v").code == 0
    assert call("inspect", model_file, "-q", "-v").code == 2
    console.listen(logging.DEBUG)
    file = progress_of(monkeypatch, is_terminal=False)
    logging.getLogger("torchshrink.converters").info("write it")
    logging.getLogger("torchshrink.converters").warning("careful")
    assert file.getvalue() == "  torchshrink.converters: write it\nwarning: careful\n"


def test_a_library_user_can_route_what_jobs_say(caplog: pytest.LogCaptureFixture) -> None:
    from torchshrink.progress import SILENT

    with caplog.at_level(logging.INFO, "torchshrink"):
        SILENT.start("train")
        SILENT.update(1, 2)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [("torchshrink.progress", "train")]


def test_commands_stand_in_groups_and_the_shell_can_complete_them() -> None:
    text = call("--help").stdout
    order = [text.index(each) for each in ("Make a model smaller", "Look into models and files", "Ship files")]
    assert order == sorted(order)
    assert "--install-completion" in text
    panels = call("prune", "--help").stdout
    assert all(each in panels for each in ("Model and data", "Training", "What is shown"))


def test_every_command_has_what_every_command_has() -> None:
    group: Any = typer.main.get_command(app)
    tables = {"run", "sweep", "search", "inspect", "bench", "compare", "report", "verify"}
    for name, command in group.commands.items():
        known = {option for parameter in command.params for option in parameter.opts}
        assert known >= {"--json", "--verbose", "-v", "--quiet", "-q", "--debug"}, name
        assert ("--wide" in known) == (name in tables), name
        assert command.rich_help_panel in ("Make a model smaller", "Look into models and files", "Ship files"), name
        own = [each for each in command.params if getattr(each, "rich_help_panel", None) is None]
        assert len(own) <= 11, f"{name}: a help that long needs groups"


def test_doctor_knows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchshrink.cli import doctor

    monkeypatch.setattr(doctor, "_int8_gain", dict)
    found = call("doctor", "--json").json
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["disk_free_gb"] > 0
    assert found["extras"]["onnxruntime"] == []
    text = call("doctor").stdout
    assert all(word in text for word in ("GPU: ", "disk: ", "cores", "extras: "))


def test_export_writes_what_a_user_must_know_beside_the_file(model_file: Path, tmp_path: Path) -> None:
    assert call("export", model_file, "--out", tmp_path / "model.onnx").code == 0
    beside = json.loads((tmp_path / "model.onnx.json").read_text())
    assert (beside["path"], beside["precision"], beside["input_shape"]) == ("model.onnx", "fp32", [1, 1, 16, 16])
    (tmp_path / "model.onnx").unlink()
    again = call("export", model_file, "--out", tmp_path / "model.onnx")
    assert again.code == 3
    assert "model.onnx.json exists" in again.said

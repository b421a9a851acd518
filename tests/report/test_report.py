"""The report on rows whose ratios can be read off."""

import csv
import io
import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from html_page import REST, TASK

from torchshrink.bench.environment import environment
from torchshrink.errors import DataError
from torchshrink.report import columns, document, samples, tracking, tradeoff
from torchshrink.report import text as report
from torchshrink.report.curves import curves
from torchshrink.report.html.page import _recipe
from torchshrink.report.plot import plot


def row(variant: str, format_: str, precision: str, **values: Any) -> dict[str, Any]:
    latency = values.pop("ms", 1.0)
    defaults = {
        **REST,
        "path": f"files/{variant}.{format_}",
        "name": f"{variant}/{format_}-{precision}",
        "variant": variant,
        "format": format_,
        "precision": precision,
        "bytes": 1_000_000,
        "sparsity": 0.0,
        "loss": 0.5,
        "metrics": {"dice": 0.75, "iou": 0.6},
        "latency_ms": {"median": latency, "p90": 2 * latency, "threads": 1, "runs": 50},
        "peak_rss_mb": 100.0,
        "parity": {"reference": "torch", "max_abs": 1.5e-6, "mean_abs": 0.0, "lsb_match": None, "passed": True},
        "islands": [],
    }
    return defaults | values


def of(rows: list[dict[str, Any]]) -> Any:
    """A report as far as sentences need one."""
    return {"rows": rows, "environment": environment()}


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    reference = {"reference": None, "max_abs": 0.0, "mean_abs": 0.0, "lsb_match": None, "passed": True}
    integer = {"reference": "torch", "max_abs": 0.004, "mean_abs": 0.0, "lsb_match": 0.99876, "passed": True}
    return [
        row("dense", "torch", "fp32", bytes=2_100_000, ms=12.0, peak_rss_mb=300.0, parity=reference, loss=0.5),
        row("dense", "onnx", "fp32", bytes=2_050_000, ms=6.0),
        row("dense", "tflite", "fp32", bytes=2_000_000, ms=8.0),
        row("dense", "tflite", "int8", bytes=500_000, ms=2.5, parity=integer),
        row("pruned", "onnx", "int8", bytes=500_001, ms=3.0, sparsity=0.8, islands=["ConvTranspose x3", "Sin"]),
        row(
            "pruned",
            "tflite",
            "int8",
            bytes=250_000,
            ms=2.0,
            peak_rss_mb=60.0,
            sparsity=0.805,
            loss=0.5123,
            parity=integer,
        ),
    ]


@pytest.fixture
def content(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "task": dict(TASK),
        "environment": environment(),
        "rows": rows,
        "failed": [{"name": "dense/onnx-fp16", "path": None, "reason": "differs by 0.5", "parity": None}],
    }


def test_reference_is_the_first_fp32_file_of_the_format(rows: list[dict[str, Any]]) -> None:
    assert tradeoff.reference(rows)["name"] == "dense/tflite-fp32"
    assert tradeoff.reference(rows, "onnx")["name"] == "dense/onnx-fp32"
    assert tradeoff.reference(rows, "h5")["name"] == "dense/torch-fp32"  # any fp32
    assert tradeoff.reference(rows[3:])["name"] == "dense/tflite-int8"  # or any at all


def test_table(rows: list[dict[str, Any]]) -> None:
    headings, lines = columns.table(rows)
    found = {line[0].text: dict(zip(headings, [cell.text for cell in line], strict=True)) for line in lines}
    assert list(found) == [item["name"] for item in rows]
    best = found["pruned/tflite-int8"]
    assert best["MB"] == "0.250"
    assert best["smaller"] == "8.00x"  # than the fp32 TFLite file of 2 MB
    assert best["faster"] == "4.00x"  # than the same, 8 ms
    assert best["ms"] == "2.00"
    assert best["sparse"] == "80%"
    assert best["loss"] == "0.5123"
    assert best["dice"] == "0.7500"
    assert best["RAM MB"] == "60"
    assert best["parity"] == "99.88% within 1"
    assert found["pruned/onnx-int8"]["faster"] == "2.00x"  # than the fp32 ONNX file, 6 ms
    assert found["pruned/onnx-int8"]["parity"] == "1.5e-06"
    assert found["dense/torch-fp32"]["faster"] == "1.00x"
    assert found["dense/torch-fp32"]["smaller"] == "0.95x"
    assert found["dense/torch-fp32"]["parity"] == "reference"
    assert found["dense/tflite-fp32"]["smaller"] == "1.00x"


def test_verdict(rows: list[dict[str, Any]]) -> None:
    assert report.verdict(of(rows)) == (
        "pruned/tflite-int8 is 8.0x smaller and 4.0x faster than the dense fp32 file, and its process needs 1/5.0 of "
        "the RAM of dense/torch-fp32, at a test loss of 0.5123 (+0.0123)."
    )


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        ({"ms": 16.0}, "is 8.0x smaller and 2.0x slower than the dense fp32 file, and"),
        (
            {"ms": 8.2},
            "is 8.0x smaller than the dense fp32 file (and as fast), and",
        ),  # 0.976: no difference to speak of
        ({"bytes": 1_960_000}, "is 4.0x faster than the dense fp32 file (and as large), and"),
        ({"bytes": 1_999_999, "ms": 8.0}, "is as large and as fast as the dense fp32 file, and"),
        ({"peak_rss_mb": 600.0}, "its process needs 2.0x more RAM than dense/torch-fp32, at"),
        ({"peak_rss_mb": 303.0}, "its process needs as much RAM as dense/torch-fp32, at"),
        ({"peak_rss_mb": 150.0}, "its process needs 1/2.0 of the RAM of dense/torch-fp32, at"),
    ],
)
def test_verdict_says_what_got_worse(best: dict[str, Any], expected: str) -> None:
    rows = [
        row("dense", "torch", "fp32", bytes=9_000_000, peak_rss_mb=300.0),
        row("dense", "tflite", "fp32", bytes=2_000_000, ms=8.0),
        row("small", "tflite", "int8", **{"bytes": 250_000, "ms": 2.0, "peak_rss_mb": 60.0} | best),
    ]
    found = report.verdict(of(rows))
    assert expected in found


def test_verdict_is_of_a_file_within_the_budget_if_one_is_smaller() -> None:
    """A file that is smaller by a hair and far beyond the budget is not what to ship."""
    rows = [
        row("dense", "torch", "fp32"),
        row("dense", "tflite", "fp32", bytes=2_000_000),
        row("dense", "tflite", "int8", bytes=500_000),
        row("qat", "tflite", "int8", bytes=499_000, loss=0.7),
    ]
    content = of(rows) | {"task": {"decides": "loss", "budget": {"amount": 0.05, "is_share": True}}}
    assert report.verdict(content).startswith("dense/tflite-int8 is 4.0x smaller")
    rows[2]["loss"] = 0.6
    assert report.verdict(content).startswith("qat/tflite-int8 is 4.0x smaller")
    assert "beyond the budget of 5 %" in report.verdict(content)


def test_small_losses_show_digits(rows: list[dict[str, Any]]) -> None:
    small = [item | {"loss": item["loss"] / 1e4} for item in rows]
    headings, lines = columns.table(small)
    found = {line[0].text: dict(zip(headings, [cell.text for cell in line], strict=True)) for line in lines}
    assert found["pruned/tflite-int8"]["loss"] == "5.1e-05"
    assert report.verdict(of(small)).endswith("at a test loss of 5.1e-05 (+1.2e-06).")


def test_verdict_on_a_single_file() -> None:
    assert report.verdict(of([row("small", "onnx", "int8")])) == (
        "small/onnx-int8 is as large and as fast as the dense fp32 file, and its process needs as much RAM as "
        "small/onnx-int8, at a test loss of 0.5000 (+0.0000)."
    )


def test_nothing_was_verified(content: dict[str, Any]) -> None:
    assert report.verdict(of([])) == "No file was verified."
    assert columns.table([])[1] == []
    assert "No file was verified." in report.markdown(content | {"rows": []})


def test_markdown(content: dict[str, Any]) -> None:
    lines = report.markdown(content).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + len(content["rows"])
    assert len({line.count("|") for line in table}) == 1
    assert report.verdict(content) in lines
    assert "- pruned/onnx-int8: ConvTranspose x3, Sin" in lines
    content["rows"][4]["float_time"] = 0.604
    assert (
        "- pruned/onnx-int8: ConvTranspose x3, Sin (60% of the time in float)" in report.markdown(content).splitlines()
    )
    assert "- dense/onnx-fp16: differs by 0.5" in lines
    text = "\n".join(lines)
    assert "cells, 8 training, 2 validation and 3 test samples of shape [1, 1, 8, 8], seed 4" in text
    assert f"Python {content['environment']['python']}" in text


def test_markdown_without_islands_and_failures(content: dict[str, Any]) -> None:
    for item in content["rows"]:
        item["islands"] = []
    text = report.markdown(content | {"failed": []})
    assert "Every int8 file computes in integers from input to output." in text
    assert "## Failed verification\n\nNone." in text


def test_save_and_load(content: dict[str, Any], tmp_path: Path) -> None:
    content["layers"] = {"dense": [{"name": "conv", "params": 9, "nonzero": 3, "macs": 81}]}
    document.save(content, tmp_path / "out")
    assert document.load(tmp_path / "out") == {"schema": 1, **content}
    names = ["report.csv", "report.html", "report.json", "report.md", "report.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert json.loads((tmp_path / "out" / "report.json").read_text())["schema"] == 1
    assert (tmp_path / "out" / "report.md").read_text() == report.markdown(content)


@pytest.mark.parametrize("count", [6, 1, 0])
def test_plot_is_a_png(rows: list[dict[str, Any]], tmp_path: Path, count: int) -> None:
    plot(rows[:count], tmp_path / "p.png")
    content = (tmp_path / "p.png").read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (9 * 120, 660)  # 9 x 5.5 inches at 120 dpi


def test_a_plot_of_figures_that_are_no_numbers(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    plot([{**row, "loss": float("nan")} for row in rows], tmp_path / "p.png")
    assert (tmp_path / "p.png").is_file()


def test_plot_is_an_svg_that_names_the_files(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        plot(rows, tmp_path / "p.svg")
    text = (tmp_path / "p.svg").read_text()
    assert "<svg" in text
    for name in ("dense/torch-fp32", "dense/tflite-int8", "pruned/tflite-int8"):  # the largest, the smallest of each
        assert name in text
    assert "dense/onnx-fp32" not in text


@pytest.mark.parametrize("content", [None, "", "{", b"\xff\xfe", "[" * 100_000])
def test_damaged_reports(tmp_path: Path, content: str | bytes | None) -> None:
    if content is not None:
        (tmp_path / "report.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=r"report\.json is missing or damaged: `torchshrink run --out .*` makes it"):
        document.load(tmp_path)


HOSTILE = (
    "=HYPERLINK(0)|<script>alert(1)</script>\n# heading\n| a | b |\n[link](javascript:0)![picture](http://x)`code`"
    "\x1b[31m\u202e"
)


def test_markdown_of_hostile_names(content: dict[str, Any]) -> None:
    expected = len(report.markdown(content).splitlines())
    content["rows"][0]["name"] = content["rows"][4]["islands"][0] = HOSTILE
    content["failed"][0]["reason"] = content["failed"][0]["name"] = content["task"]["name"] = HOSTILE
    content["environment"]["processor"] = content["environment"]["command"] = HOSTILE
    content["task"] |= {"decides": HOSTILE, "metrics": {}}
    for row in content["rows"]:
        row["metrics"] = {HOSTILE: 0.5}
    text = report.markdown(content)
    assert not set("\x1b\u202e") & set(text)
    assert len(text.splitlines()) == expected
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}) == 1
    assert re.search(r"(?<!\\)[<>`]", text) is None
    assert re.findall(r"(?<!\\)\](?=\()", text) == ["]"]  # of our own picture


def test_csv_of_hostile_names(rows: list[dict[str, Any]]) -> None:
    for first in "=+-@\t\r":
        rows[0]["variant"] = rows[0]["islands"] = f"{first}1+1|cmd"
        rows[0]["islands"] = [rows[0]["variant"]]
        line = next(iter(csv.DictReader(io.StringIO(report.table_csv(rows), newline=""))))
        assert (line["variant"], line["islands"]) == (f"'{first}1+1|cmd", f"'{first}1+1|cmd")


@pytest.mark.parametrize("key", ["path", "name", "variant"])
@pytest.mark.parametrize("name", ["/etc/hostname", "../other", ""])
def test_reports_that_name_files_elsewhere(content: dict[str, Any], tmp_path: Path, key: str, name: str) -> None:
    content["rows"][0][key] = name
    (tmp_path / "report.json").write_text(json.dumps({"schema": 1, **content}))
    with pytest.raises(DataError, match=r"which is not in its folder: somebody changed it"):
        document.load(tmp_path)


@pytest.mark.parametrize("secret", ["hunter2", "p4@ss:word"])
def test_the_command_holds_no_password(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    urls = [
        f"postgresql+psycopg://me:{secret}@host/db",
        f"s3://id:{secret}@bucket/x",
        f"postgresql://h/db?password={secret}",
    ]
    for arguments in (["--storage", url] for url in urls):
        monkeypatch.setattr("sys.argv", ["torchshrink", "search", *arguments, f"--artefacts={arguments[1]}"])
        command = environment()["command"]
        assert secret not in command
        assert "host" in command or "bucket" in command or "h/db" in command


def test_csv_holds_plain_numbers(rows: list[dict[str, Any]]) -> None:
    rows[4]["islands"] = ["Sin, of x", 'Mul "a"']
    lines = list(csv.DictReader(io.StringIO(report.table_csv(rows))))
    assert [line["name"] for line in lines] == [item["name"] for item in rows]
    for line, item in zip(lines, rows, strict=True):
        assert int(line["bytes"]) == item["bytes"]
        assert float(line["loss"]) == item["loss"]
        assert float(line["sparsity"]) == item["sparsity"]
        assert float(line["dice"]) == item["metrics"]["dice"]
        assert float(line["latency_median_ms"]) == item["latency_ms"]["median"]
        assert float(line["peak_rss_mb"]) == item["peak_rss_mb"]
    assert lines[0]["parity_reference"] == ""
    assert lines[0]["parity_lsb_match"] == ""
    assert float(lines[3]["parity_lsb_match"]) == 0.99876
    assert lines[4]["islands"] == 'Sin, of x; Mul "a"'
    assert lines[4]["entropy_bytes"] == ""  # unknown in these rows
    assert report.table_csv([]) == (
        "name,variant,format,precision,path,bytes,gzip_bytes,entropy_bytes,params,nonzero,sparsity,macs,loss,dice,iou,"
        "latency_median_ms,latency_p90_ms,threads,runs,peak_rss_mb,runtime_rss_mb,model_rss_mb,arena_bytes,"
        "parity_reference,parity_max_abs,parity_mean_abs,parity_lsb_match,islands,matched_ranges,graph_noise_db\r\n"
    )


def test_recommendations_name_the_file_with_its_figures(rows: list[dict[str, Any]]) -> None:
    smallest, fastest, *_ = report.recommendations(of(rows))
    assert smallest == "Smallest: dense/tflite-int8, 0.500 MB, 2.50 ms, 100 MB of RAM, test loss 0.5000 (+0.0000)."
    assert fastest.startswith("Fastest: dense/tflite-int8, ")  # pruned/tflite-int8 costs 0.0123, beyond the budget
    rows[0]["loss"] = 0.4
    assert report.recommendations(of(rows))[0] == (
        "Smallest: no file's test loss is within +0.01 of dense/torch-fp32; dense/onnx-fp32 comes closest (+0.1000)."
    )
    assert report.recommendations(of(rows[:1]))[3] == "Lowest loss: no exported file was verified."


def test_the_command_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["torchshrink", "run", "--data", "my data; rm x"])
    assert environment()["command"] == "torchshrink run --data 'my data; rm x'"


@pytest.mark.parametrize("schema", [None, 0, 2])
def test_other_schemas(tmp_path: Path, schema: int | None) -> None:
    (tmp_path / "report.json").write_text(json.dumps({"schema": schema, "rows": []}))
    with pytest.raises(DataError, match=f"has schema {schema}, this version reads 1"):
        document.load(tmp_path)


def test_environment_names_versions() -> None:
    found = environment()
    assert found["packages"]["torchshrink"] == "0.1.0"
    assert found["packages"]["torch"].startswith("2.")
    json.dumps(found)
    assert found["processor"]


def test_a_run_is_kept_where_nothing_draws_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(module: str) -> Any:
        def render(*_: Any) -> None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)

        return render

    monkeypatch.setattr(document, "load", lambda out: {})
    monkeypatch.setattr(document, "render", absent("matplotlib"))
    document.save({"rows": []}, tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["rows"] == []
    assert "pip install 'torchshrink[report]'; then torchshrink report" in caplog.text
    monkeypatch.setattr(document, "render", absent("something_else"))
    with pytest.raises(ModuleNotFoundError):
        document.save({"rows": []}, tmp_path)


def test_a_link_out_of_the_folder_is_not_shown(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"password": "x"}')
    document.save(content, tmp_path / "run")
    (tmp_path / "run" / "recipe.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(DataError, match="leads out of the run's folder"):
        document.load(tmp_path / "run")


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", None])
def test_a_recipe_that_cannot_be_read_is_not_shown(text: str | None, tmp_path: Path) -> None:
    if text is None:
        os.mkfifo(tmp_path / "recipe.json")
    else:
        (tmp_path / "recipe.json").write_text(text)
    assert _recipe(tmp_path) in (None, "[]")
    assert tracking.settings(tmp_path) == {}


@pytest.mark.parametrize("place", [100, 200, 300])
def test_a_damaged_sample_is_not_shown(place: int, tmp_path: Path) -> None:
    samples.keep_data(tmp_path, np.random.default_rng(0).random((2, 1, 16)), np.zeros((2, 1, 16)))
    path = tmp_path / "samples" / "data.npz"
    content = bytearray(path.read_bytes())
    content[place : place + 4] = b"\xff\xff\xff\xff"  # in compressed values: zlib's own error
    path.write_bytes(content)
    assert samples.data(tmp_path) is None


def test_samples_that_unpack_to_more_than_a_run_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples.keep_data(tmp_path, np.zeros((2, 1, 512)), np.zeros((2, 1, 512)))
    assert samples.data(tmp_path) is not None
    monkeypatch.setattr(samples, "LARGEST_TEXT", 2000)
    assert samples.data(tmp_path) is None


def test_a_checkpoint_that_is_a_pipe_has_no_curves(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    os.mkfifo(tmp_path / "models" / "dense.safetensors")
    assert curves(tmp_path, "dense") == []

"""The scaling script's own functions on made-up figures, and its processes: no model is trained or converted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from script import load

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "scaling_parts"))

import growth  # noqa: E402
import processes  # noqa: E402
import scaling_page  # noqa: E402
import searching  # noqa: E402
import work  # noqa: E402

script = load("scaling")
DRIVERS = {"parameters": [1.0, 16.0, 64.0], "activations": [1.0, 4.0, 4.2]}
ABOUT = {"machine": "a machine, no GPU", "date": "2026-01-02", "command": "scripts/scaling", "versions": "v"} | {
    "limit": 240.0
}


def test_a_cost_is_described_by_what_it_was_made_of() -> None:
    found = growth.find([3 + 2 * value for value in DRIVERS["parameters"]], DRIVERS)
    assert (found.driver, found.error) == ("parameters", pytest.approx(0, abs=1e-9))
    assert found.ratio == pytest.approx(131 / 5)
    assert found.fixed_share == pytest.approx(3 / 131)
    assert growth.find([0.5 * value for value in DRIVERS["activations"]], DRIVERS).driver == "activations"


def test_neither_part_of_a_description_is_negative() -> None:
    # 10 x - 5 for x = 1, 2, 3: a line through the origin is the best without a negative part.
    found = growth.find([5.0, 15.0, 25.0], {"x": [1.0, 2.0, 3.0]})
    assert found.fixed_share == 0
    # The slope s makes the sum of (s x / y - 1)^2 least: sum(x / y) / sum((x / y)^2), x / y = 1/5, 2/15, 3/25.
    slope = (1 / 5 + 2 / 15 + 3 / 25) / (1 / 25 + 4 / 225 + 9 / 625)
    assert found.error == pytest.approx(max(abs(slope * part - 1) for part in (1 / 5, 2 / 15, 3 / 25)))


def test_what_hardly_differs_grows_with_nothing() -> None:
    found = growth.find([10.0, 10.0, 12.0], DRIVERS)
    assert (found.driver, found.fixed_share) == (growth.NOTHING, 1.0)
    assert growth.find([10.0, 10.0, 13.0], DRIVERS).driver != growth.NOTHING


def figures() -> dict[str, Any]:
    """Three models: training grows with multiply-accumulates, files with parameters, and the largest has no TFLite."""
    found = {}
    sizes = {"0.5 M": (1, 1, 1), "7.8 M": (16, 8, 4), "31 M": (64, 20, 4)}
    for name, (parameters, macs, activations) in sizes.items():
        stages: dict[str, Any] = {
            stage: {"cpu_seconds": 2.0 * macs, "seconds": 3.0 * macs, "peak_mb": 300.0, "bytes": 1_000_000 * parameters}
            for stage in work.STAGES
        }
        stages["model"] |= {"parameters": parameters, "macs": macs, "activations": activations}
        stages["train"]["precision"] = "float32"
        found[name] = stages
    found["31 M"]["tflite-fp32"] = {"error": "not done after 240 s", "cpu_seconds": 240.0, "peak_mb": 1400.0}
    found["31 M"]["tflite-fp32"]["converter_mb"] = 7066.0
    return found


def test_page_shows_ratios_and_what_a_cost_grows_with() -> None:
    text = "\n".join(scaling_page.write(figures(), ABOUT))
    assert "| training step, 16 samples | 2 | 16 (x8) | 40 (x20) | multiply-accumulates |" in text
    assert "| training step, per sample | 0.125 | 1 (x8) | 2.5 (x20) | multiply-accumulates |" in text
    assert "- **training step, 16 samples**: with multiply-accumulates (to 0%): convolutions" in text
    assert "| ONNX fp32 | 1.000 | 16.000 (x16) | 64.000 (x64) | parameters |" in text
    assert "| training | 300 | 300 (x1) | 300 (x1) |  |" in text
    assert "| 31 M | 64 (x64) | 20 (x20) | 4 (x4) |" in text
    assert "Made on 2026-01-02 by `scripts/scaling` on a machine, no GPU" in text


def test_memory_is_taken_apart() -> None:
    # 200 MB, 16 bytes for each parameter, 34 for each activation, in MB.
    parts = {"parameters": [0.5e6, 8e6, 31e6], "activations": [6e6, 25e6, 26e6]}
    costs = [200 + 16e-6 * one + 34e-6 * other for one, other in zip(*parts.values(), strict=True)]
    found = growth.take_apart(costs, parts)
    assert found.fixed == pytest.approx(200)
    assert found.weights == pytest.approx({"parameters": 16e-6, "activations": 34e-6})
    assert found.shares == pytest.approx({"parameters": 16 * 30.5 / 1168, "activations": 34 * 20 / 1168})
    held = figures()
    for stages, parameters, activations, cost in zip(held.values(), *parts.values(), costs, strict=True):
        stages["model"] |= {"parameters": parameters, "activations": activations}
        stages["train"]["peak_mb"] = cost
    text = "\n".join(scaling_page.write(held, ABOUT))
    assert "| training | 412 | 1178 (x2.86) | 1580 (x3.83) | activations 58%, parameters 42% |" in text
    expected = (
        "- **training**: 200 MB + 34.0 bytes for each of the activations + 16.0 bytes for each of the parameters: "
    )
    assert expected in text


def test_page_tells_how_busy_the_machine_was() -> None:
    assert "wall time was 1.5 times the processor time" in "\n".join(scaling_page.write(figures(), ABOUT))


def test_page_tells_what_failed_and_how_far_it_came() -> None:
    text = "\n".join(scaling_page.write(figures(), ABOUT))
    assert "| TFLite fp32 | 2 | 16 (x8) | fails | ? |" in text
    assert "- **TFLite fp32**: too few figures to say" in text
    expected = "- 31 M, tflite-fp32: not done after 240 s (own process at 1400 MB, TensorFlow's process at 7066 MB)."
    assert expected in text
    wrong = figures()
    wrong["0.5 M"]["verify-int8"]["passed"] = False
    assert "- 0.5 M, verify-int8: the file does not compute" in "\n".join(scaling_page.write(wrong, ABOUT))
    whole = figures()
    del whole["31 M"]
    assert "Everything was made and verified." in scaling_page.write(whole, ABOUT)


def test_page_says_when_no_driver_describes_a_cost() -> None:
    mixed = figures()
    for name, value in zip(mixed, (1.0, 10.0, 1.5), strict=True):
        mixed[name]["train"]["cpu_seconds"] = value
    text = "\n".join(scaling_page.write(mixed, ABOUT))
    assert "- **training step, 16 samples**: none alone describes it" in text


def test_every_row_is_about_a_stage() -> None:
    rows = (*scaling_page.TIMES, *scaling_page.MEMORY, *scaling_page.SIZES)
    assert {row.stage for row in rows} == set(work.STAGES)
    assert set(work.NEEDS) <= set(work.STAGES)


SEARCH = {
    "workers": {"1": {"trials": 10, "seconds": 1000.0}, "2": {"trials": 10, "seconds": 625.0}},
    "overhead_seconds_per_trial": 2.0,
    "store_queries_per_trial": 30.0,
    "artefact_bytes_per_trial": 5_000_000,
}
COSTS = {"0.5 M": searching.Costs(20.0, 5.0, 1e6), "31 M": searching.Costs(100.0, 25.0, 40e6)}


def test_a_load_is_the_rate_times_what_a_trial_costs() -> None:
    # 100 GPUs x 3600 s / (298 s + 2 s) = 1200 trials per hour, one in 3 s.
    search = {**SEARCH, "overhead_seconds_per_trial": 2.0}
    found = searching.load(298 / 60, COSTS["0.5 M"], search, 5_000_000)
    assert found.trials_per_hour == pytest.approx(1200)
    assert found.demands[searching.STORE] == pytest.approx(10)
    assert found.demands[searching.FOLDER] == pytest.approx(5e6 / 3)
    assert found.demands[searching.CONVERTING] == pytest.approx(20 / 3)
    assert found.demands[searching.MEASURING] == pytest.approx(5 / 3)
    assert found.bottleneck == searching.MEASURING
    assert found.gpus == pytest.approx(60)


def test_the_bottleneck_follows_from_the_figures() -> None:
    busy = searching.load(5, searching.Costs(1000.0, 0.1, 1e6), SEARCH, 5_000_000)
    assert busy.bottleneck == searching.CONVERTING
    talking = searching.load(5, COSTS["0.5 M"], {**SEARCH, "store_queries_per_trial": 1e5}, 5_000_000)
    assert talking.bottleneck == searching.STORE
    writing = searching.load(5, COSTS["0.5 M"], SEARCH, 1e12)
    assert writing.bottleneck == searching.FOLDER


def test_searching_shows_its_arithmetic() -> None:
    text = "\n".join(searching.write(SEARCH, COSTS))
    assert "| 1 | 10 | 1000 | 36.0 | 1.00 | 2.0% |" in text
    assert "| 2 | 10 | 625 | 57.6 | 1.60 | 1.6% |" in text
    # 360000 s / 302 s = 1192 an hour, 0.3311 a second: x 30 = 9.93 queries, x 5 MB = 5.96 GB an hour, x 20 s, x 5 s.
    assert "| 0.5 M | 5 | 1192 | 9.93 | 5.96 | 6.6 | 1.66 | measuring latency | 60 |" in text
    # Its folder is 40 times as large: 238.4 GB an hour; it is measured five times as long: enough for 12 GPUs.
    assert "| 31 M | 5 | 1192 | 9.93 | 238.41 | 33.1 | 8.28 | measuring latency | 12 |" in text
    assert "100 x 3600 s / (5 x 60 s + 2.00 s) = 1192 trials per hour, 0.331 a second" in text
    assert "**The bottleneck** in the worst case (31 M, 5 minutes) is **measuring latency**: 8.28 times" in text
    # 20 s + 5 s of 302 s + 25 s.
    assert "25.0 s of 327 s, 7.6%" in text


def test_searching_says_when_nothing_runs_out() -> None:
    text = "\n".join(searching.write(SEARCH, {"0.5 M": searching.Costs(1.0, 0.1, 1e6)}))
    assert "100 GPUs do not reach it." in text
    assert "nothing to add up" in "\n".join(searching.write(SEARCH, {}))


def test_costs_leave_out_what_was_not_measured() -> None:
    found = searching.Costs.of(
        {
            "0.5 M": {"trial": {"cpu_seconds": 22.0, "bytes": 5e6}, "measure": {"cpu_seconds": 2.0}},
            "7.8 M": {"trial": {"error": "it broke", "cpu_seconds": 9.0}, "measure": {"cpu_seconds": 2.0}},
            "31 M": {},
        }
    )
    assert found == {"0.5 M": searching.Costs(20.0, 2.0, 5e6)}


def run(code: str, limit: float = 60.0, *arguments: str) -> dict[str, Any]:
    return processes.run([sys.executable, "-c", code, *arguments], limit)


def test_a_process_answers_with_its_last_line() -> None:
    assert run("print('chatter'); print('{\"seconds\": 1}')") == {"seconds": 1}


def test_a_process_that_dies_says_of_what() -> None:
    found = run("import sys; sys.exit('no such option')")
    assert found["error"] == "ended with 1: no such option"
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")["error"] == "ended with -9: "


def test_a_process_is_ended_with_its_children_when_it_computes_for_too_long(tmp_path: Path) -> None:
    child = f"import os; open({str(tmp_path / 'child')!r}, 'w').write(str(os.getpid()))\nwhile True: pass"
    found = run(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])", 0.5)
    assert found["error"] == "not done after 0.5 s of processor time"
    assert found["cpu_seconds"] > 0.5
    status = Path("/proc", (tmp_path / "child").read_text(), "stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_childs_memory_is_its_own(tmp_path: Path) -> None:
    worker = tmp_path / "_worker.py"
    worker.write_text("import time; time.sleep(1)\n")
    code = (
        "import subprocess, sys; held = b'x' * 300_000_000; subprocess.run([sys.executable, sys.argv[1]]); print('{}')"
    )
    found = run(code, 60.0, str(worker))
    assert 1 < found["runtime_mb"] < 100
    assert "converter_mb" not in found


def test_the_time_of_a_child_counts_while_it_runs() -> None:
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True); input()"
    before = processes.family_seconds(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        while_it_runs = processes.family_seconds(os.getpid())
        child.communicate(b"\n")
    assert 0.45 < while_it_runs - before <= processes.family_seconds(os.getpid()) - before


def test_peak_stays_after_memory_is_given_back() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(SCRIPTS / 'scaling_parts')!r}); from processes import peak_mb\n"
        "x = b'x' * 200_000_000; del x; print('{\"peak_mb\": %f}' % peak_mb('self'))"
    )
    assert 200 < run(code)["peak_mb"] < 400


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Replace the measuring by made-up figures and return what is measured, in order."""
    calls: list[tuple[str, str]] = []
    made = figures()

    def measure(stage: str, model: str, folder: Path, limit: float) -> dict[str, Any]:
        calls.append((model, stage))
        found: dict[str, Any] = made[model][stage]
        return found

    monkeypatch.setattr(script, "measure", measure)
    return calls


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> str:
    out = folder / "page.md"
    monkeypatch.setattr(sys, "argv", ["scaling", "--work", str(folder / "work"), "--out", str(out), *arguments])
    script.main()
    return out.read_text()


def test_what_is_measured_is_kept_and_only_done_again_when_asked(
    done: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = call(monkeypatch, tmp_path)
    assert len(done) == len(work.WIDTHS) * len(work.STAGES)
    assert json.loads((tmp_path / "work" / "figures.json").read_text()) == figures()
    assert "## Searching" not in text
    done.clear()
    assert call(monkeypatch, tmp_path, "--again", "qat").count("\n") == text.count("\n")
    assert done == [(model, "qat") for model in work.WIDTHS]


def test_the_part_about_searching_comes_from_its_own_file(
    done: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "search.json").write_text(json.dumps(SEARCH))
    text = call(monkeypatch, tmp_path)
    assert "## Searching" in text
    assert "| 2 | 10 | 625 | 57.6 | 1.60 | 1.6% |" in text


def test_a_stage_without_its_file_is_not_tried(tmp_path: Path) -> None:
    expected = {"error": "not tried: it needs fp32.tflite, which was not made"}
    assert script.measure("measure", "31 M", tmp_path, 1.0) == expected


def test_command_and_errors_hold_no_folder_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert script.about(["--work", "/somewhere/figures"], 1.0)["command"] == "scripts/scaling --work figures"
    monkeypatch.setattr(processes, "run", lambda command, limit: {"error": f"there is no {command[-1]}/x"})
    assert script.measure("model", "31 M", tmp_path, 1.0) == {"error": "there is no WORK/31M/x"}


@pytest.mark.slow
def test_the_smallest_model_is_described(tmp_path: Path) -> None:
    found = script.measure("model", "0.5 M", tmp_path, 120.0)
    # Per level of c channels from d: 9cd + 9cc weights and 4c of BatchNorm, twice over with a decoder of 9 x 2cc + 9cc
    # and a transposed convolution of 4 x 2cc + c; the head has 16 + 1.
    down = sum(9 * d * c + 9 * c * c + 4 * c for d, c in ((1, 16), (16, 32), (32, 64), (64, 128)))
    up = sum(8 * c * c + c + 27 * c * c + 4 * c for c in (16, 32, 64))
    assert found["parameters"] == down + up + 17 == 482_449
    # Outputs per position: an encoder and a decoder level have 6 of c channels each, and 4 times ups and pools.
    positions = {16: 128**2, 32: 64**2, 64: 32**2, 128: 16**2}
    levels = sum(6 * c * n * (2 if c < 128 else 1) for c, n in positions.items())
    between = sum(c * n + c * n // 4 for c, n in positions.items() if c < 128)
    assert found["activations"] == levels + between + 128**2
    assert found["bytes"] > 4 * 482_449
    assert found["peak_mb"] > 200

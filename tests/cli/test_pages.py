"""Every code block of README and of the site runs, on files of a tiny run; what does not is named with a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pages
import pytest
import torch
import yaml
from program import Run, call

from torchshrink.pipeline import recipe
from torchshrink.pipeline.assemble import make_model, make_task
from torchshrink.pipeline.build import build
from torchshrink.progress import SILENT
from torchshrink.quantize import is_quantized

# A page's lines in the order in which its reader types them; what an earlier page says too runs there.
FIRST = {line: page for page in reversed(pages.PAGES) for line in pages.lines(page) if pages.reason(line) is None}
LINES = {page: [line for line in dict.fromkeys(pages.lines(page)) if FIRST.get(line) == page] for page in pages.PAGES}
SHORT = {page: [line for line in found if not pages.LONG.match(line)] for page, found in LINES.items()}


def name(page: Path) -> str:
    return str(page.relative_to(pages.ROOT))


def run(lines: list[str], finished: Run, folder: Path) -> None:
    pages.furnish(folder, finished)
    for line in lines:
        pages.clear(line, folder)
        result = call(*pages.words(line), cwd=folder)
        assert result.code == 0, f"{line}\n{result.said}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, found in SHORT.items() if found], ids=name)
def test_lines_of_the_shell(page: Path, finished: Run, tmp_path: Path) -> None:
    run(SHORT[page], finished, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", [page for page, found in LINES.items() if found != SHORT[page]], ids=name)
def test_lines_of_pages_that_take_long(page: Path, finished: Run, tmp_path: Path) -> None:
    run(LINES[page], finished, tmp_path)


def test_what_is_not_run_is_still_on_a_page_and_its_test_exists() -> None:
    every = [line for page in pages.PAGES for line in pages.lines(page)]
    for start, reason in pages.NOT_RUN.items():
        assert any(line.startswith(start) for line in every), start
        for word in reason.replace(",", " ").split():
            assert not word.startswith("tests/") or (pages.ROOT / word).exists(), word
    assert all(line.startswith("torchshrink ") or pages.reason(line) for line in every)


def test_blocks_are_in_a_language_that_is_run() -> None:
    starts = [line for page in pages.PAGES for line in page.read_text().splitlines() if line.startswith("```")]
    assert set(starts) <= {"```", "```bash", "```python", "```yaml", "```text"}  # the last is what a program printed


PYTHON = [(page, block) for page in pages.PAGES for block in pages.blocks("python", page)]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), PYTHON, ids=[name(page) for page, _ in PYTHON])
def test_python(
    page: Path, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(block, name(page), "exec"), names)
    assert is_quantized(names["quantized"])
    printed = capsys.readouterr().out.splitlines()
    assert float(printed[0]) == pytest.approx({"own-loop": 0.5, "python": 0.8}[page.stem], abs=1e-2)
    if page.stem == "python":
        assert 0.3 < float(printed[1]) <= 0.6
        assert "peak_rss_mb" in printed[2]
        assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "model.tflite"}


YAML = [(page, block) for page in pages.PAGES for block in pages.blocks("yaml", page)]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), YAML, ids=[name(page) for page, _ in YAML])
def test_recipes(page: Path, block: str) -> None:
    """Each variant is made as the page says, with an epoch of a small U-Net on generated data."""
    content = yaml.safe_load(block) | {"data": pages.DATA, "model": {"arguments": {"widths": [8, 16]}}}
    for variant in content["variants"].values():
        step = next(value for value in variant.values() if isinstance(value, dict))
        step |= {"epochs": 1} | ({"round_to": 1} if "round_to" in step else {})  # its layers have 8 channels
    made = recipe.parse(content)
    task = make_task(made)
    model = make_model(made, task)
    models: dict[str, Any] = {}
    for key, variant in made.variants.items():
        models[key], _, _ = build(made, key, models.get(variant.source or "", model), task, None, SILENT)
        assert models[key](torch.zeros(1, 1, 32, 32)).shape == (1, 1, 32, 32)

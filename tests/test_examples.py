"""The examples run, and are as short as they claim."""

import importlib.util
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from script import load
from torch import nn

import torchshrink as ts
from torchshrink import quantize
from torchshrink.pipeline import recipe, trust
from torchshrink.pipeline.assemble import make_model, make_task
from torchshrink.pipeline.build import build
from torchshrink.progress import SILENT
from torchshrink.prune import sparsity

FOLDER = Path(__file__).parents[1] / "examples"
THEIRS = "ignore::Warning"  # what the trainers themselves warn of is not ours


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_small(graph: nn.Module) -> None:
    """An int8 graph whose weights are zero by half."""
    assert quantize.is_quantized(graph)
    weights = [value for value in graph.state_dict().values() if value.dtype == torch.int8 and value.dim() > 1]
    assert sum(int((value == 0).sum()) for value in weights) / sum(value.numel() for value in weights) >= 0.499
    assert graph(torch.randn(1, 1, 16, 16)).shape == (1, 2)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_thirty_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 30


def test_notebooks_are_in_step() -> None:
    notebooks = load("notebooks")
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in FOLDER.glob("*.py")}
    for path in FOLDER.glob("*.py"):
        assert path.with_suffix(".ipynb").read_text() == notebooks.text(path), "scripts/notebooks writes them"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain_loop", "own_parts"])
def test_cells_run_in_their_order(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the last cell calls is what the example's own test runs: here it is called, not waited for."""
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"]
    monkeypatch.chdir(tmp_path)
    called: list[object] = []
    monkeypatch.setattr(ts, "run", lambda *arguments: called.append(arguments))
    names: dict[str, object] = {"__name__": "__main__"}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert (
        (tmp_path / "small.onnx").exists() if name == "plain_loop" else called == [(names["RECIPE"], "runs/own-parts")]
    )


@pytest.mark.slow
def test_plain_loop() -> None:
    assert_small(example("plain_loop").main(epochs=4))


@pytest.mark.slow
@pytest.mark.filterwarnings(THEIRS)
def test_lightning_loop(tmp_path: Path) -> None:
    pytest.importorskip("lightning", reason="lightning is not installed: it is in the dev extra")
    assert_small(
        example("lightning_loop").main(
            max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, default_root_dir=tmp_path,
        )
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings(THEIRS)
def test_hugging_face_loop(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed: it is in the dev extra")
    assert_small(
        example("hugging_face_loop").main(
            output_dir=str(tmp_path), num_train_epochs=4, per_device_train_batch_size=16, use_cpu=True,
            report_to="none", save_strategy="no", disable_tqdm=True,
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", ["own_fit", "own_parts"])
def test_recipes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variant is trained as the example says, on less data."""
    monkeypatch.chdir(FOLDER)
    monkeypatch.delitem(sys.modules, name, raising=False)
    content = example(name).RECIPE | {"data": "synthetic:cells?size=16&train=20&test=2"}
    made = recipe.parse(content)
    foreign = {"optimizer": "torch.optim:RMSprop"} if name == "own_parts" else {}
    assert foreign.items() <= trust.references(made).items()
    task = make_task(made)
    model = make_model(made, task)
    before = [value.clone() for value in model.parameters()]
    for variant in made.variants:
        model, history, _ = build(made, variant, model, task, None, SILENT)
        assert history["best_epoch"] >= 1
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    if name == "own_fit":
        assert sparsity(model) == pytest.approx(0.5, abs=0.01)
    else:
        assert inspect.getfile(task.augment) == str(FOLDER / "own_parts.py")  # type: ignore[arg-type]

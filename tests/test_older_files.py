"""Files that torchshrink 0.1.0 wrote, and what it computed with them (written_by_0_1_0/), are read as they are."""

import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import torchshrink as ts
from torchshrink.pipeline import recipe
from torchshrink.pipeline.run import claim
from torchshrink.quantize import is_quantized
from torchshrink.report import document
from torchshrink.search.study import NAME, Study

FILES = Path(__file__).with_name("written_by_0_1_0")
EXPECTED = np.load(FILES / "expected.npz")


def test_a_checkpoint_of_a_unet() -> None:
    model = ts.checkpoint.load(FILES / "run" / "models" / "dense.safetensors").eval()
    assert isinstance(model, ts.UNet)
    with torch.no_grad():
        found = model(torch.from_numpy(EXPECTED["input"]))
    np.testing.assert_allclose(found.numpy(), EXPECTED["dense"], rtol=1e-5, atol=1e-6)
    in_onnx = ts.bench.predict(FILES / "run" / "files" / "dense-fp32.onnx", EXPECTED["input"])
    np.testing.assert_allclose(in_onnx, EXPECTED["dense"], rtol=1e-4, atol=1e-5)


def test_a_quantized_graph() -> None:
    graph = ts.checkpoint.load(FILES / "int8.safetensors")
    assert is_quantized(graph)
    with torch.no_grad():
        found = graph(torch.from_numpy(EXPECTED["input"])).numpy()
    assert len(np.unique(found)) > 10
    assert np.abs(found - EXPECTED["int8"]).max() <= 1 / 256  # one step of the output
    assert is_quantized(ts.checkpoint.load(FILES / "run" / "models" / "pruned-qat.safetensors"))


@pytest.mark.parametrize("folder", ["run", "search"])
def test_a_recipe(folder: str) -> None:
    content = json.loads((FILES / folder / "recipe.json").read_text())
    content["model"].pop("allow_pickle")  # no longer stored: only the command line may say so
    since = {"portable": True, "processors": ["here"], "task": {"metrics": {}}}
    assert recipe.dump(recipe.parse(content)) == content | since


def test_a_recipe_of_a_search() -> None:
    assert "dense" in recipe.load(FILES / "search" / "recommended.yaml").variants


def test_a_run_goes_on_and_its_report_is_drawn_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(FILES / "run", out)
    claim(out, recipe.parse(json.loads((out / "recipe.json").read_text())), is_fresh=False)
    report = document.load(out)
    assert {row["variant"] for row in report["rows"]} == {"dense", "pruned"}
    assert all(path.stat().st_size for path in document.render(report, out))


def test_a_study_goes_on(tmp_path: Path) -> None:
    storage = f"sqlite:///{shutil.copy(FILES / 'search' / 'study.db', tmp_path)}"
    known = optuna.load_study(study_name=NAME, storage=storage)
    assert len(known.trials) == 2
    study = Study(storage, NAME, known.metric_names or (), "tpe", 0, known.user_attrs["about"])
    assert len(study.trials()) == 2

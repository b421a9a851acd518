"""Commands that take a trained model take no data for granted: it is named, by the user or by the checkpoint."""

from pathlib import Path
from typing import Any

import pytest
import torch
from program import call

from torchshrink import checkpoint
from torchshrink.cli.inputs import _of_size, load_task
from torchshrink.errors import ModelError
from torchshrink.model.unet import UNet
from torchshrink.pipeline.chosen import choose
from torchshrink.pipeline.origin import data_of, stated

DATA = "synthetic:cells?size=16&train=8&test=4"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dense.safetensors"


def save(path: Path, **said: Any) -> Path:
    checkpoint.save(UNet(widths=(2, 4)), path, {"input_shape": [1, 1, 16, 16], **said})
    return path


@pytest.mark.parametrize(
    "command", [("prune",), ("qat",), ("ptq",), ("verify", "m.onnx", "--against")], ids=lambda command: command[0]
)
def test_data_is_asked_for(path: Path, command: tuple[str, ...]) -> None:
    name, *before = command
    out = () if name == "verify" else ("--out", path.with_name("out.safetensors"))
    found = call(name, *before, save(path), *out, cwd=path.parent)
    assert found.code == 3
    assert "dense.safetensors does not say what data it was made with: pass --data" in found.said


def test_a_ladder_and_a_recipe_ask_too(path: Path) -> None:
    assert "pass --data" in call("sweep", save(path), "--out", path.parent / "ladder").said
    recipe = path.with_name("r.yaml")
    recipe.write_text(f"model: {{checkpoint: {path}}}\n")
    assert "pass --data" in call("run", recipe, "--out", path.parent / "run").said
    with pytest.raises(ModelError, match="pass --data"):
        choose({"model": {"checkpoint": str(path)}}, None, trust=True, allow_pickle=False)


def test_a_state_dict_is_asked_about(tmp_path: Path) -> None:
    torch.save(UNet(widths=(2, 4)).state_dict(), tmp_path / "a.pt")
    (tmp_path / "nets.py").write_text("from torchshrink import UNet\n\ndef make():\n    return UNet(widths=(2, 4))\n")
    pruned = ("prune", "a.pt", "--model", "nets:make", "--epochs", "0", "--out", "b.safetensors")
    assert "a.pt does not say what data it was made with: pass --data" in call(*pruned, cwd=tmp_path).said
    found = call(*pruned, "--data", DATA, cwd=tmp_path)
    assert found.code == 0, found.stderr
    assert data_of(tmp_path / "b.safetensors") == (DATA, 0)


def test_the_checkpoint_names_data_and_hands_its_name_on(path: Path) -> None:
    out = path.with_name("pruned.safetensors")
    found = call("prune", save(path, **stated(DATA, 3)), "--epochs", "0", "--out", out)
    assert found.code == 0, found.stderr
    assert data_of(out) == (DATA, 3)
    here, _ = load_task(out, None, 0, None, False)
    there, _ = load_task(out, DATA, 3, None, False)
    assert torch.equal(here.example_input, there.example_input)  # the seed made the samples
    chosen = choose({"model": {"checkpoint": str(out)}}, None, trust=True, allow_pickle=False)
    assert (chosen.data, chosen.seed) == (DATA, 3)
    chosen = choose({"model": {"checkpoint": str(out)}, "data": "x", "seed": 1}, None, trust=True, allow_pickle=False)
    assert (chosen.data, chosen.seed) == ("x", 1)


def test_data_that_is_gone(path: Path) -> None:
    found = call("ptq", save(path, **stated("gone/folder", 0)), "--out", path.with_name("o.safetensors"))
    assert "was made with the data gone/folder, which is not here: pass --data" in found.said


def test_a_checkpoint_runs_no_code(path: Path) -> None:
    (path.parent / "evil.py").write_text("open('ran', 'w').close()\ndef data(): ...\n")
    found = call("ptq", save(path, **stated("evil:data", 0)), "--out", "o.safetensors", cwd=path.parent)
    assert found.code == 3
    assert "was made with evil:data, which is code: pass --data evil:data if you trust it" in found.said
    assert not (path.parent / "ran").exists()


@pytest.mark.parametrize("said", [3, {"source": 3, "seed": 0}, {"source": "a"}, [], None])
def test_nonsense_is_no_name(path: Path, said: Any) -> None:
    with pytest.raises(ModelError, match="does not say what data"):
        data_of(save(path, data=said))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("synthetic:cells", "synthetic:cells?size=16"),
        ("synthetic:cells?train=8", "synthetic:cells?train=8&size=16"),
        ("synthetic:cells?size=64", "synthetic:cells?size=64"),
        ("synthetic:pulses", "synthetic:pulses?length=16"),
        ("folder", "folder"),
    ],
)
def test_verify_takes_the_size_of_the_checkpoint(source: str, expected: str) -> None:
    assert _of_size(source, [1, 1, 16, 16]) == expected
    assert _of_size(source, None) == source


@pytest.mark.parametrize("data", [(), ("--data", "synthetic:cells?train=8&test=4")], ids=["named", "sized"])
def test_verify_needs_to_be_told_nothing(path: Path, data: tuple[str, ...]) -> None:
    file = path.with_name("m.onnx")
    assert call("export", save(path, **stated(DATA, 0)), "--out", file).code == 0
    found = call("verify", file, "--against", path, *data, "--json")
    assert found.code == 0, found.stderr
    assert found.json["parity"]["passed"] is True

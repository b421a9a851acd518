"""A run's folder: its own, and nobody else's."""

import json
from pathlib import Path

import pytest
import torch

from torchshrink import checkpoint, prune
from torchshrink.errors import DataError, ModelError, OutputError, RecipeError
from torchshrink.model.unet import UNet
from torchshrink.pipeline import assemble, recipe
from torchshrink.pipeline.build import teacher_of
from torchshrink.pipeline.claim import claim, claimed
from torchshrink.pipeline.recipe import Recipe

OTHER = Recipe(seed=1)


def test_a_run_that_never_began_can_become_another(tmp_path: Path) -> None:
    claim(tmp_path, Recipe(), is_fresh=False)
    claim(tmp_path, OTHER, is_fresh=False)
    assert json.loads((tmp_path / "recipe.json").read_text()) == recipe.dump(OTHER)
    (tmp_path / "models").mkdir()
    with pytest.raises(DataError, match="holds another run"):
        claim(tmp_path, Recipe(), is_fresh=False)


@pytest.mark.parametrize("kind", ["new", "nested", "empty", "only steps"])
def test_free_folders(tmp_path: Path, kind: str) -> None:
    out = tmp_path / {"nested": "a/b/c"}.get(kind, "out")
    if kind == "empty":
        out.mkdir()
    if kind == "only steps":
        (out / ".steps").mkdir(parents=True)
    claim(out, Recipe(), is_fresh=False)
    assert recipe.parse(json.loads((out / "recipe.json").read_text())) == Recipe()


@pytest.mark.parametrize("is_fresh", [False, True])
def test_the_same_run_again(tmp_path: Path, is_fresh: bool) -> None:
    claim(tmp_path, Recipe(), is_fresh=False)
    (tmp_path / "models").mkdir()
    claim(tmp_path, recipe.parse(recipe.dump(Recipe())), is_fresh=is_fresh)
    assert (tmp_path / "models").is_dir()


def test_another_run(tmp_path: Path) -> None:
    claim(tmp_path, Recipe(), is_fresh=False)
    (tmp_path / "models").mkdir()
    before = (tmp_path / "recipe.json").read_text()
    with pytest.raises(DataError, match="holds another run: choose another --out, or pass --fresh to replace it"):
        claim(tmp_path, OTHER, is_fresh=False)
    assert (tmp_path / "recipe.json").read_text() == before
    claim(tmp_path, OTHER, is_fresh=True)
    claim(tmp_path, OTHER, is_fresh=False)


@pytest.mark.parametrize("is_fresh", [False, True])
def test_foreign_files(tmp_path: Path, is_fresh: bool) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="holds files that are not of a torchshrink run: choose another --out"):
        claim(tmp_path, Recipe(), is_fresh=is_fresh)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", "{", "[]", b"\xff\xfe"])
def test_damaged_marker(tmp_path: Path, content: str | bytes) -> None:
    (tmp_path / "recipe.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "models").mkdir()
    with pytest.raises(DataError, match="--fresh"):
        claim(tmp_path, Recipe(), is_fresh=False)
    claim(tmp_path, Recipe(), is_fresh=True)
    claim(tmp_path, Recipe(), is_fresh=False)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        claim(tmp_path / "out", Recipe(), is_fresh=False)


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop"), claimed(tmp_path / "loop", Recipe(), False):
        pass


def test_a_setting_that_an_own_loss_does_not_have() -> None:
    settings = {"name": "torch.nn:L1Loss", "settings": {"gamma": 1.0}}
    made = recipe.parse({"data": "synthetic:cells?size=16&train=4&test=2", "loss": settings})
    with pytest.raises(RecipeError, match=r"'torch\.nn:L1Loss' does not take"):
        assemble.make_task(made)


def test_a_checkpoint_brings_its_own_architecture(tmp_path: Path) -> None:
    """Also one whose channels were removed, and never one that the data does not fit."""
    made = recipe.parse({"data": "synthetic:cells?size=16&train=4&test=2"})
    task = assemble.make_task(made)
    slim = prune.channels(UNet(widths=(4, 8)), task.example_input, 0.5)
    checkpoint.save(slim.eval(), tmp_path / "slim.safetensors")
    model = made.model.model_copy(update={"checkpoint": str(tmp_path / "slim.safetensors")})
    loaded = assemble.make_model(made.model_copy(update={"model": model}), task)
    torch.testing.assert_close(loaded(task.example_input), slim(task.example_input))
    checkpoint.save(UNet(in_channels=3, widths=(4, 8)), tmp_path / "slim.safetensors")
    with pytest.raises(ModelError, match=r"slim\.safetensors takes 3 and returns 1 channels in 2 dimensions"):
        assemble.make_model(made.model_copy(update={"model": model}), task)


def test_a_line_imitates_the_model_that_it_begins_with() -> None:
    """What is trained from nothing has no teacher, and teaches what comes from it."""
    made = recipe.parse(
        {
            "distillation": 0.5,
            "variants": {
                "dense": {"train": {}},
                "slim": {"from": "dense", "channels": {"amount": 0.5}},
                "sparse": {"from": "slim", "prune": {}},
                "scratch": {"from": "slim", "train": {"reinitialize": True}},
                "scratch-sparse": {"from": "scratch", "prune": {}},
            },
        }
    )
    teachers = {name: teacher_of(made, name) for name in made.variants}
    assert teachers == {
        "dense": None, "slim": "dense", "sparse": "dense", "scratch": None, "scratch-sparse": "scratch",
    }  # fmt: skip
    assert teacher_of(made.model_copy(update={"distillation": 0.0}), "sparse") is None


@pytest.mark.parametrize("is_fresh", [False, True])
def test_a_link_out_of_the_folder(tmp_path: Path, is_fresh: bool) -> None:
    """Models are written, and files that fail are removed, in folders of the run, which somebody else may have made."""
    (tmp_path / "precious").mkdir()
    claim(tmp_path / "run", Recipe(), is_fresh=False)
    (tmp_path / "run" / "files").symlink_to(tmp_path / "precious")
    with pytest.raises(DataError, match=r"run/files leads out of the run's folder"):
        claim(tmp_path / "run", Recipe(), is_fresh=is_fresh)


# --- What may happen to it


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        claimed(tmp_path, Recipe(), False),
        pytest.raises(OutputError, match=r"is in use by another process: wait"),
        claimed(tmp_path, Recipe(), False),
    ):
        pass
    with claimed(tmp_path, Recipe(), False):
        pass


def test_killed_before_its_first_file_has_its_name(tmp_path: Path) -> None:
    half = tmp_path / ".recipe-0123abcd.json"
    half.write_text("{")
    with claimed(tmp_path, Recipe(), False):
        assert not half.exists()


def test_a_lost_recipe_loses_nothing(tmp_path: Path) -> None:
    claim(tmp_path, Recipe(), is_fresh=False)
    (tmp_path / "models").mkdir()
    for harm in (Path.unlink, lambda path: path.write_text("{")):
        harm(tmp_path / "recipe.json")
        with pytest.raises(DataError, match="holds another run"):
            claim(tmp_path, OTHER, is_fresh=False)
        claim(tmp_path, Recipe(), is_fresh=False)


def test_a_folder_of_others_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="not of a torchshrink run"), claimed(tmp_path, Recipe(), False):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_quantized_checkpoint_is_nothing_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "_make_model", lambda *_: torch.nn.ReLU())
    made = recipe.parse({"data": "synthetic:cells?size=16&train=4&test=2", "model": {"checkpoint": "int8.safetensors"}})
    with pytest.raises(ModelError, match=r"int8\.safetensors holds no weights to train"):
        assemble.make_model(made, assemble.make_task(made))

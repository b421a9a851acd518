"""What is refused at once, by which sentence, and that nothing is written or replaced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from program import call, launch

from torchshrink import checkpoint
from torchshrink.errors import DataError, ModelError, RecipeError
from torchshrink.model.unet import UNet
from torchshrink.parallel import group
from torchshrink.task import Normalization
from torchshrink.training import Settings

DATA = ("--data", "synthetic:cells?size=16&train=4&test=2")


def model(folder: Path, name: str = "m.safetensors") -> Path:
    checkpoint.save(UNet(widths=(4, 8)).eval(), folder / name, {"input_shape": [1, 1, 16, 16]})
    return folder / name


@pytest.mark.parametrize("command", ["prune", "qat", "ptq"])
def test_no_command_replaces_what_it_reads(command: str, tmp_path: Path) -> None:
    path = model(tmp_path)
    before = path.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(path)
    for out in (path, tmp_path / "link.safetensors"):
        result = call(command, path, *DATA, "--out", out, "--overwrite")
        assert result.code == 3
        assert f"{out} is what is read: choose another --out" in result.said
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            ("prune", "m.safetensors", "--channels", "0.5", "--target-macs", "0.5", "--out", "o.safetensors"),
            2,
            "one goal",
        ),
        (("train", *DATA, "--lr", "inf", "--out", "o.safetensors"), 3, "lr=inf: expected a number"),
        (("train", *DATA, "--lr", "nan", "--out", "o.safetensors"), 2, "greater than or equal to 0"),
        (
            ("train", "--data", "synthetic:cells?size=64&size=32", "--out", "o.safetensors"),
            3,
            "size is said twice",
        ),
        (("train", "--data", "synthetic:cells?train=99999999999999999999", "--out", "o.safetensors"), 3, "cannot use"),
        (("convert", "m.onnx", "--ranges", "nowhere.json"), 3, "no such file of ranges: nowhere.json"),
        (("convert", "m.safetensors", "--ranges", "m.safetensors"), 2, "has its own"),
        (("convert", "m.safetensors", "--std", "nonsense"), 2, "--std: for --data only"),
        (("convert", "m.safetensors", "--keep-float", "a", "--effort", "none"), 2, "--effort and --keep-float: for"),
        (("convert", "m.safetensors", "--precision", "int8"), 3, "precision int8: m.safetensors holds floats"),
        (("search", "--max-size", "1MB", "--cpus-per-trial", "2"), 2, "--cpus-per-trial are for --engine ray"),
        (("search", "--max-size", "1MB", "--artefacts", ""), 2, "--artefacts are for --engine ray"),
        (("bench", "m.safetensors", "--threads", "100000"), 3, "threads=100000"),
        (("train", *DATA, "--seed", "5000000000", "--out", "o.safetensors"), 2, "less than or equal to 4000000000"),
        (("export", "m.safetensors", "--shape", "1,1,16," + "9" * 5000, "--out", "o.onnx"), 2, "expected sizes"),
        (("export", "m.safetensors", "--batch", "9" * 5000, "--out", "o.onnx"), 2, "expected a number"),
        (("export", "m.safetensors", "--batch", "9" * 20, "--out", "o.onnx"), 2, "expected a number"),
        (("train", *DATA, "--out", "o.pt"), 2, "expected a name ending in .safetensors"),
        (("train", *DATA, "--out", "m.safetensors/o.safetensors"), 3, "m.safetensors is no folder that you may write"),
    ],
)
def test_refusals(arguments: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    model(tmp_path)
    result = call(*arguments, cwd=tmp_path)
    assert (result.code, result.stdout) == (code, "")
    assert words in result.said
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_folder_that_cannot_be_written_is_said_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # a test may run as root
    result = call("train", *DATA, "--out", tmp_path / "new" / "o.safetensors")
    assert (result.code, list(tmp_path.iterdir())) == (3, [])
    assert f"{tmp_path} is no folder that you may write into" in result.said
    assert "train ..." not in result.said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    path, net = model(tmp_path), UNet(widths=(4, 8))
    before = path.read_bytes()
    name, weight = next(net.named_parameters())
    weight.data.view(-1)[0] = value
    with pytest.raises(ModelError, match=r"m.safetensors is not written: .* holds numbers that are not finite"):
        checkpoint.save(net, path)
    assert path.read_bytes() == before
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors[name].view(-1)[0] = value
    with checkpoint.opened(path) as file:
        save_file(tensors, tmp_path / "n.safetensors", file.metadata())
    with pytest.raises(ModelError, match=r"n.safetensors cannot be used: .* not finite"):
        checkpoint.load(tmp_path / "n.safetensors")


def test_a_mask_may_be_infinite(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    net.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    checkpoint.save(net, tmp_path / "m.safetensors")


@pytest.mark.parametrize(("mean", "std"), [((float("nan"),), (1.0,)), ((0.0,), (float("inf"),)), ((0.0,), (0.0,))])
def test_a_normalization_is_of_numbers(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="finite"):
        Normalization(mean, std)


@pytest.mark.parametrize(
    "settings", [{"lr": float("inf")}, {"lr": -1.0}, {"weight_decay": float("nan")}, {"epochs": -1}, {"batch_size": 0}]
)
def test_settings_of_training(settings: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=next(iter(settings))):
        Settings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is set, but RANK is not set and WORLD_SIZE is not set"),
        (
            {"LOCAL_RANK": "0", "RANK": "x", "WORLD_SIZE": "1", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "RANK is 'x', no number",
        ),
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "many", "RANK": "0"}, "WORLD_SIZE is 'many', no number"),
        (
            {"LOCAL_RANK": "0", "RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "1"},
            "RANK 2 is none of WORLD_SIZE 2, counted from 0",
        ),
    ],
)
def test_processes_that_were_never_launched(
    environment: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = call("train", *DATA, "--out", tmp_path / "m.safetensors")
    assert result.code == 3
    assert words in result.said
    assert call("report", tmp_path).code == 3  # for want of a report, not of processes


def test_processes_that_cannot_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise ValueError("port must have value from 0 to 65535 but was 99999.")

    monkeypatch.setattr("accelerate.PartialState", refuse)
    monkeypatch.setenv("MASTER_ADDR", "host")
    monkeypatch.setenv("MASTER_PORT", "99999")
    with pytest.raises(RecipeError, match=r"launched together cannot meet at host:99999: port must have value"):
        group.join()


def test_a_secret_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchshrink.cli.search import _secret

    assert _secret("TORCHSHRINK_STORAGE") is None
    monkeypatch.setenv("TORCHSHRINK_STORAGE_FILE", str(tmp_path / "url"))
    with pytest.raises(RecipeError, match=r"TORCHSHRINK_STORAGE_FILE: .*url cannot be read"):
        _secret("TORCHSHRINK_STORAGE")
    (tmp_path / "url").write_text("postgresql://me:secret@host/db\n")
    assert _secret("TORCHSHRINK_STORAGE") == "postgresql://me:secret@host/db"
    (tmp_path / "url").write_text("\n")
    with pytest.raises(RecipeError, match="one line"):
        _secret("TORCHSHRINK_STORAGE")
    monkeypatch.setenv("TORCHSHRINK_STORAGE", "sqlite:///a.db")
    assert _secret("TORCHSHRINK_STORAGE") == "sqlite:///a.db"


def test_help_without_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    result = launch("predict", "--help")
    assert result.code == 0
    assert "tile by tile in little memory" in " ".join(result.stdout.split())
    assert os.environ["PYTHONOPTIMIZE"] == "2"


def test_convert_lets_another_process_read_a_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchshrink.converters import foreign
    from torchshrink.runtime import apart

    source = Path(__file__).parents[1] / "written_by_0_1_0" / "run" / "files" / "dense-fp32.onnx"

    def die(function: object, path: Path) -> None:
        assert (function, path) == (foreign.check, source)
        raise ModelError("its process was ended by SIGSEGV")

    monkeypatch.setattr(apart, "call", die)
    result = call("convert", source, "--out", tmp_path / "m.tflite")
    assert (result.code, list(tmp_path.iterdir())) == (3, [])
    assert "SIGSEGV" in result.said


def test_what_another_process_reads_is_read_as_here() -> None:
    from torchshrink.converters import foreign

    foreign.check(Path(__file__).parents[1] / "written_by_0_1_0" / "run" / "files" / "dense-fp32.onnx")
    with pytest.raises(ModelError, match="no such file"):
        foreign.check(Path("nowhere.onnx"))


def test_compare_replaces_no_file_that_it_reads(tmp_path: Path) -> None:
    path = model(tmp_path, "model.safetensors")
    before = path.read_bytes()
    result = call("compare", path, "--out", tmp_path, "--overwrite")
    assert (result.code, path.read_bytes()) == (3, before)
    assert "whose files are replaced: choose another --out" in result.said
    result = call("compare", path, "--out", path)
    assert (result.code, path.read_bytes()) == (3, before)
    assert "is no folder" in result.said


@pytest.mark.parametrize("storage", ["nonsense", "", "sqlite:///nowhere/study.db"])
def test_a_store_is_opened_before_any_work(storage: str, tmp_path: Path) -> None:
    result = call("search", *DATA, "--max-size", "1MB", "--storage", storage, "--out", tmp_path / "out", cwd=tmp_path)
    assert result.code == 3
    assert " ".join(f"the store {storage} cannot be used".split()) in result.stderr
    assert not (tmp_path / "out" / "dense").exists()

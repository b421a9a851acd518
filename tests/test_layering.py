"""Imports point one way, cli -> converters -> torchshrink, and nothing heavy is loaded before it is needed."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import torchshrink

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {"torchshrink": "torchshrink", "converters": "torchshrink.converters", "cli": "torchshrink.cli"}

# What each folder must not import. `cli` and `converters` are the names of folders, not of packages.
NOBODY = ("cli", "converters")
TENSORFLOW = ("tensorflow", "tf_keras", "keras", "onnx2tf")
FORBIDDEN = {
    "torchshrink": (*NOBODY, *TENSORFLOW, "torchshrink.converters", "torchshrink.cli"),
    "converters": (*NOBODY, *TENSORFLOW, "torchshrink.cli"),
    "cli": (*NOBODY, *TENSORFLOW),
}
WORKER = "converters/float_tflite/_tensorflow_worker.py"  # a script, run in its own process


def sources() -> list[Path]:
    return sorted(path.relative_to(ROOT) for folder in PACKAGES for path in (ROOT / folder).rglob("*.py"))


def package_of(path: Path) -> str:
    """``converters/tflite.py`` and ``converters/__init__.py`` are both in ``torchshrink.converters``."""
    return ".".join([PACKAGES[path.parts[0]], *path.parts[1:-1]])


def imported(source: str, package: str) -> Iterator[str]:
    """Everything that a module of ``package`` imports at any depth, by its absolute name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def offences(source: str, path: Path) -> list[str]:
    forbidden = FORBIDDEN[path.parts[0]]
    if path.as_posix() == WORKER:
        forbidden = tuple(name for name in forbidden if name not in TENSORFLOW)
    return [
        name
        for name in imported(source, package_of(path))
        if any(name == other or name.startswith(f"{other}.") for other in forbidden)
    ]


@pytest.mark.parametrize("path", sources(), ids=str)
def test_imports_point_one_way(path: Path) -> None:
    assert offences((ROOT / path).read_text(), path) == []


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
    found = {path.parts[0] for path in sources()}
    assert found == set(PACKAGES)
    assert Path(WORKER) in sources()


def test_no_package_is_forgotten() -> None:
    folders = {path.parent for path in sources()}
    on_disk = {".".join([PACKAGES[folder.parts[0]], *folder.parts[1:]]) for folder in folders}
    settings = PROJECT["tool"]["setuptools"]
    assert sorted(settings["packages"]) == sorted(on_disk)
    assert settings["package-dir"] == {name: folder for folder, name in PACKAGES.items()}
    assert [str(folder) for folder in folders if not (ROOT / folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize(
    "module", ["torchshrink", "torchshrink.errors", "torchshrink.pipeline.recipe", "torchshrink.report.text"]
)
def test_importing_is_light(module: str) -> None:
    heavy = ("torch", "torchao", "onnxruntime", *TENSORFLOW)
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_newest_change_is_of_this_version() -> None:
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == PROJECT["project"]["version"] == torchshrink.__version__

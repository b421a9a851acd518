"""What `import torchshrink` promises."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from import_graph import sources
from model_files import save_tflite_mul

import torchshrink
from torchshrink import errors


@pytest.mark.parametrize("name", torchshrink.__all__)
def test_everything_public_is_there(name: str) -> None:
    assert getattr(torchshrink, name) is not None
    assert name in dir(torchshrink)


DOCUMENTED = (
    "ts.UNet(in_channels=1, out_channels=1, widths=(16, 32, 64, 128), dims=2)",
    "ts.losses.FocalTversky(alpha=0.7, beta=0.3, gamma=0.75)",
    "ts.prune.magnitude",
    "ts.prune.Schedule.polynomial(0.0, 0.8, begin=0, end=1000)",
    "ts.quantize.prepare_qat, ts.quantize.convert",
    "ts.converters.to_onnx, ts.converters.to_tflite",
    "ts.bench.measure",
)
# Each in a fork of a process that has imported others' packages only, which takes longer than all the rest.
IN_FORKS = """
import os, sys, torch, torchao, onnx
for expression in sys.argv[1:]:
    if os.fork() == 0:
        exec(f"import torchshrink as ts; {expression}")
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"failed: {expression}")
"""


def test_the_documented_names_need_one_import() -> None:
    """In processes of their own: here, other tests have imported the modules already. The last is not there."""
    command = [sys.executable, "-P", "-c", IN_FORKS, *DOCUMENTED, "ts.prune.nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("failed: ")] == ["failed: ts.prune.nothing"]


FILE_ONLY = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
sys.argv = ["torchshrink", *{arguments}]
import torchshrink.converters.contents, torchshrink.converters.probe  # what a .tflite file asks for
from torchshrink.cli import main
main()
"""
ONNX = "tests/written_by_0_1_0/run/files/dense-fp32.onnx"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["inspect", ONNX], 0, "Conv"),
        (["bench", ONNX, "--runs", "5", "--threads", "1"], 0, "onnxruntime"),
        (["predict", ONNX, "--data", "{folder}", "--out", "{folder}/masks"], 0, "1"),
        (["doctor"], 0, "TFLite converter: "),
        (["bundle", ONNX, "--out", "{folder}/made"], 0, "runs with onnxruntime"),
        (["verify", ONNX, "--against", "x.safetensors"], 5, "pip install 'torchshrink[torch]'"),
        (
            ["train", "--data", "synthetic:cells", "--out", "{folder}/x.safetensors"],
            5,
            "pip install 'torchshrink[torch]'",
        ),
        (["search", "--data", "synthetic:cells", "--out", "{folder}/s", "--hours", "1"], 5, "pip install"),
        (["report", "tests/written_by_0_1_0/run"], 5, "pip install 'torchshrink[report]'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_files_need_no_torch(arguments: list[str], code: int, said: str, tmp_path: Path) -> None:
    """What is missing is named with the extra that brings it; what only opens files does without."""
    np.save(tmp_path / "image.npy", np.zeros((1, 32, 32), np.float32))
    absent = {module for extra in ("torch", "search", "report") for module in errors.EXTRAS[extra]}
    given = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    script = FILE_ONLY.format(absent=absent, arguments=given)
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


ONE_RUNTIME = FILE_ONLY.replace("import torchshrink.converters.contents, torchshrink.converters.probe", "pass")
TFLITE = "{folder}/scale.tflite"


@pytest.mark.parametrize(
    ("arguments", "absent", "code", "said"),
    [
        (["inspect", ONNX, "--runs", "2"], "litert", 0, "Conv"),
        (["bench", ONNX, "--runs", "5"], "litert", 0, "onnxruntime"),
        (["inspect", TFLITE, "--runs", "2"], "onnxruntime", 0, "MUL"),
        (["bench", TFLITE, "--runs", "5"], "onnxruntime", 0, "median ms"),
        (["predict", ONNX, "--data", "{folder}", "--out", "{folder}/m"], "onnxruntime", 5, "torchshrink[onnxruntime]"),
        (["bundle", TFLITE, "--out", "{folder}/made"], "litert", 5, "pip install 'torchshrink[litert]'"),
    ],
)
def test_a_file_needs_its_own_runtime_only(
    arguments: list[str], absent: str, code: int, said: str, tmp_path: Path
) -> None:
    np.save(tmp_path / "image.npy", np.zeros((1, 32, 32), np.float32))
    save_tflite_mul(tmp_path / "scale.tflite", np.float32, (2.0, -3.0))
    given = [argument.replace("{folder}", str(tmp_path)) for argument in arguments]
    script = ONE_RUNTIME.format(absent={*errors.EXTRAS["torch"], *errors.EXTRAS[absent]}, arguments=given)
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def test_every_module_comes_with_an_extra_or_always() -> None:
    """Each third-party import of the product is of a core dependency, or of one that an extra is named for."""
    root = Path(__file__).parents[1]
    imported = {
        name.partition(".")[0]
        for path in sources(root)
        if "parts" not in path.parts  # what a bundle holds, with requirements of its own
        for node in ast.walk(ast.parse((root / path).read_text()))
        for name in ([each.name for each in node.names] if isinstance(node, ast.Import) else
                     [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else [])
    }  # fmt: skip
    core = {"numpy", "packaging", "PIL", "pydantic", "rich", "typer", "typing_extensions", "yaml"}
    trackers = {"fsspec", "mlflow", "ray", "tensorboardX", "psycopg", "tf_keras"}
    loops = {"lightning", "pytorch_lightning", "transformers"}  # of who has them already
    apart = {"litert_torch"}  # in an environment of its own only
    known = core | trackers | loops | apart | {module for modules in errors.EXTRAS.values() for module in modules}
    assert imported - set(sys.stdlib_module_names) - {"torchshrink", "__future__"} - known == set()
    with (root / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(errors.EXTRAS) < set(extras)
    for extra, modules in errors.EXTRAS.items():
        named = {re.split(r"[^A-Za-z0-9_-]", line)[0].replace("-", "_") for line in extras[extra]}
        assert set(modules) - {"tensorflow"} <= named, extra  # onnx2tf brings it


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="'torchshrink' has no attribute 'squash'"):
        torchshrink.squash  # noqa: B018
    with pytest.raises(ImportError):
        importlib.import_module("torchshrink.squash")


def drawn_tree(text: str) -> dict[str, tuple[str, int]]:
    """Read the tree in the docstring of errors.py: every class with its parent and exit code."""
    found: dict[str, tuple[str, int]] = {}
    stack: list[tuple[int, str]] = []
    for line in text.splitlines():
        name = next((word for word in line.split() if word.endswith("Error")), None)
        if name is None:
            continue
        depth = line.index(name)
        stack = [item for item in stack if item[0] < depth]
        code = line.rstrip().rpartition(" ")[2]
        found[name] = (stack[-1][1] if stack else "Exception", int(code) if code.isdigit() else 3)
        stack.append((depth, name))
    return found


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    actual = {name: (value.__base__.__name__, value.exit_code) for name, value in classes.items()}
    assert drawn_tree(errors.__doc__ or "") == actual
    assert all(value.__doc__ for value in classes.values())

"""What `import torchshrink` promises."""

import importlib
import subprocess
import sys

import pytest

import torchshrink
from torchshrink import errors


@pytest.mark.parametrize("name", torchshrink.__all__)
def test_everything_public_is_there(name: str) -> None:
    assert getattr(torchshrink, name) is not None
    assert name in dir(torchshrink)


@pytest.mark.parametrize(
    "expression",
    [
        "ts.UNet(in_channels=1, out_channels=1, widths=(16, 32, 64, 128), dims=2)",
        "ts.losses.FocalTversky(alpha=0.7, beta=0.3, gamma=0.75)",
        "ts.prune.magnitude",
        "ts.prune.Schedule.polynomial(0.0, 0.8, begin=0, end=1000)",
        "ts.quantize.prepare_qat, ts.quantize.convert",
        "ts.converters.to_onnx, ts.converters.to_tflite",
        "ts.bench.measure",
    ],
)
def test_the_documented_names_need_one_import(expression: str) -> None:
    """In a process of its own: here, other tests have imported the modules already."""
    code = f"import torchshrink as ts; {expression}"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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

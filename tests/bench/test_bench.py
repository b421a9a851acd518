"""The package itself: what it exports, and what importing it costs."""

import json
import subprocess
import sys

import pytest

import torchshrink.bench


def _modules_after(statement: str) -> set[str]:
    code = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_is_light() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "ai_edge_litert", "tensorflow", "numpy"}
    assert not heavy & _modules_after("import torchshrink.bench")


def test_measuring_needs_no_runtime_in_our_process() -> None:
    heavy = {"torch", "onnx", "onnxruntime", "ai_edge_litert", "tensorflow"}
    assert not heavy & _modules_after("from torchshrink.bench import measure, predict, size_bytes")


@pytest.mark.parametrize("name", torchshrink.bench.__all__)
def test_everything_exported_exists(name: str) -> None:
    assert callable(getattr(torchshrink.bench, name))
    assert name in dir(torchshrink.bench)


def test_exports_agree() -> None:
    assert set(torchshrink.bench.__all__) == set(dir(torchshrink.bench))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'mesure'"):
        torchshrink.bench.mesure  # noqa: B018


def test_a_function_is_not_shadowed_by_a_module() -> None:
    import torchshrink.bench.measurement

    assert torchshrink.bench.measure is torchshrink.bench.measurement.measure

"""``torchshrink doctor`` on installations that do not fit together."""

from __future__ import annotations

import importlib.metadata
import sys
from importlib.metadata import PackageNotFoundError, requires

import pytest
from program import call

from torchshrink.cli import doctor

OLD = {
    "torchshrink": "0.1.0",
    "torch": "2.13.0",
    "torchao": "0.18.0",
    "onnx2tf": "1.29.24",
    "ai-edge-quantizer": "0.4.1",
    "ai-edge-litert": "2.1.0",
    "tensorflow": "2.19.0",
    "numpy": "1.26.4",
}
NEEDS = {
    "torchshrink": [
        "torch==2.13.*",
        "torchao==0.18.*",
        "numpy>=1.26",
        "onnx2tf==1.29.24; python_version < '3.99'",
        "ai-edge-quantizer==0.4.1; python_version < '3.99'",
        "onnx2tf[tensorflow]==2.6.9; python_version >= '3.99'",
        "pytest>=8; extra == 'dev'",
    ],
    "onnx2tf": ["numpy==1.26.4", "ai-edge-litert==2.1.0", "tensorflow==2.19.0"],
    "ai-edge-quantizer": ["numpy", "ai-edge-litert==2.1.0"],
}
RANGE = NEEDS | {
    "torchshrink": [line for line in requires("torchshrink") or [] if line.startswith(("torch<", "torch>", "torchao"))]
}
# As on Python 3.12 and later, where TensorFlow is an extra of onnx2tf.
NEW_NEEDS = {
    "torchshrink": ["onnx2tf[tensorflow]==2.6.9", "ai-edge-quantizer==0.5.1"],
    "onnx2tf": [
        "ai-edge-litert==2.1.2",
        "tensorflow==2.21.0; extra == 'tensorflow'",
        "torch==2.11.0; extra == 'torch'",
    ],
    "ai-edge-quantizer": ["ai-edge-litert==2.1.2"],
}
NEW = {"torchshrink": "0.1.0", "onnx2tf": "2.6.9", "ai-edge-quantizer": "0.5.1", "ai-edge-litert": "2.1.2"}


def _problems(monkeypatch: pytest.MonkeyPatch, installed: dict[str, str], needs: dict[str, list[str]]) -> list[str]:
    def version(package: str) -> str:
        if package not in installed:
            raise PackageNotFoundError(package)
        return installed[package]

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(importlib.metadata, "requires", needs.get)
    return doctor._problems()


def test_what_fits_has_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _problems(monkeypatch, OLD, NEEDS) == []
    assert _problems(monkeypatch, NEW | {"tensorflow": "2.21.0"}, NEW_NEEDS) == []


def test_torch_of_another_version_is_put_right_with_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _problems(monkeypatch, OLD | {"torch": "2.14.0"}, NEEDS) == [
        "torchshrink 0.1.0 needs torch==2.13.*, found 2.14.0: pip install 'torch==2.13.*' 'torchao==0.18.*'"
    ]


@pytest.mark.parametrize("torch", ["2.11.0", "2.13.0+cpu", "2.14.1+cu130"])
def test_torch_of_the_range_fits(monkeypatch: pytest.MonkeyPatch, torch: str) -> None:
    assert _problems(monkeypatch, OLD | {"torch": torch}, RANGE) == []


@pytest.mark.parametrize("torch", ["2.10.0", "2.15.0"])
def test_torch_outside_of_the_range_is_said(monkeypatch: pytest.MonkeyPatch, torch: str) -> None:
    """The range is that of pyproject.toml, as it was installed."""
    assert _problems(monkeypatch, OLD | {"torch": torch}, RANGE) == [
        f"torchshrink 0.1.0 needs torch<2.15,>=2.11, found {torch}: pip install 'torch<2.15,>=2.11' 'torchao==0.18.*'"
    ]


def test_a_build_for_another_device_is_the_same_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _problems(monkeypatch, OLD | {"torch": "2.13.0+cpu"}, NEEDS) == []


def test_litert_of_another_version_is_told_by_both_that_pin_it(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "found 2.1.2: pip install 'onnx2tf==1.29.24' 'ai-edge-quantizer==0.4.1'"
    assert _problems(monkeypatch, OLD | {"ai-edge-litert": "2.1.2"}, NEEDS) == [
        f"onnx2tf 1.29.24 needs ai-edge-litert==2.1.0, {advice}",
        f"ai-edge-quantizer 0.4.1 needs ai-edge-litert==2.1.0, {advice}",
    ]


def test_a_quantizer_of_the_other_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.5.1 belongs to onnx2tf 2.6.9: its LiteRT is another one."""
    installed = OLD | {"ai-edge-quantizer": "0.5.1"}
    found = _problems(monkeypatch, installed, NEEDS | {"ai-edge-quantizer": ["ai-edge-litert==2.1.2"]})
    assert [problem.split(":")[0] for problem in found] == [
        "torchshrink 0.1.0 needs ai-edge-quantizer==0.4.1, found 0.5.1",
        "ai-edge-quantizer 0.5.1 needs ai-edge-litert==2.1.2, found 2.1.0",
    ]


def test_what_an_extra_brings_is_needed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _problems(monkeypatch, NEW, NEW_NEEDS) == [
        "onnx2tf 2.6.9 needs tensorflow==2.21.0, found none: "
        "pip install 'onnx2tf[tensorflow]==2.6.9' 'ai-edge-quantizer==0.5.1'"
    ]


def test_a_missing_package_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {name: found for name, found in OLD.items() if name != "onnx2tf"}
    assert _problems(monkeypatch, installed, NEEDS) == [
        "torchshrink 0.1.0 needs onnx2tf==1.29.24, found none: "
        "pip install 'onnx2tf==1.29.24' 'ai-edge-quantizer==0.4.1'"
    ]


def test_a_package_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _problems(monkeypatch, OLD | {"numpy": "1.25.0"}, NEEDS)[0] == (
        "torchshrink 0.1.0 needs numpy>=1.26, found 1.25.0: pip install 'numpy>=1.26'"
    )


def test_this_installation() -> None:
    result = call("doctor", "--json")
    assert (result.code == 0) == (result.json["problems"] == [])
    assert result.json["python"] == sys.version.split()[0]
    assert set(result.json["int8_gain"]) == {"ONNX Runtime", "LiteRT"}
    assert {"torch", "torchao", "onnx2tf", "ai-edge-quantizer", "ai-edge-litert"} < set(result.json["packages"])

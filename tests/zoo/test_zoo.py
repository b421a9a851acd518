"""Every model in every format: a file that computes the same, or a refusal that says why. Never a wrong file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import thinned
import torch
from zoo_files import FORMATS, Result, make
from zoo_models import ZOO

from torchshrink.converters import onnx_file, tflite_file
from torchshrink.converters.onnx_file import load

# What cannot be converted, and a word of the reason that the user is given.
REFUSED = {(name, format_): "5 dimensions" for name in ("volume",) for format_ in FORMATS}
INT8 = [name for name in FORMATS if "int8" in name]

# What no model of tests/converters has: a network as it is published, and ends of every kind.
OFTEN = ("two-inputs", "dictionary", "volume")


@pytest.fixture(scope="session")
def zoo(keep: Callable[..., Any]) -> Callable[[str], dict[str, Result]]:
    """Return the files of a model, made once."""
    return cache(lambda name: keep(f"zoo-{name}", lambda folder: make(ZOO[name], folder)))


@pytest.mark.parametrize(("name", "format_"), thinned.product(ZOO, FORMATS, often=lambda name, _: name in OFTEN))
def test_a_file_computes_the_same_or_is_refused(
    zoo: Callable[[str], dict[str, Result]], name: str, format_: str
) -> None:
    result = zoo(name)[format_]
    if (name, format_) in REFUSED:
        assert REFUSED[name, format_] in result.refusal
        assert result.path is None
    else:
        assert not result.refusal
        assert result.parity is not None
        assert result.parity.passed, result.parity.reason


@pytest.mark.parametrize(
    ("name", "format_"),
    thinned.product(
        [name for name in ZOO if (name, "onnx-fp32") not in REFUSED], INT8, often=lambda name, _: name in OFTEN
    ),
)
def test_every_scale_arrives(zoo: Callable[[str], dict[str, Result]], name: str, format_: str) -> None:
    """Identical as float32: those that training learned as well as those of a calibration."""
    scales = zoo(name)[format_].scales
    assert scales
    assert [scale for scale in scales if not scale.is_equal] == []


def test_most_are_verified() -> None:
    assert len(REFUSED) <= 0.1 * len(ZOO) * len(FORMATS)


def is_cube(shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and len(set(shape[1:])) == 1


def test_layouts_are_put_to_the_test() -> None:
    """Where channels, height and width are alike, a wrong transposition keeps every shape."""
    alike = set()
    for name, entry in ZOO.items():
        model = entry.model()
        for module in model.modules():
            module.register_forward_hook(
                lambda *given, name=name: alike.add(name) if is_cube(getattr(given[-1], "shape", ())) else None
            )
        with torch.no_grad():
            model(*entry.inputs(1))
    assert len(alike) >= 5


def test_names_and_order_of_several_inputs_and_outputs(zoo: Callable[[str], dict[str, Result]]) -> None:
    def inputs(path: Path) -> list[str]:
        return [item.name for item in onnx_file.inputs(load(path))]

    def tensors(path: Path, side: str) -> list[str]:
        graph = tflite_file.read(path).subgraphs[0]
        return [tflite_file.tensor_name(graph.tensors[index]) for index in getattr(graph, side)]

    two = zoo("two-inputs")
    for format_ in ("onnx-fp32", "onnx-int8-qat"):
        assert inputs(two[format_].path) == ["image", "depth"]  # type: ignore[arg-type]
    for format_ in ("tflite-fp32", "tflite-fp16", "tflite-int8-qat"):
        assert tensors(two[format_].path, "inputs") == ["image", "depth"]  # type: ignore[arg-type]
        assert tensors(zoo("dictionary")[format_].path, "outputs") == ["mask", "edge"]  # type: ignore[arg-type]


@pytest.mark.exhaustive
def test_a_batch_is_part_of_the_file(zoo: Callable[[str], dict[str, Result]]) -> None:
    graph = tflite_file.read(zoo("batch-of-4")["tflite-int8-qat"].path).subgraphs[0]  # type: ignore[arg-type]
    assert [list(graph.tensors[index].shape) for index in graph.inputs] == [[4, 16, 16, 1]]

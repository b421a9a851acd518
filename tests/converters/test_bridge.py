"""Every file of a variant: it loads in its real runtime, computes what its source computes, and tells no secrets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx_metadata import get_metadata
from torch import nn

from torchshrink import bench
from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.bridge import Bridge
from torchshrink.converters.proof import verify
from torchshrink.pipeline.artefacts import Artefact, Source

NAMES = [
    "onnx-fp32",
    "onnx-fp16",
    "onnx-int8",
    "tflite-fp32",
    "tflite-fp32-sparse",
    "tflite-fp16",
    "tflite-int8",
    "tflite-int8-sparse",
]
INT8 = [name for name in NAMES if "int8" in name]
# Largest difference of a probability: float32 sums in another order, and weights rounded to float16's 11 bits.
FLOAT_TOLERANCES = {"fp32": 2e-6, "fp16": 2e-3}


def test_another_processor_runs_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, sample = nn.Identity(), torch.zeros(1, 1, 4)
    path = Path("thin-int8.onnx")

    def compare(*arguments: Any) -> verify.Parity:
        assert arguments == (path, graph, sample, "int8", "thin (quantized PyTorch graph)", "x86-sse4")
        return verify.Parity(arguments[4], 0.5, 0.25, 1.0, True)

    monkeypatch.setattr(verify, "verify", compare)
    source = Source("thin", nn.Flatten(), graph, sample, {})
    parity = Bridge().compare_on(Artefact("thin", "onnx", "int8", path), source, sample, "x86-sse4")
    assert (parity["passed"], parity["max_abs"]) == (True, 0.5)


def test_every_file_is_written_and_no_other(unet: Any) -> None:
    assert set(unet.artefacts) == set(NAMES)
    ranges = f"{unet.source.variant}-int8.ranges.json"
    assert {path.name for path in unet.folder.iterdir()} == {a.path.name for a in unet.artefacts.values()} | {ranges}


@pytest.mark.parametrize("name", NAMES)
def test_file_passes_its_parity(unet: Any, bridge: Bridge, name: str) -> None:
    artefact = unet.artefacts[name]
    expected = bridge.outputs(artefact, unet.source, unet.inputs)
    parity = bridge.compare(artefact, unet.source, unet.outputs(name), expected, unet.inputs)
    assert parity["passed"], parity["reason"]
    assert parity["reason"] == ""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in INT8])
def test_float_file_computes_what_pytorch_computes(unet: Any, name: str) -> None:
    found, expected = unet.outputs(name), unet.expected(name)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= FLOAT_TOLERANCES[unet.artefacts[name].precision]


@pytest.mark.parametrize("name", INT8)
def test_int8_file_gives_the_codes_that_pytorch_gives(unet: Any, name: str) -> None:
    """Integer kernels on the same grids: nearly every code is equal, none is off by more than 1."""
    # A sigmoid's output: code = 256 * probability - 128.
    expected = np.rint(unet.expected(name) * 256) - 128
    found = np.rint(unet.outputs(name) * 256) - 128
    assert (found == expected).mean() >= 0.999
    assert np.abs(found - expected).max() <= 1


def test_the_output_varies(unet: Any) -> None:
    """A model that answers the same everywhere would pass any comparison."""
    assert unet.expected("onnx-fp32").std() > 0.1


@pytest.mark.parametrize("name", ["tflite-int8", "tflite-int8-sparse"])
def test_int8_tflite_takes_and_gives_int8(unet: Any, name: str, interpreter: Callable[[Path], Any]) -> None:
    opened = interpreter(unet.path(name))
    entry, output = opened.get_input_details()[0], opened.get_output_details()[0]
    assert entry["dtype"] is np.int8
    assert output["dtype"] is np.int8
    assert output["quantization"] == (1 / 256, -128)


@pytest.mark.parametrize("name", INT8)
def test_nothing_is_left_in_float(unet: Any, name: str) -> None:
    assert unet.artefacts[name].islands == ()
    assert find_islands(unet.path(name)) == ()


@pytest.mark.parametrize("name", NAMES)
def test_share_of_learned_ranges(unet: Any, name: str) -> None:
    """Where ranges had to be matched: onnx files carry them from the start."""
    assert unet.artefacts[name].matched == (1.0 if "tflite-int8" in name else None)


@pytest.mark.parametrize("name", NAMES)
def test_metadata_survives(unet: Any, name: str) -> None:
    path, artefact = unet.path(name), unet.artefacts[name]
    is_tflite = path.suffix == ".tflite"
    stored = tflite_file.get_metadata(tflite_file.read(path)) if is_tflite else get_metadata(path)
    assert stored == {
        "variant": unet.source.variant,
        "precision": artefact.precision,
        "normalization": {"mean": [0.25], "std": [1.5]},
    }


@pytest.mark.parametrize("name", NAMES)
def test_file_holds_no_path_of_this_machine(unet: Any, name: str) -> None:
    content = unet.path(name).read_bytes()
    secrets = [b"/tmp/", b"/work", b"/root", b"/home", b"site-packages", b".py", str(Path.home()).encode()]
    assert [secret for secret in secrets if secret in content] == []


def test_export_warns_of_nothing(unet: Any) -> None:
    assert unet.warnings == []


def test_tensorflow_stays_out_of_this_process(unet: Any) -> None:
    assert unet.artefacts
    assert not {"tensorflow", "onnx2tf", "tf_keras", "keras"} & set(sys.modules)


def test_weights_are_those_of_the_file(unet2d: Any) -> None:
    stored = Bridge().weights(unet2d.path("tflite-int8-sparse"))
    assert len(stored) == 8
    assert {array.dtype for array in stored} == {np.dtype(np.int8)}


def test_what_was_not_asked_for_is_not_written(unet2d: Any, tmp_path: Path) -> None:
    artefacts = Bridge().export(unet2d.source, tmp_path, ["onnx"], ["fp16"])
    assert [artefact.name for artefact in artefacts] == ["unet2d/onnx-fp16"]
    assert [path.name for path in tmp_path.iterdir()] == ["unet2d-fp16.onnx"]


def test_a_quantized_variant_has_int8_files_only(unet2d: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that they were made of is also what they are held against."""
    source, bridge = replace(unet2d.source, model=unet2d.quantized), Bridge()
    (artefact,) = bridge.export(source, tmp_path, ["onnx"], ["fp32", "fp16", "int8"])
    assert artefact.name == "unet2d/onnx-int8"
    assert artefact.path.read_bytes() == unet2d.path("onnx-int8").read_bytes()
    monkeypatch.setattr("torchshrink.converters.bridge.export", lambda *_: pytest.fail("exported again"))
    found, expected = unet2d.outputs("onnx-int8"), unet2d.expected("onnx-int8")
    assert bridge.compare(artefact, source, found, expected, unet2d.inputs)["passed"]


@pytest.mark.parametrize("dims", [2, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_locate_finds_nothing_in_sound_files(export: Callable[[int], Any], bridge: Bridge, dims: int) -> None:
    unet = export(dims)
    names = ["onnx-fp32", "onnx-int8", "tflite-fp16", "tflite-int8"]
    found = {name: bridge.locate(unet.artefacts[name], unet.source, unet.inputs[:1]) for name in names}
    assert found == dict.fromkeys(names)


def test_a_signal_keeps_its_channels_apart(export: Callable[[int], Any]) -> None:
    """Three output channels of a 1-D file come back in their places, not transposed."""
    unet = export(1)
    found = bench.predict(unet.path("tflite-fp32"), unet.inputs.numpy())
    expected = torch.as_tensor(unet.expected("tflite-fp32"))
    assert found.shape == (8, 3, 64)
    for channel in range(3):
        nearest = [float((torch.as_tensor(found[:, channel]) - expected[:, other]).abs().mean()) for other in range(3)]
        assert nearest.index(min(nearest)) == channel

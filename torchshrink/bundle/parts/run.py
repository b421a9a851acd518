"""Run the model of this folder: python run.py INPUT... --out FOLDER [--threads N]; needs neither torch nor torchshrink.

Inputs are PNG, NPY, NPZ (its x) and WAV files; ``model.json`` beside this file says what the model takes and gives.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from collections.abc import Callable
from typing import Any

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
from engine import Engine  # type: ignore[import-not-found]  # noqa: E402
from formats import InputError, Sample, npy, read  # type: ignore[import-not-found]  # noqa: E402
from pngs import written  # type: ignore[import-not-found]  # noqa: E402
from tiles import cut, plan  # type: ignore[import-not-found]  # noqa: E402

THRESHOLD = 0.5  # of probabilities: positive above it
LIMITS = {"b": (-128, 127), "B": (0, 255)}


class Model:
    """``model(sample)`` is what the file gives for a sample, channels last, as codes or float32."""

    def __init__(self, folder: str = HERE, threads: int = 1) -> None:
        with open(os.path.join(folder, "model.json"), encoding="utf-8") as file:
            self.spec = spec = json.load(file)
        self.engine: Callable[[bytes], bytes] = Engine(folder, spec, threads)
        self.channels, self.classes = spec["channels"], len(spec["classes"])
        self.tile, self.overlap = ([1, *spec["tile"]])[-2:], ([0, *spec["overlap"]])[-2:]
        self.mean, self.std = array("f", spec["mean"]), array("f", spec["std"])
        levels = array("f", [level / 255 for level in range(256)])
        codes = array(spec["output"]["code"], bytes(range(256)))
        self.marks = bytes([255 if value > THRESHOLD else 0 for value in self.floats(codes)])
        self.tables = [self.encoded(levels, channel) for channel in range(self.channels)]

    def __call__(self, sample: Sample) -> Any:
        """Run tile by tile; of what neighbours share, each gives the half that is nearer to its middle."""
        values, height, width = sample
        if not self.spec["tiles"]:
            if [height, width] != self.tile:
                raise InputError(f"the input measures {height} x {width}: the model takes {self.tile}")
            return self.output(values)
        rows, columns = plan(height, self.tile[0], self.overlap[0]), plan(width, self.tile[1], self.overlap[1])
        code, classes, wide = self.spec["output"]["code"], self.classes, self.tile[1]
        whole = array(code, bytes(height * width * classes * array(code).itemsize))
        for top, above, below in rows:
            for left, first, last in columns:
                found = self.output(cut(sample, self.channels, self.tile, top, left))
                for y in range(above, below):
                    start = ((y - top) * wide + first - left) * classes
                    part = found[start : start + (last - first) * classes]
                    whole[(y * width + first) * classes : (y * width + last) * classes] = part
        return whole

    def output(self, values: Any) -> Any:
        """Return what the file gives for a tile."""
        each, entry, code = self.channels, self.spec["input"], self.spec["output"]["code"]
        encoded = array(entry["code"], bytes(len(values) * array(entry["code"]).itemsize))
        for c in range(each):
            part, table = values[c::each], self.tables[c]
            if not isinstance(part, bytes):
                encoded[c::each] = self.encoded(part, c)
            elif table.itemsize == 1:
                encoded[c::each] = array(table.typecode, part.translate(table.tobytes()))
            else:
                encoded[c::each] = array(table.typecode, map(table.__getitem__, part))
        if self.spec["channels_first"] and each > 1:
            encoded = sum((encoded[c::each] for c in range(each)), array(encoded.typecode))
        found = array(code, self.engine(encoded.tobytes()))
        if self.spec["channels_first"] and self.classes > 1:
            planes, size = array(code, found), len(found) // self.classes
            for k in range(self.classes):
                found[k :: self.classes] = planes[k * size : (k + 1) * size]
        return found

    def encoded(self, values: Any, channel: int) -> Any:
        """Normalise and quantize in float32, as NumPy would."""
        entry = self.spec["input"]
        values = array("f", [value - self.mean[channel] for value in values])
        values = array("f", [value / self.std[channel] for value in values])
        if not entry["scale"]:
            return values
        (low, high), zero = LIMITS[entry["code"]], entry["zero_point"]
        scaled = array("f", [value / entry["scale"] for value in values])
        return array(entry["code"], [min(max(round(value) + zero, low), high) for value in scaled])

    def floats(self, output: Any) -> Any:
        """Return codes as float32."""
        scale, zero = self.spec["output"]["scale"], self.spec["output"]["zero_point"]
        return array("f", [(code - zero) * scale for code in output]) if scale else output

    def masks(self, output: Any) -> list[bytes]:
        """Return 0 and 255 for each class, or one map of class numbers where a pixel has one class."""
        planes = [output[k :: self.classes] for k in range(self.classes)]
        if self.spec["kind"] == "multiclass":
            return [bytes([scores.index(max(scores)) for scores in zip(*planes, strict=True)])]
        if output.itemsize == 1:
            return [plane.tobytes().translate(self.marks) for plane in planes]
        return [bytes([255 if value > THRESHOLD else 0 for value in plane]) for plane in planes]


def answers(model: Model, name: str, samples: list[Sample]) -> dict[str, bytes]:
    """Return the files that the model makes of one, by name."""
    outputs, (_, *size), kind = [model(sample) for sample in samples], samples[0], model.spec["kind"]
    stem, _, ending = os.path.basename(name).rpartition(".")
    if kind == "classification":
        scores = [model.floats(output).tolist() for output in outputs]
        found = [{"class": model.spec["classes"][each.index(max(each))], "scores": each} for each in scores]
        return {f"{stem}.json": json.dumps(found).encode()}
    if kind not in ("segmentation", "multiclass"):
        planes = [model.floats(output)[k :: model.classes] for output in outputs for k in range(model.classes)]
        shape = (len(outputs), model.classes, *model.spec["output"]["sides"])
        return {f"{stem}.npy": npy(b"".join(plane.tobytes() for plane in planes), "<f4", shape)}
    maps = [mask for output in outputs for mask in model.masks(output)]
    if ending in ("npy", "npz", "wav"):
        data = b"".join(maps) if kind == "multiclass" else b"".join(maps).replace(b"\xff", b"\1")
        shape = (len(outputs), len(maps) // len(outputs), *size[-model.spec["dims"] :])
        return {f"{stem}.npy": npy(data, "|u1", shape)}
    places = [stem] if len(maps) == 1 else [f"{folder}/{stem}" for folder in model.spec["folders"]]
    return {f"{place}.png": written(mask, *size) for place, mask in zip(places, maps, strict=True)}


def main(words: list[str]) -> int:
    """Run the command line."""
    options = {name: words[words.index(name) + 1] for name in ("--out", "--threads") if name in words[:-1]}
    inputs = [b for a, b in zip(["", *words], words, strict=False) if not a.startswith("--") and not b.startswith("--")]
    if "--out" not in options or not inputs:
        return print(__doc__, file=sys.stderr) or 2
    try:
        model = Model(threads=int(options.get("--threads", 1)))
        for path in inputs:
            with open(path, "rb") as file:
                samples = read(file.read(), path, model.spec)
            for name, data in answers(model, path, samples).items():
                place = os.path.join(options["--out"], name)
                os.makedirs(os.path.dirname(place), exist_ok=True)
                with open(place, "wb") as file:
                    file.write(data)
    except (InputError, OSError) as error:
        return print(f"error: {error}", file=sys.stderr) or 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Every reader of files that strangers may have made, with a few small sound files of its format."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper
from PIL import Image

from torchshrink import checkpoint, metadata
from torchshrink.bench import history
from torchshrink.bundle import micro
from torchshrink.converters import ranges, tflite_file
from torchshrink.converters.anatomy import op_costs, tflite_operations
from torchshrink.converters.contents import input_shape, read_weights
from torchshrink.converters.onnx_file import load
from torchshrink.converters.rebuild.samples import Entry
from torchshrink.converters.rebuild.samples import read as read_samples
from torchshrink.data import open_task
from torchshrink.data.inputs import alike
from torchshrink.data.preparation import Preparation
from torchshrink.files import sha256
from torchshrink.model.unet import UNet
from torchshrink.pipeline import recipe
from torchshrink.pipeline.claim import stored
from torchshrink.pipeline.steps import Steps
from torchshrink.predict import png_rows, shipped
from torchshrink.report import document, html, samples, text
from torchshrink.runtime.predict import predict
from torchshrink.weights import reading as weights

_SHAPE = [1, 8, 8, 1]
Seeds = Callable[[Path], list[bytes]]
DESCRIPTION: dict[str, Any] = {
    "normalization": {"mean": [0.5], "std": [2.0], "raw": "uint8 / 255"},
    "class_names": ["cell"],
    "input_shape": [1, 1, 8, 8],
}


@dataclass(frozen=True)
class Reader:
    """What reads a file, the ending that it wants, and sound files to begin with, made in a folder."""

    read: Callable[[Path], object]
    ending: str
    seeds: Seeds


def _recipes(_: Path) -> list[bytes]:
    text = Path(recipe.__file__).with_name("recipe.yaml").read_bytes()
    return [text, b"variants: {a: &a {train: {epochs: 2}}, b: {from: a, prune: {amount: 0.5}}}\n", b"seed: 1\n"]


def _checkpoints(folder: Path) -> list[bytes]:
    path = folder / "seed.safetensors"
    checkpoint.save(UNet(widths=(2, 4)).eval(), path, DESCRIPTION)
    older = Path(__file__).parents[2] / "tests" / "written_by_0_1_0" / "int8.safetensors"
    return [path.read_bytes(), *([older.read_bytes()] if older.is_file() else [])]


def _onnx(_: Path) -> list[bytes]:
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 1, 8, 8))] for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(np.ones((1, 1, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], pads=[1] * 4), helper.make_node("Sigmoid", ["a"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends, [weight]), ir_version=8,
                              opset_imports=[helper.make_opsetid("", 17)])  # fmt: skip
    helper.set_model_props(model, {"torchshrink": json.dumps(DESCRIPTION)})
    return [model.SerializeToString()]


def _tflite(_: Path) -> list[bytes]:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.metadata = 3, [graph], []
    model.buffers, model.operatorCodes = [schema.BufferT(), schema.BufferT()], []
    model.buffers[1].data = np.arange(1, dtype=np.float32).view(np.uint8)
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], [2]
    for name, shape, buffer in (("x", _SHAPE, 0), ("y", _SHAPE, 0), ("z", _SHAPE, 0), ("c", [1, 1, 1, 1], 1)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer, tensor.type = name, shape, buffer, schema.TensorType.FLOAT32
        graph.tensors.append(tensor)
    code = tflite_file.opcode(model, schema.BuiltinOperator.ADD)
    for inputs, outputs in (([0, 3], [1]), ([1, 3], [2])):
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
        graph.operators.append(operator)
    tflite_file.set_metadata(model, DESCRIPTION)
    return [tflite_file.pack(model)]


def _ranges(folder: Path) -> list[bytes]:
    ranges.save({"x": ranges.Range((0.5,), (3,)), "w": ranges.Range((0.5, 0.25), (0, 0), 0)}, folder / "seed.json")
    return [(folder / "seed.json").read_bytes()]


def _reports(_: Path) -> list[bytes]:
    return [(Path(__file__).parents[2] / "tests" / "written_by_0_1_0" / "run" / "report.json").read_bytes()]


def _sessions(_: Path) -> list[bytes]:
    rows = [{"name": "m", "threads": 1, "ratio": {"median": 1.0, "low": 0.9, "high": 1.1}}]
    content = {"schema": 1, "reference": "m", "environment": {"processor": "p"}, "rows": rows}
    return [json.dumps(content).encode()]


def _markers(_: Path) -> list[bytes]:
    return [json.dumps(recipe.dump(recipe.Recipe())).encode()]


def _steps(folder: Path) -> list[bytes]:
    (folder / "out.txt").write_text("made")
    Steps(folder).run("seed", [1], lambda: ({"path": "out.txt", "loss": 0.5}, [folder / "out.txt"]))
    return [(folder / ".steps" / "seed.json").read_bytes()]


def _images(_: Path) -> list[bytes]:
    found = []
    for form in ("PNG", "TIFF", "JPEG"):
        whole = io.BytesIO()
        values = np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8)
        Image.fromarray(values).save(whole, form)
        found.append(whole.getvalue())
    return found


def _arrays(_: Path) -> list[bytes]:
    found = []
    for save in (np.savez, np.savez_compressed):
        whole = io.BytesIO()
        save(whole, x=np.zeros((4, 1, 32), np.float32), y=np.zeros((4, 1, 32), np.uint8))
        found.append(whole.getvalue())
    return found


def _tables(folder: Path) -> list[bytes]:
    for number in range(4):
        Image.new("L", (4, 4), number).save(folder / f"{number}.png")
    parts = ("train", "train", "test", "val")
    return [
        "\n".join([f"file,{name},split", *(f"{n}.png,{label},{parts[n]}" for n, label in enumerate(labels))]).encode()
        for name, labels in (("label", "abab"), ("depth", (0.5, 1, 2, 3)), ("class", (0, 1, 0, 1)))
    ]


def _sounds(folder: Path) -> list[bytes]:
    with wave.open(str(folder / "seed.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(np.arange(64, dtype=np.int16).tobytes())
    return [(folder / "seed.wav").read_bytes()]


def _samples_of_calibration(_: Path) -> list[bytes]:
    whole = io.BytesIO()
    np.save(whole, np.zeros((4, 1, 32), np.float32))
    return [whole.getvalue()]


def _state_dicts(_: Path) -> list[bytes]:
    whole = io.BytesIO()
    torch.save(UNet(widths=(2, 4)).state_dict(), whole)
    return [whole.getvalue()]


def _samples_of_a_run(folder: Path) -> list[bytes]:
    samples.keep_data(folder, np.zeros((2, 1, 8, 8), np.float32), np.zeros((2, 1, 8, 8), np.uint8))
    return [(folder / "samples" / "data.npz").read_bytes()]


def _firmware(folder: Path) -> list[bytes]:
    (folder / "m.tflite").write_bytes(b"m")
    content = {"arena_bytes": 64, "operators": ["MUL"], "version": "0.1", "sha256": sha256(folder / "m.tflite")}
    return [json.dumps(content).encode()]


def _costs(_: Path) -> list[bytes]:
    rows = [{"kind": "MUL", "shape": "1x8", "macs": n, "bytes": 8 * n, "ms": 0.1 * n} for n in (1, 2, 3)]
    files = [{"name": "m.tflite", "threads": 1, "ms": 1.0, "operators": rows}]
    return [json.dumps({op_costs.KEY: {"files": files}, "environment": {"processor": "p"}}).encode()]


def _read_samples(path: Path) -> object:
    (path.parent / "samples" / "data.npz").write_bytes(path.read_bytes())
    return samples.data(path.parent)


def _read_firmware(path: Path) -> object:
    (path.parent / "m.micro.json").write_bytes(path.read_bytes())
    return micro.needs(path.parent / "m.tflite")


def _read_report(path: Path) -> object:
    (path.parent / "report.json").write_bytes(path.read_bytes())
    report = document.load(path.parent)
    return html.page(report, path.parent), text.markdown(report), text.table_csv(report["rows"]), text.verdict(report)


def _read_step(path: Path) -> object:
    (path.parent / ".steps" / "seed.json").write_bytes(path.read_bytes())
    return Steps(path.parent).run("seed", [1], lambda: ({}, []))


def _read_image(path: Path) -> object:
    source = png_rows.open_source(path, 1, 2, "uint8 / 255")
    return [rows(0, source.height) for rows in source.samples() if source.height * source.width < 1 << 20]


READERS = {
    "recipe": Reader(recipe.load, ".yaml", _recipes),
    "checkpoint": Reader(checkpoint.load, ".safetensors", _checkpoints),
    "metadata": Reader(
        lambda path: metadata.parse(path.read_bytes(), path.name), ".json", lambda _: [json.dumps(DESCRIPTION).encode()]
    ),
    "onnx": Reader(lambda path: (load(path), read_weights(path), input_shape(path)), ".onnx", _onnx),
    "tflite": Reader(
        lambda path: (tflite_operations.read(tflite_file.read(path)), read_weights(path), input_shape(path)),
        ".tflite",
        _tflite,
    ),
    "shipped-onnx": Reader(shipped.read, ".onnx", _onnx),
    "shipped-tflite": Reader(shipped.read, ".tflite", _tflite),
    "ranges": Reader(ranges.load, ".json", _ranges),
    "report": Reader(_read_report, ".json", _reports),
    "bench-history": Reader(history.load, ".json", _sessions),
    "run-marker": Reader(stored, ".json", _markers),
    "step": Reader(_read_step, ".json", _steps),
    "image": Reader(_read_image, ".png", _images),
    "npz": Reader(lambda path: open_task(str(path)), ".npz", _arrays),
    "table": Reader(lambda path: open_task(str(path)), ".csv", _tables),
    "sound": Reader(lambda path: alike([path], Preparation()).read(path), ".wav", _sounds),
    "calibration": Reader(lambda path: read_samples(path, [Entry("x", (1, 32))]), ".npy", _samples_of_calibration),
    "state-dict": Reader(weights.read, ".pt", _state_dicts),
    "samples-of-a-run": Reader(_read_samples, ".npz", _samples_of_a_run),
    "firmware": Reader(_read_firmware, ".json", _firmware),
    "costs": Reader(lambda path: op_costs.Costs.load(path).error(), ".json", _costs),
    # These start a process for every file: about one a second.
    "onnxruntime": Reader(lambda path: predict(path, np.zeros((1, 1, 8, 8), np.float32)), ".onnx", _onnx),
    "litert": Reader(lambda path: predict(path, np.zeros((1, 1, 8, 8), np.float32)), ".tflite", _tflite),
}

"""Shipped files used: tiles against the whole, on networks written by hand that see 1 or 2 samples far."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from torchshrink.converters import tflite_file
from torchshrink.errors import DataError, ModelError, OutputError, RecipeError, ShrinkError
from torchshrink.predict import run, shipped, streams
from torchshrink.predict._worker import Job
from torchshrink.predict.run import predict

Sides = tuple[int | str, ...]
RADIUS = 2  # of the ONNX networks; the TFLite ones see 1 far
GRAY = {"mean": [0.4], "std": [0.3], "raw": "uint8 / 255"}
RGB = {"mean": [0.4, 0.5, 0.1], "std": [0.3, 0.2, 0.6], "raw": "uint8 / 255"}
SIGNAL = {"mean": [0.5], "std": [2.0], "raw": "float32"}


# --- files written by hand ---


def metadata(normalization: dict[str, Any] | None, classes: int) -> dict[str, Any]:
    content: dict[str, Any] = {"class_names": [f"class {k}" for k in range(classes)]}
    return content | ({"normalization": normalization} if normalization else {})


def save_onnx(
    path: Path,
    nodes: list[Any],
    entry: Sides,
    output: Sides,
    constants: dict[str, NDArray[Any]],
    content: dict[str, Any] | None,
    kind: int = TensorProto.FLOAT,
) -> Path:
    ends = [
        [helper.make_tensor_value_info(name, kind, shape)] for name, shape in (("input", entry), ("output", output))
    ]
    arrays = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", *ends, arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    if content is not None:
        helper.set_model_props(model, {"torchshrink": json.dumps(content)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def conv_onnx(
    path: Path, sides: Sides, normalization: dict[str, Any] | None = GRAY, classes: int = 1, is_int8: bool = False
) -> Path:
    """conv 3 - relu - conv 3 - sigmoid."""
    channels = len(normalization["mean"]) if normalization else 1
    rng = np.random.default_rng(0)
    kernel = [3] * len(sides)
    constants: dict[str, NDArray[Any]] = {}
    nodes: list[Any] = []

    def quantized(name: str, scale: float) -> str:
        if not is_int8:
            return name
        constants[f"{name}.scale"], constants[f"{name}.zero"] = np.float32(scale), np.int8(-7)
        ends = [f"{name}.scale", f"{name}.zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *ends], [f"{name}.q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}.q", *ends], [f"{name}.dq"]))
        return f"{name}.dq"

    def convolution(entry: str, name: str, outputs: int, inputs: int) -> None:
        weight = rng.normal(size=(outputs, inputs, *kernel)).astype(np.float32) * 0.5
        if is_int8:
            constants[f"{name}.wq"] = np.clip(np.rint(weight / 0.02), -127, 127).astype(np.int8)
            constants[f"{name}.ws"], constants[f"{name}.wz"] = np.float32(0.02), np.int8(0)
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}.wq", f"{name}.ws", f"{name}.wz"], [f"{name}.w"])
            )
        else:
            constants[f"{name}.w"] = weight
        nodes.append(helper.make_node("Conv", [entry, f"{name}.w"], [name], pads=[1] * (2 * len(sides))))

    convolution(quantized("input", 0.03), "first", 4, channels)
    nodes.append(helper.make_node("Relu", ["first"], ["relu"]))
    convolution(quantized("relu", 0.04), "second", classes, 4)
    nodes.append(helper.make_node("Sigmoid", [quantized("second", 0.05)], ["output"]))
    content = metadata(normalization, classes)
    return save_onnx(path, nodes, (1, channels, *sides), (1, classes, *sides), constants, content)


def scale_onnx(path: Path, factor: float, sides: Sides, normalization: dict[str, Any], **other: Any) -> Path:
    """``factor * input``."""
    shape = (1, len(normalization["mean"]), *sides)
    node = helper.make_node("Mul", ["input", "factor"], ["output"])
    content = metadata(normalization, len(normalization["mean"])) | other
    return save_onnx(path, [node], shape, shape, {"factor": np.float32(factor)}, content)


def mean_onnx(path: Path, sides: Sides, normalization: dict[str, Any], **other: Any) -> Path:
    """The mean of each channel, as the outputs for a whole input."""
    channels, axes = len(normalization["mean"]), np.arange(2, 2 + len(sides))
    node = helper.make_node("ReduceMean", ["input", "axes"], ["output"], keepdims=0)
    content = metadata(normalization, channels) | other
    return save_onnx(path, [node], (1, channels, *sides), (1, channels), {"axes": axes}, content)


def conv_tflite(
    path: Path, sides: tuple[int, int], normalization: dict[str, Any] = GRAY, classes: int = 1, is_int8: bool = False
) -> Path:
    """conv 3x3 - sigmoid, in float or with int8 at both ends."""
    channels = len(normalization["mean"])
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(classes, 3, 3, channels)).astype(np.float32)
    bias = rng.normal(size=classes).astype(np.float32) * 0.3
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers, model.metadata = 3, [], [schema.BufferT()], []
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = [], []
    model.subgraphs = [graph]
    types = schema.TensorType

    def tensor(shape: tuple[int, ...], kind: int, scale: float, zero: int, data: NDArray[Any] | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.buffer = f"t{len(graph.tensors)}", list(shape), 0
        made.type = kind if is_int8 else types.FLOAT32
        if data is not None:
            made.buffer = tflite_file.add_buffer(model, data.tobytes())
        if is_int8:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero]
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    if is_int8:
        weight, bias = np.clip(np.rint(weight / 0.03), -127, 127).astype(np.int8), (bias / 0.0006).astype(np.int32)
    entry = tensor((1, *sides, channels), types.INT8, 0.02, -30)
    convolved = tensor((1, *sides, classes), types.INT8, 0.05, 4)
    output = tensor((1, *sides, classes), types.INT8, 1 / 256, -128)
    weights = tensor(weight.shape, types.INT8, 0.03, 0, weight)
    biases = tensor(bias.shape, types.INT32, 0.0006, 0, bias)
    convolution = schema.OperatorT()
    convolution.opcodeIndex = tflite_file.opcode(model, schema.BuiltinOperator.CONV_2D, 3)
    convolution.inputs, convolution.outputs = [entry, weights, biases], [convolved]
    options = schema.Conv2DOptionsT()
    options.strideH = options.strideW = options.dilationHFactor = options.dilationWFactor = 1
    convolution.builtinOptions, convolution.builtinOptionsType = options, schema.BuiltinOptions.Conv2DOptions
    sigmoid = schema.OperatorT()
    sigmoid.opcodeIndex = tflite_file.opcode(model, schema.BuiltinOperator.LOGISTIC, 2)
    sigmoid.inputs, sigmoid.outputs = [convolved], [output]
    graph.operators, graph.inputs, graph.outputs = [convolution, sigmoid], [entry], [output]
    tflite_file.set_metadata(model, metadata(normalization, classes))
    tflite_file.write(model, path)
    return path


MAKERS: dict[str, Callable[..., Path]] = {
    "fp32.onnx": conv_onnx,
    "int8.onnx": lambda *arguments, **settings: conv_onnx(*arguments, **settings, is_int8=True),
    "fp32.tflite": conv_tflite,
    "int8.tflite": lambda *arguments, **settings: conv_tflite(*arguments, **settings, is_int8=True),
}


def save_image(path: Path, height: int, width: int, channels: int = 1, dtype: Any = np.uint8) -> NDArray[Any]:
    """Write noise and return it as ``[C, H, W]``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3) if channels == 3 else (height, width)
    pixels = np.random.default_rng(height).integers(0, np.iinfo(dtype).max, shape, dtype)
    Image.fromarray(pixels).save(path)
    return pixels.transpose(2, 0, 1) if channels == 3 else pixels[None]


def floats(file: Path, data: Path, out: Path, **settings: Any) -> NDArray[np.float32]:
    found = predict(file, data, out, probabilities=True, **settings)
    return np.asarray(np.load(found.probabilities[data]))


# --- tiles against the whole ---


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize(("normalization", "classes"), [(GRAY, 1), (RGB, 2)], ids=["gray", "rgb"])
def test_tiles_equal_the_whole(name: str, normalization: dict[str, Any], classes: int, tmp_path: Path) -> None:
    data = tmp_path / "a.png"
    save_image(data, 80, 64, len(normalization["mean"]))
    small = MAKERS[name](tmp_path / f"small-{name}", (32, 32), normalization, classes)
    large = MAKERS[name](tmp_path / f"large-{name}", (80, 64), normalization, classes)
    tiled, whole = floats(small, data, tmp_path / "tiled"), floats(large, data, tmp_path / "whole")
    assert whole.shape == tiled.shape == (classes, 80, 64)
    assert whole.std() > 0.1  # not all the same
    assert np.abs(tiled - whole).max() <= (0 if "int8" in name else 1e-5)


def test_tiles_equal_the_whole_but_for_reflected_borders(tmp_path: Path) -> None:
    data = tmp_path / "a.png"
    save_image(data, 77, 51)
    small, large = conv_onnx(tmp_path / "small.onnx", (24, 24)), conv_onnx(tmp_path / "large.onnx", (77, 51))
    whole = floats(large, data, tmp_path / "whole")
    for overlap in (2 * RADIUS, 5, 11, 23):
        tiled = floats(small, data, tmp_path / f"tiled{overlap}", overlap=overlap)
        assert np.abs(tiled - whole)[:, :-RADIUS, :-RADIUS].max() <= 1e-5
    seams = floats(small, data, tmp_path / "seams", overlap=0)
    assert np.abs(seams - whole)[:, :-RADIUS, :-RADIUS].max() > 1e-3  # what the overlap is for


def test_a_network_that_pools_sees_tiles_where_it_sees_the_whole(tmp_path: Path) -> None:
    def pooling(side: int) -> Path:
        nodes = [
            helper.make_node("MaxPool", ["input"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
            helper.make_node("Resize", ["pooled", "", "scales"], ["output"], mode="nearest"),
        ]
        scales = {"scales": np.array([1, 1, 4, 4], np.float32)}
        shape = (1, 1, side, side)
        return save_onnx(tmp_path / f"{side}.onnx", nodes, shape, shape, scales, metadata(GRAY, 1))

    data = tmp_path / "a.png"
    save_image(data, 88, 88)
    whole = floats(pooling(88), data, tmp_path / "whole")
    for overlap in (6, 9, 15):
        assert np.array_equal(floats(pooling(24), data, tmp_path / f"tiled{overlap}", overlap=overlap), whole)


@pytest.mark.parametrize("ending", [".npz", ".npy"])
def test_signals(ending: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 1, 224)).astype(np.float32)
    data = tmp_path / f"s{ending}"
    np.savez(data, x=x) if ending == ".npz" else np.save(data, x)
    small = conv_onnx(tmp_path / "small.onnx", (64,), SIGNAL, 3)
    large = conv_onnx(tmp_path / "large.onnx", (224,), SIGNAL, 3)
    tiled, whole = floats(small, data, tmp_path / "tiled"), floats(large, data, tmp_path / "whole")
    assert tiled.shape == (3, 3, 224)
    assert np.abs(tiled - whole).max() <= 1e-5
    with np.load(tmp_path / "tiled" / "s.npz") as masks:
        assert masks.files == ["y"]
        assert masks["y"].dtype == np.uint8
        assert np.array_equal(masks["y"], tiled > 0.5)


def test_images_in_arrays_and_a_channel_left_out(tmp_path: Path) -> None:
    pixels = save_image(tmp_path / "a.png", 40, 37)
    np.save(tmp_path / "b.npy", np.stack([pixels[0], pixels[0, ::-1]]))
    file = conv_onnx(tmp_path / "m.onnx", (32, 32))
    alone = floats(file, tmp_path / "a.png", tmp_path / "alone")
    both = floats(file, tmp_path / "b.npy", tmp_path / "both")
    assert both.shape == (2, 1, 40, 37)
    assert np.array_equal(both[0], alone)


def test_a_file_of_any_size_takes_any_tile(tmp_path: Path) -> None:
    data = tmp_path / "a.png"
    save_image(data, 64, 64)
    file = conv_onnx(tmp_path / "m.onnx", ("height", "width"))
    whole = floats(file, data, tmp_path / "whole", tile=64)
    found = predict(file, data, tmp_path / "tiled", tile=16, probabilities=True)
    assert found.tile == (16, 16)
    assert found.overlap == (4, 4)
    assert np.abs(np.load(found.probabilities[data]) - whole).max() <= 1e-5
    with pytest.raises(ModelError, match="takes inputs of any size: choose one with --tile"):
        predict(file, data, tmp_path / "none")


def test_a_small_image_is_reflected(tmp_path: Path) -> None:
    import onnxruntime

    data = tmp_path / "a.png"
    pixels = save_image(data, 5, 3)
    file = conv_onnx(tmp_path / "m.onnx", (16, 16))
    padded = np.pad(pixels[0], ((0, 11), (0, 13)), "reflect").astype(np.float32) / 255
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (whole,) = session.run(None, {"input": ((padded - np.float32(0.4)) / np.float32(0.3))[None, None]})
    assert np.abs(floats(file, data, tmp_path / "out") - whole[0, :, :5, :3]).max() <= 1e-6


# --- what goes in and comes out ---


@pytest.mark.parametrize("normalization", [GRAY, RGB], ids=["gray", "rgb"])
def test_the_files_own_normalisation_is_applied(normalization: dict[str, Any], tmp_path: Path) -> None:
    data = tmp_path / "a.png"
    pixels = save_image(data, 20, 30, len(normalization["mean"]))
    file = scale_onnx(tmp_path / "m.onnx", 0.25, (16, 16), normalization)
    mean, std = (np.array(normalization[key])[:, None, None] for key in ("mean", "std"))
    expected = 0.25 * (pixels / 255 - mean) / std
    assert np.abs(floats(file, data, tmp_path / "out") - expected).max() < 1e-6


def test_16_bit_images(tmp_path: Path) -> None:
    data = tmp_path / "a.tif"
    pixels = save_image(data, 20, 30, dtype=np.uint16)
    file = scale_onnx(tmp_path / "m.onnx", 1.0, (16, 16), GRAY | {"raw": "uint16 / 65535"})
    assert np.abs(floats(file, data, tmp_path / "out") - (pixels / 65535 - 0.4) / 0.3).max() < 1e-6


@pytest.mark.parametrize("mode", ["1", "LA", "RGBA"])
def test_modes_that_training_takes(mode: str, tmp_path: Path) -> None:
    data, channels = tmp_path / "a.png", 3 if mode == "RGBA" else 1
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, channels), np.uint8)
    Image.fromarray(pixels.squeeze()).convert(mode).save(data)
    if mode == "1":
        pixels = np.asarray(Image.open(data).convert("L"))[..., None]
    file = scale_onnx(tmp_path / "m.onnx", 1.0, (16, 16), {"mean": [0] * channels, "std": [1] * channels} | {
        "raw": "uint8 / 255"
    })  # fmt: skip
    assert np.array_equal(floats(file, data, tmp_path / "out"), pixels.transpose(2, 0, 1) / np.float32(255))


def test_masks_of_one_class(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    values = np.array([[0, 127, 128, 255]], np.uint8)
    Image.fromarray(values).save(tmp_path / "in" / "x.tif")
    Image.fromarray(values.T).save(tmp_path / "in" / "y.png")
    file = scale_onnx(tmp_path / "m.onnx", 1.0, (4, 4), {"mean": [0.0], "std": [1.0], "raw": "uint8 / 255"})
    found = predict(file, tmp_path / "in", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x.png", "y.png"]
    mask = Image.open(tmp_path / "out" / "x.png")
    assert mask.mode == "L"
    assert np.asarray(mask).tolist() == [[0, 0, 255, 255]]  # 127 / 255 does not exceed one half
    assert np.asarray(Image.open(tmp_path / "out" / "y.png")).tolist() == [[0], [0], [255], [255]]
    assert found.tiles == 2
    assert found.peak_rss_mb > 0
    assert found.probabilities == {}


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["P wave", "QRS", "T/2"], ["P-wave", "QRS", "T-2"]),
        (["a", "A", "b"], ["0-a", "1-A", "2-b"]),
        (["..", "x", "y"], ["0", "1-x", "2-y"]),
        (["probabilities", "x", "y"], ["0-probabilities", "1-x", "2-y"]),
    ],
)
def test_masks_of_several_classes(names: list[str], folders: list[str], tmp_path: Path) -> None:
    data = tmp_path / "a.png"
    pixels = save_image(data, 20, 30, 3)
    normalization = {"mean": [0.0] * 3, "std": [1.0] * 3, "raw": "uint8 / 255"}
    file = scale_onnx(tmp_path / "m.onnx", 1.0, (16, 16), normalization, class_names=names)
    found = predict(file, data, tmp_path / "out")
    assert found.outputs[data] == [tmp_path / "out" / folder / "a.png" for folder in folders]
    for path, channel in zip(found.outputs[data], pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), np.where(channel > 127, 255, 0))


def test_a_folder_with_images_in_it_and_tidings(tmp_path: Path) -> None:
    for name in ("b", "a"):
        save_image(tmp_path / "images" / f"{name}.png", 40, 20)
    (tmp_path / "images" / "notes.txt").touch()
    told: list[tuple[Any, ...]] = []

    class Listener:
        def start(self, title: str) -> None:
            told.append((title,))

        def update(self, done: int, total: int, note: str = "") -> None:
            told.append((done, total, note))

        def note(self, text: str) -> None:
            told.append((text,))

    file = conv_onnx(tmp_path / "m.onnx", (32, 32))
    predict(file, tmp_path, tmp_path / "out", progress=Listener())
    assert told == [("predict 2 files",), *((done, 4, "a.png") for done in (1, 2)), (3, 4, "b.png"), (4, 4, "b.png")]


def test_png_of_rows_is_that_of_pillow(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 33), np.uint8)
    with streams.PngFile(tmp_path / "a.png", 70, 33) as file:
        for first in (0, 1, 50):
            file.write(pixels[first : {0: 1, 1: 50, 50: 70}[first]])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)


@pytest.mark.parametrize("name", ["fp32.onnx", "int8.tflite"])
def test_the_process_imports_only_its_runtime(name: str, tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 20, 20)
    file = MAKERS[name](tmp_path / name, (16, 16))
    files = [{"source": str(tmp_path / "a.png"), "masks": [str(tmp_path / "m.png")], "probabilities": None}]
    job = Job(str(file), 1, 1, [16, 16], [4, 4], [0.4], [0.3], "uint8 / 255", 1, files)
    modules = set(run.run(job, lambda *_: None, "--modules")["modules"])
    expected = {".onnx": "onnxruntime", ".tflite": "ai_edge_litert"}[file.suffix]
    heavy = {"onnxruntime", "ai_edge_litert", "torch", "tensorflow", "onnx", "torchao", "pydantic", "typer", "rich"}
    assert heavy & modules == {expected}


# --- what is refused ---


def image(folder: Path, mode: str = "L", name: str = "a.png") -> Path:
    path = folder / "in" / name
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, (20, 20)).save(path)
    return path


def written(folder: Path, name: str, content: bytes) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(content)
    return folder / "in" / name


def array(folder: Path, x: Any, **other: Any) -> Path:
    np.savez(folder / "a.npz", **({} if x is None else {"x": x}), **other)
    return folder / "a.npz"


def transparent(folder: Path) -> Path:
    path = image(folder, "LA")
    Image.new("LA", (20, 20), (9, 99)).save(path)
    return path


def pages(folder: Path) -> Path:
    path = image(folder, name="a.tif")
    Image.new("L", (20, 20)).save(path, save_all=True, append_images=[Image.new("L", (20, 20))])
    return path


def twins(folder: Path) -> Path:
    image(folder, name="a.tif")
    return image(folder).parent


def truncated_image(folder: Path) -> Path:
    path = folder / "a.png"
    save_image(path, 64, 64)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def truncated_array(folder: Path) -> Path:
    np.save(folder / "a.npy", np.zeros((4, 1, 20, 20), np.uint8))
    (folder / "a.npy").write_bytes((folder / "a.npy").read_bytes()[:1000])
    return folder / "a.npy"


def empty_folder(folder: Path) -> Path:
    (folder / "in").mkdir()
    return folder / "in"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f / "no", "no does not exist: pass a folder"),
        (empty_folder, "holds nothing to predict: put .png"),
        (lambda f: written(f, "a.gif", b"GIF89a"), r"a.gif is a .gif file: expected .png"),
        (lambda f: written(f, "a.png", b"no"), r"a.png cannot be read \(it is empty or no PNG"),
        (truncated_image, r"a.png cannot be read \(.*: save it again"),
        (lambda f: image(f, "RGB"), "a.png is 8-bit RGB with 3 channels, but the model was trained on 1: save it as"),
        (lambda f: image(f, "P"), "a.png has Pillow mode P: save it as 8-bit gray"),
        (lambda f: image(f, "I;16"), "a.png holds uint16 / 65535, but the model was trained on uint8 / 255: save it"),
        (transparent, "a.png has transparent parts"),
        (pages, "a.tif has several pages"),
        (twins, "a.png and a.tif share the name 'a': keep one"),
        (lambda f: array(f, None, z=np.zeros(2)), "a.npz lacks x, it has z: store the samples as x"),
        (lambda f: array(f, np.zeros((2, 3, 9, 9), np.uint8)), r"shape \[2, 3, 9, 9\], but the model takes \[N, 1, H"),
        (lambda f: array(f, np.zeros((2, 1, 9, 9))), "holds float64, but the model was trained on uint8 / 255"),
        (lambda f: array(f, np.zeros((0, 1, 9, 9))), r"holds float64 of shape \[0, 1, 9, 9\]: store an array of real"),
        (lambda f: array(f, np.array(["a"])), r"holds <U1 of shape \[1\]: store an array of real numbers"),
        (lambda f: array(f, np.zeros((9, 8, 7), np.uint8).T), "is in Fortran order: write numpy.ascontiguousarray"),
        (lambda f: written(f, "a.npz", b"no"), r"a.npz cannot be read \(File is not a zip file\): write it again"),
        (lambda f: written(f, "a.npy", b"no"), r"a.npy cannot be read \(.*: write it again"),
        (truncated_array, "a.npy ends in sample 2: write it again"),
    ],
)  # fmt: skip
def test_inputs_that_cannot_be_used(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    file = conv_onnx(tmp_path / "m.onnx", (16, 16))
    with pytest.raises(DataError, match=words) as caught:
        predict(file, make(tmp_path), tmp_path / "out", probabilities=True)
    assert "\n" not in str(caught.value)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    x = np.zeros((3, 1, 64), np.float32)
    x[1, 0, 5] = np.nan
    file = conv_onnx(tmp_path / "m.onnx", (64,), SIGNAL)
    with pytest.raises(DataError, match=r"a\.npz: sample 1 of x holds NaN"):
        predict(file, array(tmp_path, x), tmp_path / "out")
    with pytest.raises(DataError, match="is an image, but the model takes signals"):
        predict(file, image(tmp_path), tmp_path / "out")
    broken = scale_onnx(tmp_path / "broken.onnx", float("inf"), (64,), SIGNAL)
    with pytest.raises(ModelError, match=r"broken\.onnx gives outputs that are not finite"):
        predict(broken, array(tmp_path, np.ones_like(x)), tmp_path / "out")


def test_a_mistake_in_the_last_file_is_found_first(tmp_path: Path) -> None:
    image(tmp_path)
    image(tmp_path, "RGB", "z.png")
    file = conv_onnx(tmp_path / "m.onnx", (16, 16))
    with pytest.raises(DataError, match=r"z\.png is 8-bit RGB"):
        predict(file, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def with_integers(folder: Path) -> Path:
    node, content = helper.make_node("Identity", ["input"], ["output"]), metadata(GRAY, 1)
    return save_onnx(folder / "m.onnx", [node], (1, 1, 8, 8), (1, 1, 8, 8), {}, content, TensorProto.INT8)


def with_pooling(folder: Path) -> Path:
    node = helper.make_node("MaxPool", ["input"], ["output"], kernel_shape=[2, 2], strides=[2, 2])
    return save_onnx(folder / "m.onnx", [node], (1, 1, 8, 8), (1, 1, 4, 4), {}, metadata(GRAY, 1))


def model_bytes(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f / "no.onnx", r"no such model file: .*no\.onnx"),
        (lambda f: f / "m.safetensors", "m.safetensors is not a shipped model: expected an .onnx or .tflite file"),
        (lambda f: model_bytes(f, "m.onnx", b"\0" * 99), r"m.onnx cannot be read as ONNX \(.*: export it again"),
        (lambda f: model_bytes(f, "m.tflite", b"\0" * 99), r"m.tflite cannot be read \(it is not TFLite\): export it"),
        (lambda f: model_bytes(f, "m.tflite", b"\xff\xff\0\0TFL3"), r"m.tflite cannot be read \(.*: export it again"),
        (lambda f: conv_onnx(f / "m.onnx", (8, 8), None), "m.onnx does not say how its input is normalised, so it was"),
        (with_integers, "takes integers whose scale it does not tell"),
        (with_pooling, r"makes \[1, 1, 4, 4\] of \[1, 1, 8, 8\], not \[1, 1, 8, 8\]"),
    ],
)  # fmt: skip
def test_models_that_cannot_be_used(make: Callable[[Path], Path], words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        predict(make(tmp_path), image(tmp_path), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"tile": 64}, ModelError, "m.onnx takes inputs of 16x16 only, not tiles of 64: leave out --tile, or export"),
        ({"tile": 0}, RecipeError, "tile=0: a tile needs at least 1 sample"),
        ({"overlap": 16}, RecipeError, "overlap 16 does not fit tiles of 16x16: choose 0 to 15"),
        ({"overlap": -1}, RecipeError, "overlap -1 does not fit"),
        ({"threads": 0}, RecipeError, "threads=0: a runtime needs at least 1"),
    ],
)
def test_settings_that_do_not_fit(
    settings: dict[str, int], error: type[ShrinkError], words: str, tmp_path: Path
) -> None:
    file = conv_onnx(tmp_path / "m.onnx", (16, 16))
    with pytest.raises(error, match=words):
        predict(file, image(tmp_path), tmp_path / "out", **settings)


def test_outputs_are_kept_unless_told_otherwise_and_inputs_always(tmp_path: Path) -> None:
    file, data = conv_onnx(tmp_path / "m.onnx", (16, 16)), image(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")
    with pytest.raises(OutputError, match=r"a\.png exists: choose another --out, or pass --overwrite"):
        predict(file, data, tmp_path / "out")
    assert (tmp_path / "out" / "a.png").read_text() == "mine"
    predict(file, data, tmp_path / "out", overwrite=True)
    assert np.asarray(Image.open(tmp_path / "out" / "a.png")).shape == (20, 20)
    with pytest.raises(OutputError, match=r"a\.png is an input: choose another --out"):
        predict(file, data, tmp_path / "in", overwrite=True)


def test_a_process_that_dies_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, data = conv_onnx(tmp_path / "m.onnx", (16, 16)), image(tmp_path)
    script = tmp_path / "dies.py"
    monkeypatch.setattr(run, "_SCRIPT", script)
    script.write_text("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ModelError, match=r"m.onnx stopped: its process was ended by SIGKILL .* out of memory"):
        predict(file, data, tmp_path / "out")
    script.write_text("import sys; sys.exit('disk on fire')")
    with pytest.raises(ModelError, match=r"its process ended with exit code 1 \(disk on fire\)"):
        predict(file, data, tmp_path / "out")


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    file, data = conv_onnx(tmp_path / "m.onnx", (16, 16)), tmp_path / "a.png"
    save_image(data, 3000, 40)

    class Impatient:
        def start(self, title: str) -> None: ...
        def note(self, text: str) -> None: ...
        def update(self, done: int, total: int, note: str = "") -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(file, data, tmp_path / "out", progress=Impatient())
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_file_says(tmp_path: Path) -> None:
    signal = shipped.read(conv_onnx(tmp_path / "m.onnx", (64,), SIGNAL, 3))
    assert (signal.channels, signal.sides, signal.mean, signal.std, signal.raw) == (1, (64,), (0.5,), (2.0,), "float32")
    colour = shipped.read(conv_tflite(tmp_path / "m.tflite", (8, 16), RGB, 2))
    assert (colour.channels, colour.sides, colour.class_names) == (3, (8, 16), ("class 0", "class 1"))


# --- answers for whole inputs ---


def table(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))


def test_a_classifier_answers_for_each_image_of_a_tree(tmp_path: Path) -> None:
    model = mean_onnx(tmp_path / "m.onnx", (4, 6), RGB, kind="classification", class_names=["=red", "green", "blue"])
    for name, channel in (("a/one.png", 0), ("b/two.png", 2)):
        pixels = np.zeros((4, 6, 3), np.uint8)
        pixels[..., channel] = 255
        (tmp_path / "set" / name).parent.mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "set" / name)
    found = predict(model, tmp_path / "set", tmp_path / "out")
    assert (found.tiles, found.table) == (2, tmp_path / "out/predictions.csv")
    header, one, two = table(tmp_path / "out/predictions.csv")
    assert header == ["file", "sample", "class", "'=red", "green", "blue"]  # no formula for a spreadsheet
    assert [Path(line[0]).name for line in (one, two)] == ["one.png", "two.png"]
    assert (one[1:3], two[1:3]) == (["0", "'=red"], ["0", "blue"])
    expected = (np.array([1, 0, 0]) - RGB["mean"]) / RGB["std"]
    assert np.allclose(np.array(one[3:], float), expected, atol=1e-5)
    with pytest.raises(OutputError, match=r"predictions\.csv exists"):
        predict(model, tmp_path / "set", tmp_path / "out")


def test_numbers_for_each_sample_of_an_array(tmp_path: Path) -> None:
    model = mean_onnx(tmp_path / "m.onnx", (5,), SIGNAL, kind="regression", class_names=["level"])
    x = np.arange(15, dtype=np.float32).reshape(3, 1, 5)
    np.save(tmp_path / "x.npy", x)
    predict(model, tmp_path / "x.npy", tmp_path / "out")
    header, *lines = table(tmp_path / "out/predictions.csv")
    assert header == ["file", "sample", "level"]
    assert [int(line[1]) for line in lines] == [0, 1, 2]
    assert np.allclose([float(line[2]) for line in lines], (x.mean((1, 2)) - 0.5) / 2, atol=1e-5)


def test_sounds_are_answered_for_as_training_read_them(tmp_path: Path) -> None:
    content = {"kind": "regression", "class_names": ["level"], "prepared": "size=8"}
    model = mean_onnx(tmp_path / "m.onnx", (8,), SIGNAL | {"raw": "int16 at 8000 Hz"}, **content)
    with wave.open(str(tmp_path / "s.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.full(4, 16384, "<i2").tobytes())  # shorter: zeros follow
    predict(model, tmp_path / "s.wav", tmp_path / "out")
    ((_, number),) = (line[1:] for line in table(tmp_path / "out/predictions.csv")[1:])
    assert float(number) == pytest.approx((16384 / 2 - 0.5) / 2)


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        (np.zeros((3, 6), np.uint8), {}, "holds an input of 1x3x6, but the model takes 1x4x6"),
        (np.zeros((4, 6), np.uint16), {}, "uint16"),
        (np.zeros((4, 6), np.uint8), {"overlap": 1}, "leave out --overlap"),
        (np.zeros((4, 6), np.uint8), {"probabilities": True}, "leave out --overlap and --probabilities"),
    ],
)
def test_whole_inputs_that_do_not_fit(
    content: NDArray[Any], settings: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model = mean_onnx(tmp_path / "m.onnx", (4, 6), GRAY, kind="classification")
    Image.fromarray(content).save(tmp_path / "a.png")
    with pytest.raises(ShrinkError, match=said):
        predict(model, tmp_path / "a.png", tmp_path / "out", **settings)
    assert not (tmp_path / "out/predictions.csv").exists()


def test_what_another_program_would_run_is_no_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")  # Ghostscript would
    with pytest.raises(DataError, match="no PNG, TIFF or JPEG"):
        streams.open_source(path, 3, 2, "uint8 / 255")

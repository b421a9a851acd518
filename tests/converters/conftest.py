"""Two small U-Nets, trained, pruned, quantized and exported once for every test of the session."""

from __future__ import annotations

import functools
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

import torchshrink as ts
from torchshrink import bench, checkpoint, prune, quantize
from torchshrink.converters import environment, onnx_file, qdq, tflite, tflite_file
from torchshrink.converters.bridge import Bridge
from torchshrink.converters.export import to_onnx
from torchshrink.converters.tflite import FloatFiles
from torchshrink.pipeline.artefacts import Artefact, Source

FORMATS, PRECISIONS = ("onnx", "tflite"), ("fp32", "fp16", "int8")
PRUNED = 0.8
# An image of 32 x 32, and a signal of 64 with three output channels: no two dimensions of a tensor are alike.
SIZES = {2: (32, 32), 1: (64,)}
OUTPUTS = {2: 1, 1: 3}
NORMALIZATION = {"mean": [0.25], "std": [1.5]}


@pytest.fixture(autouse=True)
def one_road(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second converter is not taken from the user's cache, where ``doctor --prepare litert-torch`` puts it."""
    monkeypatch.setattr(environment, "SECOND_PACKAGES", ("litert-torch==none",))


@dataclass
class Exported:
    """One U-Net, its quantized graph and every file that the bridge makes of them."""

    source: Source
    inputs: Tensor
    folder: Path
    generic_path: Path
    artefacts: dict[str, Artefact]
    warnings: list[str]
    _outputs: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        return self.source.model

    @property
    def quantized(self) -> GraphModule:
        assert isinstance(self.source.quantized, GraphModule)
        return self.source.quantized

    @functools.cached_property
    def generic(self) -> onnx.ModelProto:
        """The quantized graph as plain QDQ ONNX. Do not change it."""
        return onnx_file.load(self.generic_path)

    @functools.cached_property
    def floats(self) -> onnx.ModelProto:
        """The float model as ONNX. Do not change it."""
        return to_onnx.export(self.model, self.inputs[:1])

    def path(self, name: str) -> Path:
        """Return a file by format and precision: ``tflite-int8-sparse``."""
        return self.artefacts[name].path

    def outputs(self, name: str) -> NDArray[np.float32]:
        """Return what a file computes for ``inputs`` in a fresh process."""
        if name not in self._outputs:
            self._outputs[name] = bench.predict(self.path(name), self.inputs.numpy())
        return self._outputs[name]

    def expected(self, name: str) -> NDArray[np.float32]:
        """Return what its PyTorch source computes."""
        model = self.quantized if "int8" in name else self.model
        with torch.inference_mode():
            return model(self.inputs).numpy()


@pytest.fixture(scope="session")
def export(keep: Callable[..., Any]) -> Callable[[int], Exported]:
    """Return the exported U-Net of that many dimensions."""

    @functools.cache
    def get(dims: int) -> Exported:
        folder, inputs, artefacts, told = keep(f"unet{dims}d", lambda folder: _export(dims, folder))
        models = [checkpoint.load(folder / f"{name}.safetensors") for name in ("float", "int8")]
        source = Source(f"unet{dims}d", *models, inputs[:1], {"normalization": NORMALIZATION})
        return Exported(source, inputs, folder / "files", folder / "generic.onnx", artefacts, told)

    return get


def _export(dims: int, folder: Path) -> tuple[Path, Tensor, dict[str, Artefact], list[str]]:
    model, quantized, inputs = _trained(dims)
    checkpoint.save(model, folder / "float.safetensors")
    checkpoint.save(quantized, folder / "int8.safetensors")
    onnx_file.save(to_onnx.export(quantized, inputs[:1]), folder / "generic.onnx")
    (folder / "files").mkdir()
    source = Source(f"unet{dims}d", model, quantized, inputs[:1], {"normalization": NORMALIZATION})
    # Recorded instead of raised, so that one warning that reaches the user fails one test and not all.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        artefacts = Bridge().export(source, folder / "files", FORMATS, PRECISIONS)
    by_name = {artefact.name.split("/")[1]: artefact for artefact in artefacts}
    assert len(by_name) == len(artefacts)
    told = [f"{item.category.__name__}: {item.message} ({item.filename}:{item.lineno})" for item in caught]
    return folder, inputs, by_name, told


@pytest.fixture(params=[2, 1], ids=["2d", "1d"])
def unet(request: pytest.FixtureRequest, export: Callable[[int], Exported]) -> Exported:
    """The U-Net for images, then the one for signals."""
    return export(request.param)


@pytest.fixture
def unet2d(export: Callable[[int], Exported]) -> Exported:
    return export(2)


@pytest.fixture(scope="module")
def bridge() -> Iterator[Bridge]:
    """One that exports a model once, which takes longer than all else that it is asked for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("torchshrink.converters.bridge.export", functools.cache(to_onnx.export))
        yield Bridge()


@dataclass(frozen=True)
class Conversion:
    """The float half of the 2-D U-Net's quantized graph, and what onnx2tf made of it."""

    onnx: Path
    ranges: dict[str, Any]
    files: FloatFiles


@pytest.fixture(scope="session")
def conversion(export: Callable[[int], Exported], keep: Callable[..., Any]) -> Conversion:
    def convert(folder: Path) -> Conversion:
        model, ranges = qdq.split(export(2).generic)
        onnx_file.save(model, folder / "float.onnx")
        with tflite.float_files([folder / "float.onnx"]) as (files,):
            shutil.copytree(files.folder, folder / "files")
            fp32 = folder / "files" / files.fp32.relative_to(files.folder)
        return Conversion(folder / "float.onnx", ranges, FloatFiles(fp32, folder / "files"))

    found: Conversion = keep("conversion", convert)
    return found


def _trained(dims: int) -> tuple[nn.Module, GraphModule, Tensor]:
    """Train to tell where a smoothed noise is positive, prune on the way, and train on quantized."""
    torch.manual_seed(dims)
    model = ts.UNet(widths=(8, 16), dims=dims, out_channels=OUTPUTS[dims])
    inputs = torch.randn(8, 1, *SIZES[dims])
    smooth = {1: F.avg_pool1d, 2: F.avg_pool2d}[dims](inputs, 5, 1, 2)
    truth = (smooth > 0).float().expand(-1, OUTPUTS[dims], *SIZES[dims])
    _fit(model, inputs, truth, 40, after=lambda step: prune.magnitude(model, PRUNED) if step == 15 else None)
    prune.remove(model).eval()
    prepared = quantize.prepare_qat(model, inputs[:1])

    def after(step: int) -> None:
        prepared.apply_masks()
        if step == 3:
            prepared.freeze()

    _fit(prepared, inputs, truth, 6, after, lr=1e-3)
    return model, quantize.convert(prepared), inputs


def _fit(
    model: nn.Module, inputs: Tensor, truth: Tensor, steps: int, after: Callable[[int], object], lr: float = 1e-2
) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr)
    for step in range(steps):
        F.binary_cross_entropy(model(inputs), truth).backward()
        optimizer.step()
        optimizer.zero_grad()
        after(step)


# --- reading and making files without the code under test ---


@pytest.fixture(scope="session")
def activations() -> Callable[[GraphModule], list[tuple[np.float32, int]]]:
    """Return scale and zero point of every quantize node of a PyTorch graph."""

    def read(graph: GraphModule) -> list[tuple[np.float32, int]]:
        operation = torch.ops.quantized_decomposed.quantize_per_tensor.default
        return [(np.float32(node.args[1]), int(node.args[2])) for node in graph.graph.nodes if node.target is operation]

    return read


@dataclass(frozen=True)
class Weight:
    """An int8 weight of a PyTorch graph."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]
    axis: int
    bias: NDArray[np.float32]
    input_scale: np.float32


@pytest.fixture(scope="session")
def weights_of() -> Callable[[GraphModule], list[Weight]]:
    """Return the weights of a PyTorch graph in the order in which it uses them."""

    def read(graph: GraphModule) -> list[Weight]:
        found = []
        for node in graph.graph.nodes:
            if "conv" not in str(node.target) or node.op != "call_function":
                continue
            entry, weight, bias = node.args[:3]
            codes, scale = (getattr(graph, argument.target).numpy() for argument in weight.args[:2])
            bias = getattr(graph, bias.target).numpy()
            found.append(Weight(codes, scale, int(weight.args[3]), bias, np.float32(entry.args[1])))
        return found

    return read


@pytest.fixture(scope="session")
def onnx_model() -> Callable[..., onnx.ModelProto]:
    """Build an ONNX model from nodes, ``{name: shape}`` of inputs and outputs, and constants."""

    def build(
        nodes: list[NodeProto], inputs: dict[str, Any], outputs: dict[str, Any], constants: dict[str, Any]
    ) -> onnx.ModelProto:
        ends = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in part.items()]
            for part in (inputs, outputs)
        ]
        arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "graph", *ends, arrays)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.checker.check_model(model)
        return model

    return build


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., NDArray[Any]]:
    """Run an ONNX model or file in onnxruntime, its graph optimizations off unless asked for."""

    def run(model: onnx.ModelProto | Path, entry: NDArray[Any], optimized: bool = False) -> NDArray[Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = str(model) if isinstance(model, Path) else model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return np.concatenate([session.run(None, {name: entry[i : i + 1]})[0] for i in range(len(entry))])

    return run


@pytest.fixture(scope="session")
def interpreter() -> Callable[[Path], Any]:
    """Open a TFLite file in LiteRT without delegates, every tensor readable after ``invoke``."""

    def open_file(path: Path) -> Any:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        found = Interpreter(
            str(path),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        found.allocate_tensors()
        return found

    return open_file


def tflite_tensor(
    model: Any, name: str, shape: tuple[int, ...], kind: int, data: NDArray[Any] | None = None, scale: float = 0.0
) -> int:
    """Add a tensor to the only graph of a TFLite model and return its index."""
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, 0
    if data is not None:
        tensor.buffer = tflite_file.add_buffer(model, np.ascontiguousarray(data).tobytes())
    if scale:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [0]
    model.subgraphs[0].tensors.append(tensor)
    return len(model.subgraphs[0].tensors) - 1


def tflite_operator(model: Any, kind: int, inputs: list[int], outputs: list[int], options: Any = None) -> Any:
    """Add an operator to the only graph of a TFLite model and return it."""
    operator = schema.OperatorT()
    operator.opcodeIndex = tflite_file.opcode(model, kind)
    operator.inputs, operator.outputs = inputs, outputs
    if options is not None:
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        operator.builtinOptions = options
    model.subgraphs[0].operators.append(operator)
    return operator


@dataclass(frozen=True)
class TFLiteBuilder:
    """A TFLite model being written by hand."""

    model: Any

    def tensor(self, *arguments: Any, **settings: Any) -> int:
        return tflite_tensor(self.model, *arguments, **settings)

    def operator(self, *arguments: Any, **settings: Any) -> Any:
        return tflite_operator(self.model, *arguments, **settings)

    def finish(self, inputs: list[int], outputs: list[int]) -> Any:
        graph = self.model.subgraphs[0]
        graph.inputs, graph.outputs = inputs, outputs
        return self.model


@pytest.fixture
def tflite_builder() -> TFLiteBuilder:
    model = schema.ModelT()
    model.version, model.operatorCodes, model.buffers, model.metadata = 3, [], [schema.BufferT()], []
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
    model.subgraphs = [graph]
    return TFLiteBuilder(model)

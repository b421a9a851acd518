"""Sound int8 files of networks in which rounding adds up pass, and files with one thing wrong fail, however small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from torchshrink import quantize
from torchshrink.converters import onnx_file, qdq, runtimes, tflite, tflite_file, to_onnx
from torchshrink.converters.onnx_file import load, save
from torchshrink.converters.proof import noise, operators, verify
from torchshrink.converters.proof.verify import Parity
from torchshrink.settings import Weights


class Residual(nn.Module):
    """Sums of what a block takes and what it computes, a PReLU after each, a sigmoid in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.slopes = nn.ModuleList(nn.PReLU(8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.stem(x))
        for block, slope in zip(self.blocks, self.slopes, strict=True):
            x = slope(x + block(x))
        return torch.sigmoid(self.head(x))


def _leaky() -> nn.Module:
    """The smallest of other people's models whose TFLite files failed: 16 layers, 29 % within one step."""
    layers = [part for i in range(16) for part in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.LeakyReLU())]
    return nn.Sequential(*layers, nn.Conv2d(8, 2, 1))


def _classifier() -> nn.Module:
    """Twenty outputs: one that is two steps off is 5 % of them."""
    body = (nn.Conv2d(3, 8, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.SiLU())
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 20))


def _four_bits() -> nn.Module:
    """What is trained with weights of four bits, see `_quantized`."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1))


class Uneven(nn.Module):
    """Every other channel is small, a few codes, and made large again: one in its sums is a good part of a step."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, small = kind, torch.tensor([1, 1 / 64]).repeat(4)
        shape = {"depthwise": (8, 1, 3, 3), "dense": (8, 8, 1, 1), "linear": (8, 8)}[kind]
        self.first = nn.Parameter(torch.randn(8, 3, 1, 1) * small[:, None, None, None])
        second = torch.randn(shape) * small.flip(0).reshape(8, *[1] * (len(shape) - 1))
        if kind != "depthwise":
            second[::2, 1::2], second[1::2, ::2] = 0, 0
        self.second = nn.Parameter(second)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.first)
        if self.kind == "linear":
            return F.linear(x.flatten(2).transpose(1, 2), self.second)
        return F.conv2d(x, self.second, groups=8 if self.kind == "depthwise" else 1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "leaky": _leaky, "residual": Residual, "classifier": _classifier, "four bits": _four_bits,
    **{kind: partial(Uneven, kind) for kind in ("depthwise", "dense", "linear")},
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A quantized graph and its files."""

    graph: GraphModule
    inputs: Tensor
    files: dict[str, Path]

    def verify(self, path: Path, inputs: Tensor | None = None) -> Parity:
        return verify.verify(path, self.graph, self.inputs if inputs is None else inputs, "int8", "graph")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Made]:
    """Every model as ONNX and TFLite file; TensorFlow starts once."""
    folder, found, ranges = tmp_path_factory.mktemp("verdicts"), {}, {}
    for name, build in MODELS.items():
        graph, inputs = _quantized(build(), weights="int4" if name == "four bits" else "int8")
        files = {"onnx": folder / f"{name}.onnx", "tflite": folder / f"{name}.tflite"}
        to_onnx(graph, inputs[:1], files["onnx"], "int8")
        plain, ranges[name] = qdq.split(load(to_onnx(graph, inputs[:1], folder / "generic.onnx", "int8", "generic")))
        save(plain, folder / f"{name}-float.onnx")
        found[name] = Made(graph, inputs, files)
    floats = [folder / f"{name}-float.onnx" for name in MODELS]
    with tflite.float_files(floats) as converted:
        for name, source, files_ in zip(MODELS, floats, converted, strict=True):
            tflite.write(files_, source, found[name].files["tflite"], "int8", ranges[name])
    return found


def _quantized(
    model: nn.Module, factor: float = 1.0, seed: int = 0, weights: Weights = "int8"
) -> tuple[GraphModule, Tensor]:
    """Return the model calibrated on ``factor`` times the inputs that are returned."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.normal_(module.bias, std=0.3)
    inputs = torch.randn(8, 3, 10, 12, generator=torch.Generator().manual_seed(2))
    if weights == "int8":
        prepared = quantize.prepare_ptq(model.eval(), inputs[:1])
    else:
        prepared = quantize.prepare_qat(model, inputs[:1], weights=weights)
    quantize.calibrate(prepared, [factor * inputs])
    return quantize.convert(prepared), inputs


# --- sound files ---


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
@pytest.mark.parametrize("name", MODELS)
def test_a_sound_file_passes(made: dict[str, Made], name: str, kind: str) -> None:
    parity = made[name].verify(made[name].files[kind])
    assert parity.passed, parity.reason
    assert parity.reason == ""
    assert parity.operation is None


def test_what_steps_refuse_is_judged_by_noise(made: dict[str, Made]) -> None:
    """LeakyReLU's kernel rounds otherwise: many outputs are steps off, none of them further from the float model."""
    parity = made["leaky"].verify(made["leaky"].files["tflite"])
    assert parity.lsb_match is not None
    assert parity.lsb_match < verify.WITHIN_ONE
    assert (parity.passed, parity.judged_by) == (True, "noise")
    assert parity.noise_db is not None
    assert parity.file_noise_db is not None


# --- wrong ones ---


@pytest.mark.parametrize("name", ["leaky", "residual", "classifier"])
@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_bias_off_by_two_percent_fails(made: dict[str, Made], name: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"harmed.{kind}"
    _change_bias(made[name].files[kind], path, 0, lambda codes: np.rint(codes * 1.02).astype(codes.dtype))
    parity = made[name].verify(path)
    assert (parity.passed, parity.judged_by) == (False, "operators")
    assert parity.operation is not None
    assert parity.operation.startswith("aten.conv2d.default conv2d (")
    assert "aten.conv2d.default conv2d computes something else" in parity.reason


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_the_operation_is_the_harmed_one(made: dict[str, Made], kind: str, tmp_path: Path) -> None:
    """The third of the layers, where everything behind it is off as well."""
    leaky = made["leaky"]
    path = tmp_path / f"harmed.{kind}"
    _change_bias(leaky.files[kind], path, 2, np.negative)
    wrong = operators.first_wrong(path, leaky.graph, [leaky.inputs])
    assert wrong is not None
    assert wrong.tensor == "conv2d_2"
    assert wrong.share > 0.1
    assert wrong.steps > 1


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_product_that_is_slightly_wrong_fails(made: dict[str, Made], kind: str, tmp_path: Path) -> None:
    """Of SiLU, `x * sigmoid(x)`, which may be further off than sums: a scale 3 % off, or negatives cut off."""
    path = tmp_path / f"harmed.{kind}"
    (_clamp_tflite_product if kind == "tflite" else _scale_onnx_product)(made["classifier"].files[kind], path)
    wrong = operators.first_wrong(path, made["classifier"].graph, [made["classifier"].inputs])
    assert wrong is not None
    assert wrong.operation == "aten.mul.Tensor"


@pytest.mark.parametrize("name", ["depthwise", "dense", "linear"])
def test_a_weight_of_few_codes_a_little_off_fails(made: dict[str, Made], name: str, tmp_path: Path) -> None:
    """Whose sums LiteRT rounds twice."""
    path = tmp_path / "harmed.tflite"
    _change_tflite(made[name].files["tflite"], path, 1, lambda codes: np.rint(codes * 0.97).astype(codes.dtype), 1)
    parity = made[name].verify(path)
    assert (parity.passed, parity.judged_by) == (False, "operators")


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_a_weight_of_four_bits_one_code_off_fails(made: dict[str, Made], kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"harmed.{kind}"
    (_change_tflite if kind == "tflite" else _change_onnx)(made["four bits"].files[kind], path, 1, _one_code_off, 1)
    parity = made["four bits"].verify(path)
    assert (parity.passed, parity.judged_by) == (False, "operators")


def test_a_file_of_another_graph_fails(made: dict[str, Made]) -> None:
    """Of the same layers with other weights."""
    other, _ = _quantized(Residual(), seed=1)
    parity = verify.verify(made["residual"].files["onnx"], other, made["residual"].inputs, "int8", "graph")
    assert not parity.passed


def test_operators_are_judged_on_the_processor_that_ran_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cuts large sums off, of which nothing is seen here."""
    graph, inputs = _quantized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 2, 1)))
    path = Path(to_onnx(graph, inputs[:1], tmp_path / "m.onnx", "int8"))

    def predict_all(file: Path, arrays: list[NDArray[Any]], processor: str) -> list[NDArray[Any]]:
        values = runtimes.onnx_runner(load(file), set(), is_optimized=True)(arrays)
        limits = {"x86-sse4": np.inf, "x86-avx2": 200}
        return [np.minimum(each.astype(np.float32), limits[processor]) for each in values.values()]

    monkeypatch.setattr(runtimes, "predict_all", predict_all)
    assert operators.first_wrong(path, graph, [inputs[:1]], "x86-sse4") is None
    wrong = operators.first_wrong(path, graph, [inputs[:1]], "x86-avx2")
    assert wrong is not None
    assert wrong.steps > 3


def test_sums_that_are_written_into_what_they_add_to_are_judged_by_what_stood_there(tmp_path: Path) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Any:
            x = self.stem(x)
            y = self.block(x)
            y += x
            y = y.view(-1, 2, 4, *y.shape[2:]).transpose(1, 2).flatten(1, 2)  # a file holds it in another layout
            return self.head(F.relu(y, inplace=True))

    graph, inputs = _quantized(InPlace())
    path = Path(to_onnx(graph, inputs[:1], tmp_path / "m.onnx", "int8"))
    assert operators.first_wrong(path, graph, [inputs]) is None


class Saturating(nn.Module):
    """Something beside a branch, which is to reach further than its grid does."""

    def __init__(self, branch: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(3, 8, 3), branch, nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        return self.head(x - self.branch(x))


SATURATING: dict[str, Callable[[Tensor], Tensor]] = {
    "ReduceMean": lambda x: x.mean(1, keepdim=True),
    "AveragePool": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "Mul": lambda x: x * x,
}


@pytest.mark.parametrize("kind", SATURATING)
def test_a_file_may_compute_in_float_what_saturates_in_the_graph(kind: str, tmp_path: Path) -> None:
    """But nothing else: the same file with that a tenth smaller fails."""
    graph, inputs = _quantized(Saturating(SATURATING[kind]))
    _narrow(graph, {"ReduceMean": "mean", "AveragePool": "avg_pool2d", "Mul": "mul"}[kind])
    model = load(to_onnx(graph, inputs[:1], tmp_path / "m.onnx", "int8", "generic"))
    assert operators.first_wrong(tmp_path / "m.onnx", graph, [inputs]) is None
    _compute_in_float(model, kind)
    save(model, tmp_path / "float.onnx")
    assert operators.first_wrong(tmp_path / "float.onnx", graph, [inputs]) is None
    _compute_in_float(model, kind, share=0.9)
    save(model, tmp_path / "harmed.onnx")
    wrong = operators.first_wrong(tmp_path / "harmed.onnx", graph, [inputs])
    assert wrong is not None
    assert wrong.operation == "aten.sub.Tensor"


# --- graphs that lost what they were to compute ---


def test_a_graph_that_answers_one_number_is_not_verified(tmp_path: Path) -> None:
    """Calibrated on inputs ten thousand times as large: every code is the same, in the file as in the graph."""
    graph, inputs = _quantized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), factor=1e5)
    path = Path(to_onnx(graph, inputs[:1], tmp_path / "lost.onnx", "int8"))
    parity = verify.verify(path, graph, inputs, "int8", "graph")
    assert parity.lsb_match == 1.0
    assert (parity.passed, parity.judged_by) == (False, "graph")
    assert "gives out one number" in parity.reason


@pytest.mark.parametrize(
    ("graph", "floats", "step", "is_lost"),
    [
        ([0.5, 0.5], [0.4, 0.6], 0.1, True),
        ([0.5, 0.5], [0.5, 0.5001], 0.1, False),  # nothing was to be told apart
        ([0.5, 0.6], [0.4, 0.6], 0.1, False),
        ([0.0, 0.0], [1e-5, 3e-5], 2.0**-12, True),  # all below a step that no data asked for
        ([0.0, 0.0], [1e-5, 3e-5], 1 / 256, False),  # a sigmoid of an empty image
        ([0.0, 0.0], [0.0, 0.01], 1 / 256, True),
        ([0.5], [0.4], 0.1, False),  # a single output
    ],
)
def test_is_lost(graph: list[float], floats: list[float], step: float, is_lost: bool) -> None:
    assert noise.is_lost(np.array(graph), np.array(floats), step) is is_lost


# --- figures ---


def test_figures_in_db_are_of_one_kind(tmp_path: Path) -> None:
    """Power over power, as `quantize.noise` has it: a variance makes fewer dB of outputs far from zero."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 1, 1))
    graph, inputs = _quantized(model)
    path = Path(to_onnx(graph, inputs[:1], tmp_path / "m.onnx", "int8"))
    parity = verify.verify(path, graph, inputs, "int8", "graph")
    (floats,), wanted = noise.unrounded(graph, [inputs]), graph(inputs).numpy()
    assert parity.noise_db == pytest.approx(10 * np.log10((floats**2).sum() / ((wanted - floats) ** 2).sum()), abs=1e-3)


def test_unrounded_is_the_model_with_the_weights_of_the_codes() -> None:
    """Of one layer: the convolution with dequantized weights, its inputs and outputs as they are."""
    graph, inputs = _quantized(nn.Sequential(nn.Conv2d(3, 4, 3)))
    (found,) = noise.unrounded(graph, [inputs])
    node = next(node for node in graph.graph.nodes if "conv2d" in str(node.target))
    _, weight, bias = node.args[:3]
    codes, scale = (getattr(graph, argument.target) for argument in weight.args[:2])
    expected = F.conv2d(inputs, codes.float() * scale.reshape(-1, 1, 1, 1), getattr(graph, bias.target))
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


# --- helpers ---


def _narrow(graph: GraphModule, operation: str) -> None:
    """Let the grid of what an operation computes reach a quarter as far."""
    for node in graph.graph.nodes:
        source = node.args[0] if "quantize_per_tensor" in str(node.target) else None
        if ".dequantize_per_tensor" in str(node.target):
            source = source.args[0]
        if source is not None and str(source.target).startswith(f"aten.{operation}."):
            node.args = (node.args[0], node.args[1] / 4, *node.args[2:])
    graph.recompile()


def _compute_in_float(model: onnx.ModelProto, kind: str, share: float = 1.0) -> None:
    """Let what reads the result of an operation read it as it is, or this share of it."""
    producers = {name: node for node in model.graph.node for name in node.output}
    place, node = next((i, each) for i, each in enumerate(model.graph.node) if each.op_type == kind)
    for reader in model.graph.node:
        for position, name in enumerate(reader.input):
            codes = producers[name].input[0] if name in producers else ""
            is_rounded = codes in producers and producers[codes].input[0] == node.output[0]
            if is_rounded and "Quantize" not in reader.op_type:
                reader.input[position] = node.output[0]
    if share != 1:
        model.graph.initializer.append(numpy_helper.from_array(np.array(share, np.float32), "share"))
        whole, node.output[0] = node.output[0], "whole"
        model.graph.node.insert(place + 1, onnx.helper.make_node("Mul", ["whole", "share"], [whole]))
    onnx_file.replace_nodes(model, list(model.graph.node))  # without what nobody reads any more


def _change_bias(source: Path, target: Path, layer: int, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    (_change_tflite if source.suffix == ".tflite" else _change_onnx)(source, target, layer, change)


def _one_code_off(codes: NDArray[Any]) -> NDArray[Any]:
    changed = codes.copy()
    changed.flat[0] -= np.sign(changed.flat[0]) or 1
    return changed


_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def _change_tflite(
    source: Path, target: Path, layer: int, change: Callable[[NDArray[Any]], NDArray[Any]], place: int = 2
) -> None:
    model = tflite_file.read(source)
    graph = model.subgraphs[0]
    operator = [each for each in graph.operators if tflite_file.op_name(model, each) in _LAYERS][layer]
    tensor = graph.tensors[operator.inputs[place]]
    changed = change(np.array(tflite_file.constant(model, tensor)))
    stored = tflite_file.nibbles(changed) if tensor.type == schema.TensorType.INT4 else changed
    tensor.buffer = tflite_file.add_buffer(model, stored.tobytes())
    tflite_file.write(model, target)


def _change_onnx(
    source: Path, target: Path, layer: int, change: Callable[[NDArray[Any]], NDArray[Any]], place: int = 2
) -> None:
    model = onnx.load(str(source))
    producers = {name: node for node in model.graph.node for name in node.output}
    node = [node for node in model.graph.node if node.op_type == "Conv"][layer]
    name = producers[node.input[place]].input[0]
    item = next(item for item in model.graph.initializer if item.name == name)
    item.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(item)), name))
    onnx.save(model, str(target))


def _clamp_tflite_product(source: Path, target: Path) -> None:
    model = tflite_file.read(source)
    product = next(each for each in model.subgraphs[0].operators if tflite_file.op_name(model, each) == "MUL")
    product.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    tflite_file.write(model, target)


def _scale_onnx_product(source: Path, target: Path) -> None:
    """Change the scale with which the result is rounded, and not what its readers take it for."""
    model = onnx.load(str(source))
    product = next(node for node in model.graph.node if node.op_type == "Mul")
    node = next(node for node in model.graph.node if node.input[0] == product.output[0])
    scale = next(item for item in model.graph.initializer if item.name == node.input[1])
    changed = np.asarray(numpy_helper.to_array(scale) * np.float32(1.03), np.float32)
    model.graph.initializer.append(numpy_helper.from_array(changed, "changed"))
    node.input[1] = "changed"
    onnx.save(model, str(target))


def test_roots_of_nothing_and_layouts_of_a_file_are_no_faults() -> None:
    """Both walks reach the grid's largest value where a variance is zero; a view needs values in their order."""
    real = np.array([1.0, np.inf], np.float32)
    look = operators._Look(real, np.array([1.02, 127.0], np.float32), (1.0, 0, -128, 127), 0.0, True)
    assert operators._within(look).tolist() == [1.0, 127.0]
    assert operators._count(look, 0.0)[0] == 0


@pytest.mark.parametrize("mean", [-14, -16])
def test_a_float_sigmoid_of_small_probabilities_is_held_to_what_onnx_runtime_can_tell(
    mean: float, tmp_path: Path
) -> None:
    """The same file with others fails."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Sigmoid()).eval()
    nn.init.constant_(model[2].bias, mean)  # type: ignore[arg-type]
    inputs = torch.randn(8, 3, 10, 12, generator=torch.Generator().manual_seed(2))
    graph = quantize.ptq(model, [inputs], "none", keep_float=["2", "3"])
    path = Path(to_onnx(graph, inputs[:1], tmp_path / "m.onnx", "int8"))
    assert operators.first_wrong(path, graph, [inputs]) is None
    file = onnx.load(str(path))
    bias = next(item for item in file.graph.initializer if onnx.numpy_helper.to_array(item).ravel()[0] == mean)
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(2, -13, np.float32), bias.name))
    onnx.save(file, str(path))
    assert operators.first_wrong(path, graph, [inputs]) is not None


class _HalfInside(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


def test_a_float_file_is_held_against_what_a_block_under_autocast_computes_in_float32(tmp_path: Path) -> None:
    model, image = _HalfInside(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)), torch.randn(1, 3, 8, 8)
    parity = verify.verify(to_onnx(model, image, tmp_path / "m.onnx"), model, image, "fp32", "source")
    assert parity.passed, parity.reason


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_models_of_other_precisions_are_held_in_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).to(dtype)
    image = torch.randn(1, 3, 8, 8, dtype=dtype)
    for graph, precision in ((model, "fp32"), (_quantized_once(model, image), "int8")):
        path = to_onnx(graph, image, tmp_path / f"{precision}.onnx", precision)
        parity = verify.verify(path, graph, image, precision, "source")
        assert parity.passed, parity.reason


def _quantized_once(model: nn.Module, image: Tensor) -> nn.Module:
    prepared = quantize.prepare_ptq(model, image)
    quantize.calibrate(prepared, [image])
    return quantize.convert(prepared)

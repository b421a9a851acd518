"""PyTorch to ONNX: what is written, what is refused, and what is kept off the terminal."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx_metadata import get_metadata
from torch import Tensor, nn

from torchshrink import quantize
from torchshrink.converters import qdq, runtimes, to_onnx
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import load
from torchshrink.errors import ModelError, ParityError, UnsupportedOpError
from torchshrink.quantize.noise import snr_db

Run = Callable[..., NDArray[Any]]


class Eigenvalues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigh(x @ x.transpose(-1, -2))[0]


class Branch(nn.Module):
    """What it computes depends on its input's values."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_ends_are_called_input_and_output(unet: Any) -> None:
    for name in ("onnx-fp32", "onnx-fp16", "onnx-int8"):
        graph = onnx.load(str(unet.path(name))).graph
        shapes = [
            [side.dim_value for side in item.type.tensor_type.shape.dim] for item in (*graph.input, *graph.output)
        ]
        assert [item.name for item in (*graph.input, *graph.output)] == ["input", "output"]
        assert shapes == [[1, *unet.inputs.shape[1:]], [1, *unet.expected(name).shape[1:]]]


def test_a_batch_is_exported_for_one_sample(tmp_path: Path) -> None:
    path = to_onnx(nn.Conv1d(2, 3, 1), torch.zeros(7, 2, 5), tmp_path / "one.onnx")
    assert path == tmp_path / "one.onnx"
    (side, *_) = onnx.load(str(path)).graph.input[0].type.tensor_type.shape.dim
    assert side.dim_value == 1


def test_zero_points_are_stored_for_any_number_of_channels() -> None:
    """The exporter converts constants of up to 8192 values."""
    inputs = torch.randn(4, 2)
    prepared = quantize.prepare_ptq(nn.Linear(2, 8200).eval(), inputs)
    quantize.calibrate(prepared, [inputs])
    exported = export(quantize.convert(prepared), inputs)
    assert "Cast" not in {node.op_type for node in exported.graph.node}
    floats, ranges = qdq.split(exported)
    assert [len(range_.scale) for range_ in ranges.values() if range_.axis is not None] == [8200]
    assert [node.op_type for node in floats.graph.node] == ["Gemm"]


def test_every_convolution_says_its_kernel_shape(unet: Any) -> None:
    """onnx2tf looks it up and the exporter leaves it out."""
    for model in (onnx.load(str(unet.path("onnx-fp32"))), unet.generic):
        nodes = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
        assert len(nodes) == 8
        assert all("kernel_shape" in {item.name for item in node.attribute} for node in nodes)


def test_nothing_of_the_exporters_notes_is_left(unet: Any) -> None:
    model = onnx.load(str(unet.path("onnx-fp32")))
    assert [item.key for item in model.metadata_props] == ["torchshrink"]
    for holder in (model.graph, *model.graph.node, *model.graph.initializer, *model.graph.value_info):
        assert not holder.metadata_props
        assert not holder.doc_string


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    """Export happens in evaluation mode, and a training goes on afterwards."""
    model = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    to_onnx(model, torch.randn(1, 2, 5), tmp_path / "model.onnx")
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --- refusals ---


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_quantized_graph_is_no_float_model(
    unet2d: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    monkeypatch.delattr("torchshrink.converters.export.to_onnx.export")  # it is said before the work
    with pytest.raises(ModelError, match=rf"precision {precision} needs a float model, got a quantized graph"):
        to_onnx(unet2d.quantized, unet2d.inputs, tmp_path / "model.onnx", precision)
    assert list(tmp_path.iterdir()) == []


def test_a_float_model_is_no_quantized_graph(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"precision int8 needs a quantized graph .*qat or ptq.*, got floats"):
        to_onnx(nn.Conv1d(2, 3, 1), torch.zeros(1, 2, 5), tmp_path / "model.onnx", "int8")
    assert list(tmp_path.iterdir()) == []


def test_an_operation_without_a_counterpart_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOpError) as caught:
        to_onnx(Eigenvalues(), torch.randn(1, 1, 8, 8), tmp_path / "model.onnx")
    message = str(caught.value)
    assert "linalg_eigh" in message
    assert "Eigenvalues" in message
    assert "replace that operation" in message
    assert "\n" not in message
    assert len(message) < 400
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_model_itself_is_not_blamed_on_an_operation(unet2d: Any, tmp_path: Path) -> None:
    """A U-Net refuses sides that do not halve: no operation is to be replaced."""
    with pytest.raises(ModelError, match="do not divide by 2") as caught:
        to_onnx(unet2d.model, torch.zeros(1, 1, 31, 32), tmp_path / "model.onnx")
    assert "replace that operation" not in str(caught.value)


def test_a_shape_that_does_not_fit_is_told(tmp_path: Path) -> None:
    """PyTorch's own words, and not an operation that should be replaced."""
    with pytest.raises(ModelError, match=r"Conv1d fails on an input of shape \[1, 4, 5\] \(.*channels") as caught:
        to_onnx(nn.Conv1d(2, 3, 1), torch.zeros(1, 4, 5), tmp_path / "model.onnx")
    assert not isinstance(caught.value, UnsupportedOpError)
    assert "\n" not in str(caught.value)


class InBlock(nn.Module):
    """A convolution under inference_mode or autocast."""

    def __init__(self, block: Callable[[], Any]) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv1d(2, 3, 1), block

    def forward(self, x: Tensor) -> Tensor:
        with self.block():
            y = self.conv(x)
        return y.float() + 1


@pytest.mark.parametrize(
    ("model", "off"),
    [
        (InBlock(torch.inference_mode), 1e-6),
        (InBlock(lambda: torch.autocast("cpu", torch.bfloat16)), 5e-2),  # it is the module that rounds to 8 bits
        (nn.Sequential(nn.RReLU()), 1e-6),
        (nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(5, 5))), 1e-6),
    ],
    ids=["inference mode", "autocast", "random slopes", "computed weights"],
)
def test_what_torch_onnx_refuses_or_writes_for_no_runtime(
    model: nn.Module, off: float, tmp_path: Path, run_onnx: Run
) -> None:
    values = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0))
    expected = model.eval()(values).detach()
    path = to_onnx(model, values, tmp_path / "m.onnx")
    np.testing.assert_allclose(run_onnx(path, values.numpy()), expected.numpy(), atol=off)
    assert torch.equal(model(values), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_models_of_other_precisions_are_exported_in_float32(dtype: torch.dtype, tmp_path: Path, run_onnx: Run) -> None:
    model, values = nn.Conv1d(2, 3, 1).to(dtype), torch.randn(1, 2, 5).to(dtype)
    found = run_onnx(to_onnx(model, values, tmp_path / "m.onnx"), values.float().numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, model(values).float().detach().numpy(), atol=3e-2)


@pytest.mark.parametrize("noise", [torch.rand_like, torch.randn_like], ids=lambda noise: noise.__name__)
def test_noise_too_small_to_be_seen_is_refused(noise: Callable[[Tensor], Tensor], tmp_path: Path) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1e-6 * noise(x)

    with pytest.raises(ModelError, match="Noisy draws random numbers in evaluation too"):
        to_onnx(Noisy(), torch.randn(1, 2, 5), tmp_path / "m.onnx")


class Flipped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid().flip(1, -1)


@pytest.mark.parametrize("batch", [1, None])
def test_an_order_turned_around_is_no_slice(batch: int | None, tmp_path: Path, run_onnx: Run) -> None:
    """Of a slice with a negative step onnx2tf makes another order."""
    values = torch.randn(1, 2, 5)
    path = to_onnx(Flipped(), values, tmp_path / "m.onnx", batch=batch)
    assert [node.op_type for node in load(path).graph.node] == ["Sigmoid", "Gather", "Gather"]
    np.testing.assert_allclose(run_onnx(path, values.numpy()), Flipped()(values).numpy(), atol=1e-6)


def test_what_is_only_prepared_is_no_graph(tmp_path: Path) -> None:
    values = torch.randn(2, 2, 5)
    with pytest.raises(ModelError, match=r"torchshrink\.quantize\.convert makes it a graph"):
        to_onnx(quantize.prepare_ptq(nn.Conv1d(2, 3, 1), values), values, tmp_path / "m.onnx")


@pytest.mark.parametrize("make", [torch.fx.symbolic_trace, lambda model: model], ids=["traced", "plain"])
def test_dropout_is_none_in_a_file(make: Callable[[nn.Module], nn.Module], tmp_path: Path, run_onnx: Run) -> None:
    """A module that torch.fx traced has modes too."""
    model, values = nn.Sequential(nn.Conv1d(2, 3, 1), nn.BatchNorm1d(3), nn.Dropout(0.5)), torch.randn(1, 2, 5)
    path = to_onnx(make(model).train(), values, tmp_path / "m.onnx")
    np.testing.assert_allclose(run_onnx(path, values.numpy()), model.eval()(values).detach().numpy(), atol=1e-5)


def test_an_example_of_nan_tells_the_shape(tmp_path: Path) -> None:
    assert to_onnx(nn.Conv1d(2, 3, 1), torch.full((1, 2, 5), float("nan")), tmp_path / "m.onnx").is_file()


def test_a_graph_that_does_not_run_is_refused(tmp_path: Path) -> None:
    """ONNX's LSTM has no projection; torch.onnx writes one as if it had none."""

    class Last(nn.LSTM):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x)[0]

    with pytest.raises(UnsupportedOpError, match=r"the ONNX graph of Last does not run: .*LSTM.*without and a linear"):
        to_onnx(Last(3, 8, proj_size=5, batch_first=True), torch.randn(1, 4, 3), tmp_path / "m.onnx")


def test_a_branch_is_no_operation_to_replace(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOpError, match="do not branch on the values of tensors") as caught:
        to_onnx(Branch(), torch.randn(1, 1, 8, 8), tmp_path / "model.onnx")
    assert "replace that operation" not in str(caught.value)


@pytest.mark.parametrize("model", [nn.Conv2d(1, 1, 1), Eigenvalues(), Branch()], ids=lambda m: type(m).__name__)
def test_the_terminal_stays_empty(tmp_path: Path, capfd: pytest.CaptureFixture[str], model: nn.Module) -> None:
    with contextlib.suppress(UnsupportedOpError):
        to_onnx(model, torch.randn(1, 1, 8, 8), tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


# --- files ---


def test_metadata_round_trip(tmp_path: Path) -> None:
    content = {"normalization": {"mean": [0.1], "std": [3]}, "name": "ü"}
    path = to_onnx(nn.Conv1d(2, 3, 1), torch.zeros(1, 2, 5), tmp_path / "model.onnx", metadata=content)
    assert get_metadata(path) == content


def test_a_file_without_metadata_has_none(tmp_path: Path) -> None:
    path = to_onnx(nn.Conv1d(2, 3, 1), torch.zeros(1, 2, 5), tmp_path / "model.onnx")
    assert get_metadata(path) == {}


@pytest.mark.parametrize("content", [None, b"", bytes(1000), b"not a model"], ids=["missing", "empty", "zeros", "text"])
def test_what_is_no_model_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "damaged.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"damaged\.onnx cannot be read as ONNX"):
        load(path)


def test_a_truncated_model_is_named(unet2d: Any, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(unet2d.path("onnx-fp32").read_bytes()[:5000])
    with pytest.raises(ModelError, match=r"cut\.onnx cannot be read as ONNX"):
        load(path)


def test_dynamic_weights_do_not_stop_the_export(tmp_path: Path, run_onnx: Run) -> None:
    """A convolution whose weight is computed has no kernel shape to write down."""

    class Computed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.conv1d(x, x[:, :, :3])

    entry = torch.randn(1, 2, 9)
    path = to_onnx(Computed(), entry, tmp_path / "model.onnx")
    assert np.allclose(run_onnx(path, entry.numpy()), Computed()(entry).numpy(), atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 0.7])
def test_a_quantized_graph_is_held_against_its_export(
    factor: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What runs is 30 % too small: 10 dB, where a sound export has more than 25."""
    batch = torch.rand(2, 3, 8, 8)
    prepared = quantize.prepare_ptq(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), batch)
    quantize.calibrate(prepared, [batch])
    graph = quantize.convert(prepared)
    right = runtimes.onnx_runner

    def scaled(*arguments: Any, **settings: Any) -> Any:
        run = right(*arguments, **settings)
        return lambda sample: {name: np.float32(factor) * value for name, value in run(sample).items()}

    monkeypatch.setattr(runtimes, "onnx_runner", scaled)
    with (
        contextlib.nullcontext()
        if factor == 1
        else pytest.raises(ParityError, match="computes another 'output' than the mod")
    ):
        to_onnx(graph, batch[:1], tmp_path / "m.onnx", "int8")


class Chaos(nn.Module):
    """Every layer makes more of a difference, however small it was."""

    def __init__(self, layers: int = 20) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 1, bias=False) for _ in range(layers))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=0.7)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


@pytest.mark.parametrize("is_wrong", [False, True])
def test_ties_that_a_graph_makes_much_of_are_no_wrong_export(
    is_wrong: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another processor rounds a few ties otherwise; what comes out has less than 15 dB, and nothing is wrong."""
    batch = torch.rand(2, 16, 12, 12)
    prepared = quantize.prepare_ptq(Chaos().eval(), batch)
    quantize.calibrate(prepared, [batch])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = quantize.convert(prepared)

    def elsewhere(inputs: Tensor) -> Tensor:
        noise = 2 * torch.rand(inputs.shape, generator=torch.Generator().manual_seed(1)) - 1
        return graph(inputs + 3e-4 * noise).detach()

    def run(sample: list[NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        (inputs,) = map(torch.from_numpy, sample)
        return {"output": (-graph(inputs).detach() if is_wrong else elsewhere(inputs)).numpy()}

    assert snr_db(elsewhere(batch), graph(batch)) < 15
    monkeypatch.setattr(runtimes, "onnx_runner", lambda *_, **__: run)
    with pytest.raises(ParityError, match="another 'output'") if is_wrong else contextlib.nullcontext():
        to_onnx(graph, batch[:1], tmp_path / "m.onnx", "int8")

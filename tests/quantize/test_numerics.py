"""What a quantized graph computes, against the float model and against rounding written in numpy."""

import copy
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torchao.quantization.pt2e import FakeQuantizeBase

from torchshrink import quantize
from torchshrink.model.unet import UNet
from torchshrink.quantize import PreparedModule


def sqnr_db(reference: Tensor, found: Tensor) -> float:
    """Signal-to-quantization-noise ratio, 10 log10(sum x^2 / sum (x - y)^2)."""
    reference, found = reference.detach().double(), found.detach().double()
    return 10 * math.log10(float(reference.pow(2).sum() / (reference - found).pow(2).sum()))


def int8(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """``(clip(round(x / scale) + zero_point, -128, 127) - zero_point) * scale`` in float32."""
    codes = np.rint(values * np.float32(1 / scale)) + np.float32(zero_point)
    return ((np.clip(codes, -128, 127) - zero_point) * np.float32(scale)).astype(np.float32)


def settle(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Give every BatchNorm the statistics of ``inputs`` and keep them there, in whichever mode the model runs."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()
    for _ in norms:  # one layer more is right after each pass
        model(inputs)
    for norm in norms:
        norm.momentum = 0.0
    return model.eval()


def folded(convolution: nn.Module, norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight and bias of ``norm(convolution(x))``, by hand."""
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shape = (1, -1, 1, 1) if isinstance(convolution, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    bias = convolution.bias if convolution.bias is not None else torch.zeros_like(norm.running_mean)
    return convolution.weight * factor.reshape(shape), norm.bias + (bias - norm.running_mean) * factor


# --- Fake quantization


def test_fake_quantization_is_rounding(trained_qat: PreparedModule) -> None:
    found = [module for module in trained_qat.modules() if isinstance(module, FakeQuantizeBase)]
    activations = [module for module in found if not module.is_per_channel and module.dtype == torch.int8]
    assert len(activations) >= 9
    for module in map(copy.deepcopy, activations):
        module.disable_observer()
        scale, zero_point = float(module.scale), int(module.zero_point)
        codes = np.arange(-300, 300)
        # Inside the range, outside it, and around the borders where rounding decides.
        values = np.concatenate([codes, codes + 0.5, np.nextafter(codes + 0.5, 1e9), codes + 0.3]) * scale
        values = values.astype(np.float32)
        expected = int8(values, scale, zero_point)
        tensor = torch.from_numpy(values)
        torch.testing.assert_close(module(tensor), torch.from_numpy(expected), atol=0, rtol=0)
        quantized = torch.ops.quantized_decomposed.quantize_per_tensor(tensor, scale, zero_point, -128, 127, torch.int8)
        converted = torch.ops.quantized_decomposed.dequantize_per_tensor(
            quantized, scale, zero_point, -128, 127, torch.int8
        )
        torch.testing.assert_close(module(tensor), converted, atol=0, rtol=0)


@pytest.mark.parametrize("is_frozen", [True, False])
def test_training_and_converted_graph_agree_exactly(is_frozen: bool) -> None:
    """Without BatchNorm to fold and biases to round, convert changes nothing at all."""
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.ConvTranspose2d(3, 2, 2, stride=2, bias=False),
        nn.Conv2d(2, 2, 3, bias=False),
        nn.Tanh(),
    )
    prepared = quantize.prepare_qat(model, torch.randn(4, 1, 8, 8))
    for step in range(5):  # every step moves every range
        prepared((1 + step) * torch.randn(4, 1, 8, 8))
    if is_frozen:
        prepared.freeze()
    inputs = 3 * torch.randn(4, 1, 8, 8)
    found = prepared.eval()(inputs)
    torch.testing.assert_close(found, quantize.convert(prepared)(inputs), atol=0, rtol=0)


def test_a_convolution_by_hand() -> None:
    """The int8 graph of one 1x1 convolution, recomputed with integers in numpy."""
    layer = nn.Conv2d(2, 3, 1)
    inputs = torch.randn(4, 2, 5, 5)
    prepared = quantize.prepare_ptq(layer, inputs)
    quantize.calibrate(prepared, [inputs])
    graph = quantize.convert(prepared)
    before, after = [
        node.args[1:3]
        for node in graph.graph.nodes
        if str(node.target) == "quantized_decomposed.quantize_per_tensor.default"
    ]
    weight, bias = layer.weight.detach().numpy()[:, :, 0, 0], layer.bias.detach().numpy()
    scales = np.maximum(np.abs(weight).max(axis=1), np.abs(weight.sum(axis=1))) / 127
    weight_codes = np.rint(weight / scales[:, None]).astype(int)
    bias_codes = np.rint(bias / (before[0] * scales)).astype(int)
    input_codes = np.clip(np.rint(inputs.numpy() / before[0]) + before[1], -128, 127).astype(int)
    sums = np.einsum("oc,nchw->nohw", weight_codes, input_codes - before[1]) + bias_codes[:, None, None]
    output_codes = np.clip(np.rint(sums * (before[0] * scales / after[0])[:, None, None]) + after[1], -128, 127)
    expected = (output_codes - after[1]) * after[0]
    np.testing.assert_allclose(graph(inputs).numpy(), expected, rtol=1e-5, atol=1e-6)


# --- Against the float model


def test_prepared_module_starts_as_the_float_model(pruned_unet: UNet, inputs: Tensor) -> None:
    model = copy.deepcopy(pruned_unet).train()
    expected = model(inputs)
    prepared = quantize.prepare_qat(pruned_unet, inputs)
    assert prepared.training
    found = prepared(inputs)
    assert sqnr_db(expected, found) > 20


def test_prepared_module_is_trainable(pruned_unet: UNet, inputs: Tensor) -> None:
    prepared = quantize.prepare_qat(pruned_unet, inputs)
    truth = (inputs > 1).float()
    optimizer = torch.optim.Adam(prepared.parameters(), lr=1e-2)
    costs = []
    for _ in range(15):
        cost = F.binary_cross_entropy(prepared(inputs), truth)
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert all(value.grad is not None for value in prepared.parameters())
    assert costs[-1] < 0.8 * costs[0]


def test_preparing_leaves_the_model_alone(pruned_unet: UNet, inputs: Tensor) -> None:
    before = copy.deepcopy(pruned_unet.state_dict())
    prepared = quantize.prepare_qat(pruned_unet, inputs)
    prepared(inputs)
    torch.testing.assert_close(pruned_unet.state_dict(), before, rtol=0, atol=0)
    assert not pruned_unet.training


# torch.fx's own copy of an exported graph warns.
@pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")
def test_converting_leaves_the_training_alone(
    trained_qat: PreparedModule, qat_graph: GraphModule, inputs: Tensor
) -> None:
    """`qat_graph` was converted from `trained_qat`, which must go on as before."""
    copied = copy.deepcopy(trained_qat).train()
    copied(inputs).mean().backward()
    assert all(value.grad is not None for value in copied.parameters())


def test_quantized_graph_computes_what_was_trained(
    trained_qat: PreparedModule, qat_graph: GraphModule, inputs: Tensor
) -> None:
    assert sqnr_db(trained_qat(inputs), qat_graph(inputs)) > 30  # BatchNorm folded, biases rounded


def test_calibrated_graph_computes_what_the_float_model_does(
    pruned_unet: UNet, ptq_graph: GraphModule, inputs: Tensor
) -> None:
    assert sqnr_db(pruned_unet(inputs), ptq_graph(inputs)) > 25


@pytest.fixture(scope="module")
def normed() -> nn.Sequential:
    """Every fusable order: with and without bias, ReLU6, ReLU, none; transposed; eps that matters."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4, eps=1e-3),
        nn.ReLU6(),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3, eps=1e-4),
    )
    with torch.no_grad():
        model[0].weight *= 0.1  # a variance of the size of eps: 1e-5 instead of 1e-3 changes the output by 40 %
        for norm in (model[1], model[4], model[7]):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.5, 0.5)
    return settle(model, samples())  # type: ignore[return-value]


def samples() -> Tensor:
    return 0.8 * torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(5))


def by_hand(model: nn.Sequential, inputs: Tensor) -> Tensor:
    x = F.relu6(F.conv2d(inputs, *folded(model[0], model[1]), padding=1))
    x = F.relu(F.conv_transpose2d(x, *folded(model[3], model[4]), stride=2))
    return F.conv2d(x, *folded(model[6], model[7]), padding=1)


def test_folding_by_hand_is_right(normed: nn.Sequential) -> None:
    """The reference of the next test, checked against torch."""
    torch.testing.assert_close(by_hand(normed, samples()), normed(samples()), rtol=1e-4, atol=1e-5)
    wrong = copy.deepcopy(normed)
    wrong[1].eps = 1e-5
    assert sqnr_db(normed(samples()), by_hand(wrong, samples())) < 20


def prepared_qat(model: nn.Module, inputs: Tensor) -> PreparedModule:
    prepared = quantize.prepare_qat(model, inputs)
    for _ in range(3):
        prepared(inputs)
    return prepared


def prepared_ptq(model: nn.Module, inputs: Tensor) -> PreparedModule:
    prepared = quantize.prepare_ptq(model, inputs)
    quantize.calibrate(prepared, [inputs])
    return prepared


@pytest.mark.parametrize("prepare", [prepared_qat, prepared_ptq])
def test_batch_norm_is_folded(normed: nn.Sequential, prepare: Callable[..., PreparedModule]) -> None:
    graph = quantize.convert(prepare(normed, samples()))
    assert not [node for node in graph.graph.nodes if "norm" in str(node.target)]
    assert sqnr_db(by_hand(normed, samples()), graph(samples())) > 25


def test_batch_norm_of_signals_is_folded() -> None:
    """Training of the 1-D U-Net: its patterns are others than those of images."""
    torch.manual_seed(3)
    signals = torch.randn(8, 1, 32)
    model = settle(UNet(widths=(3, 4), dims=1), signals)
    graph = quantize.convert(prepared_qat(model, signals))
    assert not [node for node in graph.graph.nodes if "norm" in str(node.target)]
    axes = {
        str(node.args[0].name): node.args[3]
        for node in graph.graph.nodes
        if "dequantize_per_channel" in str(node.target)
    }
    assert sorted(axes.values()) == [0] * 7 + [1]
    assert sqnr_db(model(signals), graph(signals)) > 20


@pytest.mark.parametrize("prepare", [prepared_qat, prepared_ptq])
def test_batch_norm_after_same_padding_is_folded(prepare: Callable[..., PreparedModule]) -> None:
    inputs = samples()
    model = settle(nn.Sequential(nn.Conv2d(2, 4, 3, padding="same", bias=False), nn.BatchNorm2d(4), nn.ReLU()), inputs)
    graph = quantize.convert(prepare(model, inputs))
    assert not [node for node in graph.graph.nodes if "norm" in str(node.target)]
    assert sqnr_db(model(inputs), graph(inputs)) > 25


@pytest.mark.parametrize("prepare", [quantize.prepare_qat, quantize.prepare_ptq])
def test_batch_norm_without_scale_and_shift(prepare: Callable[..., PreparedModule]) -> None:
    inputs = samples()
    model = settle(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), inputs)
    prepared = prepare(model, inputs)
    assert sqnr_db(model(inputs), prepared(inputs)) > 25


# --- Ranges


def ranges(graph: GraphModule) -> list[tuple[float, float]]:
    """Smallest and largest value that each quantizer can express, in the order of the graph."""
    found = []
    for node in graph.graph.nodes:
        if str(node.target) == "quantized_decomposed.quantize_per_tensor.default":
            scale, zero_point = node.args[1:3]
            found.append((scale * (-128 - zero_point), scale * (127 - zero_point)))
    return found


@pytest.mark.parametrize("prepare", [prepared_qat, prepared_ptq])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 1.0), (-5.0, -1.0), (2.0, 4.0)])
def test_ranges_cover_the_data(prepare: Callable[..., PreparedModule], low: float, high: float) -> None:
    layer = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(layer.weight, -2.0)
    inputs = low + (high - low) * torch.rand(4, 1, 32, 32)
    inputs[0, 0, 0, :2] = torch.tensor([low, high])
    before, after = ranges(quantize.convert(prepare(layer, inputs)))
    # Zero is always in the range, exactly; two steps are lost to it and to the histogram at most.
    tolerance = 2 * (max(high, 0) - min(low, 0)) / 255
    assert before == pytest.approx((min(low, 0), max(high, 0)), abs=tolerance)
    assert after == pytest.approx((-2 * max(high, 0), -2 * min(low, 0)), abs=2 * tolerance)


class Concatenation(nn.Module):
    """``[relu(x), -8 x]``."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(1, 1, 1, bias=False)
        self.wide = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.constant_(self.narrow.weight, 1.0)
        nn.init.constant_(self.wide.weight, -8.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.relu(self.narrow(x)), self.wide(x)], dim=1)


@pytest.mark.parametrize("prepare", [prepared_qat, prepared_ptq])
def test_range_of_a_concatenation_covers_all_its_parts(prepare: Callable[..., PreparedModule]) -> None:
    model = Concatenation()
    inputs = 2 * torch.rand(8, 1, 8, 8) - 1
    inputs[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    prepared = prepare(model, inputs)
    if prepared.is_qat:
        for _ in range(300):
            prepared(inputs)
    graph = quantize.convert(prepared)
    for low, high in ranges(graph)[1:]:
        assert (low, high) == pytest.approx((-8, 8), rel=0.03)
    assert (graph(inputs) - model(inputs)).abs().max() < 0.1  # a step and a half of 16 / 255


def test_calibration_sees_every_batch() -> None:
    layer = nn.Conv2d(1, 1, 1, bias=False)
    small, large = torch.rand(4, 1, 8, 8), 10 * torch.rand(4, 1, 8, 8)
    prepared = quantize.prepare_ptq(layer, small)
    quantize.calibrate(prepared, [small, large, small])
    assert ranges(quantize.convert(prepared))[0][1] == pytest.approx(large.max().item(), rel=0.05)


def test_all_zero_channels_get_a_usable_scale() -> None:
    """Their int32 bias, in steps of input scale x weight scale, must not overflow."""
    layer = nn.Conv2d(1, 2, 1)
    layer.weight.data[0] = 0
    layer.bias.data = torch.tensor([0.75, -0.25])
    inputs = torch.randn(4, 1, 8, 8)
    graph = quantize.convert(prepared_qat(layer, inputs))
    assert graph(inputs)[:, 0].unique().item() == pytest.approx(0.75, abs=0.02)
    graph = quantize.convert(prepared_ptq(layer, torch.zeros(4, 1, 8, 8)))
    assert graph(torch.zeros(1, 1, 1, 1)).flatten().tolist() == pytest.approx([0.75, -0.25], abs=0.01)


SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float]] = {
    "linear": (lambda: nn.Linear(8, 4, bias=False), (8,), 3e-3),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 2, 1, bias=False)),
        (3, 8, 8),
        3e-3,
    ),
    "norm": (lambda: nn.LayerNorm(8), (5, 8), 0.05),
}


@pytest.mark.parametrize("name", SMALL)
def test_small_values_have_codes_too(name: str) -> None:
    """Amplitudes of some thousandths, and the variance of values of some hundredths."""
    torch.manual_seed(0)
    make, shape, size = SMALL[name]
    model, inputs = make().eval(), size * torch.randn(64, *shape)
    assert sqnr_db(model(inputs), quantize.convert(prepared_ptq(model, inputs))(inputs)) > 32

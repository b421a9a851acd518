"""One tiny model per operation: which get int8 parameters, which stay float islands."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from torchshrink import quantize

QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"
DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor.default"


class After(nn.Module):
    """A convolution, then a function, then another convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 4) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.LazyConv2d(2, 1)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.fixture
def example() -> Tensor:
    return torch.randn(8, 2, 8, 8)


def quantized(function: Callable[[Tensor], Tensor], example: Tensor) -> tuple[nn.Module, GraphModule]:
    model = After(function).eval()
    model(example)
    prepared = quantize.prepare_ptq(model, example)
    quantize.calibrate(prepared, [example])
    return model, quantize.convert(prepared)


def only(graph: GraphModule, operation: str) -> Node:
    (found,) = [node for node in graph.graph.nodes if str(node.target).startswith(f"aten.{operation}.")]
    return found


def parameters_before(node: Node) -> list[tuple[float, int]]:
    """Scale and zero point of every tensor that goes in; sizes and other numbers are none."""
    sources = node.args[0] if isinstance(node.args[0], list | tuple) else node.all_input_nodes
    sources = [source for source in sources if str(source.target) != "aten.sym_size.int"]
    assert {str(source.target) for source in sources} == {DEQUANTIZE}
    return [source.args[1:3] for source in sources]


def parameters_after(node: Node) -> tuple[float, int]:
    (user,) = node.users
    assert str(user.target) == QUANTIZE
    return user.args[1:3]  # type: ignore[return-value]


def assert_close(model: nn.Module, graph: GraphModule, example: Tensor) -> None:
    expected = model(example).detach()
    assert (graph(example) - expected).pow(2).mean() < 0.003 * expected.var()  # 25 dB


# What the specification lets share its input's parameters, or must.
SHARED = {
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "upsample_nearest2d": lambda x: F.interpolate(x, scale_factor=2, mode="nearest"),
    "upsample_bilinear2d": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "slice": lambda x: torch.ops.aten.slice(x, 2, 2),
    "transpose": lambda x: x.transpose(2, 3),
    "permute": lambda x: x.permute(0, 1, 3, 2),
    "view": lambda x: x.view(x.shape[0], 4, 4, 16),
    "reshape": lambda x: x.reshape(x.shape[0], 4, 4, 16),
}


@pytest.mark.parametrize("operation", SHARED)
def test_operations_that_only_move_values_keep_their_parameters(operation: str, example: Tensor) -> None:
    model, graph = quantized(SHARED[operation], example)
    node = only(graph, operation)
    assert parameters_before(node) == [parameters_after(node)]
    assert_close(model, graph, example)


FIXED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, int]]] = {
    "sigmoid": (torch.sigmoid, (1 / 256, -128)),
    "softmax": (lambda x: torch.softmax(x, 1), (1 / 256, -128)),
    "tanh": (torch.tanh, (1 / 128, 0)),
}


@pytest.mark.parametrize("operation", FIXED)
def test_bounded_functions_have_fixed_parameters(operation: str, example: Tensor) -> None:
    function, expected = FIXED[operation]
    model, graph = quantized(function, example)
    assert parameters_after(only(graph, operation)) == expected
    assert_close(model, graph, example)


@pytest.mark.parametrize("is_qat", [False, True])
def test_fixed_parameters_hold_at_the_output_and_in_training(is_qat: bool, example: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Softmax(1))
    prepared = (quantize.prepare_qat if is_qat else quantize.prepare_ptq)(model, example)
    for _ in range(3):
        prepared(100 * example)
    assert parameters_after(only(quantize.convert(prepared), "softmax")) == (1 / 256, -128)


@pytest.mark.parametrize(
    ("operation", "function", "constant"),
    [
        ("add", lambda x: x + 2, 2.0),
        ("add", lambda x: 2 + x, 2.0),
        ("mul", lambda x: x * 0.5, 0.5),
        ("mul", lambda x: -3 * x, -3.0),
    ],
)
def test_numbers_are_quantized(
    operation: str, function: Callable[[Tensor], Tensor], constant: float, example: Tensor
) -> None:
    model, graph = quantized(function, example)
    node = only(graph, operation)
    assert len(parameters_before(node)) == 2
    parameters_after(node)
    source = node.args[1]
    scale, zero_point = source.args[1:3]
    (code,) = getattr(graph, source.args[0].target).flatten().tolist()
    assert (code - zero_point) * scale == pytest.approx(constant, rel=0.01)
    assert_close(model, graph, example)


PAIRS: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: x + torch.flip(x, [3]),
    "mul": lambda x: x * torch.flip(x, [3]),
}


@pytest.mark.parametrize("operation", PAIRS)
def test_elementwise_operations_are_quantized(operation: str, example: Tensor) -> None:
    model, graph = quantized(PAIRS[operation], example)
    node = only(graph, operation)
    assert len(parameters_before(node)) == 2
    parameters_after(node)
    assert_close(model, graph, example)


def test_relu_is_fused_into_an_addition(example: Tensor) -> None:
    model, graph = quantized(lambda x: torch.relu(x + torch.flip(x, [3])), example)
    assert [user.target for user in only(graph, "add").users] == [torch.ops.aten.relu.default]
    assert parameters_after(only(graph, "relu"))[1] == -128  # nothing negative to express
    assert_close(model, graph, example)


@pytest.mark.parametrize("function", [F.relu, F.relu6, lambda x: F.hardtanh(x, 0.0, 6.0)])
def test_fusable_activations(function: Callable[[Tensor], Tensor], example: Tensor) -> None:
    model, graph = quantized(function, example)
    (user,) = next(node for node in graph.graph.nodes if str(node.target) == "aten.conv2d.default").users
    assert str(user.target).partition(".")[2].partition(".")[0] in ("relu", "relu6", "hardtanh")
    assert_close(model, graph, example)


def test_other_clamps_are_not_fused(example: Tensor) -> None:
    _, graph = quantized(lambda x: F.hardtanh(x, -0.5, 0.25), example)
    (user,) = next(node for node in graph.graph.nodes if str(node.target) == "aten.conv2d.default").users
    assert str(user.target) == QUANTIZE


def test_a_result_that_others_need_is_not_fused(example: Tensor) -> None:
    """``conv`` feeds a ReLU and an addition: its own value must exist in int8."""
    model, graph = quantized(lambda x: torch.relu(x) + x, example)
    convolution = next(node for node in graph.graph.nodes if str(node.target) == "aten.conv2d.default")
    assert {str(user.target) for user in convolution.users} == {QUANTIZE}
    assert_close(model, graph, example)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.cat([x, x], 1),
        lambda x: torch.cat([torch.sigmoid(x), x, F.max_pool2d(x, 3, 1, 1)], 1),
        lambda x: torch.cat([x, torch.sin(x)], 1),
    ],
)
def test_concatenations_share_one_set(function: Callable[[Tensor], Tensor], example: Tensor) -> None:
    model, graph = quantized(function, example)
    node = only(graph, "cat")
    assert set(parameters_before(node)) == {parameters_after(node)}
    assert_close(model, graph, example)


class Attention(nn.Module):
    """Self-attention of tokens; both factors come from one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit = nn.Linear(6, 24), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.entry(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.exit(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("is_qat", [False, True])
def test_the_second_factor_of_a_product_has_its_zero_in_the_middle(is_qat: bool) -> None:
    """XNNPACK's kernel leaves out its zero point; nothing is rounded twice for it."""
    torch.manual_seed(0)
    inputs, model = torch.randn(8, 7, 6), Attention().eval()
    prepared = (quantize.prepare_qat if is_qat else quantize.prepare_ptq)(model, inputs)
    prepared(inputs)
    graph = quantize.convert(prepared)
    products = [node for node in graph.graph.nodes if "matmul" in str(node.target)]
    assert len(products) == 2
    for node in products:
        (_, _), (_, zero_point) = parameters_before(node)
        assert zero_point == 0
        parameters_after(node)
    for node in graph.graph.nodes:
        if str(node.target) == QUANTIZE:
            assert str(node.args[0].target) != DEQUANTIZE
    assert_close(model, graph, inputs)


MASKS: dict[str, Callable[[Tensor], Tensor]] = {
    "masked fill": lambda x: x.masked_fill(torch.ones(8, 8).triu(1).bool(), float("-inf")),
    "added": lambda x: x + torch.full((8, 8), float("-inf")).triu(1),
    "the least number": lambda x: torch.where(torch.ones(8, 8).tril().bool(), x, torch.finfo(torch.float32).min),
    "computed": lambda x: x + (1 - (x[:, :1] > -9).float()) * -1e9,
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_minus_infinity_stay_float_up_to_the_softmax(name: str, example: Tensor) -> None:
    model, graph = quantized(lambda x: MASKS[name](x).softmax(-1), example)
    parameters_after(only(graph, "softmax"))
    assert_close(model, graph, example)


def test_a_mask_of_minus_hundred_leaves_the_codes_to_the_scores(example: Tensor) -> None:
    """What lies further than 10 below the largest of its row is nothing after the softmax, however far."""
    mask = torch.where(torch.ones(8, 8).triu(1) > 0, -100.0, 0.0)
    model, graph = quantized(lambda x: (x + mask).reshape(-1, 8, 8).softmax(-1).reshape(-1, 4, 8, 8), example)
    ((scale, zero_point),) = parameters_before(only(graph, "softmax"))
    first = model.get_submodule("first")(example)
    spread = float((first.amax() - (first + mask).amax(-1).amin()).detach()) + 10
    assert scale * 255 <= spread * 1.05
    assert scale * (-128 - zero_point) < -8  # what is masked is told apart
    assert_close(model, graph, example)


ISLANDS: dict[str, Callable[[Tensor], Tensor]] = {"sin": torch.sin, "gelu": F.gelu, "exp": torch.exp}


@pytest.mark.parametrize("operation", ISLANDS)
def test_what_has_no_int8_kernel_stays_float(operation: str, example: Tensor) -> None:
    model, graph = quantized(ISLANDS[operation], example)
    node = only(graph, operation)
    assert len(parameters_before(node)) == 1
    parameters_after(node)
    assert_close(model, graph, example)


def test_complex_numbers_stay_what_they_are(example: Tensor) -> None:
    model, graph = quantized(lambda x: torch.fft.rfft2(x).abs(), example)
    parameters_after(only(graph, "abs"))
    assert_close(model, graph, example)


@pytest.mark.parametrize("is_qat", [False, True])
def test_grouped_transposed_convolutions_are_whole_ones_where_nothing_is_trained(is_qat: bool, example: Tensor) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), nn.Conv2d(4, 1, 1)
    ).eval()
    prepared = (quantize.prepare_qat if is_qat else quantize.prepare_ptq)(model, example)
    prepared(example)
    graph = quantize.convert(prepared)
    weight = only(graph, "conv_transpose2d").args[1]
    assert (weight.op == "get_attr") == is_qat  # int8 codes otherwise
    assert_close(model, graph, example)


def test_grouped_convolutions_have_a_scale_per_output_channel(example: Tensor) -> None:
    model = nn.Conv2d(2, 6, 3, groups=2).eval()
    prepared = quantize.prepare_ptq(model, example)
    quantize.calibrate(prepared, [example])
    graph = quantize.convert(prepared)
    dequantize = only(graph, "conv2d").args[1]
    scales = getattr(graph, dequantize.args[1].target)
    rows = F.pad(model.weight.detach().flatten(1), (0, 1))  # one input channel: nine neighbours, and none
    largest = torch.maximum(rows.abs().amax(1), (rows[:, ::2] + rows[:, 1::2]).abs().amax(1))
    torch.testing.assert_close(scales, largest / 127, rtol=1e-5, atol=0, check_dtype=False)
    assert_close(model, graph, example)


@pytest.mark.parametrize("is_qat", [False, True])
def test_a_classifier(is_qat: bool, example: Tensor) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3), nn.Softmax(1)
    )
    prepared = (quantize.prepare_qat if is_qat else quantize.prepare_ptq)(model, example)
    for _ in range(3):
        prepared(example)
    graph = quantize.convert(prepared)
    found = [
        str(node.target)
        for node in graph.graph.nodes
        if node.op == "call_function" and "per_channel" not in str(node.target)
    ]
    pair = [QUANTIZE, DEQUANTIZE]
    assert found == [
        *pair,
        "aten.conv2d.default",
        "aten.relu.default",
        *pair,
        "aten.adaptive_avg_pool2d.default",
        *pair,
        "aten.flatten.using_ints",
        *pair,
        "aten.linear.default",
        *pair,
        "aten.softmax.int",
        *pair,
    ]
    assert (graph(example) - model.eval()(example)).abs().max() < 0.02

"""Modules that stay float: their operations, what TFLite computes together with them, and nothing else."""

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from torchshrink import quantize
from torchshrink.errors import ModelError
from torchshrink.model.unet import UNet


class Net(nn.Module):
    """Two blocks of a convolution, a BatchNorm and a ReLU, the second called twice, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.unused = nn.Linear(2, 2)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(8, 2, 8, 8)


@pytest.fixture
def net(inputs: Tensor) -> nn.Module:
    model = Net()
    for _ in range(80):
        model(inputs)  # settles the statistics of BatchNorm, so that training leaves them as they are
    return model.eval()


def converted(model: nn.Module, inputs: Tensor, is_qat: bool, keep_float: tuple[str, ...]) -> GraphModule:
    prepared = (quantize.prepare_qat if is_qat else quantize.prepare_ptq)(model, inputs, keep_float)
    for _ in range(3):
        prepared(inputs)
    return quantize.convert(prepared)


def convolutions(graph: GraphModule) -> list[Node]:
    return [node for node in graph.graph.nodes if str(node.target).startswith("aten.conv2d")]


def is_int8(convolution: Node) -> bool:
    return "dequantize_per_channel" in str(convolution.args[1].target)  # type: ignore[union-attr]


@pytest.mark.parametrize("is_qat", [False, True], ids=["ptq", "qat"])
@pytest.mark.parametrize(
    ("keep_float", "expected"),
    [
        ((), [True, True, True]),
        (("head",), [True, True, False]),
        (("body",), [True, False, True]),
        (("body.0",), [True, False, True]),
        (("body.2",), [True, False, True]),  # a ReLU, which is computed with its convolution
        (("stem.0", "head"), [False, True, False]),
        (("stem", "body", "head"), [False, False, False]),
    ],
)
def test_which_layers_are_int8(
    net: nn.Module, inputs: Tensor, is_qat: bool, keep_float: tuple[str, ...], expected: list[bool]
) -> None:
    graph = converted(net, inputs, is_qat, keep_float)
    assert [is_int8(node) for node in convolutions(graph)] == expected
    reference = net(inputs).detach()
    assert (graph(inputs) - reference).pow(2).mean() < 0.005 * reference.var()


@pytest.mark.parametrize("is_qat", [False, True], ids=["ptq", "qat"])
def test_a_kept_layer_has_its_batch_norm_folded(net: nn.Module, inputs: Tensor, is_qat: bool) -> None:
    """Its weights are those of the float model, scaled; nothing of BatchNorm is left to compute."""
    graph = converted(net, inputs, is_qat, ("stem",))
    first = convolutions(graph)[0]
    names = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    assert not [name for name in names if "batch_norm" in name or "sqrt" in name or "mul" in name]
    assert [str(user.target) for user in first.users] == ["aten.relu.default"]
    factor = net.stem[1].weight / torch.sqrt(net.stem[1].running_var + net.stem[1].eps)
    expected = net.stem[0].weight * factor[:, None, None, None]
    found = getattr(graph, str(first.args[1].target))  # type: ignore[union-attr]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, check_dtype=False)  # statistics settled


def test_folding_is_exact_when_nothing_else_is_quantized(net: nn.Module, inputs: Tensor) -> None:
    prepared = quantize.prepare_qat(net, inputs, ("stem", "body", "head"))
    torch.testing.assert_close(prepared.eval()(inputs), net(inputs), rtol=1e-4, atol=1e-5)


def test_kept_layers_train_and_keep_their_zeros(net: nn.Module, inputs: Tensor) -> None:
    net.head.weight.data[0, :2] = 0
    prepared = quantize.prepare_qat(net, inputs, ("head",))
    before = {name: value.clone() for name, value in prepared.graph_module.named_parameters()}
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
    prepared(inputs).square().mean().backward()
    optimizer.step()
    prepared.apply_masks()
    after = dict(prepared.graph_module.named_parameters())["head.weight"]
    assert (after[0, :2] == 0).all()
    assert (after[0, 2:] != before["head.weight"][0, 2:]).all()


def test_the_unet(inputs: Tensor) -> None:
    """A transposed convolution, a skip connection and the last layer."""
    model = UNet(in_channels=2, widths=(4, 8)).eval()
    graph = converted(model, inputs, False, ("ups", "head"))
    assert [is_int8(node) for node in convolutions(graph)] == [True] * 6 + [False]
    (up,) = [node for node in graph.graph.nodes if "conv_transpose" in str(node.target)]
    assert up.args[1].op == "get_attr"
    assert not any("dequantize" in str(node.target) for node in up.args[0].all_input_nodes if node.op == "call_module")


@pytest.mark.parametrize("prepare", [quantize.prepare_qat, quantize.prepare_ptq])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("haed", r"keep_float 'haed' is no module of Net; near it: head"),
        ("body.7", r"keep_float 'body.7' is no module of Net; near it: body"),
        ("", r"keep_float '' is no module of Net; near it: stem, stem.0, stem.1, stem.2, body"),
        ("unused", r"keep_float 'unused' computes nothing itself"),
    ],
)
def test_names_of_no_layer(prepare: object, net: nn.Module, inputs: Tensor, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        prepare(net, inputs, ("head", name))  # type: ignore[operator]

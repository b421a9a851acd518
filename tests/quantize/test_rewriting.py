"""Operations written as others: the same numbers in float, and int8 where there was a float island."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchshrink import quantize
from torchshrink.quantize.rewriting import rewrite


class Function(nn.Module):
    """A convolution, then a function of ``[N, 4, 8, 12]``."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function = nn.Conv2d(2, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.first(x))


class Normalized(nn.Module):
    """Subtracts and divides by what it holds: constants, or parameters."""

    def __init__(self, are_parameters: bool) -> None:
        super().__init__()
        values = {"mean": torch.tensor([0.5, -1, 2, 3]), "spread": torch.tensor([0.5, 1, 2, 4])}
        for name, value in values.items():
            tensor = value.reshape(1, 4, 1, 1)
            if are_parameters:
                self.register_parameter(name, nn.Parameter(tensor))
            else:
                self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.spread  # type: ignore[operator, no-any-return]


def swapped(x: Tensor, sizes: Any) -> Tensor:
    return torch.cat(x.split(sizes, 1)[::-1], 1)


def attention(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x.flip(3), x)  # of heads, tokens and features


# What a function becomes, in the order of the graph.
REWRITTEN: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "minus a number": (lambda x: x - 2, ["add"]),
    "a number minus": (lambda x: 2 - x, ["mul", "add"]),
    "by a number": (lambda x: x / 4, ["mul"]),
    "negative": (lambda x: -x, ["mul"]),
    "in place": (lambda x: x.clone().sub_(1).div_(2), ["clone", "add", "mul"]),
    "add alpha": (lambda x: torch.add(x, x.flip(3), alpha=2), ["flip", "mul", "add"]),
    "add a number alpha": (lambda x: torch.add(x, 3, alpha=2), ["add"]),
    "subtract alpha": (lambda x: torch.sub(x, x.flip(3), alpha=2), ["flip", "mul", "add"]),
    "subtract alpha -1": (lambda x: torch.sub(x, x.flip(3), alpha=-1), ["flip", "mul", "add"]),
    "constants": (Normalized(are_parameters=False), ["add", "mul"]),
    "silu": (F.silu, ["sigmoid", "mul"]),
    "hardswish after a matrix product": (
        nn.Sequential(nn.Linear(12, 12), nn.Flatten(1, 2), nn.Hardswish()),
        ["linear", "flatten", "add", "hardtanh", "mul", "mul"],
    ),
    "hardsigmoid": (F.hardsigmoid, ["add", "hardtanh", "mul"]),
    "prelu": (nn.PReLU(), ["leaky_relu"]),
    "channel shuffle": (lambda x: torch.channel_shuffle(x, 2), ["reshape", "transpose", "reshape"]),
    "one of a side": (lambda x: x[..., -2], ["slice", "squeeze"]),
    "one of a side, before others": (lambda x: x.select(1, 2), ["slice", "squeeze"]),
    "stack": (lambda x: torch.stack([x, x.flip(3)], 2), ["flip", "unsqueeze", "unsqueeze", "cat"]),
    "sum of a stack": (lambda x: torch.stack([x, x.flip(3), x.abs()]).sum(0), ["flip", "abs", "add", "add"]),
    "sum": (lambda x: x.sum((1, -1)), ["mean", "mul"]),
    "sum that stays": (lambda x: x.sum(2, keepdim=True), ["mean", "mul"]),
    "maximum": (lambda x: x.max(2).values, ["amax"]),
    "minimum that stays": (lambda x: x.min(-1, keepdim=True)[0], ["amin"]),
    "clamp": (lambda x: x.clamp(-0.25, 0.5), ["hardtanh"]),
    "clamp at zero": (lambda x: x.clamp(min=0), ["relu"]),
    "clamp_min": (lambda x: torch.clamp_min(x, 0), ["relu"]),
    "average over padding": (lambda x: F.avg_pool2d(x, 3, 2, 1), ["pad", "avg_pool2d"]),
    "average of one side padded": (lambda x: F.avg_pool2d(x, (1, 3), 1, (0, 1)), ["pad", "avg_pool2d"]),
    "average with a divisor": (
        lambda x: F.avg_pool2d(x, (2, 3), 1, (0, 1), divisor_override=5),
        ["pad", "avg_pool2d", "mul"],
    ),
    "adaptive average": (lambda x: F.adaptive_avg_pool2d(x, (4, 3)), ["avg_pool2d"]),
    "adaptive maximum": (lambda x: F.adaptive_max_pool2d(x, (4, 3)), ["max_pool2d"]),
    "chunks": (lambda x: torch.cat(torch.chunk(x, 2, 1)[::-1], 1), ["slice", "slice", "cat"]),
    "parts": (lambda x: swapped(x, 2), ["slice", "slice", "cat"]),
    "uneven parts": (lambda x: swapped(x, [1, 3]), ["slice", "slice", "cat"]),
    "separated": (
        lambda x: torch.cat(x.reshape(-1, 4, 2, 48).unbind(2), 1),
        ["reshape", "slice", "squeeze", "slice", "squeeze", "cat"],
    ),
    "uneven windows": (
        lambda x: F.adaptive_avg_pool2d(x, (3, 5)),
        ["transpose", "linear", "transpose", "linear"],
    ),
    "uneven maximum": (
        lambda x: F.adaptive_max_pool2d(x, (8, 5)),
        [*["slice"] * 5, *["amax"] * 5, "cat"],
    ),
    "rolled": (lambda x: x.roll((1, -2), (2, 3)), ["slice", "slice", "cat", "slice", "slice", "cat"]),
    "edges repeated": (lambda x: F.pad(x, (1, 2, 0, 0), mode="replicate"), ["slice", "slice", "cat"]),
    "round and round": (
        lambda x: F.pad(x, (0, 3, 2, 1), mode="circular"),
        ["slice", "cat", "slice", "slice", "cat"],
    ),
    "gated": (lambda x: F.glu(x, 1), ["slice", "slice", "sigmoid", "mul"]),
    "square": (lambda x: x**2, ["mul"]),
    "elu alpha": (lambda x: F.elu(x, 0.5), ["elu", "mul", "relu", "mul", "add"]),
    "selu": (F.selu, ["elu", "mul", "relu", "mul", "add"]),
    "celu": (lambda x: F.celu(x, 2.0), ["mul", "elu", "mul"]),
    "mish": (F.mish, ["mul", "sigmoid", "mul", "add", "rsqrt", "mul", "mul", "add", "mul"]),
    "attention": (attention, ["flip", "mul", "transpose", "matmul", "softmax", "matmul"]),
    "attention by another scale": (
        lambda x: F.scaled_dot_product_attention(x, x, x, scale=0.25),
        ["mul", "transpose", "matmul", "softmax", "matmul"],
    ),
    "unflattened": (lambda x: x.unflatten(1, (2, 2)), ["reshape"]),
    "product by letters": (lambda x: torch.einsum("bchw,bcvw->bchv", x, x), ["transpose", "matmul"]),
    "product by letters, columns first": (
        lambda x: torch.einsum("bchw,bcvw->bcvh", x, x),
        ["transpose", "matmul", "transpose"],
    ),
    "product by letters, of other axes": (
        lambda x: torch.einsum("bkhw,bkHw->bhHk", x, x),
        ["transpose", "matmul", "permute"],
    ),
}
# What has no other form, or is one of the forms.
KEPT: dict[str, tuple[Callable[[Tensor], Tensor], list[str]]] = {
    "difference": (lambda x: x - x.flip(3), ["flip", "sub"]),
    "sum": (lambda x: x + x.flip(3), ["flip", "add"]),
    "quotient": (lambda x: x / (2 + x.abs()), ["abs", "add", "div"]),
    "slopes": (nn.PReLU(4), ["prelu"]),
    "hardswish": (F.hardswish, ["hardswish"]),
    "clamp above": (lambda x: x.clamp(max=1), ["clamp"]),
    "clamp below": (lambda x: x.clamp(min=1), ["clamp"]),
    "average inside": (lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False), ["avg_pool2d"]),
    "average of all": (lambda x: F.adaptive_avg_pool2d(x, 1), ["adaptive_avg_pool2d"]),
    "masked attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
        ["scaled_dot_product_attention"],
    ),
    "a sum by letters": (lambda x: torch.einsum("bchw->bhw", x), ["einsum"]),
    "indices": (lambda x: F.adaptive_max_pool2d(x, 2, return_indices=True)[1], ["adaptive_max_pool2d", "getitem"]),
    "maximum and its place": (
        lambda x: (lambda found: found[0] + found[1])(x.max(2)),
        ["max", "getitem", "getitem", "add"],
    ),
    "sum of the batch": (lambda x: x.sum((0, 1)), ["sum"]),
    "parts of the batch": (lambda x: torch.cat(x.split(1)), ["split"]),
}


def functions(graph: torch.fx.GraphModule) -> list[str]:
    called = [node for node in graph.graph.nodes if node.op == "call_function"]
    names = [str(node.target).removeprefix("aten.").partition(".")[0] for node in called]
    names = ["getitem" if "getitem" in name else name for name in names]
    return [name for name in names if name not in ("conv2d", "sym_size")]


def rewritten(function: Callable[[Tensor], Tensor], is_qat: bool = True) -> tuple[nn.Module, torch.fx.GraphModule]:
    torch.manual_seed(0)
    model = Function(function).eval()
    graph = quantize.capture(model, torch.randn(2, 2, 8, 12))
    rewrite(graph, set(), is_qat)
    return model, graph


@pytest.mark.parametrize("name", REWRITTEN)
def test_what_is_rewritten_computes_the_same(name: str) -> None:
    function, expected = REWRITTEN[name]
    model, graph = rewritten(function)
    assert functions(graph) == expected
    inputs = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(1))  # another batch size
    torch.testing.assert_close(graph(inputs), model(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "is_plain"),
    [
        ({"kernel_size": 2}, True),  # of the shortcuts of ResNet-D
        ({"kernel_size": 2, "count_include_pad": False}, True),
        ({"kernel_size": 2, "padding": 1, "count_include_pad": False}, True),
        ({"kernel_size": 3, "stride": 1, "padding": 1}, True),
        ({"kernel_size": 3, "stride": 2}, False),
        ({"kernel_size": (2, 5), "padding": (0, 1)}, False),
    ],
)
def test_pools_whose_windows_end_with_the_values_do_not_round_up(settings: dict[str, Any], is_plain: bool) -> None:
    model, graph = rewritten(lambda x: F.avg_pool2d(x, ceil_mode=True, **settings))
    (pool,) = (node for node in graph.graph.nodes if "avg_pool2d" in str(node.target))
    assert (True not in pool.args[4:5]) is is_plain
    inputs = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(graph(inputs), model(inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in KEPT if name != "parts of the batch"])
def test_what_has_no_other_form_is_left_alone(name: str) -> None:
    function, expected = KEPT[name]
    model, graph = rewritten(function)
    assert functions(graph) == expected
    inputs = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(graph(inputs), model(inputs))


def test_parameters_are_constants_unless_they_are_trained() -> None:
    function = Normalized(are_parameters=True)
    assert functions(rewritten(function, is_qat=True)[1]) == ["sub", "div"]
    model, graph = rewritten(function, is_qat=False)
    assert functions(graph) == ["add", "mul"]
    inputs = torch.randn(3, 2, 8, 12)
    torch.testing.assert_close(graph(inputs), model(inputs))


WEIGHTED: dict[str, nn.Module] = {
    "slopes": nn.PReLU(4),
    "groups": nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2),
    "depthwise": nn.ConvTranspose2d(4, 4, (2, 3), 2, groups=4, bias=False),
    "dilated": nn.ConvTranspose2d(4, 2, 3, 1, 1, dilation=2),
    "both": nn.ConvTranspose2d(4, 8, (3, 2), (2, 1), 1, groups=4, dilation=(2, 3)),
    "signal": nn.Sequential(nn.Flatten(2), nn.ConvTranspose1d(4, 4, 3, 2, dilation=3, groups=2)),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_that_are_not_trained_are_written_with_zeros(name: str) -> None:
    model, graph = rewritten(WEIGHTED[name], is_qat=False)
    inputs = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(graph(inputs), model(inputs), rtol=1e-5, atol=1e-6)
    for node in graph.graph.nodes:
        assert node.target != torch.ops.aten.prelu.default
        if "conv_transpose" in str(node.target):
            assert len(node.args) <= 6
    assert functions(rewritten(WEIGHTED[name], is_qat=True)[1]) in (
        ["prelu"], ["conv_transpose2d"], ["flatten", "conv_transpose1d"]
    )  # fmt: skip


NORMS: dict[str, nn.Module] = {
    "of rows": nn.LayerNorm(12),
    "of all, without gains": nn.LayerNorm([4, 8, 12], elementwise_affine=False),
    "root mean square": nn.RMSNorm(12),
    "of groups": nn.GroupNorm(2, 4),
    "of channels": nn.InstanceNorm2d(4, affine=True),
    "of channels, without gains": nn.InstanceNorm2d(4),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_written_out_where_they_are_not_trained(name: str) -> None:
    for parameter in NORMS[name].parameters():
        nn.init.uniform_(parameter, 0.5, 2)
    model, graph = rewritten(NORMS[name], is_qat=False)
    assert not any("norm" in each for each in functions(graph))
    inputs = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(graph(inputs), model(inputs), rtol=1e-5, atol=1e-5)
    assert [each for each in functions(rewritten(NORMS[name], is_qat=True)[1]) if "norm" in each]


def test_what_stays_float_is_left_alone() -> None:
    model = Function(F.silu).eval()
    graph = quantize.capture(model, torch.randn(2, 2, 8, 12))
    rewrite(graph, {node for node in graph.graph.nodes if "silu" in str(node.target)}, True)
    assert functions(graph) == ["silu"]


@pytest.mark.parametrize("is_qat", [False, True])
def test_alpha_is_not_lost(is_qat: bool) -> None:
    """The second operand counts three times, in int8 too."""
    model = Function(lambda x: torch.add(x, torch.sigmoid(x), alpha=3)).eval()
    inputs = torch.randn(8, 2, 8, 12, generator=torch.Generator().manual_seed(0))
    prepared = (quantize.prepare_qat if is_qat else quantize.prepare_ptq)(model, inputs)
    prepared(inputs)
    expected = model(inputs)
    error = (quantize.convert(prepared)(inputs) - expected).detach()
    assert error.pow(2).mean() < 0.003 * expected.detach().var()  # 25 dB


def test_casts_to_the_type_that_is_there_are_left_out() -> None:
    """The result of a softmax keeps its fixed grid, which a cast behind it does not know."""

    class Cast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(x, -1, dtype=torch.float32).to(x.dtype).type_as(x).float() * 2

    inputs = torch.randn(16, 5, 8)
    prepared = quantize.prepare_ptq(Cast().eval(), inputs)
    quantize.calibrate(prepared, [inputs])
    nodes = list(quantize.convert(prepared).graph.nodes)
    assert not any("aten.to" in str(node.target) or "type_as" in str(node.target) for node in nodes)
    after = next(node for node in nodes if str(node.target) == "aten.softmax.int").users
    assert [node.args[1:3] for node in after] == [(1 / 256, -128)]

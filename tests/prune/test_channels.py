"""Channels: what remains of many architectures computes what it did, without what was removed.

The reference never asks which channels were removed: every weight of these models has a value of its own, so the
weights of the original that are not found in the smaller model are set to zero there. Nothing that was removed has an
effect on the outputs then, and both must compute the same.
"""

import contextlib
import copy
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import thinned
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune
from torch.utils._pytree import tree_leaves
from torch_pruning.dependency.group import Group as Found

from torchshrink import checkpoint, prune
from torchshrink.bench import count_macs
from torchshrink.errors import ModelError, RecipeError
from torchshrink.model.unet import UNet
from torchshrink.prune import groups
from torchshrink.prune.importance import Importance

Inputs = Tensor | tuple[Tensor, ...]


class Net(nn.Module):
    """Layers by name, and a function of them and the inputs."""

    def __init__(self, compute: Callable[..., Any], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs: Tensor) -> Any:
        return self.compute(self, *inputs)


def conv(into: int, out: int, kernel: int = 3, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **settings)


def residual() -> nn.Module:
    def block(into: int, out: int) -> nn.Module:
        return nn.Sequential(
            conv(into, out, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True), conv(out, out), nn.BatchNorm2d(out)
        )

    def compute(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        x = F.relu(net.first(x) + x)
        x = F.relu(net.second(x).add_(net.shortcut(x)))
        return net.head(x)

    return Net(
        compute, stem=conv(3, 8), first=block(8, 8), second=block(8, 12), shortcut=conv(8, 12, 1), head=conv(12, 3)
    )


def mobile() -> nn.Module:
    """An inverted residual with a depthwise convolution."""

    def compute(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(net.project(net.depthwise(net.expand(x))) + x)

    def unit(layer: nn.Conv2d) -> nn.Module:
        return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU6())

    return Net(
        compute,
        stem=unit(conv(3, 8)),
        expand=unit(conv(8, 16, 1)),
        depthwise=unit(conv(16, 16, groups=16)),
        project=nn.Sequential(conv(16, 8, 1), nn.BatchNorm2d(8)),
        head=conv(8, 2, 1),
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), conv(8, 12, groups=2), nn.BatchNorm2d(12), nn.ReLU(), conv(12, 8, groups=4), conv(8, 2)
    )


def grouped_transposed() -> nn.Module:
    return nn.Sequential(
        conv(3, 8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 12, 2, stride=2, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(12, 12, 3, groups=12),
        nn.ConvTranspose2d(12, 6, 2),
        conv(6, 2),
    )


def multiplier() -> nn.Module:
    """A depthwise convolution that makes two channels of each."""
    return nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 16, groups=8), nn.ReLU(), conv(16, 2))


def squeeze_excite() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        gate = torch.sigmoid(net.up(F.relu(net.down(x.mean((2, 3))))))
        x = net.middle(x * gate[:, :, None, None])
        gate = F.hardsigmoid(net.second(F.adaptive_avg_pool2d(x, 1).flatten(1))).view(x.shape[0], -1, 1, 1)
        return net.head(x * gate.expand_as(x))

    return Net(
        compute,
        stem=conv(3, 8),
        down=nn.Linear(8, 4),
        up=nn.Linear(4, 8),
        middle=conv(8, 6),
        second=nn.Linear(6, 6),
        head=conv(6, 2),
    )


def attention_gate() -> nn.Module:
    """One channel multiplies all others, as in attention U-Nets."""

    def compute(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.head(x * torch.sigmoid(net.norm(net.gate(F.relu(net.inner(x))))))

    return Net(
        compute, stem=conv(3, 8), inner=conv(8, 4), gate=conv(4, 1), norm=nn.BatchNorm2d(1), head=conv(8, 2)
    )  # fmt: skip


def group_norm() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 12), nn.GroupNorm(4, 12), nn.SiLU(), conv(12, 2)
    )


def instance_norm() -> nn.Module:
    return nn.Sequential(
        conv(3, 8),
        nn.InstanceNorm2d(8, affine=True),
        nn.ReLU(),
        conv(8, 6),
        nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
        conv(6, 6),
        nn.InstanceNorm2d(6),
        conv(6, 2),
    )


def prelu() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 8), nn.PReLU(), conv(8, 2))


def classifier() -> nn.Module:
    return nn.Sequential(conv(3, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def flattened() -> nn.Module:
    return nn.Sequential(
        conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 6), nn.ReLU(), nn.Linear(6, 5)
    )


def flattened_signal() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(112, 6), nn.ReLU(), nn.Linear(6, 5))


def two_inputs() -> nn.Module:
    """Of one encoder, and of one each."""

    def compute(net: Any, x: Tensor, y: Tensor) -> Tensor:
        return net.head(torch.cat([F.relu(net.both(x)), F.relu(net.both(y)), F.relu(net.one(y))], 1))

    return Net(compute, both=conv(3, 8), one=conv(3, 6), head=conv(22, 2))


def two_outputs() -> nn.Module:
    """One of them is what the other is computed from."""

    def compute(net: Any, x: Tensor) -> Any:
        x = F.relu(net.middle(F.relu(net.stem(x))))
        return net.head(x), x

    return Net(compute, stem=conv(3, 8), middle=conv(8, 6), head=conv(6, 3))


def dictionary() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Any:
        x = F.relu(net.stem(x))
        mask = net.mask(x)
        return {"mask": mask, "label": mask.argmax(1), "deep": [torch.sigmoid(net.deep(x))]}

    return Net(compute, stem=conv(3, 8), mask=conv(8, 3), deep=conv(8, 2))


class ConvNext(nn.Module):
    """LayerNorm and linear layers on channels last, and a parameter that scales channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise, self.norm = conv(3, 8), conv(8, 8, groups=8), nn.LayerNorm(8)
        self.up, self.down, self.head = nn.Linear(8, 16), nn.Linear(16, 8), conv(8, 2)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))))
        return self.head(x + y.permute(0, 3, 1, 2) * self.scale)


def three_parts() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        return net.head(F.relu(net.norm(torch.cat([net.a(x), net.b(x), net.c(x)], 1))))

    return Net(compute, a=conv(3, 4), b=conv(3, 6, 1), c=conv(3, 8), norm=nn.BatchNorm2d(18), head=conv(18, 2))


def dense_block() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        for layer in (net.a, net.b, net.c):
            x = torch.cat([x, F.relu(layer(x))], 1)
        return net.head(x)

    return Net(compute, a=conv(3, 4), b=conv(7, 6), c=conv(13, 4), head=conv(17, 2))


def input_added() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        return net.head(net.b(F.relu(net.a(x))) + x)

    return Net(compute, a=conv(3, 8), b=conv(8, 3), head=conv(3, 2))


def cropped() -> nn.Module:
    """Slices of positions, not of channels."""

    def compute(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        return net.head(torch.cat([net.b(x), x[:, :, 1:-1]], 1))

    return Net(compute, a=nn.Conv1d(3, 8, 3), b=nn.Conv1d(8, 6, 3), head=nn.Conv1d(14, 2, 1))


def repeated() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.again(F.relu(net.again(F.relu(net.stem(x))))))
        return net.head(torch.cat([x, x], 1))

    return Net(compute, stem=conv(3, 8), again=conv(8, 8), head=conv(16, 2))


def resized() -> nn.Module:
    return nn.Sequential(
        conv(3, 8),
        nn.Dropout2d(0.5),
        nn.LeakyReLU(inplace=True),
        nn.AvgPool2d(2),
        conv(8, 6),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ZeroPad2d(1),
        conv(6, 2),
    )


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 8, 8),)
    mixes: bool = False  # a normalisation sees how many channels there are


ZOO = {
    "unet": Case(lambda: UNet(in_channels=3, widths=(4, 8, 8))),
    "unet-nearest": Case(lambda: UNet(in_channels=3, widths=(4, 8), up="nearest")),
    "unet-1d": Case(lambda: UNet(widths=(4, 8), dims=1), ((2, 1, 16),)),
    "unet-1d-nearest": Case(lambda: UNet(widths=(4, 8), dims=1, up="nearest", out_channels=2), ((2, 1, 16),)),
    "residual": Case(residual),
    "mobile": Case(mobile),
    "grouped": Case(grouped),
    "grouped-transposed": Case(grouped_transposed),
    "multiplier": Case(multiplier),
    "squeeze-excite": Case(squeeze_excite),
    "attention-gate": Case(attention_gate),
    "group-norm": Case(group_norm, mixes=True),
    "instance-norm": Case(instance_norm),
    "prelu": Case(prelu),
    "classifier": Case(classifier),
    "flattened": Case(flattened),
    "flattened-signal": Case(flattened_signal, ((2, 3, 16),)),
    "two-inputs": Case(two_inputs, ((2, 3, 8, 8),) * 2),
    "two-outputs": Case(two_outputs),
    "dictionary": Case(dictionary),
    "convnext": Case(ConvNext, mixes=True),
    "three-parts": Case(three_parts),
    "dense-block": Case(dense_block),
    "input-added": Case(input_added),
    "cropped": Case(cropped, ((2, 3, 16),)),
    "repeated": Case(repeated),
    "resized": Case(resized),
}


def distinct(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic random values; weights of a layer are all different."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(parameter[0].numel(), 1) ** 0.5
    for name, buffer in model.named_buffers():
        if buffer.dim() > 0:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + ("var" in name))
    return model.eval()


def example(case: Case) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in case.shapes)


@torch.no_grad()
def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    return tree_leaves(model(*inputs) if isinstance(inputs, tuple) else model(inputs))


def masked(original: nn.Module, slim: nn.Module) -> nn.Module:
    """Set all weights of the original to zero that the slim model does not have."""
    original = copy.deepcopy(original)
    layers = zip(prune.prunable_layers(original).items(), prune.prunable_layers(slim).items(), strict=True)
    for (name, layer), (same, small) in layers:
        assert name == same
        assert layer.weight.unique().numel() == layer.weight.numel()
        assert torch.isin(small.weight, layer.weight).all()
        layer.weight.data *= torch.isin(layer.weight, small.weight)
    return original


def width(model: nn.Module) -> dict[str, int]:
    """Return the output channels of every layer."""
    transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d)
    return {
        name: layer.weight.shape[1] * layer.groups if isinstance(layer, transposed) else layer.weight.shape[0]
        for name, layer in prune.prunable_layers(model).items()
    }


def heads(model: nn.Module) -> dict[str, int]:
    name = list(width(model))[-1]
    return {name: width(model)[name]}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(params=ZOO)
def case(request: pytest.FixtureRequest) -> Case:
    return ZOO[request.param]


# --- The zoo


# What a scope and an amount do shows on these; what an architecture does, on each of them once.
FEW = ("unet", "residual", "grouped-transposed", "dense-block")


@pytest.mark.parametrize(
    ("case", "scope", "amount"),
    thinned.product(
        ZOO,
        ["global", "layer"],
        [0.3, 0.6],
        often=lambda name, *others: name in FEW or others == ("global", 0.6),
    ),
    indirect=["case"],
)
def test_what_remains_computes_the_same(case: Case, scope: prune.Scope, amount: float) -> None:
    model, inputs = distinct(case.make()), example(case)
    before = copy.deepcopy(model.state_dict())
    slim = prune.channels(model, inputs, amount, scope=scope)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)  # the original stays
    assert type(slim) is type(model)
    assert parameters(slim) < 0.9 * parameters(model)
    assert min(width(slim).values()) >= 1
    assert heads(slim) == heads(model)
    found, expected = run(slim, inputs), run(masked(model, slim), inputs)
    assert [output.shape for output in found] == [output.shape for output in run(model, inputs)]
    if not case.mixes:
        assert all(torch.allclose(one, other, rtol=0, atol=1e-5) for one, other in zip(found, expected, strict=True))


def test_the_comparison_would_notice() -> None:
    """The meta-test of the one above: what remains does not compute what the whole model does."""
    for case in ZOO.values():
        model, inputs = distinct(case.make()), example(case)
        slim = prune.channels(model, inputs, 0.6)
        assert not all(
            torch.allclose(one, other, atol=1e-3)
            for one, other in zip(run(slim, inputs), run(model, inputs), strict=True)
        )


def test_what_layers_say_agrees_with_their_weights(case: Case) -> None:
    """Exporters and printing use the attributes, PyTorch mostly the weights: rebuild every layer from the former."""
    slim = prune.channels(distinct(case.make()), example(case), 0.5)
    for name, layer in prune.prunable_layers(slim).items():
        if isinstance(layer, nn.Linear):
            again: nn.Module = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
        else:
            settings = {"groups": layer.groups, "bias": layer.bias is not None}
            again = type(layer)(layer.in_channels, layer.out_channels, layer.kernel_size, **settings)
        shapes = {key: value.shape for key, value in again.state_dict().items()}
        assert {key: value.shape for key, value in layer.state_dict().items()} == shapes, name


@pytest.mark.parametrize(
    ("case", "training"),
    thinned.product(ZOO, [True, False], often=lambda name, training: name in FEW or training),
    indirect=["case"],
)
def test_what_remains_trains(case: Case, training: bool) -> None:
    slim = prune.channels(case.make().train(training), example(case), 0.5)
    assert all(module.training == training for module in slim.modules())
    optimizer = torch.optim.SGD(slim.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in slim.parameters()]
    outputs = [output for output in tree_leaves(slim(*example(case))) if output.is_floating_point()]
    sum(output.square().mean() for output in outputs).backward()  # type: ignore[union-attr]
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, slim.parameters(), strict=True)]
    assert sum(moved) >= 0.5 * len(moved)  # some units are dead; no optimizer moves those


def test_what_remains_exports(case: Case) -> None:
    slim, inputs = prune.channels(distinct(case.make()), example(case), 0.5), example(case)
    exported = torch.export.export(slim, inputs).module()
    torch.testing.assert_close(run(exported, inputs), run(slim, inputs))


def test_what_remains_is_saved_and_loaded(case: Case, tmp_path: Path) -> None:
    slim, path = prune.channels(distinct(case.make()), example(case), 0.5), tmp_path / "slim.safetensors"
    checkpoint.save(slim, path)
    loaded = checkpoint.load(path, None if isinstance(slim, UNet) else case.make)
    assert repr(loaded) == repr(slim)
    torch.testing.assert_close(loaded.state_dict(), slim.state_dict(), rtol=0, atol=0)
    for one, other in zip(run(loaded, example(case)), run(slim, example(case)), strict=True):
        assert torch.equal(one, other)


def test_pruned_again_and_again() -> None:
    for name in ("unet", "residual", "grouped-transposed"):
        model, inputs = distinct(ZOO[name].make()), example(ZOO[name])
        once = prune.channels(model, inputs, 0.3)
        twice = prune.channels(once, inputs, 0.3)
        assert parameters(twice) < parameters(once) < parameters(model)
        for one, other in zip(run(twice, inputs), run(masked(model, twice), inputs), strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-5)


def test_nothing_is_removed() -> None:
    for case in ZOO.values():
        model = distinct(case.make())
        same = prune.channels(model, example(case), 0.0)
        assert same is not model
        torch.testing.assert_close(same.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_tensor_is_one_input() -> None:
    """A batch of one is not taken for a tuple of samples."""
    model = distinct(classifier())
    for count in (1, 3):
        slim = prune.channels(model, torch.randn(count, 3, 8, 8), 0.5)
        assert width(slim) == {"0": 4, "4": 5}


def test_frozen_parameters_stay_frozen() -> None:
    """And do not hide their layers from the tracing."""
    model = distinct(residual())
    model.first.requires_grad_(False)
    slim = prune.channels(model, torch.randn(2, 3, 8, 8), 0.5, scope="layer")
    expected = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in slim.named_parameters()} == expected
    assert width(slim)["first.0"] == 4
    assert all(parameter.grad is None for parameter in model.parameters())


def test_taylor_sees_frozen_layers() -> None:
    """They matter no less for not being trained."""
    model, inputs = distinct(chain()), torch.randn(SIGNAL)
    frozen = copy.deepcopy(model).requires_grad_(False)

    def slim(module: nn.Module) -> nn.Module:
        return prune.channels(
            module, inputs, 0.5, importance="taylor", loss=lambda module: module(inputs).square().sum()
        )  # fmt: skip

    torch.testing.assert_close(slim(frozen).state_dict(), slim(model).state_dict())


def test_one_channel_for_all_others_stays() -> None:
    slim = prune.channels(distinct(attention_gate()), torch.randn(2, 3, 8, 8), 0.5, scope="layer")
    assert width(slim) == {"stem": 4, "inner": 2, "gate": 1, "head": 2}


def test_works_without_gradients() -> None:
    with torch.no_grad():
        assert width(prune.channels(classifier(), torch.randn(2, 3, 8, 8), 0.5))["0"] == 4


# --- Channels that must stay


def swapped() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        return net.head(net.b(torch.cat(net.a(x).split(4, 1)[::-1], 1)))

    return Net(compute, a=conv(3, 8), b=conv(8, 8), head=conv(8, 2))


def sliced() -> nn.Module:
    return Net(
        lambda net, x: net.head(net.b(net.a(x)[:, 2:6])), a=conv(3, 8), b=conv(4, 8), head=conv(8, 2)
    )  # fmt: skip


def channels_shuffled() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        x = net.a(x)
        count, channels, height, side = x.shape
        x = x.view(count, 2, channels // 2, height, side).transpose(1, 2).reshape(count, channels, height, side)
        return net.head(net.b(F.relu(x)))

    return Net(compute, a=conv(3, 8), b=conv(8, 8), head=conv(8, 2))


def _shuffled(x: Tensor) -> Tensor:
    count, channels, height, side = x.shape
    x = x.view(count, 2, channels // 2, height, side).transpose(1, 2)
    return x.contiguous().view(count, channels, height, side)


def shuffled_units() -> nn.Module:
    """Half of the channels passes by a unit, and a shuffle mixes both for the next one, as in ShuffleNetV2."""

    def compute(net: Any, x: Tensor) -> Tensor:
        x = net.a(x)
        for unit in (net.first, net.second, net.third):
            passed, taken = x.chunk(2, 1)
            x = _shuffled(torch.cat([passed, unit(taken)], 1))
        return net.head(net.b(x))

    units = {name: conv(4, 4) for name in ("first", "second", "third")}
    return Net(compute, a=conv(3, 8), **units, b=conv(8, 8), head=conv(8, 2))


def before_a_recurrent_layer() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.a(x))
        states, _ = net.gru(x.mean(3).transpose(1, 2))
        return net.head(net.b(x)) + states.mean(1)[:, :, None, None]

    return Net(compute, a=conv(3, 8), gru=nn.GRU(8, 2, batch_first=True), b=conv(8, 8), head=conv(8, 2))


def twice_and_added() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        y = net.a(x)
        return net.head(net.b(torch.cat([y, y], 1) + net.wide(x)))

    return Net(compute, a=conv(3, 8), wide=conv(3, 16), b=conv(16, 8), head=conv(8, 2))


def unequal_groups() -> nn.Module:
    """The groups of the last convolution are the convolutions before."""

    def compute(net: Any, x: Tensor) -> Tensor:
        return net.head(F.relu(net.b(torch.cat([net.a(x), net.c(x)], 1))))

    return Net(compute, a=conv(3, 4), c=conv(3, 4), b=conv(8, 8, groups=2), head=conv(8, 2))


def attention() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        x = net.a(x).flatten(2).transpose(1, 2)
        return net.head(F.relu(net.b(x + net.mha(x, x, x)[0])))

    return Net(
        compute,
        a=conv(3, 8),
        mha=nn.MultiheadAttention(8, 2, batch_first=True),
        b=nn.Linear(8, 8),
        head=nn.Linear(8, 2),
    )


def recurrent() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        return net.head(F.relu(net.b(net.lstm(net.a(x).flatten(2).transpose(1, 2))[0])))

    return Net(compute, a=conv(3, 8), lstm=nn.LSTM(8, 5, batch_first=True), b=nn.Linear(5, 8), head=nn.Linear(8, 2))


def spatial_attention() -> nn.Module:
    def compute(net: Any, x: Tensor) -> Tensor:
        x = net.a(x)
        gate = net.gate(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1))
        return net.head(net.b(x * torch.sigmoid(gate)))

    return Net(compute, a=conv(3, 8), gate=conv(2, 1), b=conv(8, 8), head=conv(8, 2))


@pytest.mark.parametrize(
    "make",
    [
        swapped,
        sliced,
        channels_shuffled,
        shuffled_units,
        before_a_recurrent_layer,
        twice_and_added,
        unequal_groups,
        attention,
        recurrent,
        spatial_attention,
        lambda: nn.Sequential(conv(3, 8), nn.LayerNorm([8, 8, 8]), conv(8, 8), conv(8, 2)),
    ],
)
def test_rearranged_channels_stay_and_others_go(make: Callable[[], nn.Module]) -> None:
    """Code that takes channels apart cannot know which ones are gone."""
    model, inputs = distinct(make()), torch.randn(2, 3, 8, 8)
    slim = prune.channels(model, inputs, 0.5, scope="layer")
    before, after = list(width(model).values()), list(width(slim).values())
    assert after[0] == before[0]
    assert after[-2] == before[-2] // 2
    for one, other in zip(run(slim, inputs), run(masked(model, slim), inputs), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("ignore", [["stem"], ["first.*"], "head", ["Conv2d"], []])
def test_ignored_layers_keep_their_channels(ignore: list[str]) -> None:
    model = distinct(residual())
    full = width(model)
    if ignore == ["Conv2d"]:
        with pytest.raises(RecipeError, match="Net has no channels that can be removed"):
            prune.channels(model, torch.randn(2, 3, 8, 8), 0.5, ignore=ignore)
        return
    found = width(prune.channels(model, torch.randn(2, 3, 8, 8), 0.5, scope="layer", ignore=ignore))
    half = {name: count // 2 for name, count in full.items()} | {"head": 3}
    stem = {name: full[name] for name in ("stem", "first.3")}  # added to each other
    expected = {"stem": half | stem, "first.*": half | stem | {"first.0": 8}, "head": half, "": half}
    assert found == expected["".join(ignore)]


# --- Models that rely on their numbers of channels


def test_layers_of_hard_coded_shapes_keep_their_channels() -> None:
    def compute(net: Any, x: Tensor) -> Tensor:
        return net.head(F.relu(net.second(F.relu(net.first(x)))).view(-1, 8 * 8 * 8))

    model, inputs = Net(compute, first=conv(3, 8), second=conv(8, 8), head=nn.Linear(512, 2)), torch.randn(2, 3, 8, 8)
    with pytest.warns(
        UserWarning, match=r"^the channels of second stay: without some Net does not run .*\(RuntimeError: .*\)$"
    ):
        assert width(prune.channels(model, inputs, 0.5)) == {"first": 4, "second": 8, "head": 2}
    assert width(prune.channels(model, inputs, 0.5, ignore=["second"])) == {"first": 4, "second": 8, "head": 2}


def test_layers_whose_channels_are_mixed_keep_them() -> None:
    """They run with fewer channels, but the others change."""

    def compute(net: Any, x: Tensor) -> Tensor:
        return net.head(torch.softmax(net.second(F.relu(net.first(x))), 1))

    model = distinct(Net(compute, first=conv(3, 8), second=conv(8, 8), head=conv(8, 2)))
    with pytest.warns(UserWarning, match=r"^the channels of second stay: without some Net computes something else"):
        assert width(prune.channels(model, torch.randn(2, 3, 8, 8), 0.5))["first"] == 4
    assert width(prune.channels(model, torch.randn(2, 3, 8, 8), 0.5, ignore=["second"]))["first"] == 4


def test_positions_are_no_channels() -> None:
    """A linear layer across positions does not read the channels."""
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.Flatten(2), nn.Linear(64, 3))
    with pytest.warns(UserWarning, match=r"^the channels of 2 stay: without some Sequential does not run"):
        assert width(prune.channels(model, torch.randn(2, 3, 8, 8), 0.5)) == {"0": 4, "2": 6, "4": 3}
    assert width(prune.channels(model, torch.randn(2, 3, 8, 8), 0.5, ignore=["2"])) == {"0": 4, "2": 6, "4": 3}


def test_changed_outputs_name_what_to_ignore() -> None:
    def compute(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.first(x))
        return net.head(x) + torch.zeros(x.shape[1], 1, 8, 8)

    model = Net(compute, first=conv(3, 8), head=conv(8, 2))
    with pytest.raises(
        ModelError, match=r"Net would return \[\(4, 2, 8, 8\)\] instead of \[\(8, 2, 8, 8\)\]: .* first,"
    ):
        prune.channels(model, torch.randn(1, 3, 8, 8), 0.5)


class Tokens(nn.Module):
    """A residual block of attention and a feed-forward part, after a convolution that makes tokens of patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.shuffled = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(3, 8, 3, padding=1)
        self.qkv, self.out, self.wide, self.narrow = (nn.Linear(*size) for size in ((8, 24), (8, 8), (8, 32), (32, 8)))
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + F.channel_shuffle(self.shuffled(x), 2)[:, :3]
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        query, key, value = self.qkv(tokens).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        tokens = tokens + self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        tokens = tokens + self.narrow(F.gelu(self.wide(tokens)))
        found: Tensor = self.head(tokens.mean(1))
        return found


def test_the_width_of_the_feed_forward_part_is_cut_and_heads_stay() -> None:
    model = distinct(Tokens())
    slim = prune.channels(model, torch.randn(2, 3, 8, 8), 0.5, scope="layer")
    assert width(slim)["wide"] == 16
    assert {name: size for name, size in width(slim).items() if name in ("qkv", "shuffled")} == {
        "qkv": 24, "shuffled": 8
    }  # fmt: skip


class Widening(nn.Module):
    """Blocks that each add what came before to the first of their channels, as ReXNet's."""

    def __init__(self) -> None:
        super().__init__()
        widths = range(8, 24, 4)
        self.stem = nn.Conv2d(3, 8, 3)
        self.inner = nn.ModuleList(nn.Conv2d(width, 16, 1) for width in widths)
        self.outer = nn.ModuleList(nn.Conv2d(16, width + 4, 1) for width in widths)
        self.head = nn.Conv2d(24, 2, 1)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        for inner, outer in zip(self.inner, self.outer, strict=True):
            made = outer(inner(x).relu())
            x = torch.cat([made[:, : x.shape[1]] + x, made[:, x.shape[1] :]], 1)
        return self.head(x)


def test_channels_that_are_partly_added_stay_and_others_go() -> None:
    small = prune.channels(Widening().eval(), torch.randn(2, 3, 8, 8), 0.5)
    assert sum(layer.out_channels for layer in small.inner) == 32
    assert small.head.in_channels == 24


@pytest.mark.parametrize(("limit", "most", "count"), [("WAYS", 20_000, 4), ("WAYS", 4, 0), ("INDICES", 64, 0)])
def test_channels_with_more_ways_than_are_followed_stay(
    limit: str, most: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, f"_MOST_{limit}", most)
    found = groups.Traced(Widening().eval(), torch.randn(2, 3, 8, 8), []).groups
    assert sum(isinstance(group, groups.Group) for group in found) == count


def test_more_indices_than_the_widest_layer_has_are_not_followed() -> None:
    module, node = nn.Linear(2, 2), nn.Module()
    node.module = module
    dep = SimpleNamespace(target=node, handler=nn.Linear)
    with groups._looked_up(widest=2):
        found = Found()
        found.add_dep(dep, [0, 1])
        with pytest.raises(groups._EndlessError) as caught:
            found.add_dep(dep, [0, 1, 1])
    assert caught.value.makers == {module}


def test_looking_channels_up_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = Widening().eval(), torch.randn(2, 3, 8, 8)
    found = groups.Traced(model, inputs, []).groups
    monkeypatch.setattr(groups, "_looked_up", lambda _: contextlib.nullcontext())
    compared = groups.Traced(model, inputs, []).groups
    assert [(group.size, len(group.items)) for group in found] == [(group.size, len(group.items)) for group in compared]


@pytest.mark.parametrize("inputs", [torch.randn(2, 4, 8, 8), (torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)), ()])
def test_models_that_do_not_run(inputs: Inputs) -> None:
    with pytest.raises(ModelError, match=r"Sequential cannot be traced for channel pruning: (Runtime|Type)Error: ."):
        prune.channels(classifier(), inputs, 0.5)


def test_masked_models_are_refused() -> None:
    model, inputs = prune.magnitude(classifier(), 0.5), torch.randn(2, 3, 8, 8)
    with pytest.raises(RecipeError, match=r"Sequential is masked: make its pruning permanent first, .*prune\.remove"):
        prune.channels(model, inputs, 0.5)
    slim = prune.channels(prune.remove(model), inputs, 0.5)
    assert prune.sparsity(slim) > 0.2


# --- Importance


def chain() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 10, 2), nn.ReLU(), nn.Conv1d(10, 6, 1), nn.Conv1d(6, 2, 1)
    )


SIGNAL = (2, 2, 9)


def kept(model: nn.Module, slim: nn.Module, name: str) -> list[int]:
    """Return which output channels of a layer remain, found by their weights."""
    layers = (prune.prunable_layers(each)[name] for each in (model, slim))
    big, small = (layer.weight.transpose(0, 1) if layer.transposed else layer.weight for layer in layers)
    return torch.isin(big.contiguous(), small.contiguous()).flatten(1).any(1).nonzero().flatten().tolist()


@pytest.mark.parametrize(("importance", "n"), [("l1", 1), ("l2", 2)])
@pytest.mark.parametrize("amount", [0.25, 0.5, 0.7])
def test_norms_are_torchs_own(importance: Importance, n: int, amount: float) -> None:
    model = distinct(chain())
    slim = prune.channels(model, torch.randn(SIGNAL), amount, importance=importance, scope="layer")
    for name in ("0", "2", "4"):
        layer = copy.deepcopy(prune.prunable_layers(model)[name])
        dim = 1 if layer.transposed else 0
        torch_prune.ln_structured(layer, "weight", round(amount * layer.out_channels), n=n, dim=dim)
        expected = layer.weight_mask.transpose(0, dim).flatten(1).any(1).nonzero().flatten().tolist()
        assert kept(model, slim, name) == expected


def test_global_norms_are_relative_to_their_layer() -> None:
    """By hand: after division by the layer's mean, channel 0 of the first and 1 of the second are the smallest."""
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Conv1d(4, 3, 1), nn.Conv1d(3, 1, 1))
    model[0].weight.data = torch.tensor([1.0, 30, 40, 50]).view(4, 1, 1)
    model[1].weight.data = torch.tensor([0.3, 0.01, 0.4]).view(3, 1, 1).repeat(1, 4, 1)
    slim = prune.channels(model, torch.randn(1, 1, 5), 2 / 7, importance="l1")
    assert slim[0].weight.flatten().tolist() == [30, 40, 50]
    assert slim[1].weight[:, 0, 0].tolist() == pytest.approx([0.3, 0.4])


def test_groups_of_a_convolution_lose_the_same_channels() -> None:
    model = distinct(nn.Sequential(conv(3, 8), conv(8, 12, groups=2), conv(12, 2)))
    slim = prune.channels(model, torch.randn(2, 3, 8, 8), 0.5, scope="layer")
    for name, half in (("0", 4), ("1", 6)):
        found = kept(model, slim, name)
        assert found[: len(found) // 2] == [channel - half for channel in found[len(found) // 2 :]]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_bn_removes_the_smallest_scales(scope: prune.Scope) -> None:
    model = distinct(nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 6), conv(6, 2)))
    scales = torch.tensor([0.5, -0.1, 2.0, 0.3, -1.0, 0.2, 0.7, -0.4])
    model[1].weight.data = scales
    slim = prune.channels(model, torch.randn(2, 3, 8, 8), 0.5, importance="bn", scope=scope)
    assert torch.equal(slim[1].weight, scales[[0, 2, 4, 6]])
    assert width(slim) == {"0": 4, "3": 6, "4": 2}  # a layer without BatchNorm is left alone


def test_bn_needs_batch_norm() -> None:
    with pytest.raises(RecipeError, match="importance='bn' can judge no channel of Sequential"):
        prune.channels(chain(), torch.randn(SIGNAL), 0.5, importance="bn")


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_taylor_removes_channels_that_nothing_reads(scope: prune.Scope) -> None:
    """Their gradient is zero, though their weights are the largest."""
    model = distinct(chain())
    model[1] = model[3] = nn.SiLU()  # no other gradient is zero
    model[0].weight.data[[1, 6]] *= 100
    model[2].weight.data[[1, 6]] = 0
    model[2].weight.data[:, [0, 3]] *= 100
    model[4].weight.data[:, [0, 3]] = 0
    inputs = torch.randn(SIGNAL)

    def loss(module: nn.Module) -> Tensor:
        assert module is not model
        return module(inputs).square().mean()

    share = 4 / 24 if scope == "global" else 0.25
    slim = prune.channels(model, inputs, share, importance="taylor", scope=scope, loss=loss)
    assert kept(model, slim, "0") == [0, 2, 3, 4, 5, 7]
    assert kept(model, slim, "2") == [1, 2, 4, 5, 6, 7, 8, 9]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_taylor_against_the_definition() -> None:
    """The sum over a channel's outputs of value times gradient, which its weights and its bias add up to."""
    model = distinct(nn.Sequential(nn.Conv1d(2, 6, 3), nn.Conv1d(6, 1, 3)))
    inputs = torch.randn(SIGNAL)
    hidden = model[0](inputs).detach().requires_grad_()
    model[1](hidden).square().sum().backward()
    changes = (hidden * hidden.grad).sum((0, 2)).abs()
    slim = prune.channels(
        model, inputs, 0.5, importance="taylor", loss=lambda module: module(inputs).square().sum()
    )  # fmt: skip
    assert kept(model, slim, "0") == sorted(changes.argsort()[3:].tolist())


# --- Targets


@pytest.mark.parametrize("name", ["unet", "mobile", "chain"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_targets_are_met(name: str, share: float) -> None:
    case = {
        "unet": Case(lambda: UNet(widths=(16, 32)), ((1, 1, 8, 8),)),
        "chain": Case(lambda: nn.Sequential(conv(3, 32), nn.ReLU(), conv(32, 32), nn.ReLU(), conv(32, 2))),
        "mobile": ZOO["mobile"],
    }[name]
    model, inputs = distinct(case.make()), example(case)
    macs, size = count_macs(model, inputs), parameters(model)
    least = 0.8 if name in ("unet", "chain") else 0.5  # a channel is much of a small model
    for slim in (
        prune.channels(model, inputs, target_macs=share),
        prune.channels(model, inputs, target_macs=share * macs),
    ):
        assert least * share * macs <= count_macs(slim, inputs) <= share * macs
    for slim in (
        prune.channels(model, inputs, target_params=share),
        prune.channels(model, inputs, target_params=share * size),
    ):
        assert least * share * size <= parameters(slim) <= share * size


def test_targets_that_are_met_already() -> None:
    model, inputs = classifier(), torch.randn(2, 3, 8, 8)
    assert width(prune.channels(model, inputs, target_params=parameters(model))) == width(model)
    assert width(prune.channels(model, inputs, target_macs=10**9)) == width(model)


@pytest.mark.parametrize("target", [{"target_macs": 1}, {"target_params": 0.01}, {"target_macs": 0.0}])
def test_targets_that_cannot_be_met(target: dict[str, float]) -> None:
    with pytest.raises(RecipeError, match=r"a target of \S+ cannot be met: \S+ remain with the fewest channels"):
        prune.channels(residual(), torch.randn(2, 3, 8, 8), **target)


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("round_to", [2, 4, 8])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_rounding_gives_multiples(amount: float, round_to: int, scope: prune.Scope) -> None:
    model = UNet(widths=(16, 32), out_channels=3)
    slim = prune.channels(model, torch.randn(1, 1, 8, 8), amount, round_to=round_to, scope=scope)
    found = width(slim)
    assert found.pop("head") == 3
    assert all(count % round_to == 0 for count in found.values())
    if scope == "layer":  # up, not down, and no more than needed
        for name, count in found.items():
            exact = width(model)[name] - round(amount * width(model)[name])
            assert count == max(math.ceil(exact / round_to), math.ceil(0.1 * width(model)[name] / round_to)) * round_to


@pytest.mark.parametrize("round_to", [2, 3, 4])
def test_rounding_of_grouped_convolutions(round_to: int) -> None:
    """Multiples of both the groups and the number asked for."""
    model = nn.Sequential(conv(3, 24, bias=False), conv(24, 24, groups=2), conv(24, 2))
    found = width(prune.channels(model, torch.randn(1, 3, 8, 8), 0.7, round_to=round_to, scope="layer"))
    assert all(found[name] % round_to == found[name] % 2 == 0 and found[name] <= 12 for name in ("0", "1"))


@pytest.mark.parametrize(
    ("case", "amount", "scope"),
    thinned.product(
        ZOO,
        [0.9, 0.999],
        ["global", "layer"],
        often=lambda name, *others: name in FEW or others == (0.999, "global"),
    ),
    indirect=["case"],
)
def test_no_layer_dies_out(case: Case, amount: float, scope: prune.Scope) -> None:
    model = distinct(case.make())
    next(iter(prune.prunable_layers(model).values())).weight.data *= 1e-6  # its channels rank last
    slim = prune.channels(model, example(case), amount, scope=scope)
    for name, count in width(slim).items():
        assert count >= max(1, 0.1 * width(model)[name])


# --- Errors


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "channels: give exactly one of amount, amounts, target_macs and target_params"),
        ({"amount": 0.5, "target_macs": 0.5}, "channels: give exactly one of"),
        ({"target_params": 0.5, "target_macs": 0.5}, "channels: give exactly one of"),
        ({"amount": 1.0}, "amount=1.0: the share of channels to remove must be at least 0 and less than 1"),
        ({"amount": -0.1}, "amount=-0.1: the share of channels"),
        ({"amount": float("nan")}, "amount=nan: the share of channels"),
        ({"target_macs": -1}, "a target of -1 cannot be met"),
        ({"target_params": float("nan")}, "a target of nan cannot be met"),
        ({"amount": 0.5, "round_to": 0}, "round_to=0: expected a positive number of channels"),
        ({"amount": 0.5, "scope": "channel"}, "scope='channel': expected 'global' or 'layer'"),
        ({"amount": 0.5, "importance": "l3"}, "importance='l3': expected 'l1', 'l2', 'bn' or 'taylor'"),
        ({"amount": 0.5, "importance": "taylor"}, "importance='taylor' needs data: give loss"),
        ({"amount": 0.5, "ignore": ["*"]}, "Sequential has no channels that can be removed"),
        ({"amount": 0.5, "ignore": ["7"]}, "ignore '7' fits no layer; there are 0, 4"),
    ],
)
def test_contradicting_arguments(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(RecipeError, match=f"^{re.escape(text)}"):
        prune.channels(classifier(), torch.randn(2, 3, 8, 8), **arguments)


@pytest.mark.parametrize("model", [nn.Linear(3, 4), nn.Sequential(nn.ReLU()), nn.Conv2d(3, 3, 3)])
def test_no_channels_to_remove(model: nn.Module) -> None:
    with pytest.raises(RecipeError, match=f"{type(model).__name__} has no channels that can be removed"):
        prune.channels(model, torch.randn(2, 3, 3, 3), 0.5)

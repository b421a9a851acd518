"""The module under training: its mode, its masks, and what freezing freezes."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from torchshrink import metrics, prune, quantize
from torchshrink.errors import ModelError
from torchshrink.losses import FocalTversky
from torchshrink.quantize import PreparedModule
from torchshrink.task import Task


def ranges(prepared: PreparedModule) -> dict[str, Tensor]:
    """Everything that decides how activations are quantized."""
    activations = {
        name for name, module in prepared.named_modules() if getattr(module, "is_per_channel", None) is False
    }
    names = ("min_val", "max_val", "scale", "zero_point")
    return {
        name: value.clone()
        for name, value in prepared.state_dict().items()
        if name.endswith(names) and any(name.startswith(f"{parent}.") for parent in activations)
    }


def statistics(prepared: PreparedModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in prepared.state_dict().items() if "running_" in name}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    assert first.keys() == second.keys()
    assert first
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture
def normed() -> nn.Sequential:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid()
    )
    with torch.no_grad():
        model[0].weight[torch.rand_like(model[0].weight) < 0.5] = 0
    return model


@pytest.fixture
def prepared(normed: nn.Sequential, inputs: Tensor) -> PreparedModule:
    module = quantize.prepare_qat(normed, inputs)
    module(inputs)
    return module


def test_training_moves_ranges_and_statistics(prepared: PreparedModule, inputs: Tensor) -> None:
    """The meta-test of the next ones."""
    before = ranges(prepared), statistics(prepared)
    prepared(30 * inputs + 5)
    assert not same(ranges(prepared), before[0])
    assert not same(statistics(prepared), before[1])


@pytest.mark.parametrize("detour", [False, True])
def test_frozen_ranges_and_statistics_stay(prepared: PreparedModule, inputs: Tensor, detour: bool) -> None:
    prepared.freeze()
    if detour:  # as a validation between two epochs does
        prepared.eval()
        prepared.train()
    before = ranges(prepared), statistics(prepared)
    prepared(30 * inputs + 5).mean().backward()
    assert same(ranges(prepared), before[0])
    assert same(statistics(prepared), before[1])
    assert prepared.training


def test_frozen_weights_still_train(prepared: PreparedModule, inputs: Tensor) -> None:
    prepared.freeze()
    prepared(inputs).mean().backward()
    gradients = [value.grad for value in prepared.parameters()]
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_frozen_weights_still_get_their_own_scale(prepared: PreparedModule, inputs: Tensor) -> None:
    prepared.freeze()
    weight = dict(prepared.named_parameters())["graph_module.3.weight"]
    with torch.no_grad():
        weight.mul_(8)
    prepared(inputs)
    scales = [
        module.scale
        for module in prepared.modules()
        if getattr(module, "is_per_channel", False) and module.scale.numel() == 1
    ]
    pairs = weight.detach().flatten().unflatten(0, (-1, 2)).sum(1)
    largest = max(weight.abs().max().item(), pairs.abs().max().item())
    assert [scale.item() for scale in scales] == pytest.approx([largest / 127])


def test_evaluation_moves_nothing(prepared: PreparedModule, inputs: Tensor) -> None:
    """Validation data must not set the ranges that training learns."""
    before = ranges(prepared), statistics(prepared)
    prepared.eval()
    with torch.no_grad():
        prepared(30 * inputs + 5)
    assert same(statistics(prepared), before[1])
    assert same(ranges(prepared), before[0])


def test_ranges_of_training_begin_with_all_that_they_are_shown(normed: nn.Sequential, inputs: Tensor) -> None:
    module = quantize.prepare_qat(normed, inputs)
    before = statistics(module)
    quantize.calibrate(module, [inputs, 10 * inputs, inputs])
    assert module.training
    assert same(statistics(module), before)
    shown = torch.stack([value for name, value in ranges(module).items() if name.endswith("max_val")]).max()
    assert shown == 10 * inputs.max()  # the input's own, and no average
    module(inputs)
    moved = torch.stack([value for name, value in ranges(module).items() if name.endswith("max_val")]).max()
    torch.testing.assert_close(moved, shown + 0.01 * (inputs.max() - shown))


def test_mode_switches_batch_norm(prepared: PreparedModule, inputs: Tensor) -> None:
    shifted = inputs + 3
    alone, together = shifted[:1], shifted
    prepared.freeze()  # ranges apart
    prepared._frozen_statistics = False
    prepared.eval()
    assert torch.equal(prepared(alone), prepared(together)[:1])
    prepared.train()
    assert not torch.allclose(prepared(alone), prepared(together)[:1])


@pytest.mark.parametrize("dropout", [nn.Dropout, nn.Dropout2d])
def test_mode_switches_dropout(inputs: Tensor, dropout: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 16, 1), dropout(0.5))
    prepared = quantize.prepare_qat(model, inputs)
    prepared.train()
    assert (prepared(inputs) == 0).float().mean() > 0.3
    prepared.eval()
    assert (prepared(inputs) == 0).float().mean() < 0.2
    graph = quantize.convert(prepared)
    assert torch.equal(graph(inputs), graph(inputs))


@pytest.mark.parametrize("batch", [1, 2, 5, 16])
@pytest.mark.parametrize("prepare", [quantize.prepare_qat, quantize.prepare_ptq])
def test_any_batch_size(small_net: nn.Module, prepare: Callable[..., PreparedModule], batch: int) -> None:
    prepared = prepare(small_net, torch.zeros(1, 1, 16, 16))
    assert prepared(torch.randn(batch, 1, 16, 16)).shape == (batch, 1, 16, 16)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda values: torch.optim.SGD(values, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda values: torch.optim.AdamW(values, lr=0.05, weight_decay=0.1),
    ],
)
def test_masks_restore_exact_zeros(
    normed: nn.Sequential, inputs: Tensor, make_optimizer: Callable[..., torch.optim.Optimizer]
) -> None:
    mask = normed[0].weight == 0
    assert 0.2 < mask.float().mean() < 0.8
    prepared = quantize.prepare_qat(normed, inputs)
    weight = dict(prepared.named_parameters())["graph_module.0.weight"]
    optimizer = make_optimizer(prepared.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        prepared(inputs).pow(2).mean().backward()
        optimizer.step()
        assert (weight[mask] != 0).any()  # without help they grow
        prepared.apply_masks()
        assert torch.equal(weight == 0, mask)


def test_masks_of_a_dense_model_hold_nothing(small_net: nn.Module, inputs: Tensor) -> None:
    prepared = quantize.prepare_qat(small_net, inputs)
    before = copy.deepcopy(dict(prepared.named_parameters()))
    prepared.apply_masks()
    assert all(torch.equal(value, before[name]) for name, value in prepared.named_parameters())


def test_zero_biases_are_not_pruned_weights(inputs: Tensor) -> None:
    layer = nn.Conv2d(1, 2, 1)
    nn.init.zeros_(layer.bias)
    prepared = quantize.prepare_qat(layer, inputs)
    bias = next(value for value in prepared.parameters() if value.dim() == 1)
    with torch.no_grad():
        bias.fill_(1)
    prepared.apply_masks()
    assert bias.tolist() == [1, 1]


def test_evaluate_takes_a_prepared_module(small_net: nn.Module, tiny_task: Task) -> None:
    prepared = quantize.prepare_qat(small_net, tiny_task.example_input)
    scores = metrics.evaluate(prepared, tiny_task.test, FocalTversky())
    assert 0 <= scores.dice <= 1
    assert prepared.training


# --- What cannot be prepared


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x + 1
        return x


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("first line\nsecond line")


class Silent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError


@pytest.mark.parametrize("prepare", [quantize.prepare_qat, quantize.prepare_ptq])
@pytest.mark.parametrize("kind", [Branch, FixedBatch, Broken, Silent])
def test_untraceable_modules(prepare: Callable[..., PreparedModule], kind: type[nn.Module]) -> None:
    reason = "fails on an input of" if kind in (Broken, Silent) else "cannot be traced by torch.export"
    with pytest.raises(ModelError, match=f"{kind.__name__} {reason}") as caught:
        prepare(kind(), torch.zeros(2, 4))
    assert "\n" not in str(caught.value)


def test_untraceable_modules_leave_the_terminal_clean(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError):
        quantize.prepare_qat(Branch(), torch.zeros(2, 4))
    assert capfd.readouterr() == ("", "")


def test_masked_modules_are_refused(small_net: nn.Module, inputs: Tensor) -> None:
    """Their weights are not parameters: the error names the function that makes them so."""
    prune.magnitude(small_net, 0.5)
    with pytest.raises(ModelError, match="remove"):
        quantize.prepare_qat(small_net, inputs)

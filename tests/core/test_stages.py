"""From model to model: the sparsity that was asked for, and zeros that stay."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchshrink import prune, quantize, stages
from torchshrink.errors import RecipeError
from torchshrink.metrics import evaluate
from torchshrink.models import UNet
from torchshrink.quantize import PreparedModule
from torchshrink.task import Task
from torchshrink.training import Settings


def settings(epochs: int, **others: Any) -> Settings:
    return Settings(epochs, **{"batch_size": 8, "precision": "fp32", "lr": 0.02, **others})


def count(model: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in prune.prunable_layers(model).values())


def zero_codes(graph: nn.Module) -> tuple[int, int]:
    codes = [value for value in graph.buffers() if value.dtype == torch.int8]
    return sum(int((value == 0).sum()) for value in codes), sum(value.numel() for value in codes)


class Constant(nn.Module):
    """Every epoch is as good as the first: the first that may be kept is."""

    def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
        return 1 + 0 * probability.mean()


@pytest.mark.parametrize("amount", [0.3, 0.75])
@pytest.mark.parametrize("gradual", [True, False])
def test_prune_reaches_the_amount_exactly(tiny_task: Task, amount: float, gradual: bool) -> None:
    model = UNet(widths=(2, 4)).eval()
    before = copy.deepcopy(model.state_dict())
    pruned, history = stages.prune(model, tiny_task, settings(4), amount, gradual=gradual)
    assert prune.sparsity(pruned) == math.ceil(amount * count(model)) / count(model)
    assert not any("mask" in name or "orig" in name for name in pruned.state_dict())
    assert len(history.epochs) == 4
    assert not pruned.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_prune_by_layer(tiny_task: Task) -> None:
    pruned, _ = stages.prune(UNet(widths=(2, 4)), tiny_task, settings(2), 0.5, scope="layer")
    for layer in prune.prunable_layers(pruned).values():
        assert abs(int((layer.weight == 0).sum()) - 0.5 * layer.weight.numel()) <= 0.5


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
@pytest.mark.parametrize("train", [24, 17, 9, 3])
def test_the_kept_epoch_has_the_final_amount(make_task: Callable[..., Task], train: int, epochs: int) -> None:
    """Also where the last batch of an epoch, a single sample, is left out: 17 and 9 in batches of 8."""
    task = make_task(train=train, loss=Constant())
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid())
    pruned, _ = stages.prune(model, task, settings(epochs), 0.5)
    assert prune.sparsity(pruned) == round(0.5 * 40) / 40


def test_prune_without_fine_tuning(small_net: nn.Module, tiny_task: Task) -> None:
    for gradual in (True, False):
        pruned, history = stages.prune(small_net, tiny_task, settings(0), 0.5, gradual=gradual)
        assert prune.sparsity(pruned) == 0.5
        assert history.epochs == []


def test_pruning_further_keeps_earlier_zeros(tiny_task: Task) -> None:
    first, _ = stages.prune(UNet(widths=(2, 4)), tiny_task, settings(2), 0.4)
    second, _ = stages.prune(first, tiny_task, settings(2), 0.8)
    assert prune.sparsity(second) == math.ceil(0.8 * count(second)) / count(second)
    for name, layer in prune.prunable_layers(first).items():
        assert (prune.prunable_layers(second)[name].weight[layer.weight == 0] == 0).all()


@pytest.mark.parametrize("gradual", [True, False])
@pytest.mark.parametrize("epochs", [0, 2])
def test_pruning_to_less_than_there_is(tiny_task: Task, gradual: bool, epochs: int) -> None:
    """It would give zeros back to training without a word."""
    model = prune.remove(prune.magnitude(UNet(widths=(2, 4)), 0.8))
    with pytest.raises(RecipeError, match=r"0\.8.* 0\.5"):
        stages.prune(model, tiny_task, settings(epochs), 0.5, gradual=gradual)


def test_pruned_models_still_learn(tiny_task: Task) -> None:
    torch.manual_seed(0)
    model = UNet(widths=(4, 8))
    stages.train(model, tiny_task, settings(8))
    dense = evaluate(model, tiny_task.validation, tiny_task.loss)
    pruned, _ = stages.prune(model, tiny_task, settings(6), 0.5)
    assert evaluate(pruned, tiny_task.validation, tiny_task.loss).loss < dense.loss + 0.1


@pytest.fixture
def sparse_net(small_net: nn.Module) -> nn.Module:
    return prune.remove(prune.magnitude(small_net, 0.5))


def test_qat_keeps_pruned_zeros(sparse_net: nn.Module, tiny_task: Task) -> None:
    graph, history = stages.qat(sparse_net, tiny_task, settings(5, weight_decay=0.3))
    assert quantize.is_quantized(graph)
    assert len(history.epochs) == 5
    zeros, total = zero_codes(graph)
    assert total == count(sparse_net)
    assert zeros / total >= 0.5
    by_shape = {value.shape: value for value in graph.buffers() if value.dtype == torch.int8}
    for layer in prune.prunable_layers(sparse_net).values():
        assert (by_shape[layer.weight.shape][layer.weight == 0] == 0).all()


def test_qat_learns(small_net: nn.Module, tiny_task: Task) -> None:
    inputs, truth = tiny_task.validation.tensors
    before = tiny_task.loss(small_net(inputs), truth)
    graph, history = stages.qat(small_net, tiny_task, settings(40, lr=0.05))
    after = tiny_task.loss(graph(inputs), truth)
    assert after < 0.7 * before
    assert after == pytest.approx(history.best_loss, abs=0.01)  # what was validated is what is converted


@pytest.mark.parametrize("train", [24, 17, 9, 3])
@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_the_epoch_that_qat_keeps_is_frozen(
    small_net: nn.Module, make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch, train: int, epochs: int
) -> None:
    """Every epoch is equally good, so that the first that may be kept is; by then ranges no longer move."""
    frozen_at: list[int] = []
    steps: list[int] = []
    freeze = PreparedModule.freeze
    monkeypatch.setattr(PreparedModule, "apply_masks", lambda self: steps.append(1))
    monkeypatch.setattr(PreparedModule, "freeze", lambda self: (frozen_at.append(len(steps)), freeze(self)))
    _, history = stages.qat(small_net, make_task(train=train, loss=Constant()), settings(epochs))
    assert len(frozen_at) == 1
    assert frozen_at[0] <= history.best_epoch * len(steps) / epochs


def test_ptq_shows_as_many_samples_as_asked(
    small_net: nn.Module, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Tensor] = []
    calibrate = quantize.calibrate

    def spy(prepared: PreparedModule, batches: Any) -> None:
        shown.extend(batches)
        calibrate(prepared, shown)

    monkeypatch.setattr(quantize, "calibrate", spy)
    for samples, expected in ((10, 10), (1000, 24)):
        shown.clear()
        graph = stages.ptq(small_net, tiny_task, samples, batch_size=4)
        assert torch.equal(torch.cat(shown), tiny_task.train.tensors[0][:expected])
        assert quantize.is_quantized(graph)


def test_ptq_computes_what_the_model_does(sparse_net: nn.Module, tiny_task: Task) -> None:
    sparse_net.eval()
    graph = stages.ptq(sparse_net, tiny_task)
    inputs = tiny_task.test.tensors[0]
    assert (graph(inputs) - sparse_net(inputs)).abs().max() < 0.03
    assert zero_codes(graph)[0] >= 0.5 * count(sparse_net)

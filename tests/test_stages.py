"""From model to model: the sparsity that was asked for, and zeros that stay."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchshrink import prune, quantize, stages
from torchshrink.bench import count_macs
from torchshrink.errors import RecipeError
from torchshrink.metrics import evaluate
from torchshrink.model.unet import UNet
from torchshrink.quantize import PreparedModule
from torchshrink.task import Task
from torchshrink.training import Settings, imitation


def settings(epochs: int, **others: Any) -> Settings:
    return Settings(epochs, **{"batch_size": 8, "precision": "fp32", "lr": 0.02, **others})


def count(model: nn.Module) -> int:
    return sum(layer.weight.numel() for layer in prune.prunable_layers(model).values())


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def zero_codes(graph: nn.Module) -> tuple[int, int]:
    codes = [value for value in graph.buffers() if value.dtype == torch.int8]
    return sum(int((value == 0).sum()) for value in codes), sum(value.numel() for value in codes)


class Constant(nn.Module):
    """Every epoch is as good as the first: the first that may be kept is."""

    def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
        return 1 + 0 * probability.mean()


@pytest.mark.parametrize("amount", [0.3, 0.75])
@pytest.mark.parametrize("schedule", ["polynomial", "constant", "one_shot", "rewind"])
def test_prune_reaches_the_amount_exactly(tiny_task: Task, amount: float, schedule: stages.Scheduling) -> None:
    model = UNet(widths=(2, 4)).eval()
    before = copy.deepcopy(model.state_dict())
    pruned, history = stages.prune(model, tiny_task, settings(4), amount, schedule=schedule)
    assert prune.sparsity(pruned) == math.ceil(amount * count(model)) / count(model)
    assert not any("mask" in name or "orig" in name for name in pruned.state_dict())
    assert len(history.epochs) == 4
    assert not pruned.training
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_prune_by_layer(tiny_task: Task) -> None:
    pruned, _ = stages.prune(UNet(widths=(2, 4)), tiny_task, settings(2), 0.5, "layer", ignore=())
    for layer in prune.prunable_layers(pruned).values():
        assert abs(int((layer.weight == 0).sum()) - 0.5 * layer.weight.numel()) <= 0.5


@pytest.mark.parametrize("method", ["lamp", "random", "2:4", "1x4", "4x1"])
@pytest.mark.parametrize("schedule", ["polynomial", "one_shot"])
def test_every_method_ends_where_it_would_at_once(tiny_task: Task, method: str, schedule: stages.Scheduling) -> None:
    model = UNet(widths=(4, 8)).eval()
    pruned, _ = stages.prune(model, tiny_task, settings(2), 0.5, method, schedule)
    at_once, _ = stages.prune(model, tiny_task, settings(0), 0.5, method)
    assert prune.sparsity(pruned) == pytest.approx(prune.sparsity(at_once), abs=0.01)
    assert prune.sparsity(pruned) > 0.4


def test_an_amount_that_a_pattern_cannot_reach(small_net: nn.Module, tiny_task: Task) -> None:
    with pytest.raises(RecipeError, match=r"'2:4' reaches a sparsity of 0\.5 at most, not 0\.8"):
        stages.prune(small_net, tiny_task, settings(1), 0.8, "2:4")


@pytest.mark.parametrize("epochs", [0, 4])
def test_amounts_by_layer(tiny_task: Task, epochs: int) -> None:
    amounts = {"encoder.0.3": 0.25, "decoder.0.0": 0.75}
    pruned, _ = stages.prune(UNet(widths=(4, 8)), tiny_task, settings(epochs), amounts=amounts)
    for name, layer in prune.prunable_layers(pruned).items():
        assert float((layer.weight == 0).float().mean()) == amounts.get(name, 0.0)


@pytest.mark.parametrize("rounds", [1, 3])
def test_channels_are_removed_in_rounds(tiny_task: Task, rounds: int) -> None:
    model = UNet(widths=(8, 16)).eval()
    before = copy.deepcopy(model.state_dict())
    slim, history = stages.channels(model, tiny_task, settings(7), 0.5, rounds=rounds, scope="layer")
    widths = [layer.out_channels for name, layer in prune.prunable_layers(slim).items() if name != "head"]
    assert widths == pytest.approx([4, 4, 8, 8, 4, 4, 4], abs=1)
    assert len(history.epochs) == 7
    assert 1 <= history.best_epoch <= 7
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    found = evaluate(slim, tiny_task.validation, tiny_task.loss)
    assert found.loss == pytest.approx(history.best_loss, abs=1e-5)  # the model of the best epoch


@pytest.mark.parametrize("goal", [{"target_macs": 0.4}, {"target_params": 0.3}, {"target_params": 900.0}])
def test_channels_meet_a_target_over_rounds(tiny_task: Task, goal: dict[str, float]) -> None:
    model = UNet(widths=(8, 16))
    counts = {"target_macs": lambda net: count_macs(net, tiny_task.example_input), "target_params": parameters}
    ((key, target),) = goal.items()
    slim, _ = stages.channels(model, tiny_task, settings(0), **goal, rounds=2)
    wanted = target if target > 1 else target * counts[key](model)
    assert 0.75 * wanted <= counts[key](slim) <= wanted


def test_zeros_stay_when_channels_go(tiny_task: Task) -> None:
    sparse = prune.remove(prune.magnitude(UNet(widths=(8, 16)), 0.6))
    slim, _ = stages.channels(sparse, tiny_task, settings(4), 0.25, rounds=2)
    assert prune.sparsity(slim) > 0.4


def test_taylor_asks_the_data(tiny_task: Task) -> None:
    slim, _ = stages.channels(UNet(widths=(8, 16)), tiny_task, settings(0), 0.5, importance="taylor", rounds=1)
    assert parameters(slim) < 0.6 * parameters(UNet(widths=(8, 16)))


def test_reinitialized_models_keep_only_their_shape(tiny_task: Task) -> None:
    slim, _ = stages.channels(UNet(widths=(8, 16)), tiny_task, settings(0), 0.5, rounds=1)
    fresh = stages.reinitialize(slim, 0)
    assert [value.shape for value in fresh.state_dict().values()] == [v.shape for v in slim.state_dict().values()]
    for name, layer in prune.prunable_layers(slim).items():
        assert not torch.equal(prune.prunable_layers(fresh)[name].weight, layer.weight)
    torch.testing.assert_close(fresh.state_dict(), stages.reinitialize(slim, 0).state_dict(), rtol=0, atol=0)


class Answers(nn.Module):
    """A teacher that says the same of everything."""

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.full_like(inputs, 0.9)


class Falling(nn.Module):
    """Teaches nothing, and calls every epoch better than the one before, so that the last one is kept."""

    calls = 0

    def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
        self.calls += 1
        return 1 / self.calls + 0 * probability.mean()


def test_students_imitate_their_teacher(make_task: Callable[..., Task]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid())
    inputs = torch.randn(4, 1, 16, 16)
    for share, low, high in ((1.0, 0, 0.05), (0.5, 0, 0.05), (0.0, 0.2, 1)):  # without a share, a teacher has no say
        student = copy.deepcopy(model)
        task = make_task(loss=Falling())
        stages.train(student, task, settings(30, lr=0.1, weight_decay=0, distillation=share), teacher=Answers())
        assert low <= (student(inputs) - 0.9).abs().mean() <= high


def test_imitation_has_bounded_gradients() -> None:
    """Fake quantization makes probabilities of exactly 0 and 1."""
    output = torch.tensor([0.0, 1.0, 1 / 256, 0.5], requires_grad=True)
    imitation(output, torch.tensor([1e-4, 0.2, 0.9, 0.4])).backward()
    assert output.grad is not None
    assert output.grad.abs().max() < 256


def test_imitation_is_zero_where_both_agree() -> None:
    for values in (torch.rand(2, 1, 4, 4), torch.randn(2, 3)):
        assert imitation(values, values).item() == pytest.approx(0, abs=1e-6)
        assert imitation(values.clamp(0.2, 0.8), values).item() > 0


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
@pytest.mark.parametrize("train", [24, 17, 9, 3])
def test_the_kept_epoch_has_the_final_amount(make_task: Callable[..., Task], train: int, epochs: int) -> None:
    """Also where the last batch of an epoch, a single sample, is left out: 17 and 9 in batches of 8."""
    task = make_task(train=train, loss=Constant())
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1), nn.Sigmoid())
    pruned, _ = stages.prune(model, task, settings(epochs), 0.5)
    assert prune.sparsity(pruned) == round(0.5 * 40) / 40


def test_prune_without_fine_tuning(small_net: nn.Module, tiny_task: Task) -> None:
    for schedule in ("polynomial", "one_shot", "rewind"):
        pruned, history = stages.prune(small_net, tiny_task, settings(0), 0.5, schedule=schedule)
        assert prune.sparsity(pruned) == 0.5
        assert history.epochs == []


def test_pruning_further_keeps_earlier_zeros(tiny_task: Task) -> None:
    first, _ = stages.prune(UNet(widths=(2, 4)), tiny_task, settings(2), 0.4)
    second, _ = stages.prune(first, tiny_task, settings(2), 0.8)
    assert prune.sparsity(second) == math.ceil(0.8 * count(second)) / count(second)
    for name, layer in prune.prunable_layers(first).items():
        assert (prune.prunable_layers(second)[name].weight[layer.weight == 0] == 0).all()


@pytest.mark.parametrize("schedule", ["polynomial", "constant", "one_shot", "rewind"])
@pytest.mark.parametrize("epochs", [0, 2])
def test_pruning_to_less_than_there_is(tiny_task: Task, schedule: stages.Scheduling, epochs: int) -> None:
    """It would give zeros back to training without a word."""
    model = prune.remove(prune.magnitude(UNet(widths=(2, 4)), 0.8))
    with pytest.raises(RecipeError, match=r"0\.8.* 0\.5"):
        stages.prune(model, tiny_task, settings(epochs), 0.5, schedule=schedule)


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


def test_ranges_of_qat_begin_with_what_several_batches_show(tiny_task: Task, small_net: nn.Module) -> None:
    """One sample of 32 is far larger than the others; a range that begins with another batch's would cut it off."""
    pairs = [(tiny_task.train[index][0].clamp(-1, 1), tiny_task.train[index][1]) for index in range(16)] * 2
    pairs[20] = (20 * torch.ones_like(pairs[20][0]), pairs[20][1])
    graph, _ = stages.qat(small_net, replace(tiny_task, train=pairs), settings(1, lr=1e-6, batch_size=2))
    scale = next(float(node.args[1]) for node in graph.graph.nodes if "quantize_per_tensor" in str(node.target))
    assert 127 * scale > 8


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


def test_named_layers_stay_float(small_net: nn.Module, tiny_task: Task) -> None:
    graphs = [
        stages.ptq(small_net, tiny_task, keep_float=["4"]),
        stages.qat(small_net, tiny_task, settings(1), keep_float=["4"])[0],
    ]
    for graph in graphs:
        weights = [node.args[1] for node in graph.graph.nodes if str(node.target) == "aten.conv2d.default"]
        assert ["dequantize" in str(weight.target) for weight in weights] == [True, True, False]


@pytest.mark.parametrize(("portable", "largest"), [(True, 64), (False, 127)])
def test_room_in_the_weights_can_be_left_out(
    small_net: nn.Module, tiny_task: Task, portable: bool, largest: int
) -> None:
    """Two equal neighbours share what one could have alone."""
    for parameter in small_net.parameters():
        nn.init.constant_(parameter, 0.1)
    graphs = [
        stages.ptq(small_net, tiny_task, 4, portable=portable),
        stages.qat(small_net, tiny_task, settings(1, lr=1e-9), portable=portable)[0],
    ]
    for graph in graphs:
        codes = [int(buffer.max()) for buffer in graph.buffers() if buffer.dtype == torch.int8]
        assert codes == [largest] * 3


def test_without_labels_a_channels_gradient_says_nothing(small_net: nn.Module, tiny_task: Task) -> None:
    task = replace(tiny_task, kind="unlabelled", loss=None, metrics={}, decides="", budget=None)
    with pytest.raises(RecipeError, match="importance='taylor' asks the loss, which data without labels has none of"):
        stages.channels(small_net, task, Settings(0), 0.5, importance="taylor")

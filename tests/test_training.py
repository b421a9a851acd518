"""The training loop: what it learns, what it keeps, when it stops."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset

from torchshrink import stages, training
from torchshrink.data.augment import flips_rotations_noise
from torchshrink.errors import DataError, ModelError
from torchshrink.losses import BCE, FocalTversky
from torchshrink.metrics import Metric, Scores, evaluate
from torchshrink.model.unet import UNet
from torchshrink.own_loop import Loop
from torchshrink.quantize import fake
from torchshrink.task import Normalization, Task
from torchshrink.training import Settings, fit
from torchshrink.training import _validated_at_once as validated_at_once

aten: Any = torch.ops.aten
STEPS = 3  # per epoch: 24 samples in batches of 8


def settings(epochs: int, **others: Any) -> Settings:
    return Settings(epochs, **{"batch_size": 8, "precision": "fp32", "lr": 0.02, **others})


@pytest.fixture
def strict_task(make_task: Callable[..., Task]) -> Task:
    """Its loss is merciless to the Saboteur, and the same however much it fills in."""
    return make_task(loss=BCE())


def copy_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class Saboteur:
    """Ruins the weights in every epoch after ``good`` ones, and remembers them as they were at each epoch's end."""

    def __init__(self, model: nn.Module, good: int) -> None:
        self.model, self.good = model, good
        self.states: list[dict[str, Tensor]] = []

    def __call__(self, step: int, steps: int) -> None:
        if step > self.good * STEPS:
            for parameter in self.model.parameters():
                parameter.data.fill_(50.0 + step)  # everything is predicted positive
        if step % STEPS == 0:
            self.states.append(copy_of(self.model))


class Waits(TorchDispatchMode):
    """Counts what an accelerator would be waited for: numbers that Python asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("how", ["dense", "taught", "pruned", "clustered", "quantized"])
def test_no_step_waits_for_what_an_accelerator_computes(
    how: str, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_checked_every", lambda _: 1000)
    monkeypatch.setattr(training, "evaluate", lambda *_: Scores(0.1, {}))
    monkeypatch.setattr(fake, "_is_waited_for", lambda _: True)
    task = replace(tiny_task, augment=flips_rotations_noise(2))
    model, teacher = UNet(widths=(4, 8)), UNet(widths=(4, 8))
    looked: list[int] = []
    look = training._Run._check
    monkeypatch.setattr(training._Run, "_check", lambda run: (looked.append(run.step), look(run))[1])
    counts = []

    def counted(*arguments: Any, **named: Any) -> Any:
        with Waits() as found:
            history = fit(*arguments, **named)
        counts.append(found.count)
        return history

    monkeypatch.setattr(stages, "fit", counted)
    for batch_size in (8, 4):  # as many samples, in three steps and in six
        plain = settings(2, batch_size=batch_size)
        if how == "dense":
            counted(copy.deepcopy(model), task, plain)
        elif how == "taught":
            counted(copy.deepcopy(model), task, replace(plain, distillation=0.5), teacher=teacher)
        elif how == "pruned":
            stages.prune(model, task, plain, 0.5, schedule="one_shot")
        elif how == "quantized":
            stages.qat(model, task, plain)
        else:
            stages.cluster(model, task, plain, count=8)
    assert counts[0] == counts[1]
    assert looked == [STEPS, 2 * STEPS, 2 * STEPS, 4 * STEPS]  # at losses, at the end of each epoch


def test_validation_of_more_at_once_says_the_same(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(
            training, "_validated_at_once", lambda given, _, on=device: validated_at_once(given, torch.device(on))
        )
        torch.manual_seed(0)
        found.append(fit(UNet(widths=(4, 8)), tiny_task, settings(2, batch_size=3)).to_dict()["epochs"])
    assert [each["validation_loss"] for each in found[0]] == pytest.approx(
        [each["validation_loss"] for each in found[1]], rel=1e-5
    )


@pytest.mark.parametrize("every", [2, 7, 1000])
def test_how_often_losses_are_looked_at_changes_nothing(
    every: int, tiny_task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for checked_every in (1, every):
        monkeypatch.setattr(training, "_checked_every", lambda _, steps=checked_every: steps)
        torch.manual_seed(0)
        model = UNet(widths=(4, 8))
        found.append((fit(model, tiny_task, settings(4)).to_dict(), model.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, found[1][1][name]) for name, one in found[0][1].items())


def test_it_learns_the_toy_task(tiny_task: Task) -> None:
    torch.manual_seed(0)
    model = UNet(widths=(4, 8))
    before = evaluate(model, tiny_task.validation, tiny_task.loss)
    history = fit(model, tiny_task, settings(25))
    after = evaluate(model, tiny_task.validation, tiny_task.loss)
    assert after.loss < 0.6 * before.loss
    assert after.dice > 0.8
    assert history.epochs[-1]["train_loss"] < 0.6 * history.epochs[0]["train_loss"]
    assert not model.training


def test_equal_seeds_give_equal_weights(make_task: Callable[..., Task]) -> None:
    task = make_task()
    object.__setattr__(task, "augment", lambda x, y, generator: (x + torch.rand(1, generator=generator), y))
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        model = nn.Sequential(UNet(widths=(2, 4)), nn.Dropout(0.1), nn.Sigmoid())
        torch.manual_seed(seed + 100)  # the state of the global generator must not matter
        history = fit(model, task, settings(2, seed=seed))
        found.append((copy_of(model), history))
    (first, history), (second, other), (third, _) = found
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert history == other
    assert not all(torch.equal(value, third[name]) for name, value in first.items())


def test_the_best_epochs_weights_are_kept(small_net: nn.Module, strict_task: Task) -> None:
    saboteur = Saboteur(small_net, good=3)
    history = fit(small_net, strict_task, settings(6), after_step=saboteur)
    losses = [epoch["validation_loss"] for epoch in history.epochs]
    assert len(losses) == 6
    assert history.best_epoch == 1 + losses.index(min(losses)) <= 3
    assert history.best_loss == min(losses)
    kept = saboteur.states[history.best_epoch - 1]
    assert all(torch.equal(value, kept[name]) for name, value in small_net.state_dict().items())
    found = evaluate(small_net, strict_task.validation, strict_task.loss)
    assert found.loss == pytest.approx(history.best_loss, rel=1e-6)


def test_patience_stops_early(small_net: nn.Module, strict_task: Task) -> None:
    history = fit(small_net, strict_task, settings(40, patience=3), after_step=Saboteur(small_net, good=2))
    assert history.best_epoch <= 2
    assert len(history.epochs) == history.best_epoch + 3


def test_without_patience_it_never_stops(small_net: nn.Module, strict_task: Task) -> None:
    assert len(fit(small_net, strict_task, settings(8), after_step=Saboteur(small_net, good=1)).epochs) == 8


@pytest.mark.parametrize(("settled", "first"), [(0.0, 1), (0.5, 3), (0.6, 4), (0.99, 6), (1.0, 6)])
def test_an_epoch_before_the_model_settles_is_never_the_best(
    small_net: nn.Module, strict_task: Task, settled: float, first: int
) -> None:
    """Of 6 epochs the first is the best, and the first that may be: 0.6 * 18 steps end in epoch 4."""
    saboteur = Saboteur(small_net, good=0)
    history = fit(small_net, strict_task, settings(6), after_step=saboteur, settled=settled)
    assert history.best_epoch == first
    kept = saboteur.states[history.best_epoch - 1]
    assert all(torch.equal(value, kept[name]) for name, value in small_net.state_dict().items())


def test_after_step_counts_finished_steps(small_net: nn.Module, tiny_task: Task) -> None:
    calls: list[tuple[int, int]] = []
    fit(small_net, tiny_task, settings(4), after_step=lambda *counts: calls.append(counts))
    assert calls == [(step, 4 * STEPS) for step in range(1, 4 * STEPS + 1)]


def test_a_batch_of_one_is_left_out(small_net: nn.Module, make_task: Callable[..., Task]) -> None:
    calls: list[tuple[int, int]] = []
    fit(small_net, make_task(train=17), settings(2), after_step=lambda *counts: calls.append(counts))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_progress_is_told_of_every_step(small_net: nn.Module, strict_task: Task) -> None:
    class Recorder:
        updates: list[tuple[int, int, str]] = []  # noqa: RUF012
        notes: list[str] = []  # noqa: RUF012

        def start(self, title: str) -> None:
            pytest.fail("that is for the stages")

        def update(self, done: int, total: int, note: str = "") -> None:
            self.updates.append((done, total, note))

        def note(self, text: str) -> None:
            self.notes.append(text)

    progress = Recorder()
    fit(small_net, strict_task, settings(9, patience=1), after_step=Saboteur(small_net, good=1), progress=progress)
    assert {total for _, total, _ in progress.updates} == {9 * STEPS}
    assert sorted({done for done, _, _ in progress.updates}) == list(range(1, progress.updates[-1][0] + 1))
    assert next(note for _, _, note in progress.updates if note).startswith("epoch 1/9 validation loss 0.")
    assert "no better validation loss for 1 epochs" in progress.notes[0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number(small_net: nn.Module, make_task: Callable[..., Task], value: float) -> None:
    class Spoiled(nn.Module):
        def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
            return probability.mean() * value

    with pytest.raises(ModelError, match=rf"the training loss became {value} at step 1: lower lr \(0.02\)"):
        fit(small_net, make_task(loss=Spoiled()), settings(1))


def test_a_loss_that_is_no_number_is_known_by_its_step_when_it_is_looked_at_later(
    small_net: nn.Module, make_task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Spoiled(nn.Module):
        steps = 0

        def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
            self.steps += 1
            return probability.mean() * (math.nan if self.steps == 5 else 1.0)

    monkeypatch.setattr(training, "evaluate", lambda *_: Scores(0.1, {}))
    for every in (1, 2, 1000):
        monkeypatch.setattr(training, "_checked_every", lambda _, steps=every: steps)
        with pytest.raises(ModelError, match="the training loss became nan at step 5:"):
            fit(copy.deepcopy(small_net), make_task(loss=Spoiled()), settings(3))


def test_nan_in_the_data(small_net: nn.Module, make_task: Callable[..., Task]) -> None:
    task = make_task()
    task.train.tensors[0][5, 0, 0, 0] = torch.nan
    with pytest.raises(ModelError, match="the training loss became nan"):
        fit(small_net, task, settings(1))


def test_an_epoch_without_a_validation_loss_is_not_the_best(
    small_net: nn.Module, make_task: Callable[..., Task]
) -> None:
    class NanAtFirst(FocalTversky):
        validations = 0

        def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                return super().forward(probability, truth)
            self.validations += 1  # one batch each
            return torch.tensor(torch.nan) if self.validations == 1 else super().forward(probability, truth)

    history = fit(small_net, make_task(loss=NanAtFirst()), settings(4))
    losses = [epoch["validation_loss"] for epoch in history.epochs]
    assert math.isnan(losses[0])
    assert history.best_epoch == 1 + losses.index(min(losses[1:]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("is_own_loop", [False, True])
def test_what_decides_is_never_a_number(
    small_net: nn.Module, make_task: Callable[..., Task], value: float, is_own_loop: bool
) -> None:
    odd = Metric(lambda output, truth: value, higher_is_better=False)
    task = replace(make_task(), metrics={"odd": odd}, decides="odd")
    loop = Loop(fit=lambda *_: None) if is_own_loop else Loop()
    with pytest.raises(ModelError, match=f"the validation odd is {value} after every epoch, so that none is the best"):
        fit(small_net, task, settings(1, loop=loop))


def test_no_training_data(small_net: nn.Module) -> None:
    empty = TensorDataset(torch.zeros(0, 1, 16, 16), torch.zeros(0, 1, 16, 16))
    task = Task("empty", empty, empty, empty, Normalization((0.0,), (1.0,)))
    with pytest.raises(DataError, match="task 'empty' has no training sample"):
        fit(small_net, task, settings(1))


def test_no_epoch_changes_nothing(small_net: nn.Module, tiny_task: Task) -> None:
    before = copy_of(small_net)
    history = fit(small_net, tiny_task, settings(0))
    assert history.epochs == []
    assert all(torch.equal(value, before[name]) for name, value in small_net.state_dict().items())


def test_weight_decay_and_lr_reach_adamw(tiny_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.optim.Optimizer] = []

    class Spy(torch.optim.AdamW):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    rates: list[float] = []
    fit(
        UNet(widths=(2, 4)),
        tiny_task,
        settings(4, lr=0.1, weight_decay=0.3),
        after_step=lambda *_: rates.append(made[0].param_groups[0]["lr"]),
    )
    assert made[0].param_groups[0]["weight_decay"] == 0.3
    assert max(rates) == pytest.approx(0.1, rel=0.1)  # the peak of the cycle
    assert rates[-2] < 0.001  # what the last step was taken with


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_of_the_forward_pass(tiny_task: Task, precision: str, expected: torch.dtype) -> None:
    class Probe(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)
            self.seen: set[torch.dtype] = set()

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            if self.training:
                self.seen.add(x.dtype)
            return torch.sigmoid(x)

    model = Probe()
    fit(model, tiny_task, settings(1, precision=precision))
    assert model.seen == {expected}
    assert model.layer.weight.dtype == torch.float32


def test_auto_precision_asks_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    assert training.uses_bf16("bf16", "cpu")
    assert not training.uses_bf16("fp32", "cpu")
    for able in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: {"avx512_bf16": able})
        assert training.uses_bf16("auto", "cpu") is able
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda able=able: able)
        assert training.uses_bf16("auto", "cuda") is able


def test_signals_train_too() -> None:
    inputs = torch.randn(8, 1, 16)
    data = TensorDataset(inputs, (inputs > 0).to(torch.uint8))
    task = Task("signals", data, data, data, Normalization((0.0,), (1.0,)))
    history = fit(UNet(widths=(4, 8), dims=1), task, settings(60))
    assert history.best_loss < 0.7 * history.epochs[0]["validation_loss"]


class Flattening(nn.Module):
    """Classifies, and views its channels as code written for the usual order of memory does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1)
        self.head = nn.Linear(3 * 8 * 8, 1)
        self.strides: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        if self.training:
            self.strides.add(x.stride(1))
        return torch.sigmoid(self.head(x.view(len(x), -1))).view(-1, 1, 1, 1)


def test_gray_images_are_computed_channels_last(tiny_task: Task) -> None:
    strides: set[int] = set()
    model = UNet(widths=(4, 8))
    model.encoder[0][0].register_forward_hook(lambda module, _, output: strides.add(output.stride(1)))
    fit(model, tiny_task, settings(1))
    assert strides >= {1}


def test_a_model_that_views_its_channels_trains_too() -> None:
    inputs = torch.randn(16, 1, 8, 8)
    data = TensorDataset(inputs, (inputs.mean((1, 2, 3), keepdim=True) > 0).to(torch.uint8))
    model = Flattening()
    fit(model, Task("signs", data, data, data, Normalization((0.0,), (1.0,)), loss=BCE()), settings(2))
    assert model.strides == {1, 64}  # it was tried, once


@pytest.mark.parametrize(("kind", "outputs", "shape"), [("reconstruction", 2, (1, 4, 4)), ("regression", 1, ())])
def test_answers_of_another_shape_are_not_repeated(kind: str, outputs: int, shape: tuple[int, ...]) -> None:
    """Two answers for one truth, or [N, 1] for [N], broadcast in most losses."""
    pairs = [(torch.zeros(1, 4, 4), torch.ones(shape))] * 4
    task = Task("toy", pairs, pairs, pairs, Normalization((0.0,), (1.0,)), nn.MSELoss(), kind=kind)
    end = nn.Identity() if kind == "reconstruction" else nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match=r"the model returns \[4, .* truth is \[4"):
        fit(nn.Sequential(nn.Conv2d(1, outputs, 1), end), task, settings(1))


def test_the_built_in_optimizer_steps_as_adamw_does() -> None:
    """Fused, it differs by rounding alone."""
    torch.manual_seed(0)
    models = [nn.Linear(6, 3), nn.Linear(6, 3)]
    models[1].load_state_dict(models[0].state_dict())
    settings = Settings(lr=0.01, weight_decay=0.1)
    ours = settings.loop.make_optimizer(models[0].parameters(), settings)
    assert ours.defaults["fused"]
    plain = torch.optim.AdamW(models[1].parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(20):
        x = torch.randn(5, 6)
        for model, optimizer in zip(models, (ours, plain), strict=True):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(models[0].weight, models[1].weight, atol=1e-6, rtol=1e-5)

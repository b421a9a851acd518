"""What one process does when two train together; the tests run it alone too, and compare.

Started as ``torchrun distributed_worker.py FOLDER``, each process writes FOLDER/RANK.pt: its results by name.
"""

from __future__ import annotations

import copy
import itertools
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from torchshrink import quantize, stages
from torchshrink.data import open_task
from torchshrink.errors import ShrinkError
from torchshrink.losses import FocalTversky
from torchshrink.metrics import stack
from torchshrink.model.unet import UNet
from torchshrink.parallel import group
from torchshrink.parallel.whole_batch import whole_batch
from torchshrink.quantize.observer import StepMinMaxObserver
from torchshrink.task import Normalization, Samples, Task
from torchshrink.training import History, Settings, fit, imitation

Results = dict[str, Any]


def cells(train: int) -> Task:
    """Return images in double precision, in which rounding does not grow to anything in a few steps."""

    def double(samples: Samples) -> TensorDataset:
        inputs, truth = stack(samples)
        return TensorDataset(inputs.double(), truth)

    task = open_task(f"synthetic:cells?size=32&train={train}&test=8", seed=0)  # a tenth of them validates
    return replace(task, train=double(task.train), validation=double(task.validation), test=double(task.test))


def result(model: nn.Module, history: History) -> Results:
    return {"history": asdict(history), "state": {name: value.clone() for name, value in model.state_dict().items()}}


def unet(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(widths=(8, 16)).double()


def trainings() -> Results:
    """The three kinds of training, with augmentation and BatchNorm; 36 samples in batches of 16, 16 and 4."""
    task, settings, model = cells(40), Settings(4, lr=0.01, precision="fp32"), unet()
    found = {"plain": result(model, stages.train(model, task, settings))}
    pruned, history = stages.prune(model, task, settings, 0.6)
    found["pruned"] = result(pruned, history)
    prepared = quantize.prepare_qat(pruned, task.example_input)

    def after_step(step: int, steps: int) -> None:
        prepared.apply_masks()
        if step == int(stages.FROZEN_AFTER * steps):
            prepared.freeze()

    history = fit(prepared, task, settings, after_step=after_step, settled=stages.FROZEN_AFTER)
    found["qat"] = result(prepared, history)
    guided = unet(1)
    found["distilled"] = result(guided, fit(guided, task, replace(settings, epochs=1, distillation=0.5), teacher=model))
    return found


def uneven() -> Results:
    """Shares of 3 and 2 samples in the last batch."""
    model = unet()
    history = fit(model, cells(41), Settings(1, lr=1e-3, precision="fp32"))
    return {"uneven": result(model, history)}


class Contrary(nn.Module):
    """A model that starts differently in every process, keeps count of what it saw, and has a weight of no use."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(100 + group.index())
        self.layer, self.drop, self.unused = nn.Conv2d(1, 1, 3, padding=1), nn.Dropout(0.5), nn.Linear(2, 2)
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("is_used", torch.tensor(False))
        self.weights: list[Tensor] = []
        self.dropped: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.weights.append(self.layer.weight.detach().clone())
            self.seen += x.sum()
            self.is_used |= True
            self.dropped.append(self.drop(torch.ones(100)) == 0)
        return torch.sigmoid(self.layer(x))


class Opinion(FocalTversky):
    """A validation loss that differs between processes: by rank, and getting worse in all but the main one."""

    def __init__(self) -> None:
        super().__init__()
        self.evaluations = 0

    def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(probability, truth)
        self.evaluations += 1
        return torch.tensor(self.evaluations * (-1.0) ** (group.index() + 1))


def noise(count: int) -> TensorDataset:
    inputs = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    return TensorDataset(inputs, (inputs > 0).to(torch.uint8))


def task_of(train: TensorDataset, loss: nn.Module | None = None) -> Task:
    return Task("noise", train, noise(4), noise(4), Normalization((0.0,), (1.0,)), loss or FocalTversky())


def disagreement() -> Results:
    model = Contrary()
    before = copy.deepcopy(model.unused.weight)
    history = fit(model, task_of(noise(16), Opinion()), Settings(3, batch_size=8, patience=1))
    changed = not torch.equal(model.unused.weight, before)
    seen = {"weights": torch.stack(model.weights), "dropped": torch.stack(model.dropped), "unused_changed": changed}
    return {"contrary": {**result(model, history), **seen}}


def refusals() -> Results:
    found = {}
    spoiled = noise(16)
    spoiled.tensors[0][3] = torch.nan  # one process alone sees it
    for name, task, batch_size in (("nan", task_of(spoiled), 16), ("few", task_of(noise(16)), 1)):
        try:
            fit(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid()), task, Settings(1, batch_size=batch_size))
        except ShrinkError as error:
            found[name] = str(error)
    return found


class Exported(nn.Module):
    """BatchNorm as a quantized graph calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        statistics = (norm.running_mean, norm.running_var)
        return torch.ops.aten.batch_norm.default(x, norm.weight, norm.bias, *statistics, self.training, 0.1, 1e-5, True)


NORMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "images": (nn.BatchNorm2d(3), (5, 3, 2, 4)),
    "signals": (nn.BatchNorm1d(3, momentum=0.3, eps=0.1), (4, 3, 6)),
    "rows": (nn.BatchNorm1d(3), (7, 3)),
    "plain": (nn.BatchNorm2d(3, affine=False), (4, 3, 2, 2)),
    "cumulative": (nn.BatchNorm2d(3, momentum=None), (4, 3, 2, 2)),
    "without statistics": (nn.BatchNorm2d(3, track_running_stats=False), (4, 3, 2, 2)),
    "evaluating": (nn.BatchNorm2d(3).eval(), (4, 3, 2, 2)),
    "exported": (Exported(), (4, 3, 2, 2)),
}


def norms() -> Results:
    """Outputs and gradients of BatchNorms; gathered from the shares of two processes, whole in one."""
    found = {}
    for name, (norm, shape) in NORMS.items():
        module, kind = copy.deepcopy(norm).double(), type(norm)
        generator = torch.Generator().manual_seed(6)
        whole, weight = (torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 5 for _ in range(2))
        x = group.share(whole).clone().requires_grad_()
        with whole_batch():
            y = module(x)
        (y * group.share(weight)).square().sum().backward()
        group.add_gradients(module.parameters())
        assert type(module) is kind
        gradients = {key: value.grad for key, value in module.named_parameters()}
        found[name] = {"output": y.detach(), "input_gradient": x.grad, **gradients, **dict(module.named_buffers())}
        half = whole.bfloat16()
        with whole_batch():
            found[name]["dtype"] = str(copy.deepcopy(norm)(group.share(half)).dtype)
    return {"norms": found}


def ranges() -> Results:
    observer = StepMinMaxObserver(averaging_constant=0.5)
    batches = torch.tensor([[-1.0, 2.0, 3.0, -4.0], [8.0, 0.0, 6.0, 1.0]])
    for batch in batches:
        with whole_batch():
            observer(group.share(batch))
        observer.commit()
    alone = StepMinMaxObserver()
    alone(torch.full((2,), float(group.index())))  # not in a shared batch: nobody is asked
    outputs, guidance = torch.tensor([0.5, 2.0]).reshape(2, 1), torch.tensor([0.25, 0.5]).reshape(2, 1)
    with whole_batch():  # one share alone holds what is no probability
        distance = imitation(group.share(outputs), group.share(guidance))
    return {
        "range": [float(observer.min_val), float(observer.max_val)],
        "own_range": float(alone.max_val),
        "imitation": float(group.total(distance) / group.count()),
    }


def everything() -> Results:
    torch.set_num_threads(1)
    group.join()
    parts = (trainings, uneven, disagreement, refusals, norms, ranges)
    return dict(itertools.chain.from_iterable(part().items() for part in parts))


if __name__ == "__main__":
    results = everything()
    torch.save(results, Path(sys.argv[1]) / f"{group.index()}.pt")

"""How much the loss suffers when one layer alone is pruned or quantized, and what sparsity each can bear."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from torchshrink.digits import written_change
from torchshrink.errors import DataError, ModelError, RecipeError, ShrinkError
from torchshrink.metrics import Scoring
from torchshrink.model.macs import evaluating
from torchshrink.progress import SILENT, Progress
from torchshrink.prune.layers import Layer
from torchshrink.sensitivity import substitutes
from torchshrink.sensitivity.layer_info import check_plain, found_layers, sparsity
from torchshrink.task import Samples, Task, batches

AMOUNTS = (0.3, 0.5, 0.7, 0.9)
SAMPLES = 64
BUDGET = 0.01  # loss that the suggested pruning may cost before it is fine-tuned

_EVALUATIONS = 8  # of the whole model, at most, to find a suggestion


@dataclass(frozen=True)
class Sensitivity:
    """What each layer alone costs.

    Attributes:
        loss: Of the unchanged model.
        samples: Validation samples that all losses are of.
        pruned: By layer and sparsity, the loss with the layer's smallest weights set to zero, minus ``loss``.
        int8: By layer, the loss with its weights and its output in int8, minus ``loss``.
    """

    loss: float
    samples: int
    pruned: dict[str, dict[float, float]]
    int8: dict[str, float]


@dataclass(frozen=True)
class Suggestion:
    """A sparsity for each layer.

    Attributes:
        amounts: Sparsity by layer in [0, 1), for `torchshrink.prune.by_layer`.
        increase: Of the loss when all layers are pruned to it at once, without fine-tuning; at most ``budget``.
        budget: What was allowed.
    """

    amounts: dict[str, float]
    increase: float
    budget: float


class Figures(NamedTuple):
    """What decides for a task, smaller is better, and then the loss, which tells apart where that is the same."""

    cost: float
    loss: float


def measure(
    model: nn.Module,
    task: Task,
    *,
    amounts: Sequence[float] = AMOUNTS,
    samples: int = SAMPLES,
    ignore: Sequence[str] = (),
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> Sensitivity:
    """Return how much the loss rises when one layer alone is pruned, or alone computes in int8.

    Pruning sets the smallest weights of the layer to zero, as `torchshrink.prune.by_layer` does. In int8, its weights
    have one symmetric scale per output channel, in [-127, 127], and its output one affine scale from the least and
    greatest value (and zero) that some training samples cause, both faked in float. A BatchNorm or ReLU behind it,
    which `torchshrink.quantize` joins with it, is left in float here.

    The model is never copied: a layer's weight is exchanged while the loss is measured and put back, so ``model`` is
    the same afterwards, to the bit.

    Args:
        model: A float module whose masks were made permanent (`torchshrink.prune.remove`).
        task: The losses are of its validation part, the ranges of its training part; the test part is not touched.
        amounts: Sparsities to try, each in (0, 1).
        samples: How many samples of each part to use, at most; the first ones.
        ignore: Layers to leave out, as in `torchshrink.prune.magnitude`.
        batch_size: Samples per batch.
        progress: Told about every layer.

    Raises:
        ModelError: When there is no layer to prune, or one has a masked or otherwise computed weight.
        DataError: When the model cannot be evaluated on the data.
        RecipeError: When an argument is out of range.

    Source: Han et al., arXiv:1506.02626, section 3 and figure 6, by loss instead of accuracy.
    """
    if samples < 1 or not amounts or not all(0 < amount < 1 for amount in amounts):
        raise RecipeError(f"samples={samples}, amounts={list(amounts)}: needs samples, and sparsities between 0 and 1")
    found = found_layers(model, ignore)
    check_plain(found)
    progress.start("measure the sensitivity of each layer")
    with evaluating(model), torch.no_grad():
        judge = _Judge(model, task, samples, batch_size)
        ranges = substitutes.ranges(model, found, _batches(model, task.train, samples, batch_size))
        pruned: dict[str, dict[float, float]] = {}
        int8: dict[str, float] = {}
        for done, (name, layer) in enumerate(found.items()):
            progress.update(done, len(found), name or type(layer).__name__)
            without = substitutes.cutter(layer.weight, amounts)
            pruned[name] = {amount: judge.increase(layer, without(amount)) for amount in sorted(amounts)}
            with substitutes.int8_output(layer, ranges.get(name)):
                int8[name] = judge.increase(layer, substitutes.int8_weight(layer))
        progress.update(len(found), len(found))
    return Sensitivity(judge.loss, judge.samples, pruned, int8)


def suggest(
    model: nn.Module,
    task: Task,
    sensitivity: Sensitivity,
    budget: float = BUDGET,
    *,
    batch_size: int = 16,
    progress: Progress = SILENT,
) -> Suggestion:
    """Return the sparsity that each layer can bear, when the whole model may lose ``budget`` before fine-tuning.

    One threshold for all layers decides: each is pruned to the greatest measured sparsity up to which its own loss
    increase never exceeded the threshold, so that robust layers give more. The threshold is the greatest at which the
    model with *all* layers pruned at once stays within the budget, found by bisection over the measured increases and
    measured, not extrapolated: single increases do not add up. A layer keeps the zeros that it has already.

    Args:
        model: As given to `measure`; it is left as it was.
        task: As given to `measure`.
        sensitivity: Its result.
        budget: Greatest increase of the validation loss, in its own unit, at least 0.
        batch_size: Samples per batch.
        progress: Told about every evaluation of the whole model, at most 8.

    Raises:
        RecipeError: When the budget is negative or not finite.
        ModelError: When a layer is not the model's any more.
    """
    if not 0 <= budget < math.inf:
        raise RecipeError(f"budget={budget}: the loss may rise by a finite number that is not negative")
    found = found_layers(model)
    if missing := sensitivity.pruned.keys() - found.keys():
        raise ModelError(f"{type(model).__name__} has no layer {sorted(missing)[0]!r}: measure its sensitivity again")
    found = {name: found[name] for name in sensitivity.pruned}
    check_plain(found)
    worst = {name: _running_maximum(costs) for name, costs in sensitivity.pruned.items()}
    thresholds = sorted({cost for costs in worst.values() for cost in costs.values() if math.isfinite(cost)})
    zeros = {name: sparsity(layer.weight) for name, layer in found.items()}

    def choose(threshold: float) -> dict[str, float]:
        best = {name: max((a for a, cost in worst[name].items() if cost <= threshold), default=0.0) for name in found}
        return {name: max(amount, zeros[name] if zeros[name] < 1 else 0.0) for name, amount in best.items()}

    progress.start("find the sparsity that each layer can bear")
    result = Suggestion(choose(-1.0), 0.0, budget)
    with evaluating(model), torch.no_grad():
        judge = _Judge(model, task, sensitivity.samples, batch_size)
        called = set(substitutes.ranges(model, found, judge.batches[:1]))
        fits, fails = -1, len(thresholds)  # positions in thresholds
        for done in range(_EVALUATIONS):
            if fails - fits < 2:
                break
            middle = (fits + fails) // 2
            amounts = choose(thresholds[middle])
            with substitutes.all_pruned(found, amounts, called):
                increase = judge() - judge.loss
            progress.update(done + 1, _EVALUATIONS, f"loss {written_change(increase, judge.loss)}")
            if increase <= budget:
                fits, result = middle, Suggestion(amounts, increase, budget)
            else:
                fails = middle
    return result


def int8_costs(
    model: nn.Module, task: Task, samples: int = SAMPLES, batch_size: int = 16, progress: Progress = SILENT
) -> dict[str, float]:
    """Return how much the loss rises when one layer alone is int8 among float ones: its input, weights and output.

    `measure` leaves the input to the layer that makes it. Here a layer pays for both, because it does so when the
    layers around it stay float. Layers that the model never calls are left out.

    Args and Raises as `measure`.
    """
    found = int8_increases(model, task, samples, batch_size, progress)
    return {name: increase.loss for name, increase in found.items()}


def int8_increases(
    model: nn.Module, task: Task, samples: int = SAMPLES, batch_size: int = 16, progress: Progress = SILENT
) -> dict[str, Figures]:
    """Return what `int8_costs` does, and by how much what decides for the task becomes worse."""
    found = found_layers(model)
    check_plain(found)
    progress.start("measure what int8 costs in each layer")
    with evaluating(model), torch.no_grad():
        judge = _Judge(model, task, samples, batch_size)
        batches = _batches(model, task.train, samples, batch_size)
        entries, results = (
            substitutes.ranges(model, found, batches, of_inputs=True),
            substitutes.ranges(model, found, batches),
        )
        costs = {}
        before = judge.figures()
        for done, (name, limits) in enumerate(results.items()):
            progress.update(done, len(results), name or type(model).__name__)
            layer = found[name]
            with (
                substitutes.int8_input(layer, entries[name]),
                substitutes.int8_output(layer, limits),
                substitutes.replaced(layer, substitutes.int8_weight(layer)),
            ):
                now = judge.figures()
            costs[name] = Figures(now.cost - before.cost, now.loss - before.loss)
        progress.update(len(results), len(results))
    return costs


@torch.no_grad()
def loss(model: nn.Module, task: Task, samples: int = SAMPLES, batch_size: int = 16) -> float:
    """Return the loss of a module or a quantized graph on the first validation samples, as `measure` has it.

    Raises:
        DataError: When the model cannot be evaluated on the data.
    """
    with evaluating(model):
        return _Judge(model, task, samples, batch_size).loss


@torch.no_grad()
def cost(model: nn.Module, task: Task, samples: int = SAMPLES, batch_size: int = 16) -> float:
    """Return what decides for the task on the first validation samples, so that smaller is better. Raises as `loss`."""
    with evaluating(model):
        return _Judge(model, task, samples, batch_size).figures().cost


class _Judge:
    """The loss of a model on the first validation samples."""

    def __init__(self, model: nn.Module, task: Task, samples: int, batch_size: int) -> None:
        self.model, self.criterion, self.kind, self.task = model, task.loss, task.kind, task
        self.batches = _batches(model, task.validation, samples, batch_size)
        self.samples = sum(len(inputs) for inputs, _ in self.batches)
        try:
            self.loss = self()
        except ShrinkError:
            raise
        except Exception as error:  # whatever the model or the loss does with data that does not fit
            raise DataError(
                f"{task.name}: {type(model).__name__} cannot be evaluated on this data "
                f"({type(error).__name__}: {error}): use data of the kind that it was trained on"
            ) from error
        if not math.isfinite(self.loss):
            raise DataError(
                f"{task.name}: the loss of the unchanged model is {self.loss}, nothing can be compared to it"
            )

    def __call__(self) -> float:
        """Return the mean loss, each sample counting the same."""
        total = 0.0
        for inputs, truth in self.batches:
            output = tree.tree_map(Tensor.cpu, self.model(inputs))
            is_masks = self.kind == "segmentation" and torch.is_tensor(output)
            if is_masks and output.dim() == truth.dim() and output.shape != truth.shape:
                raise ValueError(f"outputs {list(output.shape[1:])} and truth {list(truth.shape[1:])} per sample")
            total += len(inputs) * float(self.criterion(output, truth))
        return total / self.samples

    def figures(self) -> Figures:
        """Return what decides for the task, and the loss."""
        if self.task.decides == "loss":
            loss = self()
            return Figures(loss, loss)
        scoring = Scoring(self.criterion, self.task.metrics)
        for inputs, truth in self.batches:
            scoring.add(tree.tree_map(Tensor.cpu, self.model(inputs)), truth)
        scores = scoring.scores()
        return Figures(scores.cost(self.task), scores.loss)

    def increase(self, layer: Layer, weight: Tensor) -> float:
        """Return how much the loss rises with another weight in a layer."""
        with substitutes.replaced(layer, weight):
            return self() - self.loss


def _running_maximum(costs: Mapping[float, float]) -> dict[float, float]:
    """Return for each sparsity the greatest cost up to it, at least 0; an unknown cost is infinite."""
    known = [0.0, *(math.inf if math.isnan(costs[amount]) else costs[amount] for amount in sorted(costs))]
    return dict(zip(sorted(costs), list(itertools.accumulate(known, max))[1:], strict=True))


def _batches(model: nn.Module, samples: Samples, count: int, batch_size: int) -> list[tuple[Tensor, Tensor]]:
    tensors = itertools.chain(model.parameters(), model.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    return [(inputs.to(device), truth) for inputs, truth in batches(samples, batch_size, count)]

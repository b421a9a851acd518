"""One small training loop, for dense training, fine-tuning while pruning, and quantization-aware training."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree
from torch.utils.data import DataLoader, Dataset

from torchshrink import kinds
from torchshrink.data.ahead import Ahead, RandomOrder
from torchshrink.digits import written
from torchshrink.errors import DataError, ModelError, RecipeError
from torchshrink.losses import imitation
from torchshrink.metrics import evaluate, loss_of
from torchshrink.model.checked import check_differentiable
from torchshrink.model.memory_format import channels_last
from torchshrink.own_loop import BUILT_IN, AfterStep, Loop, augmented, hand_over
from torchshrink.parallel import group
from torchshrink.parallel.launch import is_main
from torchshrink.parallel.whole_batch import whole_batch
from torchshrink.progress import SILENT, Progress
from torchshrink.settings import Arithmetic, Training, check
from torchshrink.task import Task, collated
from torchshrink.unlabelled import Taught, taught

_logger = logging.getLogger(__name__)
_MUCH_WAITING = 0.25  # of an epoch, for data: worth a word


@dataclass(frozen=True)
class Settings(Training):
    """How to train, as a recipe says it for one variant and for all.

    Attributes:
        distillation: Share of the loss, in [0, 1], that a teacher's outputs are the truth of.
        seed: Decides order, augmentation and dropout; dropout also depends on the number of processes.
        loop: What of the loop is the user's own.
    """

    distillation: float = 0.0
    seed: int = 0
    loop: Loop = BUILT_IN


@dataclass
class History:
    """What happened: one entry per epoch, and which epoch's weights were kept.

    Attributes:
        epochs: Training and validation loss and the task's metrics.
        best_epoch: From 1 on; 0 when none was kept.
        best_loss: Validation loss of that epoch.
        best_cost: Its figure in what decides, negated where higher is better: the validation loss, for most tasks.
    """

    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    best_cost: float = math.inf

    def to_dict(self) -> dict[str, Any]:
        """Return what is stored in a checkpoint; JSON has no infinity."""
        best = {"best_loss": self.best_loss, "best_cost": self.best_cost}
        return asdict(self) | {name: value if math.isfinite(value) else None for name, value in best.items()}


def fit(
    model: nn.Module,
    task: Task,
    settings: Settings,
    *,
    after_step: AfterStep | None = None,
    settled: float = 0.0,
    teacher: nn.Module | None = None,
    hint: Callable[[], Tensor] | None = None,
    progress: Progress = SILENT,
) -> History:
    """Train ``model`` in place and leave it, in evaluation mode, with the weights of its best epoch.

    Several processes, started by ``torchrun`` or ``accelerate launch``, share every batch and end with the same weights
    and history: up to rounding, those of one process. Two things are needed for that: a loss that is a mean over
    samples, as all of `torchshrink.losses` are, and a model in which only BatchNorm mixes samples.

    Args:
        model: Maps ``[N, C, *size]`` to whatever the task's loss takes.
        task: Gives data and loss; what decides for it, on its validation part, picks the best epoch, and the loss among
            equals.
        settings: Epochs, learning rate and so on.
        after_step: Called after each step with the number of finished steps and of all, for schedules and masks.
        settled: Share of the training after which an epoch may be the best one; before it, the model is still being
            pruned or its ranges still move.
        teacher: Imitated with the weight ``settings.distillation`` (Hinton et al., arXiv:1503.02531); left as it is.
        hint: Returns what is added to the loss of a batch after model and teacher have seen it.
        progress: Told about every step, by the main process.

    Raises:
        DataError: When the training data has no sample or not the task's kind of truth, a batch has fewer samples than
            there are processes, or loss or metrics do not take what the model gives.
        ModelError: When the loss stops being a number, what decides never is one, or answers have another shape than
            their truths.
        RecipeError: When the data has no labels and there is no teacher to imitate alone.
    """
    from accelerate.data_loader import prepare_data_loader
    from accelerate.utils import set_seed

    task.check()
    if task.kind == "unlabelled":
        task = _with_answers(task, settings, teacher)
    if settings.loop.fit is not None and settings.epochs:
        hand_over(model, task, settings, after_step)
        found = evaluate(model, task.validation, task.loss, settings.batch_size, task.metrics)
        return _decided(
            History([{"validation_loss": found.loss, **found.metrics}], 1, found.loss, found.cost(task)), task
        )
    device = group.join()
    generator = torch.Generator().manual_seed(settings.seed)
    # Every process reads whole batches and augments them alike, then takes its share.
    loader = prepare_data_loader(
        _batches(task, settings, generator), device, num_processes=1, put_on_device=True, non_blocking=True
    )
    set_seed(settings.seed + group.index())  # dropout differs between the shares of a batch
    model.to(device)
    group.align(model)
    optimizer = settings.loop.make_optimizer(model.parameters(), settings)
    steps = settings.epochs * len(loader)
    schedule = settings.loop.make_schedule(optimizer, settings, steps)
    guide = _guide(teacher, settings, device, hint is not None)
    progress = progress if is_main() else SILENT
    every = _checked_every(device)
    run = _Run(model, task, settings, optimizer, schedule, after_step, guide, progress, steps, every, hint)
    history, best = History(), None
    for epoch in range(1, settings.epochs + 1):
        train_loss = run.epoch(loader, generator)
        group.align(model)  # a layer may keep what it saw of its share
        validation = evaluate(model, task.validation, task.loss, _validated_at_once(settings, device), task.metrics)
        names = ["validation_loss", *validation.metrics]
        figures = [validation.loss, *validation.metrics.values(), validation.cost(task)]
        *shown, cost = group.agree(figures, device)
        history.epochs.append({"train_loss": train_loss, **dict(zip(names, shown, strict=True))})
        told = f"validation loss {written(shown[0])}"
        told += "" if task.decides == "loss" else f", {task.decides} {written(abs(cost))}"
        told += f", waited for data {run.waited:.0%} of the time" if run.waited > _MUCH_WAITING else ""
        progress.update(run.step, steps, f"epoch {epoch}/{settings.epochs} {told}")
        _logger.debug("epoch %d: %s", epoch, told, extra={"figures": history.epochs[-1]})
        if run.step < settled * steps:
            continue
        if (cost, shown[0]) < (history.best_cost, history.best_loss):
            history.best_loss, history.best_cost, history.best_epoch = shown[0], cost, epoch
            best = copy.deepcopy(model.state_dict())
        elif settings.patience and epoch - history.best_epoch >= settings.patience:
            progress.note(
                f"stopped after epoch {epoch}: no better validation {task.decides} for {settings.patience} epochs"
            )
            break
    if best is not None:
        model.load_state_dict(best)
    model.cpu().eval()
    return _decided(history, task)


def _decided(history: History, task: Task) -> History:
    """Return a history of which an epoch, if there was one, is known to be the best."""
    if history.epochs and not history.best_cost < math.inf:
        figure = history.epochs[-1]["validation_loss" if task.decides == "loss" else task.decides]
        raise ModelError(
            f"the validation {task.decides} is {figure:g} after every epoch, so that none is the best: let it be a "
            "number for any outputs, or let another decide"
        )
    return history


@dataclass
class _Run:
    """The state that the steps of one training share."""

    model: nn.Module
    task: Task
    settings: Settings
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    after_step: AfterStep | None
    teacher: nn.Module | None
    progress: Progress
    steps: int
    checked_every: int
    hint: Callable[[], Tensor] | None = None
    step: int = 0
    checked: int = 0  # steps whose losses were looked at
    unchecked: list[Tensor] = field(default_factory=list)  # losses of those after them, perhaps not computed yet
    total: float = 0.0
    is_channels_last: bool = True
    waited: float = 0.0  # for data, as a share of the last epoch

    def epoch(self, loader: DataLoader[tuple[Tensor, Any]], generator: torch.Generator) -> float:
        """Train on every batch once and return the mean loss."""
        self.model.train()
        self.total, began, self.waited = 0.0, time.perf_counter(), 0.0
        for inputs, truth in self._timed(loader):
            if self.task.augment is not None:
                inputs, truth = augmented(self.task.augment, inputs, truth, generator)
            self._step(inputs, truth)
            if self.after_step is not None:
                self.after_step(self.step, self.steps)
            self.progress.update(self.step, self.steps)
        self._check()
        self.waited /= time.perf_counter() - began
        return self.total / len(loader)

    def _timed(self, loader: Iterable[tuple[Tensor, Any]]) -> Iterator[tuple[Tensor, Any]]:
        began = time.perf_counter()
        for batch in loader:
            self.waited += time.perf_counter() - began
            yield batch
            began = time.perf_counter()

    def _step(self, inputs: Tensor, truth: Any) -> None:
        loss = self._loss(inputs, truth)
        self.unchecked.append(group.total(loss.detach()).reshape(()))
        if len(self.unchecked) >= self.checked_every:
            self._check()
        check_differentiable(loss, self.model)
        loss.backward()  # type: ignore[no-untyped-call]
        group.add_gradients(self.model.parameters())
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.step += 1

    def _check(self) -> None:
        """Add up the losses of the last steps, which waits until they are computed."""
        means = torch.stack(self.unchecked).tolist() if self.unchecked else []
        self.unchecked = []
        for mean in means:
            self.checked += 1
            if not math.isfinite(mean):
                raise ModelError(
                    f"the training loss became {mean} at step {self.checked}: lower lr ({self.settings.lr}), "
                    "or look for extreme values in the data"
                )
            self.total += mean

    def _loss(self, inputs: Tensor, truth: Any) -> Tensor:
        """Return what this process's share of a batch adds to the batch's mean loss."""
        whole, share = len(inputs), self.settings.distillation
        inputs, truth = group.share(inputs), tree.tree_map(group.share, truth)
        with whole_batch():
            output, guidance = self._outputs(inputs)
            output = tree.tree_map(Tensor.float, output)
            loss = torch.zeros(()) if guidance is not None and share == 1 else self._task_loss(output, truth)
            if guidance is not None:
                loss = (1 - share) * loss + share * imitation(output, tree.tree_map(Tensor.float, guidance))
            if self.hint is not None:
                loss = loss + self.hint()
        return loss * (len(inputs) / whole)

    def _task_loss(self, output: Any, truth: Any) -> Tensor:
        self._check_shapes(output, truth)
        return loss_of(self.task, output, truth)

    def _check_shapes(self, output: Any, truth: Any) -> None:
        """Refuse what a loss would compare by repeating one of the two."""
        are_alike = self.task.kind in kinds.TRUTH_LIKE and torch.is_tensor(output) and torch.is_tensor(truth)
        if are_alike and output.shape != truth.shape:
            raise ModelError(
                f"the model returns {list(output.shape)} for a batch whose truth is {list(truth.shape)}: give it one "
                "output for each channel or number of the truth, in its shape"
            )

    def _outputs(self, inputs: Tensor) -> tuple[Any, Any]:
        """Return what the model and its teacher, if it has one, make of a batch."""
        if self.is_channels_last:
            try:
                return self._asked(channels_last(inputs))
            except RuntimeError as error:
                if "view size is not compatible" not in str(error):
                    raise
                self.is_channels_last = False  # the model views tensors as if they were in the usual order
        return self._asked(inputs)

    def _asked(self, inputs: Tensor) -> tuple[Any, Any]:
        bf16 = uses_bf16(self.settings.precision, inputs.device.type)
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=bf16):
            return self.model(inputs), None if self.teacher is None else _answer(self.teacher, inputs)


@torch.no_grad()
def _answer(teacher: nn.Module, inputs: Tensor) -> Any:
    return teacher(inputs)


def _with_answers(task: Task, settings: Settings, teacher: nn.Module | None) -> Task:
    """Return an unlabelled task whose validation part has its truths from the teacher, unless it has some already."""
    if settings.epochs and (teacher is None or settings.distillation != 1):
        raise RecipeError(
            f"task {task.name!r} has no labels to be trained with: imitate a trained model, with teacher=model and "
            "distillation=1"
        )
    is_taught = isinstance(task.validation, Taught)
    return task if is_taught or teacher is None else taught(task, copy.deepcopy(teacher).cpu())


def _guide(
    teacher: nn.Module | None, settings: Settings, device: torch.device, is_looked_into: bool
) -> nn.Module | None:
    """Return a copy of the teacher that is ready to be asked; nothing when it has no say."""
    if teacher is None or (settings.distillation == 0 and not is_looked_into):
        return None
    return copy.deepcopy(teacher).to(device).eval()


def _checked_every(device: torch.device) -> int:
    """Return after how many steps their losses are looked at: to wait for each would leave an accelerator idle."""
    return 1 if device.type == "cpu" else 32


def _validated_at_once(settings: Settings, device: torch.device) -> int:
    """Return how many samples are judged together: an accelerator has room for more where no gradients are kept."""
    return settings.batch_size * (1 if device.type == "cpu" else 4)


def uses_bf16(precision: str, device: str) -> bool:
    """Return whether training computes in bfloat16; ``"auto"`` asks the hardware."""
    check("precision", precision, Arithmetic)
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _batches(task: Task, settings: Settings, generator: torch.Generator) -> DataLoader[tuple[Tensor, Any]]:
    """Return the batches of an epoch, the same in every process."""
    size, processes = len(task.train), group.count()
    if size == 0:
        raise DataError(f"task {task.name!r} has no training sample")
    if min(size, settings.batch_size) < processes:
        raise DataError(
            f"task {task.name!r} has batches of {min(size, settings.batch_size)} samples, too few for {processes} "
            "processes to share: raise batch_size, or start fewer"
        )
    # BatchNorm cannot train on a batch of one, and every process needs a share.
    drop_last = size > 1 and 0 < size % settings.batch_size < max(2, processes)
    samples = cast(Dataset[tuple[Tensor, Any]], task.train)  # a length and positions are all that it needs
    order: RandomOrder | None = None
    if getattr(samples, "is_read_ahead", False):
        samples = Ahead(samples, 2 * settings.batch_size)
        order = RandomOrder(samples, generator)
    return DataLoader(
        samples, settings.batch_size, shuffle=order is None, sampler=order, generator=generator, drop_last=drop_last,
        collate_fn=collated,
    )  # fmt: skip

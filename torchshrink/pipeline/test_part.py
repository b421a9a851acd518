"""The test part of a run, in pieces that fit into memory, and what a file's outputs for them come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils.data import default_collate

from torchshrink.metrics import Scores, Scoring, stack
from torchshrink.pipeline.artefacts import Outputs, as_list
from torchshrink.pipeline.rows import Row, confusion, kept_truth
from torchshrink.report import samples
from torchshrink.task import Task, batches

PIECE_BYTES = 1 << 26  # of inputs, truths and outputs together


class TestPart:
    """Yields inputs ``[N, C, *size]`` and truths; a part that is one piece is read once.

    Args:
        task: Whose test part it is.
    """

    __test__ = False  # for pytest, which looks for classes of this name

    def __init__(self, task: Task) -> None:
        self._task = task
        tensors = [task.example_input, *map(torch.as_tensor, tree.tree_leaves(task.example_truth))]
        answers = task.example_input.numel() * 4 * len(task.class_names) if task.kind == "multiclass" else 0
        self._step = max(1, PIECE_BYTES // (answers + sum(each.numel() * each.element_size() for each in tensors)))
        self._whole = stack(task.test) if len(task.test) <= self._step else None

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        if self._whole is not None:
            yield self._whole
        else:
            yield from batches(self._task.test, self._step)

    def first(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the inputs and truths that a report shows."""
        if self._whole is not None:
            return self._whole[0].numpy(), kept_truth(self._task, self._whole[1])
        inputs, _ = next(batches(self._task.test, samples.COUNT))
        is_small = tree.tree_leaves(self._task.example_truth)[0].dim() <= 2
        count = min(samples.MANY if is_small else samples.COUNT, len(self._task.test))
        return inputs.numpy(), kept_truth(self._task, self._truths_at(range(count)))

    def truths(self) -> Any:
        """Return all truths; of a part of several pieces, as many as a piece has, evenly spread."""
        if self._whole is not None:
            return self._whole[1]
        chosen = np.linspace(0, len(self._task.test) - 1, self._step).round().astype(int).tolist()
        return self._truths_at(chosen)

    def _truths_at(self, places: Iterable[int]) -> Any:
        return default_collate([self._task.test[index][1] for index in places])


class Tally:
    """Adds up what one file makes of the test part: its scores, its source's, how the two compare.

    Args:
        task: Says how outputs are scored.
        structure: What the model's output is built of.
    """

    def __init__(self, task: Task, structure: Any) -> None:
        self._task, self._structure = task, structure
        self._found, self._wanted = (Scoring(task.loss, task.metrics) for _ in range(2))
        self._count, self._compared = 0, 0
        self._confusion: NDArray[np.int64] | None = None
        self._kept: list[NDArray[Any]] = []
        self.parity: Row = {}

    def add(self, outputs: Outputs, truths: Any) -> None:
        """Take the file's outputs for a piece."""
        self._found.add(self._structured(outputs), truths)
        first = as_list(outputs)[0]
        if self._count < (samples.MANY if first.ndim <= 2 else samples.COUNT):
            self._kept.append(samples.first(first))
        self._count += len(first)
        if table := confusion(self._task, first, truths):
            counts = np.asarray(table["confusion"])
            self._confusion = counts if self._confusion is None else self._confusion + counts

    def compare(self, parity: Row, expected: Outputs, truths: Any) -> None:
        """Take how the outputs for a piece compare with the source's; where they are right, the source's too."""
        count = len(as_list(expected)[0])
        if parity["passed"]:
            self._wanted.add(self._structured(expected), truths)
        self.parity = merged(self.parity, parity, count / (self._compared + count)) if self.parity else parity
        self._compared += count

    @property
    def scores(self) -> Scores:
        """The file's."""
        return self._found.scores()

    @property
    def wanted(self) -> Scores:
        """The source's."""
        return self._wanted.scores()

    @property
    def outputs(self) -> NDArray[Any]:
        """What a report shows of the first output."""
        return samples.first(np.concatenate(self._kept))

    @property
    def confusion(self) -> Row:
        """How often each class was taken for each; nothing where that is not known."""
        return {} if self._confusion is None else {"confusion": self._confusion.tolist()}

    def _structured(self, outputs: Outputs) -> Any:
        tensors = [torch.from_numpy(np.asarray(output)) for output in as_list(outputs)]
        return tree.tree_unflatten(tensors, self._structure)


def merged(before: Mapping[str, Any], piece: Mapping[str, Any], share: float) -> Row:
    """Return the parity of all samples so far: the worst of each limit, means over all.

    Args:
        before: Of the pieces before.
        piece: Of the last one.
        share: Of all samples so far that are in it.
    """
    chosen = before if not before["passed"] or piece["passed"] else piece  # the first that fails says why
    result = {**chosen, "max_abs": max(before["max_abs"], piece["max_abs"])}
    for name in ("mean_abs", "lsb_match"):
        if before[name] is not None and piece[name] is not None:
            result[name] = (1 - share) * before[name] + share * piece[name]
    for name in ("noise_db", "file_noise_db"):
        known = [each[name] for each in (before, piece) if each.get(name) is not None]
        if known:
            result[name] = min(known)
    return result

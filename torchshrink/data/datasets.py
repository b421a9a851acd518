"""Tasks from any datasets of PyTorch's: what their samples are follows from the first one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from torchshrink.data import kinds
from torchshrink.errors import DataError
from torchshrink.task import Normalization, Samples, Task
from torchshrink.usercode import told

_KINDS = (*kinds.TYPES, "unlabelled", "custom")


def task_from_datasets(
    train: Any,
    test: Any,
    validation: Any = None,
    *,
    name: str = "datasets",
    kind: str | None = None,
    class_names: Sequence[str] = (),
    seed: int = 0,
    share: float = 0.1,
    **settings: Any,
) -> Task:
    """Return a task whose samples are those of datasets, as they are: normalised and augmented by their owner.

    Arrays become tensors, and numbers too: a whole one is a class (int64), one with a point a target (float32 ``[1]``).

    Args:
        train: Has a length, and gives pairs of an input ``[C, *size]`` and its truth, or inputs alone (unlabelled). Of
            a DataLoader, its dataset is used.
        test: Alike.
        validation: Alike; by default a random part of ``train``.
        name: For reports.
        kind: See `torchshrink.task.Task`; by default what the first sample shows. Truths in dictionaries or tuples, and
            inputs in them, are ``custom``.
        class_names: One per output; by default the dataset's ``classes``, or numbers up to the highest that occurs.
        seed: Chooses the validation part.
        share: Its size, as a fraction of ``train``.
        settings: Other fields of the task, such as ``loss``.

    Raises:
        DataError: When a dataset has no length, no sample, or samples that cannot be used.
    """
    if kind is not None and kind not in _KINDS:
        raise DataError(f"{name}: there is no kind {kind!r}, choose {', '.join(_KINDS)}")
    given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    parts = {part: each.dataset if isinstance(each, DataLoader) else each for part, each in given.items()}
    for part, dataset in parts.items():
        _check(f"{name}: {part}", dataset)
    train = parts["train"]
    first = _first(name, train)
    kind = kind or _kind(first)
    made = {part: PlainSamples(dataset, kind, f"{name}: {part}") for part, dataset in parts.items()}
    names = tuple(class_names) or tuple(map(str, getattr(train, "classes", ()) or ())) or _names(kind, made)
    if validation is None:
        kept, held_out = _split(made["train"], share, seed)
    else:
        kept, held_out = made["train"], made["validation"]
    settings = {"normalization": _identity(made["train"][0][0]), **settings}
    return Task(name=name, train=kept, validation=held_out, test=made["test"], class_names=names, kind=kind, **settings)


class PlainSamples(Dataset[tuple[Tensor, Tensor]]):
    """A dataset whose inputs and truths are tensors of the types that their kind has."""

    def __init__(self, dataset: Any, kind: str, origin: str) -> None:
        self._dataset, self._kind, self._origin = dataset, kind, origin

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        sample = self._dataset[index]
        if self._kind == "custom":
            return cast(tuple[Tensor, Tensor], tuple(sample))
        is_pair = isinstance(sample, tuple | list)
        inputs = _tensor(sample[0] if is_pair else sample, f"{self._origin}: the input of sample {index}")
        if inputs.dim() == 0:
            raise DataError(f"{self._origin}: the input of sample {index} is a single number: return [C, *size]")
        if inputs.dtype == torch.uint8:
            inputs = inputs / 255
        if self._kind == "unlabelled":
            return inputs.float(), torch.empty(0)
        if not is_pair or len(sample) != 2:
            raise DataError(f"{self._origin}: sample {index} is no pair of an input and its truth: return both")
        truth = _tensor(sample[1], f"{self._origin}: the truth of sample {index}")
        if self._kind == "segmentation" and truth.dim() == inputs.dim() - 1:
            truth = truth[None]  # a single class needs no channel
        return inputs.float(), _typed(truth, self._kind)


def is_dataset(found: Any) -> bool:
    """Return whether something gives samples by position, or loads such."""
    if isinstance(found, DataLoader):
        return is_dataset(found.dataset)
    return hasattr(found, "__getitem__") and hasattr(found, "__len__") and not isinstance(found, dict | str | tuple)


def _check(what: str, dataset: Any) -> None:
    if isinstance(dataset, IterableDataset) or not is_dataset(dataset):
        raise DataError(f"{what} is a {type(dataset).__name__}: give a dataset with __len__ and __getitem__")
    try:
        size = len(dataset)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{what} has no length that can be used: {told(error)}") from error
    if size == 0:
        raise DataError(f"{what} has no sample: add some")


def _first(name: str, dataset: Any) -> Any:
    try:
        return dataset[0]
    except Exception as error:  # whatever the user's dataset does
        raise DataError(f"{name}: train[0] stopped with {type(error).__name__} ({error}): mend the dataset") from error


def _kind(sample: Any) -> str:
    """Return what the first sample shows."""
    if not isinstance(sample, tuple | list):
        return "custom" if isinstance(sample, dict) else "unlabelled"
    if len(sample) != 2 or any(isinstance(part, dict | tuple | list) for part in sample):
        return "custom"
    inputs, truth = (np.asarray(part) if np.isscalar(part) else part for part in sample)
    if not all(hasattr(part, "shape") and hasattr(part, "dtype") for part in (inputs, truth)):
        return "classification"  # says what is wrong as soon as it is read
    is_real = "float" in str(truth.dtype)
    if tuple(truth.shape) in ((), (1,)):
        return "regression" if is_real else "classification"
    if tuple(truth.shape) == tuple(inputs.shape[1:]) and not is_real:
        return "segmentation" if "bool" in str(truth.dtype) else "multiclass"
    if tuple(truth.shape[1:]) == tuple(inputs.shape[1:]):
        return "segmentation" if not is_real or _is_mask(truth) else "reconstruction"
    return "regression" if len(truth.shape) == 1 and is_real else "custom"


def _is_mask(truth: Any) -> bool:
    return bool(np.isin(np.asarray(truth), (0, 1)).all())


def _tensor(value: Any, what: str) -> Tensor:
    if isinstance(value, Tensor):
        if value.is_complex() or value.is_meta or value.layout != torch.strided:
            kind = "has no values" if value.is_meta else "is complex" if value.is_complex() else f"is {value.layout}"
            raise DataError(f"{what} {kind}: return an ordinary tensor of real numbers")
        return value.detach()
    try:
        return torch.as_tensor(np.asarray(value)) if np.isscalar(value) or hasattr(value, "dtype") else _refused(value)
    except (TypeError, ValueError):
        raise DataError(
            f"{what} is a {type(value).__name__}: return a tensor, an array or a number, for images through "
            "torchvision.transforms.ToTensor()"
        ) from None


def _refused(value: Any) -> Tensor:
    raise TypeError(type(value))


def _typed(truth: Tensor, kind: str) -> Tensor:
    if kind == "segmentation":
        return truth if truth.is_floating_point() else truth.to(torch.uint8)
    if kind == "classification":
        return truth.long().reshape(()) if truth.numel() == 1 else truth.long()
    if kind == "multiclass":
        return truth.long()
    return truth.float().reshape(1) if truth.dim() == 0 else truth.float()


def _names(kind: str, parts: dict[str, PlainSamples]) -> tuple[str, ...]:
    """Return numbered names for as many outputs as the truths show."""
    if kind in ("unlabelled", "custom"):
        return ()
    if kind in ("multiclass", "classification"):
        top = max(int(part[i][1].max()) for part in parts.values() for i in range(len(part)))
        return tuple(f"class {k}" for k in range(top + 1))
    what = {"regression": "target", "reconstruction": "channel"}.get(kind, "class")
    return tuple(f"{what} {k}" for k in range(len(parts["train"][0][1])))


def _split(samples: PlainSamples, share: float, seed: int) -> tuple[Samples, Samples]:
    count = max(1, round(share * len(samples)))
    if count >= len(samples):
        raise DataError(f"setting {count} of {len(samples)} training samples aside leaves none: add samples")
    order = np.random.default_rng(seed).permutation(len(samples))
    rest, part = (Subset(samples, np.sort(chosen).tolist()) for chosen in (order[count:], order[:count]))
    return cast(Samples, rest), cast(Samples, part)


def _identity(inputs: Any) -> Normalization:
    channels = len(inputs) if isinstance(inputs, Tensor) and inputs.dim() else 0
    return Normalization((0.0,) * channels, (1.0,) * channels, "as the dataset gives it")

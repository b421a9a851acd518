"""The kinds of tasks: what a truth is, and what a task of each kind is trained for and judged by unless it says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor, nn

from torchshrink import losses
from torchshrink.errors import DataError, RecipeError
from torchshrink.meters import Metric, metric
from torchshrink.settings import Budget, Kind

Names = tuple[str, ...]

_METRICS: dict[str, Names] = {
    "segmentation": ("dice", "iou"),
    "multiclass": ("iou", "dice", "accuracy"),
    "classification": ("accuracy", "f1"),
    "regression": ("mae", "rmse", "r2"),
    "reconstruction": ("psnr", "rmse"),
    "unlabelled": ("distance",),
    "custom": (),
}
_LOSSES = {
    "segmentation": "focal_tversky",
    "multiclass": "CrossEntropyLoss",
    "classification": "CrossEntropyLoss",
    "regression": "MSELoss",
    "reconstruction": "MSELoss",
    "custom": "MSELoss",
}


TRUTH_LIKE = ("segmentation", "regression", "reconstruction")  # kinds whose answers have the shape of their truths


def check(kind: str) -> None:
    """Raise RecipeError when there is no such kind."""
    if kind not in get_args(Kind):
        raise RecipeError(f"task kind {kind!r}: expected one of {', '.join(get_args(Kind))}")


def loss(kind: str) -> nn.Module:
    """Return what a task of a kind is trained for unless it says."""
    return losses.Imitation() if kind == "unlabelled" else losses.build(_LOSSES[kind])


def metrics(kind: str) -> Mapping[str, Metric]:
    """Return what a task of a kind is judged by unless it says; the first one decides, of segmentation the loss."""
    return {name: metric(name) for name in _METRICS[kind]}


def decides(kind: str, names: Names) -> str:
    """Return which of a task's metrics decides unless it says."""
    return "loss" if kind == "segmentation" or not names else names[0]


def budget(kind: str, higher_is_better: bool) -> Budget:
    """Return how much worse a file may be unless the task says.

    A dense model is at no distance from itself, so that a share of that would allow nothing.
    """
    if kind == "unlabelled":
        return Budget(0.05, is_share=False)
    return Budget(0.01 if higher_is_better else 0.05)


def check_truth(name: str, kind: str, inputs: Tensor, truth: Any) -> None:
    """Refuse data whose truth is not of the task's kind.

    Args:
        name: Of the task.
        kind: One of `Kind`.
        inputs: One sample, ``[C, *size]``.
        truth: Its truth.

    Raises:
        DataError: Saying what is expected.
    """
    if kind in ("custom", "unlabelled"):
        return
    tensor = truth if torch.is_tensor(truth) else torch.as_tensor(truth) if isinstance(truth, int | float) else None
    is_integer = tensor is not None and not tensor.is_floating_point() and not tensor.is_complex()
    size = inputs.shape[1:]
    fits = (
        tensor is not None
        and {
            "segmentation": tensor.dim() == inputs.dim(),
            "multiclass": is_integer and tensor.shape == size,
            "classification": is_integer and tensor.dim() == 0,
            "regression": not is_integer and tensor.dim() <= 1 and tensor.numel() > 0,
            "reconstruction": not is_integer and tensor.dim() == inputs.dim(),
        }[kind]
    )
    if not fits:
        shape = f"{tensor.dtype} of shape {list(tensor.shape)}" if tensor is not None else f"a {type(truth).__name__}"
        raise DataError(
            f"task {name!r} is of kind {kind}, whose truth is {_TRUTHS[kind]}; its first one is {shape}: change the "
            "data or the kind (custom takes any truth, with your own loss and metrics)"
        )


_TRUTHS = {
    "segmentation": "0 and 1 for each class and position, [K, *size]",
    "multiclass": "the number of a class at each position, integers of shape [*size]",
    "classification": "the number of a class, an integer of shape []",
    "regression": "one or more numbers, float of shape [K]",
    "reconstruction": "what the output should be, float of shape [C, *size]",
}

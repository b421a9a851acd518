"""Segmentation losses over probabilities (Focal-Tversky, Tversky, Dice, binary cross-entropy), and those of torch.nn.

Each of ours is computed per sample and channel and then averaged, so that the value over a data set depends neither on
the batch size nor on the order. A truth that is empty costs ``1 - smooth / (smooth + beta * FP)``: 0 when nothing is
predicted, towards 1 the more is.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from torchshrink.errors import RecipeError
from torchshrink.parallel.whole_batch import extremes

_ROUNDING = 0.01  # by which a probability may be beyond 0 or 1
_SURE = 1 / 512  # half a step of an int8 probability


def tversky_index(
    probability: Tensor, truth: Tensor, alpha: float = 0.7, beta: float = 0.3, smooth: float = 1.0
) -> Tensor:
    """Return the Tversky index of every sample and channel.

    ``(TP + smooth) / (TP + alpha * FN + beta * FP + smooth)`` with soft counts over the positions.

    Args:
        probability: ``[N, C, *size]`` in [0, 1].
        truth: ``[N, C, *size]`` of 0 and 1.
        alpha: Weight of false negatives.
        beta: Weight of false positives.
        smooth: Positions added on both sides; it decides what an empty truth costs.

    Returns:
        ``[N, C]`` in [0, 1]; 1 is a perfect match.

    Source: Salehi, Erdogmus and Gholipour, arXiv:1706.05721, equation 3; alpha and beta as in Abraham and Khan.
    """
    probability, truth = probability.float().flatten(2), truth.float().flatten(2)
    true_positive = (probability * truth).sum(-1)
    false_negative = ((1 - probability) * truth).sum(-1)
    false_positive = (probability * (1 - truth)).sum(-1)
    return (true_positive + smooth) / (true_positive + alpha * false_negative + beta * false_positive + smooth)


class FocalTversky(nn.Module):
    """``mean((1 - TI) ** gamma)`` over samples and channels, TI the Tversky index.

    With ``gamma < 1`` the gradient grows where the overlap is already good, which sharpens small structures.

    Args:
        alpha: Weight of false negatives.
        beta: Weight of false positives.
        gamma: The exponent itself; the paper writes it as ``1 / gamma`` with ``gamma = 4/3``.
        smooth: Positions added to both sides of the index, see `tversky_index`.

    Raises:
        RecipeError: When a weight is negative or ``gamma`` or ``smooth`` is not positive.

    Source: Abraham and Khan, arXiv:1810.07842, equation 4.

    >>> import torch
    >>> FocalTversky()(torch.ones(1, 1, 4), torch.ones(1, 1, 4)).item()
    0.0
    """

    def __init__(self, alpha: float = 0.7, beta: float = 0.3, gamma: float = 0.75, smooth: float = 1.0) -> None:
        super().__init__()
        is_finite = all(map(math.isfinite, (alpha, beta, gamma, smooth)))
        if not is_finite or min(alpha, beta) < 0 or min(gamma, smooth) <= 0:
            raise RecipeError(
                f"alpha={alpha}, beta={beta}, gamma={gamma}, smooth={smooth}: alpha and beta must not be negative, "
                "gamma and smooth must be positive, and all of them finite"
            )
        self.alpha, self.beta, self.gamma, self.smooth = alpha, beta, gamma, smooth

    def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
        """Return the scalar loss of ``[N, C, *size]`` probabilities against a truth of the same shape."""
        index = tversky_index(probability, truth, self.alpha, self.beta, self.smooth)
        # A perfect sample has no slope under gamma < 1 but an infinite one on paper: keep it finite.
        return (1 - index).clamp_min(0).add(1e-8).pow(self.gamma).sub(1e-8**self.gamma).mean()


class Tversky(FocalTversky):
    """``mean(1 - TI)``: Focal-Tversky with ``gamma = 1``. Source: Salehi et al., arXiv:1706.05721."""

    def __init__(self, alpha: float = 0.7, beta: float = 0.3, smooth: float = 1.0) -> None:
        super().__init__(alpha, beta, 1.0, smooth)


class Dice(Tversky):
    """``mean(1 - dice)``: Tversky with ``alpha = beta = 0.5``. Source: Milletari et al., arXiv:1606.04797."""

    def __init__(self, smooth: float = 1.0) -> None:
        super().__init__(0.5, 0.5, smooth)


class BCE(nn.Module):
    """Binary cross-entropy of probabilities, averaged over everything; logarithms are clamped at -100."""

    def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
        """Return the scalar loss of ``[N, C, *size]`` probabilities against a truth of the same shape."""
        return nn.functional.binary_cross_entropy(probability.float(), truth.float())


BY_NAME: dict[str, type[nn.Module]] = {
    "focal_tversky": FocalTversky,
    "tversky": Tversky,
    "dice": Dice,
    "bce": BCE,
}


class TorchLoss(nn.Module):
    """A loss of `torch.nn`, given its truth as it wants it.

    Truths become the outputs' type and, where they hold as many numbers, their shape, which would else be broadcast:
    ``[N]`` against ``[N, 1]``. Class numbers become int64.

    Args:
        name: Such as ``CrossEntropyLoss``.
        settings: Its own; lists become tensors, as for ``weight``.

    Raises:
        RecipeError: When torch has no such loss or it has no such setting.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        super().__init__()
        kind = getattr(nn, name, None)
        if name not in _of_torch() or kind is None:
            raise RecipeError(
                f"unknown loss {name!r}: expected one of {', '.join(BY_NAME)}, a loss of torch.nn such as "
                "CrossEntropyLoss or MSELoss, module:callable, or teacher"
            )
        self.name = name
        tensors = {key: torch.tensor(value) if isinstance(value, list) else value for key, value in settings.items()}
        try:
            self.loss = kind(**tensors)
        except TypeError as error:
            raise RecipeError(f"loss {name!r} does not take {settings}: {error}") from None

    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        """Return the loss of outputs ``[N, ...]`` against truths."""
        if self.name in _OF_CLASSES and not truth.is_floating_point():
            truth = truth.long()
        elif self.name not in _OF_CLASSES:
            truth = truth.to(output.dtype)
            truth = truth.reshape(output.shape) if truth.numel() == output.numel() else truth
        found: Tensor = self.loss(output, truth)
        return found


def imitation(output: Any, guidance: Any) -> Tensor:
    """Return how far a model is from its teacher, a scalar that is 0 where they agree.

    Probabilities are compared by the mean Kullback-Leibler divergence of each one's two outcomes, any other outputs by
    the mean squared error. Both are tensors of one shape, or structures of them, whose distances are added up.
    """
    pairs = zip(tree.tree_leaves(output), tree.tree_leaves(guidance), strict=True)
    first, *others = [_imitation(ours, theirs) for ours, theirs in pairs]
    return sum(others, first)


def _imitation(output: Tensor, guidance: Tensor) -> Tensor:
    low, high = torch.stack([output.detach(), guidance]).aminmax()
    low, high = extremes(low, high)
    are_others = (low < -_ROUNDING) | (high > 1 + _ROUNDING)
    distance = (output - guidance).square().mean()
    # Quantized probabilities can be exactly 0, where the divergence and its gradient have no bound.
    output, guidance = (tensor.clamp(_SURE, 1 - _SURE) for tensor in (output, guidance))
    entropy = nn.functional.binary_cross_entropy(guidance, guidance)
    divergence = nn.functional.binary_cross_entropy(output, guidance) - entropy
    return torch.where(are_others, distance, divergence)  # an accelerator need not be waited for


class Imitation(nn.Module):
    """How far outputs are from those of the model that they are to be like, see `imitation`."""

    def forward(self, output: Any, truth: Any) -> Tensor:
        """Return the scalar distance of outputs from those of another model."""
        return imitation(output, truth)


_OF_CLASSES = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss", "MultiLabelMarginLoss")


def _of_torch() -> list[str]:
    """Return the losses of torch that take an output and a truth."""
    others = ("TripletMarginLoss", "TripletMarginWithDistanceLoss", "CTCLoss", "AdaptiveLogSoftmaxWithLoss",
              "CosineEmbeddingLoss", "MarginRankingLoss", "GaussianNLLLoss")  # fmt: skip
    return [name for name in dir(nn) if name.endswith("Loss") and name not in others]


def build(name: str, **settings: Any) -> nn.Module:
    """Return the loss called ``name`` with its settings: ours, or one of `torch.nn`.

    Raises:
        RecipeError: When there is no such loss or it has no such setting.
    """
    if name not in BY_NAME:
        return TorchLoss(name, **settings)
    try:
        return BY_NAME[name](**settings)
    except TypeError as error:
        raise RecipeError(f"loss {name!r} does not take {settings}: {error}") from None


def name_of(loss: Any) -> str:
    """Return what reports call a loss."""
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or type(loss).__name__)

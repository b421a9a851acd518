"""Set weights to zero and keep them there: magnitude pruning on top of torch.nn.utils.prune."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from torchshrink.errors import RecipeError

Scope = Literal["global", "layer"]
Layer = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.Linear
PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


def magnitude(model: nn.Module, amount: float, scope: Scope = "global") -> nn.Module:
    """Mask the smallest weights of ``model``, in place, until ``amount`` of all are zero.

    Weights that are zero already count, so calling it again with a greater ``amount`` prunes further. The masks are
    those of `torch.nn.utils.prune`: forward and training respect them, `remove` makes them permanent.

    Args:
        model: Any module; the weights of its convolutions (transposed ones too) and linear layers are pruned.
        amount: The sparsity to reach, in [0, 1).
        scope: ``"global"`` compares weights across layers and reaches at least ``amount``; ``"layer"`` prunes every
            layer to the nearest whole number of weights.

    Returns:
        ``model`` itself.

    Raises:
        RecipeError: When an argument is out of range or nothing can be pruned.

    Source: Han et al., arXiv:1506.02626.

    >>> round(sparsity(magnitude(nn.Linear(10, 10), 0.8)), 2)
    0.8
    """
    if not 0 <= amount < 1:
        raise RecipeError(f"amount={amount}: the share of weights to prune must be at least 0 and less than 1")
    if scope not in ("global", "layer"):
        raise RecipeError(f"scope={scope!r}: expected 'global' or 'layer'")
    layers = prunable_layers(model)
    if not layers:
        raise RecipeError(f"{type(model).__name__} has no convolution or linear layer to prune")
    remove(model)
    parameters = [(layer, "weight") for layer in layers.values()]
    if scope == "global":
        size = sum(layer.weight.numel() for layer in layers.values())
        count = min(math.ceil(round(amount * size, 6)), size - 1)  # 0.1 * 30 is 3.0000000000000004
        torch_prune.global_unstructured(parameters, torch_prune.L1Unstructured, amount=count)
    else:
        for layer, name in parameters:
            torch_prune.l1_unstructured(layer, name, round(amount * layer.weight.numel()))
    return model


def remove(model: nn.Module) -> nn.Module:
    """Make the masks permanent, in place: the weights are plain parameters again, with exact zeros. Returns it."""
    for layer in prunable_layers(model).values():
        if torch_prune.is_pruned(layer) and hasattr(layer, "weight_mask"):
            torch_prune.remove(layer, "weight")
            layer.weight.data.add_(0.0)  # a masked negative weight is -0.0: other bytes for the same number
    return model


def keep_zeros(model: nn.Module) -> nn.Module:
    """Mask the weights that are exactly zero, in place, so that more training leaves them zero. Returns the model."""
    for layer in prunable_layers(model).values():
        if not hasattr(layer, "weight_mask") and bool((layer.weight == 0).any()):
            torch_prune.custom_from_mask(layer, "weight", layer.weight != 0)
    return model


def prunable_layers(model: nn.Module) -> dict[str, Layer]:
    """Return the layers whose weights can be pruned, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PRUNABLE)}


def sparsity(model: nn.Module) -> float:
    """Return the share of exact zeros among the prunable weights, in [0, 1]."""
    weights: list[Tensor] = [layer.weight for layer in prunable_layers(model).values()]
    total = sum(weight.numel() for weight in weights)
    return sum(int((weight == 0).sum()) for weight in weights) / max(total, 1)


@dataclass
class Schedule:
    """Prune gradually while training: call `step` once per optimizer step.

    Attributes:
        initial: Sparsity at ``begin``.
        final: Sparsity from ``end`` on.
        begin: First step that prunes.
        end: Step that reaches ``final``.
        power: 3 prunes fast while much is redundant and slowly towards the end; 1 is linear.
        every: Steps between two prunings.
        scope: As in `magnitude`.

    Source: Zhu and Gupta, arXiv:1710.01878, equation 1.
    """

    initial: float
    final: float
    begin: int
    end: int
    power: float = 3.0
    every: int = 10
    scope: Scope = "global"

    def __post_init__(self) -> None:
        if not 0 <= self.initial <= self.final < 1 or not 0 <= self.begin <= self.end or self.every < 1:
            raise RecipeError(
                f"schedule from {self.initial} to {self.final} in steps {self.begin}..{self.end}, every {self.every}: "
                "expected 0 <= initial <= final < 1, 0 <= begin <= end and every >= 1"
            )

    @classmethod
    def polynomial(
        cls, initial: float, final: float, begin: int, end: int, power: float = 3.0, scope: Scope = "global"
    ) -> Schedule:
        """Return the schedule ``final + (initial - final) * (1 - progress) ** power``, pruned about 50 times."""
        return cls(initial, final, begin, end, power, max(1, (end - begin) // 50), scope)

    def amount(self, step: int) -> float:
        """Return the sparsity that is due at ``step``."""
        if step >= self.end:
            return self.final
        if step <= self.begin:
            return self.initial
        progress = (step - self.begin) / (self.end - self.begin)
        return self.final + float((self.initial - self.final) * (1 - progress) ** self.power)

    def step(self, model: nn.Module, step: int) -> None:
        """Prune ``model`` to the sparsity due at ``step``, when it is one that prunes."""
        is_due = self.begin <= step < self.end and (step - self.begin) % self.every == 0
        if is_due or step == self.end:
            magnitude(model, self.amount(step), self.scope)

"""What two networks make at the same resolution, compared through 1x1 convolutions that are thrown away afterwards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchshrink.errors import RecipeError
from torchshrink.model.blocks import CONV
from torchshrink.model.macs import evaluating

_ADAPTERS = "feature_adapters"  # what they are called in the student while it is taught
_LEAST = 1e-6


class Features:
    """The last features of student and teacher at each resolution that both have.

    The student keeps the adapters while it is taught, so that whatever trains it trains them, until `remove`.

    Args:
        student: To be trained.
        teacher: A copy that may keep hooks.
        example: ``[1, C, *size]``.
        weight: Of the distance in the loss.

    Raises:
        RecipeError: When they have no resolution in common.

    Source: Romero et al., arXiv:1412.6550, equation 3, over several layers, each divided by the variance of the
    teacher's features, so that one weight fits all.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, example: Tensor, weight: float) -> None:
        ours, theirs = _last_by_size(student, example), _last_by_size(teacher, example)
        sizes = [size for size in ours if size in theirs]
        if not sizes:
            raise RecipeError(
                f"features={weight}: student and teacher have no features of the same size before their outputs; "
                "leave features out"
            )
        self._student, self._weight = student, weight
        self._seen: dict[tuple[str, int], Tensor] = {}
        conv = CONV[example.dim() - 2]
        student.add_module(
            _ADAPTERS, nn.ModuleList(conv(ours[size][1], theirs[size][1], 1, bias=False) for size in sizes)
        )
        self._hooks = [
            model.get_submodule(found[size][0]).register_forward_hook(self._keep((who, place)))
            for who, model, found in (("student", student, ours), ("teacher", teacher, theirs))
            for place, size in enumerate(sizes)
        ]

    def __call__(self) -> Tensor:
        """Return the weighted distance of the last forward passes of both, a scalar."""
        adapters: Any = self._student.get_submodule(_ADAPTERS)
        found = []
        for place, adapter in enumerate(adapters):
            ours, theirs = self._seen["student", place].float(), self._seen["teacher", place].float()
            found.append((adapter(ours) - theirs).square().mean() / theirs.var().clamp_min(_LEAST))
        self._seen.clear()
        return self._weight * torch.stack(found).mean()

    def remove(self) -> None:
        """Take adapters and hooks out again."""
        for hook in self._hooks:
            hook.remove()
        delattr(self._student, _ADAPTERS)

    def _keep(self, key: tuple[str, int]) -> Callable[..., None]:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._seen[key] = output

        return keep


def _last_by_size(model: nn.Module, example: Tensor) -> dict[tuple[int, ...], tuple[str, int]]:
    """Return by resolution the layer that computes there last, and its channels; the output's own do not count."""
    called: list[tuple[str, nn.Module, Any]] = []
    leaves = {name: module for name, module in model.named_modules() if not any(module.children())}

    def noted(name: str) -> Callable[..., None]:
        def note(module: nn.Module, _inputs: Any, output: Any) -> None:
            called.append((name, module, output))

        return note

    hooks = [module.register_forward_hook(noted(name)) for name, module in leaves.items()]
    try:
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    weighted = [place for place, (_, module, _) in enumerate(called) if any(True for _ in module.parameters())]
    before_head = called[: weighted[-1]] if weighted else []
    return {
        tuple(output.shape[2:]): (name, output.shape[1])
        for name, _, output in before_head
        if isinstance(output, Tensor) and output.dim() == example.dim()
    }

"""A candidate as a recipe: the dense model, then one step after the other, which `torchshrink run` repeats exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchshrink.pipeline.recipe import Channels, Dense, Pruning, Qat, Recipe, Search, Variant
from torchshrink.search.space import LEAST_SPARSITY, Choices, Resolved, shares
from torchshrink.settings import Importance

FORMATS = {"litert": "tflite", "onnxruntime": "onnx"}
_IMPORTANCE: Importance = "taylor"


@dataclass(frozen=True)
class Candidate:
    """A recipe whose variants are made one after the other.

    Attributes:
        recipe: The whole of it; the last variant is what ships.
        rungs: The names of the variants that are made in each part of the fine-tuning, the dense model in the first,
            quantization in the last.
        epochs: Of fine-tuning at the end of each rung.
    """

    recipe: Recipe
    rungs: tuple[tuple[str, ...], ...]
    epochs: tuple[int, ...]

    @property
    def name(self) -> str:
        """Return the variant that ships."""
        return self.rungs[-1][-1]


@dataclass(frozen=True)
class Plan:
    """Makes candidates that start from the trained dense model.

    Attributes:
        base: The recipe whose first variant is the dense model.
        space: What settings are drawn from.
        search: How long to train.
        target: ``"litert"`` or ``"onnxruntime"``.
        checkpoint: The dense model's weights.
        reference: The dense float file, which latency is compared with.
    """

    base: Recipe
    space: Resolved
    search: Search
    target: str
    checkpoint: Path
    reference: Path

    def __call__(self, settings: Choices) -> Candidate:
        """Return the candidate with these settings."""
        return make(self.base, settings, self.space, self.search, self.target, checkpoint=str(self.checkpoint))


def make(
    base: Recipe,
    settings: Choices,
    space: Resolved,
    search: Search,
    target: str,
    *,
    checkpoint: str | None = None,
    is_final: bool = False,
) -> Candidate:
    """Return the candidate with these settings.

    Args:
        base: Whose first variant is the dense model.
        settings: Of `space.draw`.
        space: What they were drawn from.
        search: How long to train.
        target: ``"litert"`` or ``"onnxruntime"``.
        checkpoint: The dense model's weights, when it is not to be trained again.
        is_final: Train for as long as the recommended model.
    """
    first, dense = next(iter(base.variants.items()))
    if checkpoint is not None:
        dense = Variant(train=Dense(epochs=0))
        base = base.model_copy(update={"model": base.model.model_copy(update={"checkpoint": checkpoint})})
    epochs = max(1, round((search.final_epochs if is_final else search.epochs) * settings["length"]))
    parts = _parts(epochs, search.rungs, search.reduction)
    variants, source, rungs = {first: dense}, first, [[first]]
    for index, part in enumerate(parts):
        if index > 0:
            rungs.append([])
        for name, step in _steps(settings, space, part, index, index == len(parts) - 1):
            variants[name] = Variant.model_validate({"from": source, **step})
            source = name
            rungs[-1].append(name)
    if settings["int8"] == "qat":
        qat = Qat(epochs=search.final_qat_epochs if is_final else search.qat_epochs)
        variants["int8"] = Variant.model_validate({"from": source, "qat": qat})
        rungs[-1].append("int8")
    for name in list(variants)[1:-1]:  # steps on the way
        variants[name] = variants[name].model_copy(update={"export": False})
    changed = {
        "variants": variants,
        "distillation": settings["distillation"],
        "keep_float": space.kept[: settings["keep_float"]],
        "formats": (FORMATS[target],),
        "precisions": ("fp32", "int8") if is_final else ("int8",),
    }
    done = tuple(sum(parts[: index + 1]) for index in range(len(parts)))
    return Candidate(base.model_copy(update=changed), tuple(tuple(names) for names in rungs), done)


def narrow(base: Recipe, space: Resolved, share: float, target: str, checkpoint: str) -> Candidate:
    """Return the dense model without a share of its channels, in int8, with no training at all."""
    first = next(iter(base.variants))
    amounts = {name: share for stage in space.stages for name in stage.layers}
    step = Channels(amounts=amounts, round_to=space.round_to[0], epochs=0)
    variants = {
        first: Variant(train=Dense(epochs=0)),
        "narrow": Variant.model_validate({"from": first, "channels": step}),
    }
    changed = {
        "variants": variants,
        "model": base.model.model_copy(update={"checkpoint": checkpoint}),
        "formats": (FORMATS[target],),
        "precisions": ("int8",),
    }
    return Candidate(base.model_copy(update=changed), ((first, "narrow"),), (0,))


def _steps(
    settings: Choices, space: Resolved, epochs: int, index: int, is_last: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Return the variants of one rung: channels go in the first, weights in the last."""
    removed = shares(settings, space) if index == 0 else {}
    is_pruned = is_last and settings["sparsity"] >= LEAST_SPARSITY
    if removed and is_pruned:  # the only rung
        epochs = max(1, epochs // 2)
    steps: list[tuple[str, dict[str, Any]]] = []
    if removed:
        step = Channels(
            amounts=removed, importance=_IMPORTANCE, round_to=settings["round_to"], epochs=epochs, lr=settings["lr"]
        )
        steps.append(("slim", {"channels": step}))
    if is_pruned:
        amount = round(settings["sparsity"], 4)
        pruning = Pruning(amount=amount, method=settings["pattern"], epochs=epochs, lr=settings["lr"])
        steps.append(("sparse", {"prune": pruning}))
    return steps or [(f"tuned-{index + 1}", {"train": Dense(epochs=epochs, lr=settings["lr"])})]


def _parts(epochs: int, rungs: int, reduction: int) -> list[int]:
    """Return the epochs of each rung: each ends at ``reduction`` times the epochs of the one before.

    >>> _parts(16, 3, 2)
    [4, 4, 8]
    >>> _parts(5, 3, 2)
    [1, 1, 3]
    >>> _parts(1, 3, 2)
    [1]
    """
    ends = [max(1, round(epochs / reduction ** (rungs - 1 - index))) for index in range(rungs)]
    ends = sorted(set(ends))
    return [end - before for end, before in zip(ends, [0, *ends], strict=False)]

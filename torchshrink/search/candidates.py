"""A candidate as a recipe: the dense model, then one step after the other, which `torchshrink run` repeats exactly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchshrink.pipeline.recipe import Recipe, Search, Variant
from torchshrink.pipeline.stage_settings import Channels, Dense, Pruning, Qat
from torchshrink.search import students
from torchshrink.search.space import LEAST_SPARSITY, Choices, Resolved, is_student, shares
from torchshrink.settings import Importance

FORMATS = {"litert": "tflite", "onnxruntime": "onnx", "micro": "tflite"}
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
    """Makes candidates.

    Attributes:
        base: The recipe whose first variant is the dense model.
        space: What settings are drawn from.
        search: How long to train.
        target: ``"litert"``, ``"onnxruntime"`` or ``"micro"``.
        checkpoint: The trained dense model's weights.
        reference: The dense float file, which latency is compared with.
        costs: What operators cost on the processor that latency is of, if not this one.
    """

    base: Recipe
    space: Resolved
    search: Search
    target: str
    checkpoint: Path
    reference: Path
    costs: Path | None = None

    def __call__(self, settings: Choices) -> Candidate:
        """Return the candidate with these settings, which starts from the trained dense model."""
        epochs, qat_epochs = self.search.epochs, self.search.qat_epochs
        return self._make(self._trained(), settings, epochs, qat_epochs, ("int8",), self.search.rungs)

    def final(self, settings: Choices) -> Candidate:
        """Return the candidate that trains for as long as the recommended model, in one go, the dense model too."""
        epochs, qat_epochs = self.search.final_epochs, self.search.final_qat_epochs
        return self._make(self.base, settings, epochs, qat_epochs, ("fp32", "int8"), most_rungs=1)

    def narrow(self, share: float) -> Candidate:
        """Return the dense model without a share of its channels, in int8, with no training at all."""
        base = self._trained()
        first = next(iter(base.variants))
        amounts = {name: share for stage in self.space.stages for name in stage.layers}
        step = Channels(amounts=amounts, round_to=self.space.round_to[0], epochs=0)
        variants = {**base.variants, "narrow": Variant.model_validate({"from": first, "channels": step})}
        changed = {"variants": variants, "formats": (FORMATS[self.target],), "precisions": ("int8",)}
        return Candidate(base.model_copy(update=changed), ((first, "narrow"),), (0,))

    def _trained(self) -> Recipe:
        """Return the recipe of the dense model alone, which is not to be trained again."""
        model = self.base.model.model_copy(update={"checkpoint": str(self.checkpoint)})
        variants = {next(iter(self.base.variants)): Variant(train=Dense(epochs=0))}
        return self.base.model_copy(update={"model": model, "variants": variants})

    def _make(
        self,
        base: Recipe,
        settings: Choices,
        epochs: int,
        qat_epochs: int,
        precisions: tuple[str, ...],
        most_rungs: int,
    ) -> Candidate:
        first, dense = next(iter(base.variants.items()))
        epochs = max(1, round(epochs * settings["length"]))
        parts = _parts(epochs, most_rungs, self.search.reduction)
        variants, source, rungs = {first: dense}, first, [[first]]
        for index, part in enumerate(parts):
            if index > 0:
                rungs.append([])
            for name, step in _steps(settings, self.space, part, index, index == len(parts) - 1):
                variants[name] = Variant.model_validate({"from": source, **step})
                source = name
                rungs[-1].append(name)
        if settings["int8"] == "qat":
            variants["int8"] = Variant.model_validate({"from": source, "qat": Qat(epochs=qat_epochs)})
            rungs[-1].append("int8")
        for name in list(variants)[1:-1]:  # steps on the way
            variants[name] = variants[name].model_copy(update={"export": False})
        changed = {
            "variants": variants,
            "distillation": settings["distillation"],
            "keep_float": self.space.kept[: settings["keep_float"]],
            "formats": (FORMATS[self.target],),
            "precisions": precisions,
        }
        done = tuple(sum(parts[: index + 1]) for index in range(len(parts)))
        return Candidate(base.model_copy(update=changed), tuple(map(tuple, rungs)), done)


def _steps(
    settings: Choices, space: Resolved, epochs: int, index: int, is_last: bool
) -> list[tuple[str, dict[str, Any]]]:
    """Return the variants of one rung: channels go, or students come, in the first, weights go in the last."""
    is_taught = index == 0 and is_student(settings)
    removed = shares(settings, space) if index == 0 else {}
    is_pruned = is_last and settings["sparsity"] >= LEAST_SPARSITY
    if (removed or is_taught) and is_pruned:  # the only rung
        epochs = max(1, epochs // 2)
    steps: list[tuple[str, dict[str, Any]]] = []
    if removed:
        removing = Channels(
            amounts=removed, importance=_IMPORTANCE, round_to=settings["round_to"], epochs=epochs, lr=settings["lr"]
        )
        steps.append(("slim", {"channels": removing}))
    if is_taught and space.student is not None:
        share = settings["distillation"]
        step = students.step(settings, space.student, epochs=epochs, lr=settings["lr"], distillation=share)
        steps.append(("student", {"student": step}))
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

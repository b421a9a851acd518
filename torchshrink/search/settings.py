"""What a recipe says of a search: what may vary, and how long each candidate is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from torchshrink.strict import Strict


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the least, {bounds[0]:g}, is more than the greatest, {bounds[1]:g}")
    return bounds


Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_ordered)]
Rates = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]


class Space(Strict):
    """What may vary between candidates; what is left out follows from the sensitivity of each layer.

    Attributes:
        channels: Least and greatest share of the channels to remove.
        stage_spread: How far a stage's share may be from it, up and down; a stage is what computes at one resolution.
        round_to: What the channels that remain in a layer are multiples of.
        sparsity: Least and greatest share of the remaining weights that become zero; less than 0.55 prunes none,
            because it would make no int8 file smaller.
        pattern: How weights are pruned, as `torchshrink.prune.methods.method` names it.
        int8: Trained (``"qat"``) or calibrated (``"ptq"``).
        keep_float: How many of the layers that int8 hurts most may stay float.
        distillation: Share of the loss that the dense model's outputs make in every fine-tuning.
        length: Share of the epochs that are used.
        lr: Least and greatest learning rate of the fine-tuning.
    """

    channels: Shares | None = None
    stage_spread: float | None = Field(None, ge=0, le=0.5)
    round_to: tuple[Annotated[int, Field(ge=1)], ...] = Field((4, 8), min_length=1)
    sparsity: Shares | None = None
    pattern: tuple[str, ...] = Field(("magnitude",), min_length=1)
    int8: tuple[Literal["qat", "ptq"], ...] = Field(("qat", "ptq"), min_length=1)
    keep_float: int | None = Field(None, ge=0)
    distillation: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((0.0, 0.5), min_length=1)
    length: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.5, 1.0), min_length=1)
    lr: Rates = (5e-4, 5e-3)


class Search(Strict):
    """How `torchshrink search` works.

    Attributes:
        space: What may vary.
        epochs: Fine-tuning of a candidate that goes all the way.
        qat_epochs: Of its quantization-aware training.
        final_epochs: Fine-tuning of the recommended model.
        final_qat_epochs: Of its quantization-aware training.
        rungs: In how many parts the fine-tuning is done; after each but the last, only the better candidates go on.
        reduction: One of so many goes on; each rung ends at so many times the epochs of the one before.
        sampler: ``"tpe"`` learns from the candidates so far; ``"random"`` draws them at random and trains each to the
            end: the search that every other is to be compared with.
    """

    space: Space = Field(default_factory=Space)
    epochs: int = Field(18, ge=1)
    qat_epochs: int = Field(4, ge=1)
    final_epochs: int = Field(80, ge=1)
    final_qat_epochs: int = Field(12, ge=1)
    rungs: int = Field(3, ge=1, le=6)
    reduction: int = Field(3, ge=2)
    sampler: Literal["tpe", "random"] = "tpe"

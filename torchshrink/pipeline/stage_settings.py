"""The settings of each stage that a recipe's variant may name: training, pruning, clustering, int8."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic.dataclasses import dataclass

from torchshrink.errors import RecipeError
from torchshrink.settings import (
    Float,
    Importance,
    Int,
    Natural,
    Positive,
    Scheduling,
    Scope,
    Share,
    Training,
    Weights,
    Whole,
)

_STEP = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_STEP)
class Dense(Training):
    """Training from the model's own weights, from those of another variant, or from new ones.

    Attributes:
        reinitialize: Draw new weights: only the architecture of the variant is kept.
    """

    reinitialize: bool = False


@dataclass(frozen=True, config=_STEP)
class Pruning(Training):
    """Set weights to zero while fine-tuning; see `torchshrink.stages.prune`.

    Attributes:
        amount: Share of the weights that become zero, over all layers.
        amounts: The same for each layer, by its name.
        method: `magnitude`, `layer`, `lamp`, `random`, N:M such as `2:4`, or a block such as `1x4`.
        schedule: When weights become zero: step by step, at a constant share, at once, or from rewound weights.
        ignore: Layers that are left alone.
    """

    amount: Share | None = None
    amounts: dict[str, Float] | None = None
    method: str = "magnitude"
    schedule: Scheduling = "polynomial"
    ignore: tuple[str, ...] | None = None
    epochs: Whole = 20
    lr: Positive = 2e-3

    @field_validator("method")
    @classmethod
    def _method_exists(cls, name: str) -> str:
        from torchshrink.prune import methods  # which loads torch, as a recipe without pruning does not

        try:
            methods.method(name)
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return name

    @model_validator(mode="after")
    def _says_how_much_once(self) -> Pruning:
        if self.amount is not None and self.amounts is not None:
            raise ValueError("give amount for all layers or amounts by layer, not both")
        return self


@dataclass(frozen=True, config=_STEP)
class Channels(Training):
    """Remove channels and fine-tune, in rounds; see `torchshrink.stages.channels`.

    Attributes:
        amount: Share of the channels that are removed.
        amounts: The same for each layer, by its name.
        target_macs: Share of the multiplications that remain.
        target_params: Share of the weights that remain.
        importance: What ranks channels.
        scope: What is ranked together: all layers, or each alone.
        round_to: What the channels that remain in a layer are multiples of.
        rounds: In how many steps of removal and fine-tuning.
        ignore: Layers that are left alone.
    """

    amount: Share | None = None
    amounts: dict[str, Float] | None = None
    target_macs: Positive | None = None
    target_params: Positive | None = None
    importance: Importance = "l2"
    scope: Scope = "global"
    round_to: Natural = 1
    rounds: Natural = 1
    ignore: tuple[str, ...] = ()
    epochs: Whole = 20
    lr: Positive = 2e-3

    @model_validator(mode="after")
    def _has_one_goal(self) -> Channels:
        goals = [self.amount, self.amounts, self.target_macs, self.target_params]
        if sum(goal is not None for goal in goals) != 1:
            raise ValueError("give exactly one of amount, amounts, target_macs and target_params")
        return self


@dataclass(frozen=True, config=_STEP)
class Clustering(Training):
    """Share a few values among the weights of every layer; see `torchshrink.stages.cluster`.

    Attributes:
        count: Values that the weights of a layer share.
        ignore: Layers that are left alone.
    """

    count: Annotated[Int, Field(ge=2, le=256)] = 16
    ignore: tuple[str, ...] | None = None
    epochs: Whole = 10
    lr: Positive = 5e-4


@dataclass(frozen=True, config=_STEP)
class Qat(Training):
    """Quantization-aware training.

    Attributes:
        weights: ``"int4"`` for half the bytes, at a price in time; see `torchshrink.quantize.prepare_qat`.
    """

    weights: Weights | None = None
    epochs: Natural = 10
    lr: Positive = 5e-4

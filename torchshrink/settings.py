"""What users choose, declared once: recipes, stages and commands take it from here. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from torchshrink.errors import RecipeError

Scheduling = Literal["polynomial", "constant", "one_shot", "rewind"]  # when weights are pruned, see `stages.prune`
Importance = Literal["l1", "l2", "bn", "taylor"]  # what a channel is worth, see `prune.channels`
Scope = Literal["global", "layer"]  # what is ranked together: all layers, or the weights or channels of each
Arithmetic = Literal["auto", "fp32", "bf16"]  # what training computes with
Convolution = Literal["full", "separable", "ghost"]  # of a student's levels, see `model.student.Student`
Merge = Literal["concat", "add"]  # how they take what the encoder had
Stem = Literal["none", "stride", "space_to_depth"]  # whether, and how, the first convolution halves every side
Upsampling = Literal["transpose", "nearest"]  # what doubles them again
Sampler = Literal["bayesian", "tpe", "halving", "random", "evolution"]  # what draws the candidates of a search
Weights = Literal["int8", "int4"]  # the grid that quantization-aware training puts weights on
Kind = Literal[  # what a truth is, see `task.Task`
    "segmentation", "multiclass", "classification", "regression", "reconstruction", "unlabelled", "custom"
]

MOST_THREADS = 1024
_MOST = 1_000_000  # epochs, or samples of a step: what is more has no end


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


Int = Annotated[int, BeforeValidator(_no_truth_value), Field(lt=2**63)]
Float = Annotated[float, BeforeValidator(_no_truth_value)]
Whole = Annotated[Int, Field(ge=0)]
Natural = Annotated[Int, Field(ge=1)]
Positive = Annotated[Float, Field(gt=0)]
Share = Annotated[Float, Field(ge=0, lt=1)]
MOST_SEED = 4_000_000_000  # NumPy's end at 2**32, and each process adds its number
Seed = Annotated[Whole, Field(le=MOST_SEED)]
Threads = Annotated[Natural, Field(le=MOST_THREADS)]


@dataclass(frozen=True)
class Training:
    """How long and how fast to train.

    Attributes:
        epochs: Passes over the training data.
        lr: Peak of the one-cycle schedule (Smith and Topin, arXiv:1708.07120).
        batch_size: Samples per step; several processes share them.
        weight_decay: Of AdamW.
        patience: Epochs without a better validation loss after which training stops; 0 never stops early.
        precision: ``"auto"`` takes bfloat16 where the processor computes with it, else float32.
    """

    epochs: Whole = 30
    lr: Positive = 3e-3
    batch_size: Natural = 16
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    patience: Whole = 0
    precision: Arithmetic = "auto"

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise RecipeError(f"{name}={value}: expected a number of at least 0")
        for name, least in (("epochs", 0), ("batch_size", 1), ("patience", 0)):
            value = getattr(self, name)
            if not least <= value <= _MOST:
                raise RecipeError(f"{name}={value}: expected at least {least} and at most {_MOST:,}")
        check("precision", self.precision, Arithmetic)


def check_threads(threads: int) -> None:
    """Refuse a number of threads that no machine has: a runtime would start them all.

    Raises:
        RecipeError: When it is less than 1 or more than 1024.
    """
    if not 1 <= threads <= MOST_THREADS:
        raise RecipeError(f"threads={threads}: a runtime needs at least 1, and gets at most {MOST_THREADS}")


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither on nor off, such as the text ``"no"``, which Python takes for true.

    Raises:
        RecipeError: Naming both.
    """
    if not isinstance(value, bool):
        raise RecipeError(f"{name}={value!r}: expected True or False")


def check_names(name: str, value: Any) -> None:
    """Refuse what is no list of names: of a text, each letter would be taken for one.

    Raises:
        RecipeError: Saying how to write it.
    """
    if not isinstance(value, list | tuple | set) or not all(isinstance(each, str) for each in value):
        raise RecipeError(f"{name}={value!r}: expected a list of names, such as ['head']")


def check(name: str, value: Any, choices: Any) -> None:
    """Refuse a value that is none of a setting's choices, one of the types above or a tuple.

    Raises:
        RecipeError: Naming the choices.

    >>> check("scope", "layers", Scope)
    Traceback (most recent call last):
    torchshrink.errors.RecipeError: scope='layers': expected 'global' or 'layer'
    """
    known = get_args(choices) or choices
    *others, last = (repr(choice) for choice in known)
    if value not in known:
        raise RecipeError(f"{name}={value!r}: expected {', '.join(others)} or {last}")


@dataclass(frozen=True)
class Budget:
    """How much worse than the dense model a file may be in what decides.

    Attributes:
        amount: At least 0.
        is_share: Of the dense model's figure, or else in its units.

    Raises:
        RecipeError: When the amount is negative or not finite.
    """

    amount: float
    is_share: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.amount < float("inf"):
            raise RecipeError(f"budget {self.amount}: a model may become worse by a finite amount, at least 0")

    @classmethod
    def parse(cls, text: str | float) -> Budget:
        """Read ``"2%"``, a share of the dense model's figure, or ``0.3``, in its units.

        Raises:
            RecipeError: When it is neither.

        >>> Budget.parse("2%"), Budget.parse(0.3)
        (Budget(amount=0.02, is_share=True), Budget(amount=0.3, is_share=False))
        """
        share, number = str(text).strip().endswith("%"), str(text).strip().removesuffix("%")
        try:
            return cls(float(number) / (100 if share else 1), share)
        except ValueError:
            raise RecipeError(
                f"budget {text!r}: expected a share such as 2%, or a number in the units of what decides"
            ) from None

    def of(self, dense: float) -> float:
        """Return by how much the figure may become worse, in its units."""
        return self.amount * abs(dense) if self.is_share else self.amount

"""What users choose, declared once: recipes, stages and commands take it from here. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from torchshrink.errors import RecipeError

Scheduling = Literal["polynomial", "constant", "one_shot", "rewind"]  # when weights are pruned, see `stages.prune`
Importance = Literal["l1", "l2", "bn", "taylor"]  # what a channel is worth, see `prune.channels`
Scope = Literal["global", "layer"]  # what is ranked together: all layers, or the weights or channels of each
Arithmetic = Literal["auto", "fp32", "bf16"]  # what training computes with
Sampler = Literal["tpe", "random"]  # what draws the candidates of a search

Whole = Annotated[int, Field(ge=0)]
Natural = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


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

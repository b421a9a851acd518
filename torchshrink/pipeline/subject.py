"""What a recipe is about: the model, the loss that it was trained with, and the task."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from torchshrink.errors import RecipeError
from torchshrink.settings import Budget, Kind


class Strict(BaseModel):
    """Rejects unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Model(Strict):
    """The architecture, and weights to start from; see `trust_pickle` for ``allow_pickle``, which no file may set.

    Attributes:
        factory: `unet`, or `module:callable` that returns a module; `timm:NAME` and `torchvision:NAME` too.
        arguments: What the factory is called with; of `unet`: widths, up, kernel_size.
        checkpoint: Weights to start from: .safetensors, .pt, .pth, .ckpt, .bin or a folder of Hugging Face.
    """

    factory: str = "unet"
    arguments: dict[str, Any] = Field(default_factory=dict)
    checkpoint: str | None = None
    allow_pickle: bool = Field(False, exclude=True)

    @field_validator("allow_pickle")
    @classmethod
    def _is_not_set_by_a_file(cls, value: bool) -> bool:
        if value:
            raise ValueError("only the command line can allow it: pass --allow-pickle")
        return value


class Loss(Strict):
    """A loss with its settings: built-in, of ``torch.nn`` (``CrossEntropyLoss``), ``module:callable`` or ``teacher``.

    With ``teacher``, every fine-tuning imitates the first trained variant's outputs and looks at no truth.

    Attributes:
        name: `focal_tversky`, `tversky`, `dice`, `bce`, a loss of `torch.nn`, `module:callable` or `teacher`.
        settings: What it is made with, such as `{alpha: 0.7}`.
    """

    name: str = "focal_tversky"
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("settings")
    @classmethod
    def _are_numbers(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """Take ``1e-5`` for a number, which YAML has for a text."""
        return {key: _number(value) for key, value in settings.items()}


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


class MetricChoice(Strict):
    """One of a task's metrics.

    Attributes:
        use: A built-in one, or ``module:callable``; by default the built-in one that is called like it.
        better: Which way is better; built-in and torchmetrics ones say it themselves.
    """

    use: str | None = None
    better: Literal["higher", "lower"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_name(cls, value: Any) -> Any:
        return {"use": value} if isinstance(value, str) else value or {}


class TaskChoice(Strict):
    """What the data is for, where it does not say so itself; see `torchshrink.task.Task`.

    Attributes:
        kind: What a truth is.
        metrics: By name, or a list of built-in ones.
        decides: The metric, or ``loss``, that picks the best epoch and that files are judged by.
        budget: How much worse than the dense model a file may be in it: a share such as ``2%``, or in its units.
    """

    kind: Kind | None = None
    metrics: dict[str, MetricChoice] = Field(default_factory=dict)
    decides: str | None = None
    budget: str | float | None = None

    @field_validator("metrics", mode="before")
    @classmethod
    def _may_be_names(cls, value: Any) -> Any:
        return {name: {} for name in value} if isinstance(value, list) else value

    @field_validator("budget")
    @classmethod
    def _is_a_budget(cls, value: str | float | None) -> str | float | None:
        try:
            Budget.parse(value) if value is not None else None
        except RecipeError as error:
            raise ValueError(str(error)) from None
        return value

"""The architectures of the project's own: a checkpoint of theirs says itself how to build them."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchshrink.model.student import Student
from torchshrink.model.unet import UNet

BUILT_IN: dict[str, type[UNet] | type[Student]] = {kind.__name__: kind for kind in (UNet, Student)}


def config_of(model: nn.Module) -> dict[str, Any] | None:
    """Return the arguments that build a model of ours; None for any other."""
    return model.config if isinstance(model, (UNet, Student)) else None


def name_of(model: nn.Module) -> str:
    """Return what a report calls an architecture: its class, and for a student its shape."""
    return f"student: {model}" if isinstance(model, Student) else type(model).__name__

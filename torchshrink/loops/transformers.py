"""A callback of Hugging Face's Trainer that shrinks what is trained."""

from __future__ import annotations

from typing import Any

from torchshrink.errors import MissingExtraError
from torchshrink.loops.shrinking import advance

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtraError("torchshrink.loops.transformers needs transformers: pip install transformers") from error


class ShrinkCallback(TrainerCallback):  # type: ignore[misc]
    """Shrinks every `torchshrink.loops.Shrinking` of a Trainer's model while it is trained."""

    def on_step_end(self, _args: Any, state: Any, _control: Any, model: Any, optimizer: Any, **_: Any) -> None:
        """Do what is due after a step of the optimizer."""
        advance(model, state.global_step, state.max_steps, [optimizer])

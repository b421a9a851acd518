"""A callback of PyTorch Lightning that shrinks what is trained."""

from __future__ import annotations

from typing import Any

from torchshrink.errors import MissingExtraError
from torchshrink.loops.shrinking import advance

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as error:
        raise MissingExtraError("torchshrink.loops.lightning needs lightning: pip install lightning") from error


class ShrinkCallback(Callback):  # type: ignore[misc]
    """Shrinks every `torchshrink.loops.Shrinking` of a LightningModule while it is trained."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Do what is due; a batch without a step of the optimizer, as when gradients add up, changes nothing."""
        advance(pl_module, trainer.global_step, trainer.estimated_stepping_batches, trainer.optimizers)

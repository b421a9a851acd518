"""The ladder: one dense model at many sparsities and many widths, every rung a verified, measured set of files."""

from __future__ import annotations

from collections.abc import Sequence

from torchshrink.pipeline.recipe import Recipe, Variant
from torchshrink.pipeline.stage_settings import Channels, Dense, Pruning

SPARSITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
CHANNELS = (0.25, 0.5, 0.75)


def ladder(
    recipe: Recipe,
    sparsities: Sequence[float] = SPARSITIES,
    channels: Sequence[float] = CHANNELS,
    epochs: int = 20,
    dense_epochs: int = 30,
) -> Recipe:
    """Return ``recipe`` with one variant per rung, each fine-tuned from the dense model.

    Args:
        recipe: Says the data, the model, the loss and the formats.
        sparsities: Shares of the weights to set to zero.
        channels: Shares of the channels to remove.
        epochs: Of every rung's fine-tuning.
        dense_epochs: Of the dense model's training; 0 when the recipe's model has its weights already.
    """
    variants = {"dense": Variant(train=Dense(epochs=dense_epochs))}
    for amount in sparsities:
        step = Pruning(amount=amount, epochs=epochs)
        variants[f"sparse-{100 * amount:g}"] = Variant.model_validate({"from": "dense", "prune": step})
    for amount in channels:
        removal = Channels(amount=amount, epochs=epochs)
        variants[f"channels-{100 * amount:g}"] = Variant.model_validate({"from": "dense", "channels": removal})
    return recipe.model_copy(update={"variants": variants})

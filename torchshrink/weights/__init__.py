"""Weights that other tools wrote: read from their files, found in them, renamed, and put into a model."""

from torchshrink.weights.fitting import put
from torchshrink.weights.reading import is_foreign, opened, read, tensors

__all__ = ["is_foreign", "opened", "put", "read", "tensors"]

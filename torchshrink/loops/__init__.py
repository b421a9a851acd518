"""Shrink a model from inside somebody else's training loop: a plain one, PyTorch Lightning's, Hugging Face's."""

from torchshrink.loops.shrinking import Shrinking, advance

__all__ = ["Shrinking", "advance"]

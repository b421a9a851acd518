"""The order of a tensor in memory: what convolutions compute fastest with, and how to read it without copying."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(images: Tensor) -> Tensor:
    """Return ``[N, C, H, W]`` with the channels of a pixel next to each other; anything else as it is.

    With a single channel both orders are the same in memory, and PyTorch takes the strides of such a tensor for the
    usual order: ``contiguous`` changes nothing then, and every layer that follows computes in the slower order.

    >>> channels_last(torch.zeros(2, 1, 3, 4)).stride()
    (12, 1, 4, 1)
    """
    if images.dim() != 4:
        return images
    images = images.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = images.shape
    return images.as_strided(images.shape, (height * width * channels, 1, width * channels, channels))


def in_memory(tensor: Tensor) -> Tensor:
    """Return a view of a dense tensor with its dimensions in the order of memory, so that it is contiguous.

    >>> in_memory(channels_last(torch.zeros(2, 5, 3, 4))).shape
    torch.Size([2, 3, 4, 5])
    """
    return tensor.permute(sorted(range(tensor.dim()), key=tensor.stride, reverse=True))

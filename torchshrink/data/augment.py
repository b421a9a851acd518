"""Random changes of a training batch that leave its truth exact."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from torchshrink.errors import DataError
from torchshrink.task import Augmentation

_LARGEST_MOVE = 0.1  # of a signal, as a share of its length


def flips_rotations_noise(
    dims: int, noise: float = 0.05, *, square: bool = True, brightness: float = 0.1
) -> Augmentation:
    """Return the default augmentation of normalised images or signals.

    Images are flipped along each axis with a chance of one half and, when square, transposed with the same chance:
    together all eight symmetries of a square, 90-degree rotations included; a rectangle keeps its flips and the
    180-degree rotation. Signals keep their direction. Truth moves with its input and is never interpolated; images
    whose truth has no positions (a class, a number) keep their direction too: a flipped digit is another one. Signals
    whose truth is a class begin up to a tenth of their length earlier or later, and their ends are held.

    Args:
        dims: 2 for images ``[N, C, H, W]``, 1 for signals ``[N, C, L]``.
        noise: Standard deviation of the Gaussian noise added to inputs, in standard deviations of the input.
        square: Whether height equals width; ignored for signals.
        brightness: Largest change of scale (as a fraction) and, for images, of offset (in standard deviations).

    Returns:
        ``augment(x, y, generator) -> (x, y)``, with every choice drawn per sample from the generator alone.

    Raises:
        DataError: When ``dims`` is neither 1 nor 2, or an amount is negative.

    >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> augment = flips_rotations_noise(2, noise=0, brightness=0)
    >>> flipped, truth = augment(x, x, torch.Generator().manual_seed(0))
    >>> torch.equal(flipped, truth)
    True
    """
    if dims not in (1, 2) or min(noise, brightness) < 0:
        raise DataError(
            f"dims={dims}, noise={noise}, brightness={brightness}: dims is 1 or 2, the amounts are not negative"
        )
    if dims == 1:
        return partial(_augment_signals, noise=noise, scale=brightness)
    return partial(_augment_images, noise=noise, brightness=brightness, square=square)


def _augment_images(
    x: Tensor, y: Tensor, generator: torch.Generator, *, noise: float, brightness: float, square: bool
) -> tuple[Tensor, Tensor]:
    if y.dim() >= x.dim() - 1:
        planes = y.unsqueeze(1) if y.dim() == x.dim() - 1 else y
        x, planes = _turn(x, planes, generator, square)
        y = planes.reshape(y.shape)
    x = x * (1 + _uniform(x, generator, brightness)) + _uniform(x, generator, brightness)
    return _noisy(x, generator, noise), y


def _turn(x: Tensor, y: Tensor, generator: torch.Generator, square: bool) -> tuple[Tensor, Tensor]:
    """Flip and transpose inputs and truths ``[N, K, H, W]`` alike."""
    for axis in (-1, -2):
        chosen = _coins(x, generator)
        x, y = torch.where(chosen, x.flip(axis), x), torch.where(chosen, y.flip(axis), y)
    if square:
        chosen = _coins(x, generator)
        x, y = torch.where(chosen, x.mT, x), torch.where(chosen, y.mT, y)
    return x, y


def _augment_signals(
    x: Tensor, y: Tensor, generator: torch.Generator, *, noise: float, scale: float
) -> tuple[Tensor, Tensor]:
    x = _moved(x, generator) if y.dim() == 1 and not y.is_floating_point() else x
    return _noisy(x * (1 + _uniform(x, generator, scale)), generator, noise), y


def _moved(x: Tensor, generator: torch.Generator) -> Tensor:
    """Move every signal ``[C, L]`` by a number of samples of its own, up to a tenth of its length."""
    length = x.shape[-1]
    by = (_uniform(x, generator, _LARGEST_MOVE) * length).round().long()
    places = (torch.arange(length, device=x.device) - by).clamp(0, length - 1)
    return x.gather(-1, places.expand_as(x))


def _coins(x: Tensor, generator: torch.Generator) -> Tensor:
    return _uniform(x, generator, 1.0) > 0


def _uniform(x: Tensor, generator: torch.Generator, amount: float) -> Tensor:
    """Return one number in [-amount, amount] per sample, shaped to broadcast over ``x``."""
    shape = (len(x), *[1] * (x.dim() - 1))
    return _beside(torch.rand(shape, generator=generator, device=generator.device) * 2 - 1, x) * amount


def _noisy(x: Tensor, generator: torch.Generator, noise: float) -> Tensor:
    if noise == 0:
        return x
    return x + _beside(torch.randn(x.shape, generator=generator, device=generator.device), x) * noise


def _beside(drawn: Tensor, x: Tensor) -> Tensor:
    """Return random numbers where ``x`` is, without waiting for what it is computed from."""
    return drawn.to(x.device, x.dtype, non_blocking=True)

"""Made-up images and signals with exact truth: they need no download, and a small U-Net learns them in minutes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import DataError

Floats = NDArray[np.float32]

_CELL_PITCH = 14  # pixels between the seats of a grid that cells are scattered around
_CELL_REACH = 12  # pixels from a centre that the largest cell can touch
_PULSE_PITCH = 64
_PULSE_REACH = 24


def cells(n: int, size: int = 64, seed: int = 0) -> tuple[Floats, NDArray[np.uint8]]:
    """Return images of cell-like blobs, of which some touch, under uneven light with blur, debris and noise.

    Cells differ in radius, form and brightness. Small bright specks are not cells, and the bright side of the
    background outshines dim cells elsewhere: no single threshold finds the cells.

    Args:
        n: Number of images.
        size: Height and width in pixels; cells keep their radius of 3 to 7 pixels, so larger images hold more.
        seed: The same seed gives the same images.

    Returns:
        Images float32 ``[n, 1, size, size]`` in [0, 1] and truth uint8 of the same shape, 1 inside a cell.

    Raises:
        DataError: When ``n`` is not positive or ``size`` is below 16.

    >>> images, truth = cells(2, size=32, seed=0)
    >>> images.shape, truth.shape
    ((2, 1, 32, 32), (2, 1, 32, 32))
    """
    _check("cells", n=(n, 1), size=(size, 16), seed=(seed, 0))
    rng = np.random.default_rng(seed)
    bodies, covered = _draw_cells(rng, n, size)
    specks = _draw_specks(rng, n, size)
    background = rng.uniform(0.12, 0.3, (n, 1, 1)).astype(np.float32)
    image = _blur(background + np.maximum(bodies, specks)) * _illumination(rng, n, size)
    noise = rng.uniform(0.02, 0.06, (n, 1, 1)).astype(np.float32)
    image = image + noise * rng.standard_normal(image.shape, dtype=np.float32)
    return image.clip(0, 1)[:, None], covered[:, None]


def pulses(n: int, length: int = 512, seed: int = 0) -> tuple[Floats, NDArray[np.uint8]]:
    """Return noisy signals with pulses of varied width and height on a wandering baseline.

    A pulse rises and falls like half a cosine, at different speeds. Its truth is where it exceeds 15 % of its height.
    Spikes of one sample are not pulses.

    Args:
        n: Number of signals.
        length: Samples per signal; longer signals hold more pulses.
        seed: The same seed gives the same signals.

    Returns:
        Signals float32 ``[n, 1, length]``, pulses 0.4 to 1.5 high, and truth uint8 of the same shape.

    Raises:
        DataError: When ``n`` is not positive or ``length`` is below 64.

    >>> signals, truth = pulses(2, length=128, seed=0)
    >>> signals.shape, truth.shape
    ((2, 1, 128), (2, 1, 128))
    """
    _check("pulses", n=(n, 1), length=(length, 64), seed=(seed, 0))
    rng = np.random.default_rng(seed)
    wave, covered = _draw_pulses(rng, n, length)
    time = np.arange(length, dtype=np.float32)
    for _ in range(3):
        period, phase, height = (
            rng.uniform(low, high, (n, 1)).astype(np.float32) for low, high in ((150, 700), (0, 2 * np.pi), (0.1, 0.5))
        )
        wave += height * np.sin(2 * np.pi * time / period + phase)
    spikes = rng.random((n, length)) < 1 / 150
    wave[spikes] += rng.uniform(-1, 1, spikes.sum()).astype(np.float32)
    noise = rng.uniform(0.03, 0.15, (n, 1)).astype(np.float32)
    wave += noise * rng.standard_normal(wave.shape, dtype=np.float32)
    return wave[:, None], covered[:, None]


def _draw_cells(rng: np.random.Generator, n: int, size: int) -> tuple[Floats, NDArray[np.uint8]]:
    """Return brightness ``[n, size, size]`` and coverage of deformed ellipses scattered around a grid."""
    seats = np.stack(np.meshgrid(*[_seats(size, _CELL_PITCH)] * 2), -1).reshape(-1, 2)
    image, seat = np.nonzero(rng.random((n, len(seats))) < rng.uniform(0.25, 0.6, (n, 1)))
    centre = (seats[seat] + rng.uniform(-5, 5, (len(seat), 2))).clip(0, size - 1)
    u, v = _offsets(rng, centre, stretch=1.3)
    radius = rng.uniform(3, 7, (len(seat), 1, 1)).astype(np.float32)
    u, v = u / radius, v / radius
    # A circle is u^2 + v^2 = 1; the cubic term, r^3 cos(3 angle), gives it up to three soft corners.
    deform = rng.uniform(0, 0.2, radius.shape).astype(np.float32)
    square = u**2 + v**2
    depth = 1 - (square + deform * (u**3 - 3 * u * v**2))
    inside = (depth > 0) & (square < 2)  # far out, the cubic term would draw more
    brightness = rng.uniform(0.12, 0.6, radius.shape).astype(np.float32)
    body = brightness * (0.6 + 0.4 * np.sqrt(depth.clip(0)))
    return (
        _paint(n, size, _CELL_REACH, image, centre, np.where(inside, body, np.float32(0))),
        _paint(n, size, _CELL_REACH, image, centre, inside.astype(np.uint8)),
    )


def _draw_specks(rng: np.random.Generator, n: int, size: int) -> Floats:
    """Return the brightness ``[n, size, size]`` of debris: round, one to two pixels wide."""
    count = rng.poisson(4 * (size / 64) ** 2, n)
    image = np.repeat(np.arange(n), count)
    centre = rng.uniform(0, size - 1, (len(image), 2))
    u, v = _offsets(rng, centre, stretch=1.0)
    radius, brightness = (rng.uniform(low, 1.2, (len(image), 1, 1)).astype(np.float32) for low in (0.6, 0.3))
    return _paint(n, size, _CELL_REACH, image, centre, brightness * np.exp(-(u**2 + v**2) / radius**2))


def _draw_pulses(rng: np.random.Generator, n: int, length: int) -> tuple[Floats, NDArray[np.uint8]]:
    """Return height ``[n, length]`` and coverage of at most one pulse per 64 samples."""
    seats = _seats(length, _PULSE_PITCH)
    signal, seat = np.nonzero(rng.random((n, len(seats))) < 0.7)
    centre = (seats[seat] + rng.uniform(-20, 20, len(seat))).clip(0, length - 1)[:, None]
    reach = np.arange(-_PULSE_REACH, _PULSE_REACH + 1, dtype=np.float32)
    time = reach + (np.rint(centre) - centre).astype(np.float32)
    rise, fall = (rng.uniform(5, 22, (len(seat), 1)).astype(np.float32) for _ in range(2))
    position = np.abs(time) / np.where(time < 0, rise, fall)
    shape = 0.5 + 0.5 * np.cos(np.pi * position.clip(0, 1))
    height = rng.uniform(0.4, 1.5, (len(seat), 1)).astype(np.float32)
    return (
        _paint(n, length, _PULSE_REACH, signal, centre, height * shape),
        _paint(n, length, _PULSE_REACH, signal, centre, (shape > 0.15).astype(np.uint8)),
    )


def _seats(size: int, pitch: int) -> NDArray[np.float64]:
    """Return evenly spread positions in [0, size), about ``pitch`` apart."""
    count = max(1, round(size / pitch))
    return (np.arange(count) + 0.5) * size / count


def _offsets(rng: np.random.Generator, centre: NDArray[np.float64], stretch: float) -> tuple[Floats, Floats]:
    """Return coordinates ``[K, P, P]`` around each centre, turned by a random angle and stretched up to a factor."""
    reach = np.arange(-_CELL_REACH, _CELL_REACH + 1)
    fraction = np.rint(centre) - centre
    down = (reach[:, None] + fraction[:, 0, None, None]).astype(np.float32)
    right = (reach[None, :] + fraction[:, 1, None, None]).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi, (len(centre), 1, 1)).astype(np.float32)
    factor = rng.uniform(1, stretch, angle.shape).astype(np.float32)
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = (cosine * down + sine * right) / factor, (cosine * right - sine * down) * factor
    return turned[0].astype(np.float32), turned[1].astype(np.float32)


def _paint(
    n: int, size: int, reach: int, canvas: NDArray[np.intp], centre: NDArray[np.float64], patch: NDArray[Any]
) -> NDArray[Any]:
    """Return ``[n, size, ...]`` with every patch on its canvas, centred; the larger value wins where they overlap."""
    axes = centre.shape[1]
    padded = np.zeros((n, *[size + 2 * reach] * axes), patch.dtype)
    steps = np.arange(2 * reach + 1)
    index: list[NDArray[np.intp]] = [canvas.reshape(-1, *[1] * axes)]
    for axis in range(axes):
        start = np.rint(centre[:, axis]).astype(np.intp)
        along = [1] * axes
        along[axis] = -1
        index.append(start.reshape(-1, *[1] * axes) + steps.reshape(along))
    np.maximum.at(padded, tuple(index), patch)
    return padded[(slice(None), *[slice(reach, reach + size)] * axes)]


def _blur(image: Floats) -> Floats:
    """Return ``[n, H, W]`` smoothed by the binomial kernel 1 4 6 4 1 along both axes, edges repeated."""
    kernel = np.array([1, 4, 6, 4, 1], np.float32) / 16
    for axis in (1, 2):
        padded = np.pad(image, [(2, 2) if axis == a else (0, 0) for a in range(3)], mode="edge")
        length = image.shape[axis]
        taps = [weight * padded.take(range(k, k + length), axis) for k, weight in enumerate(kernel)]
        image = np.stack(taps).sum(0, dtype=np.float32)
    return image


def _illumination(rng: np.random.Generator, n: int, size: int) -> Floats:
    """Return factors ``[n, size, size]`` from 0.5 to 1.5: a slope in a random direction."""
    angle = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    strength = rng.uniform(0, 0.5, (n, 1, 1))
    along = np.linspace(-1, 1, size)
    slope = (np.cos(angle) * along[:, None] + np.sin(angle) * along) / np.sqrt(2)
    factor: Floats = (1 + strength * slope).astype(np.float32)
    return factor


def _check(what: str, **limits: tuple[int, int]) -> None:
    for name, (value, least) in limits.items():
        if value < least:
            raise DataError(f"synthetic {what} of {name}={value}: {name} must be at least {least}")

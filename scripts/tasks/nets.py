"""Networks and changes of data for the recipes beside this file, each as a user would write them."""

import itertools

import torch
from torch import nn


def digits(width=24):
    """Tell ten spoken digits apart: one second of sound at 8 kHz, ``[N, 1, 8000]``."""
    widths = [1, width, width, 2 * width, 2 * width, 2 * width, 4 * width, 4 * width]
    layers = []
    for index, (before, after) in enumerate(itertools.pairwise(widths)):
        kernel, stride = (81, 8) if index == 0 else (3, 1)
        layers += [nn.Conv1d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm1d(after), nn.ReLU()]
        layers += [nn.MaxPool1d(2)] if index < 6 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * width, 10))


def other_voices(sounds, digits, generator):
    """Make a batch of other voices: 0.74 to 1.35 times as fast and high, moved, louder or quieter, noisy."""
    count, _, length = sounds.shape

    def between(low, high):
        return torch.rand(count, 1, generator=generator) * (high - low) + low

    places = torch.linspace(-1, 1, length) * torch.exp(between(-0.3, 0.3)) + between(-0.1, 0.1)
    grid = torch.stack([places, torch.zeros_like(places)], -1)[:, None]
    sounds = nn.functional.grid_sample(sounds[:, :, None], grid, align_corners=True)[:, :, 0]
    sounds = sounds * (torch.exp(between(-0.7, 0.7)) * torch.sign(between(-1, 1)))[:, :, None]
    noise = torch.randn(sounds.shape, generator=generator) * (10 ** between(-3, -1))[:, :, None]
    return sounds + noise, digits


def counter(width=8):
    """Say one number of a gray image, ``[N, 1, H, W]``."""
    layers = []
    for before, after in ((1, width), (width, 2 * width), (2 * width, 4 * width), (4 * width, 4 * width)):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 1))


def autoencoder(width=12):
    """Give an image back through a narrow middle, ``[N, 1, H, W]``."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
        nn.Upsample(scale_factor=2), nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(),
        nn.Upsample(scale_factor=2), nn.Conv2d(width, 1, 3, padding=1),
    )  # fmt: skip

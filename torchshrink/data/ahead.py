"""Read the next samples of a training while it computes, so that it does not wait for files."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch.utils.data import Dataset, RandomSampler

_THREADS = min(4, os.cpu_count() or 1)


class Ahead(Dataset[Any]):
    """Samples of which the next ones are being read, in threads, while one is used.

    Args:
        samples: Each must be the same from any thread, at any time.
        depth: How many are read ahead.
    """

    def __init__(self, samples: Any, depth: int) -> None:
        self._samples, self._depth = samples, depth
        self._threads = ThreadPoolExecutor(_THREADS, "torchshrink-read")
        self._coming: dict[int, Future[Any]] = {}

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        coming = self._coming.pop(index, None)
        return self._samples[index] if coming is None else coming.result()

    def told(self, order: Iterator[int]) -> Iterator[int]:
        """Yield each position of an epoch after the reading of those that follow it has begun."""
        self._coming.clear()
        waiting: deque[int] = deque()
        for index in islice(order, len(self)):
            self._coming[index] = self._threads.submit(self._samples.__getitem__, index)
            waiting.append(index)
            if len(waiting) > self._depth:
                yield waiting.popleft()
        yield from waiting
        yield from order  # to its end, where PyTorch's draws once more


class RandomOrder(RandomSampler):
    """The order in which PyTorch would shuffle the samples, which are told of it."""

    def __init__(self, samples: Ahead, generator: torch.Generator) -> None:
        super().__init__(samples, generator=generator)
        self._ahead = samples

    def __iter__(self) -> Iterator[int]:
        return self._ahead.told(super().__iter__())

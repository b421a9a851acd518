"""Samples that are read while a training computes."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchshrink import training
from torchshrink.data import open_task
from torchshrink.data.ahead import Ahead, RandomOrder
from torchshrink.errors import DataError
from torchshrink.progress import Silent
from torchshrink.task import Task


@pytest.mark.parametrize(("count", "drop_last"), [(10, False), (10, True), (12, False)])
def test_batches_and_random_numbers_are_those_without(count: int, drop_last: bool) -> None:
    """PyTorch's own loader is the reference, over two epochs, with numbers drawn in between as augmentation does."""
    samples = TensorDataset(torch.arange(count))
    plain, ahead = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    coming = Ahead(samples, depth=5)
    theirs = DataLoader(samples, 4, shuffle=True, generator=plain, drop_last=drop_last)
    ours = DataLoader(coming, 4, sampler=RandomOrder(coming, ahead), generator=ahead, drop_last=drop_last)
    for _ in range(2):
        for (one,), (other,) in zip(theirs, ours, strict=True):
            assert one.tolist() == other.tolist()
            assert torch.rand(1, generator=plain) == torch.rand(1, generator=ahead)


class Asked:
    """Says where a sample was asked for, and when enough were."""

    def __init__(self, enough: int) -> None:
        self.threads: list[str] = []
        self.enough, self.are_enough = enough, threading.Event()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        self.threads.append(threading.current_thread().name)
        if len(self.threads) == self.enough:
            self.are_enough.set()
        if index == 7:
            raise DataError("sample 7 is damaged")
        return index


def test_the_next_ones_are_read_elsewhere_while_one_is_used() -> None:
    samples = Asked(enough=4)
    coming = Ahead(samples, depth=3)
    order = coming.told(iter(range(8)))
    assert coming[next(order)] == 0
    assert samples.are_enough.wait(60)  # the first and three more, and nobody asked for those
    assert all(name.startswith("torchshrink-read") for name in samples.threads)


def test_what_cannot_be_read_is_said_where_it_is_used() -> None:
    coming = Ahead(Asked(enough=99), depth=8)
    with pytest.raises(DataError, match="sample 7 is damaged"):
        [coming[index] for index in coming.told(iter(range(8)))]


def test_only_what_is_the_same_from_any_thread_is_read_ahead(tiny_task: Task) -> None:
    """Files and arrays are; a user's dataset may draw random numbers, or not bear two threads."""
    ours = open_task("synthetic:pulses?length=64&train=4&test=1")
    for task, is_ahead in ((ours, True), (tiny_task, False)):
        loader = training._batches(task, training.Settings(), torch.Generator())
        assert isinstance(loader.dataset, Ahead) == is_ahead


@pytest.mark.parametrize(("share", "is_told"), [(-1.0, True), (1.0, False)])
def test_a_training_that_waits_for_data_says_so(
    tiny_task: Task, small_net: nn.Module, monkeypatch: pytest.MonkeyPatch, share: float, is_told: bool
) -> None:
    monkeypatch.setattr(training, "_MUCH_WAITING", share)
    notes: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "update", lambda done, total, note="": notes.append(note))
    training.fit(small_net, tiny_task, training.Settings(epochs=1), progress=progress)
    assert ("waited for data" in notes[-1]) == is_told

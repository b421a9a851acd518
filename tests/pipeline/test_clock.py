"""How long a run takes: said after the first steps, and what took long at the end."""

from __future__ import annotations

from torchshrink.pipeline.clock import Clock
from torchshrink.pipeline.recipe import parse
from torchshrink.progress import Silent

RECIPE = parse(
    {
        "variants": {
            "dense": {"train": {"epochs": 10}},
            "pruned": {"from": "dense", "prune": {"amount": 0.5, "epochs": 6}},
            "int8": {"from": "pruned", "qat": {"epochs": 4}},
        }
    }
)


class _Told(Silent):
    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, title: str) -> None:
        self.said.append(title)

    def note(self, text: str) -> None:
        self.said.append(text)


def test_it_says_once_how_long_training_takes_and_then_what_took_long() -> None:
    told, now = _Told(), [0.0]
    clock = Clock(RECIPE, told, lambda: now[0])
    clock.start("data x")
    now[0] = 5.0
    clock.update(1, 2)  # no training
    clock.start("dense: train")
    now[0] = 26.0
    clock.update(1, 100)  # the first step took long because it was the first
    now[0] = 28.0
    clock.update(3, 100)  # too early to judge
    now[0] = 29.0
    clock.update(4, 100)  # a second a step, ten steps an epoch: (10 + 6 + 4 * 2.5) epochs of 10 s
    clock.update(5, 100)
    now[0] = 125.0
    clock.start("int8: verify")
    now[0] = 127.0
    clock.finish()
    assert told.said == [
        "data x",
        "dense: train",
        "training takes about 4 min 20 s (26 epochs' worth); then files are made, checked and measured",
        "int8: verify",
        "took 2 min 7 s, most of it: dense: train 2 min 0 s, data x 5 s, int8: verify 2 s",
    ]


def test_a_run_that_was_done_before_says_nothing() -> None:
    told, now = _Told(), [0.0]
    clock = Clock(RECIPE, told, lambda: now[0])
    clock.start("data x")
    now[0] = 1.0
    clock.finish()
    assert told.said == ["data x"]

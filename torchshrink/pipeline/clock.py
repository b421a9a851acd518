"""How long a run takes: said once its first training has shown how fast it is, and at the end what took long."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from torchshrink.pipeline.recipe import Recipe, Variant
from torchshrink.progress import Progress, duration

_MOST_NAMED = 3
_WORTH_TELLING = 10.0  # seconds
_SECONDS_TO_JUDGE = 3.0
_QAT = 2.5  # times as long as an epoch in float: every tensor is rounded too


class Clock:
    """A progress that hands everything on, and tells how long the whole takes.

    Args:
        recipe: What is to be done.
        progress: Whom everything is told.
        now: The time in seconds.
    """

    def __init__(self, recipe: Recipe, progress: Progress, now: Callable[[], float] = time.monotonic) -> None:
        self._variants, self._progress, self._now = recipe.variants, progress, now
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._began = self._step_began = now()
        self._title = ""
        self._first: tuple[float, int] | None = None  # when so much of the step was done: before, it only began
        self._is_guessed = False

    def start(self, title: str) -> None:
        """Begin a step."""
        self._close()
        self._title, self._first = title, None
        self._progress.start(title)

    def update(self, done: int, total: int, note: str = "") -> None:
        """Hand on how much is done; say what all training takes, as soon as that shows."""
        self._progress.update(done, total, note)
        now = self._now()
        began, first = self._first = self._first or (now, done)
        name = self._title.partition(": ")[0]
        if self._is_guessed or now - began < _SECONDS_TO_JUDGE or done == first or name not in self._variants:
            return
        if trained := _epochs(self._variants[name]):
            self._is_guessed = True
            self._tell(name, (now - began) / (done - first) * total / trained)

    def note(self, text: str) -> None:
        """Hand on."""
        self._progress.note(text)

    def finish(self) -> None:
        """Say how long it took, and what took long; nothing of a run that found all done before."""
        self._close()
        whole = self._now() - self._began
        if whole < _WORTH_TELLING:
            return
        ordered = sorted(self._spent.items(), key=lambda item: -item[1])
        longest = [f"{title} {duration(spent)}" for title, spent in ordered[:_MOST_NAMED]]
        self._progress.update(1, 1)
        self._progress.note(f"took {duration(whole)}, most of it: {', '.join(longest)}")

    def _tell(self, name: str, seconds: float) -> None:
        """Say how long the training of this variant and those after it takes, from the time of one epoch in float."""
        names = list(self._variants)
        open_ = [_epochs(self._variants[each]) for each in names[names.index(name) :]]
        whole = duration(seconds * sum(open_))
        passes = f"{sum(open_):g} epochs' worth" if len(open_) > 1 else f"{open_[0]:g} epochs"
        self._progress.note(f"training takes about {whole} ({passes}); then files are made, checked and measured")

    def _close(self) -> None:
        now = self._now()
        if self._title:
            self._spent[self._title] += now - self._step_began
        self._step_began = now


def _epochs(variant: Variant) -> float:
    """Return how many passes over the data a variant takes, in those of a float model."""
    return sum(step.epochs * (_QAT if name == "qat" else 1) for name, step in variant.steps.items())

"""A loss for runs that are to be killed: they wait in a step for as long as a test wants."""

from __future__ import annotations

import time
from pathlib import Path

from torch import Tensor, nn


class Loss(nn.Module):
    """The mean square; once there is a file ``after``, nothing is computed before there is one ``until``."""

    def __init__(self, after: str, until: str) -> None:
        super().__init__()
        self.after, self.until = Path(after), Path(until)

    def forward(self, probability: Tensor, truth: Tensor) -> Tensor:
        while self.after.exists() and not self.until.exists():
            time.sleep(0.05)
        return (probability - truth.float()).square().mean()

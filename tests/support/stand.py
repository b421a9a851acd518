"""What worker processes get instead of a bridge; here, because they must be able to import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from torchshrink.errors import ModelError
from torchshrink.search.engines.work import Request


class Stand:
    """Instead of a bridge: a process is to do something before it computes anything."""

    def __init__(self, how: str, place: Path | None = None) -> None:
        self.how, self.place = how, place

    def __call__(self) -> Any:
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.place is not None:
            self.place.write_text(str(os.getpid()))
            time.sleep(3600)  # longer than any test waits for its end
        if self.how == "refuses":
            raise ModelError("this model cannot be exported")
        if self.how == "says how threads wait":
            raise ModelError(os.environ.get("GOMP_SPINCOUNT", "as the library likes"))
        print("chatter")
        raise ValueError("unexpected")


def request(folder: Path, recipe: dict[str, Any], number: int = 3) -> Request:
    return Request(number, folder / "0003", recipe, ("dense",), None, folder / "dense.tflite")

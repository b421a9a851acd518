"""Search pruning, quantization and precision together, against cost measured on the runtime that ships.

Everything is loaded on first use: recipes only need the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchshrink.lazy import lazy

if TYPE_CHECKING:
    from torchshrink.search.limits import Limits
    from torchshrink.search.run import search

__all__ = ["Limits", "search"]

__getattr__, __dir__ = lazy(__name__, {"torchshrink.search.limits": "Limits", "torchshrink.search.run": "search"})

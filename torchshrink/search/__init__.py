"""Search pruning, quantization and precision together, against cost measured on the runtime that ships.

Everything is loaded on first use: recipes only need the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchshrink.search.limits import Limits
    from torchshrink.search.run import search

__all__ = ["Limits", "search"]


def __getattr__(name: str) -> Any:
    if name == "search":
        from torchshrink.search.run import search

        return search
    if name == "Limits":
        from torchshrink.search.limits import Limits

        return Limits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

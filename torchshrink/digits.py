"""How losses and metrics are written for people, whatever scale they have."""

from __future__ import annotations


def written(value: float) -> str:
    """Return a loss or metric: four decimals, or two digits where these would show little but zeros.

    >>> written(0.656), written(0.0), written(0.00003127)
    ('0.6560', '0.0000', '3.1e-05')
    """
    return f"{value:.4f}" if _has_decimals(value) else f"{value:.1e}"


def written_change(value: float, beside: float) -> str:
    """Return by how much a figure changed, with its sign, written as the figure that it stands beside.

    >>> written_change(-0.012, 0.65), written_change(1e-9, 0.65), written_change(1e-6, 0.00003)
    ('-0.0120', '+0.0000', '+1.0e-06')
    """
    return f"{value:+.4f}" if _has_decimals(beside) else f"{value:+.1e}"


def _has_decimals(value: float) -> bool:
    return value == 0 or not abs(value) < 1e-3

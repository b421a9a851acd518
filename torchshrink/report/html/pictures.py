"""Arrays as images of a page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Picture:
    """One image of a table of predictions.

    Attributes:
        uri: The PNG itself.
        label: What it shows.
        caption: Stands under it.
    """

    uri: str
    label: str
    caption: str = ""


def gray_or_rgb(image: NDArray[np.float32], ends: tuple[float, float] | None = None) -> str:
    """Return an image ``[C, H, W]``: its first channel, or three as colours, from black to white between two ends."""
    from PIL import Image

    shown_channels = image if len(image) == 3 else image[:1]
    low, high = ends or np.percentile(shown_channels, (0.5, 99.5))
    scaled = np.clip((shown_channels - low) / max(float(high - low), 1e-6), 0, 1)
    pixels = (scaled * 255).round().astype(np.uint8)
    return png(Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)) if len(pixels) == 3 else pixels[0]))


def png(picture: Any) -> str:
    """Return a picture of Pillow's as the address of an image."""
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"

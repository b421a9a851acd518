"""Images with masks from folders: ``images/NAME.png`` and ``masks/NAME.png``.

Names are checked before headers and headers before pixels, so that most mistakes are reported at once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from torchshrink.data.labelled import LabelledArrays
from torchshrink.errors import DataError

_ENDINGS = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_KINDS = {
    **dict.fromkeys(("1", "L", "LA"), "8-bit gray"),
    **dict.fromkeys(("RGB", "RGBA"), "8-bit RGB"),
    **dict.fromkeys(("I", "I;16", "I;16B", "I;16L", "I;16N"), "16-bit gray"),
}
_FOREGROUND = (1, 255, 65535)
_SHOWN = 5  # values quoted in a message


class _Header(NamedTuple):
    path: Path
    kind: str
    width: int
    height: int


def read_folders(*roots: Path) -> list[LabelledArrays]:
    """Return the samples of each folder; together they must form one data set.

    Every folder holds ``images/`` and ``masks/`` with files of the same stem: PNG, TIFF or JPEG, gray or RGB, all of
    one size. 8-bit values are divided by 255, 16-bit values by 65535 (gray only: Pillow reads 16-bit RGB as 8-bit).
    An alpha channel is dropped if it is opaque. Masks hold 0 and one other value, which is 1, 255 or 65535. RGB masks
    give one class per channel, or a single class if their three channels are equal in all masks.

    Returns:
        One set per folder, in the order of file stems.

    Raises:
        DataError: When folders, names, sizes, modes or mask values are not as described.
    """
    sets = [_pairs(root) for root in roots]
    images = [_header(image) for pairs in sets for image, _ in pairs]
    masks = [_header(mask) for pairs in sets for _, mask in pairs]
    _check_headers(images, masks)
    truths = [np.stack([_read_mask(mask) for _, mask in pairs]) for pairs in sets]
    if all((truth == truth[:, :1]).all() for truth in truths):
        truths = [truth[:, :1] for truth in truths]
    deep = images[0].kind == "16-bit gray"
    inputs = [
        np.stack([_read_image(image) for image, _ in pairs]).astype(np.float32) / np.float32(65535 if deep else 255)
        for pairs in sets
    ]
    raw = "uint16 / 65535" if deep else "uint8 / 255"
    return [LabelledArrays(x, y, str(root), raw) for x, y, root in zip(inputs, truths, roots, strict=True)]


def _pairs(root: Path) -> list[tuple[Path, Path]]:
    """Return every image of a folder with its mask."""
    for folder in (root / "images", root / "masks"):
        if not folder.is_dir():
            raise DataError(f"{folder} is missing: {root} needs a folder images and a folder masks")
    images, masks = _by_stem(root / "images"), _by_stem(root / "masks")
    if not images:
        raise DataError(f"{root / 'images'} holds no images: put {', '.join(_ENDINGS)} files there")
    for stem, image in images.items():
        if stem not in masks:
            raise DataError(f"{image} has no mask: add {root / 'masks' / stem}.png")
    for stem, mask in masks.items():
        if stem not in images:
            raise DataError(f"{mask} has no image: add {root / 'images' / stem}.png or remove the mask")
    return [(images[stem], masks[stem]) for stem in images]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.stem, path.suffix)):
        if path.suffix.lower() not in _ENDINGS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path.name} share the name {path.stem!r}: keep one of them")
        found[path.stem] = path
    return found


def _check_headers(images: list[_Header], masks: list[_Header]) -> None:
    first, first_mask = images[0], masks[0]
    for image, mask in zip(images, masks, strict=True):
        if image.kind != first.kind:
            raise DataError(
                f"{first.path} is {first.kind} but {image.path} is {image.kind}: save all images in one mode"
            )
        if image[2:] != first[2:]:
            raise DataError(
                f"{first.path} measures {_size(first)} but {image.path} {_size(image)}: crop or pad to one size"
            )
        if mask[2:] != image[2:]:
            raise DataError(
                f"{mask.path} measures {_size(mask)} but {image.path} {_size(image)}: save the mask at its image's size"
            )
        if mask.kind.endswith("RGB") != first_mask.kind.endswith("RGB"):
            raise DataError(
                f"{first_mask.path} is {first_mask.kind} but {mask.path} is {mask.kind}: save all masks in one mode"
            )


def _header(path: Path) -> _Header:
    with _opened(path) as image:
        if image.mode not in _KINDS:
            raise DataError(f"{path} has Pillow mode {image.mode}: save it as 8-bit gray, 16-bit gray or 8-bit RGB")
        if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{path} has several pages: save each page as a file of its own")
        return _Header(path, _KINDS[image.mode], image.width, image.height)


def _read_image(path: Path) -> NDArray[Any]:
    """Return ``[C, H, W]`` as uint8 or uint16."""
    with _opened(path) as image:
        pixels = np.asarray(image.convert("L") if image.mode == "1" else image)
        mode = image.mode
    if mode in ("LA", "RGBA"):
        if (pixels[..., -1] != 255).any():
            raise DataError(f"{path} has transparent parts: save it without an alpha channel")
        pixels = pixels[..., 0] if mode == "LA" else pixels[..., :3]
    if _KINDS[mode] == "16-bit gray":
        if pixels.min() < 0 or pixels.max() > 65535:
            raise DataError(f"{path} holds values from {pixels.min()} to {pixels.max()}: save it with 16 bits")
        pixels = pixels.astype(np.uint16)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _read_mask(path: Path) -> NDArray[np.uint8]:
    """Return ``[1, H, W]`` or ``[3, H, W]`` of 0 and 1."""
    pixels = _read_image(path)
    found = np.unique(pixels)
    top = found[-1]
    if (top != 0 and top not in _FOREGROUND) or not np.isin(found, (0, top)).all():
        shown = ", ".join(map(str, found[:_SHOWN].tolist())) + (", ..." if len(found) > _SHOWN else "")
        lossy = path.suffix.lower() in (".jpg", ".jpeg")
        advice = "JPEG blurs masks, save it as PNG" if lossy else "give each class its own channel of an RGB mask"
        raise DataError(f"{path} holds the values {shown}, expected 0 and one of 1, 255, 65535: {advice}")
    mask: NDArray[np.uint8] = np.not_equal(pixels, 0).astype(np.uint8)
    return mask


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image and report whatever Pillow finds wrong with it, also while it is read, as DataError."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        reason = "it is empty or no PNG, TIFF or JPEG" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{path} cannot be read ({reason}): save it again") from error


def _size(header: _Header) -> str:
    return f"{header.width}x{header.height}"

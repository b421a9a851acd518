"""Images with masks or other images from folders: ``images/NAME.png`` and ``masks/NAME.png``.

Names are checked before headers and headers before pixels, so that most mistakes are reported at once. Pixels are read
once to see what the masks hold, and again for each sample that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from torchshrink.data import images, kinds
from torchshrink.data.images import ENDINGS, Header
from torchshrink.data.inputs import Inputs, alike
from torchshrink.data.labelled import LazySamples
from torchshrink.data.preparation import Preparation
from torchshrink.errors import DataError

Pair = tuple[Path, Path]


class _Found(NamedTuple):
    """What a mask holds: its values, and whether its channels are equal."""

    path: Path
    values: NDArray[Any]
    is_gray: bool


def read_folders(
    *roots: Path,
    kind: str | None = None,
    preparation: Preparation | None = None,
    classes: int | None = None,
    ignore: int | None = None,
) -> list[LazySamples]:
    """Return the samples of each folder; together they must form one data set.

    Every folder holds ``images/`` and ``masks/`` with files of the same stem: PNG, TIFF or JPEG, gray or RGB, all of
    one size unless ``preparation`` gives them one. 8-bit values are divided by 255, 16-bit values by 65535 (gray only:
    Pillow reads 16-bit RGB as 8-bit). An alpha channel is dropped if it is opaque.

    Masks of 0 and one other value, which is 1, 255 or 65535, are a segmentation; RGB masks then give one class per
    channel, or a single class if their three channels are equal in all masks. Gray masks of more values, or of numbers
    of a palette, hold class numbers from 0 on. With ``targets/`` in place of ``masks/``, the truth is another image.

    Args:
        roots: One folder for each part.
        kind: ``segmentation``, ``multiclass`` or ``reconstruction``; by default what the masks are.
        preparation: What is done to every file; nothing by default.
        classes: How many classes there are, where some occur nowhere.
        ignore: The value of mask pixels that count for nothing.

    Returns:
        One set per folder, in the order of file stems.

    Raises:
        DataError: When folders, names, sizes, modes or mask values are not as described.
    """
    preparation = preparation or Preparation()
    truths = "targets" if all((root / "targets").is_dir() for root in roots) else "masks"
    sets = [_pairs(root, truths) for root in roots]
    inputs = alike([image for pairs in sets for image, _ in pairs], preparation)
    if truths == "targets":
        return _targets(sets, roots, inputs, preparation)
    heads = [_mask_header(pair) for pairs in sets for pair in pairs]
    _check_mask_modes(heads)
    with ThreadPoolExecutor() as threads:
        found = list(threads.map(partial(_look, ignore=ignore), [head.path for head in heads]))
    read: Callable[[Pair], NDArray[Any]]
    kind = kind or _kind(found, classes, ignore)
    if kind == "segmentation":
        _check_binary(found)
        count = 1 if all(each.is_gray for each in found) else 3
        read = partial(_read_binary, preparation=preparation, channels=count)
    else:
        is_binary = classes is None and all(kinds.is_binary(each.values) for each in found)
        count = 2 if is_binary else _count_classes(found, classes)
        read = partial(_read_numbers, preparation=preparation, ignore=ignore, is_binary=is_binary)
    return [
        LazySamples(pairs, partial(_first, read=inputs.read), read, str(root), inputs.raw, kind, count)
        for pairs, root in zip(sets, roots, strict=True)
    ]


def _targets(
    sets: Sequence[list[Pair]], roots: Sequence[Path], inputs: Inputs, preparation: Preparation
) -> list[LazySamples]:
    truth = alike([target for pairs in sets for _, target in pairs], preparation)
    return [
        LazySamples(
            pairs,
            partial(_first, read=inputs.read),
            partial(_second, read=truth.read),
            str(root),
            inputs.raw,
            "reconstruction",
            len(truth.read(pairs[0][1])),
        )
        for pairs, root in zip(sets, roots, strict=True)
    ]


def _pairs(root: Path, truths: str) -> list[Pair]:
    """Return every image of a folder with its truth."""
    for folder in (root / "images", root / truths):
        if not folder.is_dir():
            raise DataError(f"{folder} is missing: {root} needs a folder images and a folder {truths}")
    inputs, others = _by_stem(root / "images"), _by_stem(root / truths)
    what = truths.removesuffix("s")
    if not inputs:
        raise DataError(f"{root / 'images'} holds no images: put {', '.join(ENDINGS)} files there")
    for stem, image in inputs.items():
        if stem not in others:
            raise DataError(f"{image} has no {what}: add {root / truths / stem}.png")
    for stem, other in others.items():
        if stem not in inputs:
            raise DataError(f"{other} has no image: add {root / 'images' / stem}.png or remove the {what}")
    return [(inputs[stem], others[stem]) for stem in inputs]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: (path.stem, path.suffix)):
        if path.suffix.lower() not in ENDINGS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path.name} share the name {path.stem!r}: keep one of them")
        found[path.stem] = path
    return found


def _mask_header(pair: Pair) -> Header:
    mask = images.header(pair[1], Preparation(), is_mask=True)
    with images.opened(pair[0]) as image:
        size = f"{image.width}x{image.height}"
    if mask.size != size:
        raise DataError(f"{mask.path} measures {mask.size} but {pair[0]} {size}: save the mask at its image's size")
    return mask


def _check_mask_modes(masks: list[Header]) -> None:
    first = masks[0]
    for mask in masks:
        if mask.kind.endswith("RGB") != first.kind.endswith("RGB"):
            raise DataError(f"{first.path} is {first.kind} but {mask.path} is {mask.kind}: save all masks in one mode")


def _look(path: Path, ignore: int | None) -> _Found:
    pixels = images.read_mask(path, Preparation())
    found = np.unique(pixels)
    return _Found(path, found[found != ignore] if ignore is not None else found, bool((pixels == pixels[:1]).all()))


def _kind(found: list[_Found], classes: int | None, ignore: int | None) -> str:
    """Return what masks are when nobody says it."""
    if classes is not None or ignore is not None:
        return "multiclass"
    if not all(each.is_gray for each in found) or all(kinds.is_binary(each.values) for each in found):
        return "segmentation"
    numbers = np.unique(np.concatenate([each.values for each in found]))
    return "multiclass" if np.array_equal(numbers, np.arange(len(numbers))) else "segmentation"


def _check_binary(found: list[_Found]) -> None:
    for path, values, _ in found:
        if kinds.is_binary(values):
            continue
        advice = (
            "give each class its own channel of an RGB mask, or number classes from 0 on without gaps (classes=K if "
            "some occur nowhere, ignore=255 for what shall not count)"
        )
        if path.suffix.lower() in (".jpg", ".jpeg"):
            advice = "JPEG blurs masks, save it as PNG"
        raise DataError(f"{path} holds the values {kinds.shown(values)}, expected 0 and one of 1, 255, 65535: {advice}")


def _count_classes(found: list[_Found], classes: int | None) -> int:
    colourful = next((each.path for each in found if not each.is_gray), None)
    if colourful is not None:
        raise DataError(f"{colourful} is a colour mask: save class numbers as gray, or as a palette image")
    numbers = {int(value) for each in found for value in each.values}
    return kinds.count_classes(numbers, classes, f"the masks beside {found[0].path} hold")


def _first(pair: Pair, read: Callable[[Path], NDArray[np.float32]]) -> NDArray[np.float32]:
    return read(pair[0])


def _second(pair: Pair, read: Callable[[Path], NDArray[np.float32]]) -> NDArray[np.float32]:
    return read(pair[1])


def _read_binary(pair: Pair, preparation: Preparation, channels: int) -> NDArray[np.uint8]:
    """Return ``[K, H, W]`` of 0 and 1."""
    mask = images.read_mask(pair[1], preparation)
    truth: NDArray[np.uint8] = np.not_equal(mask[:channels], 0).astype(np.uint8)
    return truth


def _read_numbers(pair: Pair, preparation: Preparation, ignore: int | None, is_binary: bool) -> NDArray[np.int64]:
    """Return class numbers ``[H, W]``."""
    mask = images.read_mask(pair[1], preparation)[0]
    numbers: NDArray[np.int64] = np.asarray(mask != 0 if is_binary else mask, np.int64)
    if ignore is not None:
        numbers[mask == ignore] = kinds.LEFT_OUT
    return numbers

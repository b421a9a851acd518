"""Folders and files of samples, told apart by what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from torchshrink.data import files, kinds, options
from torchshrink.data import preparation as preparations
from torchshrink.data.arrays import read_npz
from torchshrink.data.folder import read_folders
from torchshrink.data.inputs import ENDINGS, files_in
from torchshrink.data.labelled import LazySamples
from torchshrink.data.preparation import Preparation
from torchshrink.data.table import PARTS, read_table
from torchshrink.errors import DataError

KEYS = (*preparations.KEYS, "kind", "classes", "ignore", "group", "target", "noise")
EXPECTED = (
    "expected synthetic:cells, synthetic:pulses, a folder (images and masks, a folder for each class, train and test "
    "of them, or train.npz and test.npz), an .npz or .csv file, or module:callable"
)
Parts = dict[str, LazySamples]


def read(path: Path, source: str, given: Mapping[str, str], how: Preparation) -> Parts:
    """Return the samples of a folder or file by part; ``""`` is all of them.

    Args:
        path: An ``.npz`` or ``.csv`` file, or a folder with one of: ``images/`` and ``masks/`` or ``targets/``; a
            folder of images or WAV files for each class; images or WAV files alone (unlabelled); ``train/`` and
            ``test/`` or ``val/`` of these; ``train.npz`` and ``test.npz``.
        source: What errors call it.
        given: Options: ``kind``, ``classes`` and ``ignore`` say what the truth is, ``group`` what belongs together,
            ``target`` columns of a table, ``noise`` the noise that a reconstruction has to remove.
        how: What is done to every file.

    Raises:
        DataError: When nothing of the kind is there, or an option does not apply.
    """
    kind = given.get("kind")
    if kind is not None and kind not in (*kinds.TYPES, "unlabelled"):
        raise DataError(f"{source}: there is no kind={kind}, choose {', '.join((*kinds.TYPES, 'unlabelled'))}")
    classes = options.positive(source, given, "classes")
    suffix = path.suffix.lower()
    is_npz = suffix == ".npz" or (path / "train.npz").exists() or (path / "test.npz").exists()
    _check_options(source, given, is_npz, suffix == ".csv")
    if not path.exists():
        raise DataError(f"{path} does not exist: {EXPECTED}")
    if is_npz:
        return read_npz(path, kind=kind, group=given.get("group"), classes=classes, level=how.level)
    if suffix == ".csv":
        target, group = given.get("target"), given.get("group")
        parts = read_table(path, how, kind=kind, target=target, group=group, classes=classes)
        return {name: replace(part, prepared=str(how)) for name, part in parts.items()}
    if not path.is_dir():
        raise DataError(f"{path} is a {suffix or 'nameless'} file that cannot be read: {EXPECTED}")
    roots = _roots(path)
    found = _folders(list(roots.values()), source, given, how)
    parts = {name: replace(part, prepared=str(how)) for name, part in zip(roots, found, strict=True)}
    return {name: _grouped(part, source, given) for name, part in parts.items()}


def _check_options(source: str, given: Mapping[str, str], is_npz: bool, is_table: bool) -> None:
    refused = {
        "an npz file": (is_npz, ("size", "fit", "colour", "ignore", "target", "noise")),
        "a table": (is_table, ("ignore", "noise")),
        "a folder": (not is_npz and not is_table, ("target",)),
    }
    for what, (is_it, keys) in refused.items():
        wrong = [key for key in keys if key in given]
        if is_it and wrong:
            raise DataError(f"{source}: {wrong[0]} does not apply to {what}, leave it out")


def _roots(path: Path) -> dict[str, Path]:
    """Return the folder of each part, training first; ``""`` for a folder without parts."""
    found = {PARTS[folder.name.lower()]: folder for folder in sorted(path.iterdir()) if _is_part(folder)}
    if not found:
        return {"": path}
    if "train" not in found or len(found) < 2:
        missing = "train" if "train" not in found else "test"
        raise DataError(f"{path / missing} is missing: {path} needs both train and test")
    return {name: found[name] for name in ("train", "validation", "test") if name in found}


def _is_part(folder: Path) -> bool:
    return folder.is_dir() and folder.name.lower() in PARTS


def _folders(roots: Sequence[Path], source: str, given: Mapping[str, str], how: Preparation) -> list[LazySamples]:
    """Return the samples of folders that are laid out alike."""
    kind, noise = given.get("kind"), _amount(source, given)
    inner = [{folder.name for folder in root.iterdir() if files.is_class(folder)} for root in roots]
    has_images = any(names & {"images", "masks", "targets"} for names in inner)
    if kind in ("unlabelled", "reconstruction") and not all("targets" in names for names in inner):
        places = [root / "images" if has_images else root for root in roots]
        return files.without_labels(places, how, kind, noise)
    if noise:
        raise DataError(f"{source}: noise is for kind=reconstruction, say both")
    if has_images and all(names == {"images"} for names in inner):
        return files.without_labels([root / "images" for root in roots], how)
    if has_images:
        classes, ignore = (options.positive(source, given, key) for key in ("classes", "ignore"))
        return read_folders(*roots, kind=kind, preparation=how, classes=classes, ignore=ignore)
    return _plain(roots, inner, how, kind)


def _plain(roots: Sequence[Path], inner: Sequence[set[str]], how: Preparation, kind: str | None) -> list[LazySamples]:
    """Return the samples of folders with a folder for each class, or with nothing but files."""
    for root, names in zip(roots, inner, strict=True):
        own = next((path for path in sorted(root.iterdir()) if path.suffix.lower() in ENDINGS), None)
        held = any(True for name in names for _ in files_in(root / name))
        if own is None and not held:
            raise DataError(f"{root} holds none of images, masks, train, test, train.npz and test.npz: {EXPECTED}")
        if own is not None and held:
            raise DataError(f"{own} lies beside folders of images or sounds: put it into the folder of its class")
        if held and len(inner[0]) < 2:
            raise DataError(f"{root} holds one folder only, {', '.join(names)}: name that folder, or add other classes")
    if not any(inner) or kind == "unlabelled":
        return files.without_labels(roots, how)
    if kind not in (None, "classification"):
        raise DataError(
            f"{roots[0]} holds a folder for each class, which is no {kind}: list files and targets in a .csv"
        )
    return files.class_folders(roots, how)


def _grouped(part: LazySamples, source: str, given: Mapping[str, str]) -> LazySamples:
    """Return samples with the part of their names that says what belongs together."""
    number = options.positive(source, given, "group")
    if number is None:
        return part
    return replace(part, groups=np.array([files.name_part(item, number) for item in part.items]))


def _amount(source: str, given: Mapping[str, str]) -> float:
    try:
        amount = float(given.get("noise", 0))
    except ValueError:
        amount = -1.0
    if not 0 <= amount < 1e6:
        raise DataError(f"{source}: cannot use noise={given['noise']}, say a standard deviation such as 0.1")
    return amount

"""Make a multi-class task and a regression of images with masks of 0 and 255.

Usage: python nuclei.py DATA/nuclei OUT: OUT/classes holds masks of 0 (background), 1 (nucleus) and 2 (border), and
OUT/share.csv the share of every image that is foreground.
"""

import csv
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

BORDER = 2  # pixels of a nucleus that are no further from the background


def inner(mask):
    """Return a mask without its border."""
    for _ in range(BORDER):
        padded = np.pad(mask, 1, mode="edge")
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def main(source, out):
    """Write both."""
    rows = [("file", "share", "split")]
    for part in ("train", "test"):
        for kind in ("images", "masks"):
            (out / "classes" / part / kind).mkdir(parents=True, exist_ok=True)
        for path in sorted((source / part / "images").iterdir()):
            mask = np.asarray(Image.open(source / part / "masks" / path.name)) > 0
            classes = mask.astype(np.uint8) + (mask & ~inner(mask))
            Image.fromarray(classes).save(out / "classes" / part / "masks" / path.name)
            image = shutil.copy(path, out / "classes" / part / "images" / path.name)
            rows.append((image.relative_to(out), f"{mask.mean():.4f}", part))
    with (out / "share.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""Where samples come from: folders, tables, npz files, datasets, synthetic sets and the caller's own code."""

from torchshrink.data.arrays import from_xy
from torchshrink.data.augment import flips_rotations_noise
from torchshrink.data.build import task_from_arrays
from torchshrink.data.datasets import task_from_datasets
from torchshrink.data.labelled import LabelledArrays
from torchshrink.data.sources import open_task
from torchshrink.data.synthetic import cells, pulses

__all__ = [
    "LabelledArrays",
    "cells",
    "flips_rotations_noise",
    "from_xy",
    "open_task",
    "pulses",
    "task_from_arrays",
    "task_from_datasets",
]

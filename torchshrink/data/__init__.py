"""Where samples come from: folders, tables, npz files, datasets, synthetic sets and the caller's own code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchshrink.lazy import lazy

if TYPE_CHECKING:
    from torchshrink.data.arrays import from_xy
    from torchshrink.data.augment import flips_rotations_noise
    from torchshrink.data.build import task_from_arrays
    from torchshrink.data.datasets import task_from_datasets
    from torchshrink.data.labelled import LabelledArrays
    from torchshrink.data.sources import open_task
    from torchshrink.data.synthetic import cells, pulses

__all__ = ["LabelledArrays", "cells", "flips_rotations_noise", "from_xy", "open_task", "pulses", "task_from_arrays",
           "task_from_datasets"]  # fmt: skip

# On first use: the process that predicts prepares images without torch.
__getattr__, __dir__ = lazy(
    __name__,
    {
        "torchshrink.data.arrays": "from_xy",
        "torchshrink.data.augment": "flips_rotations_noise",
        "torchshrink.data.build": "task_from_arrays",
        "torchshrink.data.datasets": "task_from_datasets",
        "torchshrink.data.labelled": "LabelledArrays",
        "torchshrink.data.sources": "open_task",
        "torchshrink.data.synthetic": "cells pulses",
    },
)

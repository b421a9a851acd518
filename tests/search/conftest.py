"""A space, a recipe and candidates that nothing has to be trained for."""

import pytest

from torchshrink.pipeline import recipe
from torchshrink.pipeline.recipe import Recipe
from torchshrink.search.space import Resolved, Stage

DENSE = {"size": 40_000.0, "latency": 1.0, "latency_ms": 2.0, "rss": 60.0, "loss": 0.2, "int8_latency": 0.5}


@pytest.fixture
def space() -> Resolved:
    return Resolved(
        channels=(0.0, 0.8),
        stages=(
            Stage(name="stage_1", layers=("encoder.0.0", "encoder.0.3"), offset=(-0.1, 0.1)),
            Stage(name="stage_2", layers=("encoder.1.0",), offset=(0.0, 0.0)),
        ),
        round_to=(1, 4),
        sparsity=(0.0, 0.9),
        pattern=("magnitude",),
        int8=("qat", "ptq"),
        kept=("head",),
        distillation=(0.0, 0.5),
        length=(1.0,),
        lr=(1e-3, 1e-2),
    )


@pytest.fixture
def base() -> Recipe:
    return recipe.parse(
        {
            "data": "synthetic:cells?size=32&train=40&test=8",
            "model": {"arguments": {"widths": [8, 16]}},
            "variants": {"dense": {"train": {"epochs": 2}}},
            "measure": {"runs": 5},
        }
    )

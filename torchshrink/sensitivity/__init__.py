"""What each layer alone costs when it is pruned or in int8, and what follows: amounts, and layers to keep float."""

from torchshrink.sensitivity.layer_info import LayerInfo, layers
from torchshrink.sensitivity.measurement import (
    AMOUNTS,
    BUDGET,
    SAMPLES,
    Sensitivity,
    Suggestion,
    int8_costs,
    loss,
    measure,
    suggest,
)
from torchshrink.sensitivity.substitutes import weight_noise_db

__all__ = [
    "AMOUNTS",
    "BUDGET",
    "SAMPLES",
    "LayerInfo",
    "Sensitivity",
    "Suggestion",
    "int8_costs",
    "layers",
    "loss",
    "measure",
    "suggest",
    "weight_noise_db",
]

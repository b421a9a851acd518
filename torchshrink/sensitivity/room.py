"""What the room costs that int8 weights leave for processors without VNNI, in words."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from torchshrink.prune.layers import prunable_layers
from torchshrink.sensitivity.substitutes import weight_noise_db


def room_cost(model: nn.Module, keep_float: Sequence[str] = (), portable: bool = True) -> str:
    """Return a sentence: the signal to noise of a float model's int8 weights, with the room and without.

    Args:
        model: What is to be quantized.
        keep_float: Modules that stay float.
        portable: Whether the room is left.
    """
    layers = [
        layer
        for name, layer in prunable_layers(model).items()
        if not any(name == kept or name.startswith(f"{kept}.") for kept in keep_float)
    ]
    with_room, without = (f"{weight_noise_db(layers, each):.1f} dB" for each in (True, False))
    if portable:
        return f"int8 weights: signal to noise {with_room} with room for processors without VNNI, {without} without"
    return (
        f"int8 weights: signal to noise {without} without room for processors without VNNI, where ONNX Runtime may "
        f"compute something else; {with_room} with it"
    )

"""The fifth step: the layers that lose most by int8, to be kept float."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from torchshrink.quantize.ladder.walk import together
from torchshrink.quantize.modes import owner
from torchshrink.quantize.noise import snr_db
from torchshrink.quantize.scheme import ACTIVATION_MAX, ACTIVATION_MIN


@torch.no_grad()
def most_costly(graph: GraphModule, floats: GraphModule, inputs: Sequence[Tensor]) -> list[str]:
    """Return the modules of the layers of a quantized graph, that with the least dB first.

    Of each layer alone: its output from the float input, which is rounded, as are its weights, against its float
    output.

    Args:
        graph: What `torchshrink.quantize.convert` returned.
        floats: The same in float, see `walk.together`; its operations know their modules.
        inputs: ``[N, C, *size]`` for each argument.

    Source: Sheng et al., arXiv:1803.08607, section 4.
    """
    found: dict[str, float] = {}
    for call, wanted in together(graph, floats, inputs):
        entry: Any = call.node.args[0]
        source = torch.fake_quantize_per_tensor_affine(
            wanted.args[0], float(entry.args[1]), int(entry.args[2]), ACTIVATION_MIN, ACTIVATION_MAX
        )
        name = owner(wanted.node)
        if name:
            found[name] = min(snr_db(call.output(source), wanted.output()), found.get(name, torch.inf))
    return sorted(found, key=lambda name: found[name])

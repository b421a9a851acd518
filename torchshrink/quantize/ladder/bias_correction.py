"""The third step: what rounding adds to the mean of a channel is taken off its bias."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from torchshrink.quantize.bias import round_biases
from torchshrink.quantize.ladder.walk import together


@torch.no_grad()
def correct(graph: GraphModule, floats: GraphModule, inputs: Sequence[Tensor]) -> None:
    """Add to every bias of a quantized graph, in place, how much the mean of its channel is off.

    ``b += E[y] - E[y~]`` over samples and positions, from the first layer to the last, so that each sees what those
    before it make after they were corrected. Biases are rounded to the grid of int32 again. A layer without a bias, or
    one that shares it, is left alone.

    Args:
        graph: What `torchshrink.quantize.convert` returned.
        floats: The same in float, see `walk.together`.
        inputs: ``[N, C, *size]`` for each argument: a few dozen samples.

    Source: Nagel et al., arXiv:1906.04721, section 4.2, empirical as in its appendix D.
    """
    for call, wanted in together(graph, floats, inputs):
        bias = call.node.args[2] if len(call.node.args) > 2 else None
        if not isinstance(bias, Node) or bias.op != "get_attr" or len(bias.users) > 1:
            continue
        difference = (wanted.output() - call.output()).movedim(call.channels, 0).flatten(1).mean(1)
        call.args[2] = call.args[2] + difference
        setattr(graph, str(bias.target), call.args[2])
    round_biases(graph)

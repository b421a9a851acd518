"""Store int8 weights that were trained on a grid of 4 bits as two in a byte, where LiteRT has kernels for that.

What is computed is the same to the bit. XNNPACK has no such convolution, so LiteRT's own kernel computes it, on one
value at a time: a small U-Net took three times as long as with a byte for each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.tflite_file import graphs

LARGEST = 7  # code, of either sign: a grid of 4 bits that is symmetric
_KINDS = ("CONV_2D", "FULLY_CONNECTED")


def pack(model: Any) -> int:
    """Let every weight whose codes span just that grid take 4 bits, in place, and return how many did.

    Trained for int8, the largest code of a weight is 127 or little less; for int4, it is 7.
    """
    count = 0
    for graph in graphs(model):
        for operator in graph.operators:
            index = int(operator.inputs[1]) if graph.kind(operator) in _KINDS else -1
            codes = graph.constant(index) if index >= 0 and graph.is_int8(index) else None
            if codes is None or np.abs(codes).max(initial=0) != LARGEST or _is_shared(graph, index):
                continue
            tensor = graph.tensors[index]
            tensor.type = schema.TensorType.INT4
            model.buffers[tensor.buffer].data = tflite_file.nibbles(codes)
            count += 1
    return count


def _is_shared(graph: tflite_file.Graph, index: int) -> bool:
    """Return whether another kind of operator, or another tensor, has the same values."""
    users = sum(each.buffer == graph.tensors[index].buffer for part in graph.model.subgraphs for each in part.tensors)
    return users > 1 or any(graph.kind(reader) not in _KINDS for reader in graph.readers(index))

"""What a TFLite file holds and nobody reads: the converter's account of itself, and names of many parts."""

from __future__ import annotations

import re
from typing import Any

from torchshrink.converters.tflite_file import Graph, unique

_UNREAD = (b"CONVERSION_METADATA", "CONVERSION_METADATA")  # as read, and as made; of TensorFlow, about its own options
_PREFIX = re.compile(r"^(model(_\d+)?/)?(tf\.(nn|math|compat\.v1|image|keras)?\.?)?")


def trim(model: Any) -> None:
    """Drop it in place; inputs and outputs keep their names, others stay apart from each other."""
    graph = Graph(model)
    ends = {int(index) for index in (*graph.inputs, *graph.outputs)}
    taken = {graph.name(index) for index in ends}
    for index, tensor in enumerate(graph.tensors):
        if index not in ends:
            tensor.name = unique(_short(graph.name(index)), taken)
    for entry in [each for each in model.metadata or [] if each.name in _UNREAD]:
        model.buffers[entry.buffer].data = None
        model.metadata.remove(entry)


def _short(name: str) -> str:
    """Return the first of the names that were joined, without the converter's own prefixes.

    >>> _short("model_9/tf.nn.relu_2/Relu;model_9/tf.nn.convolution_12/convolution")
    'relu_2/Relu'
    >>> _short("arith.constant10_duplicated_25")
    'c10_duplicated_25'
    """
    first = _PREFIX.sub("", name.partition(";")[0]) or name
    return re.sub(r"^arith\.constant", "c", first)

"""Rewrite an ONNX graph of signals as one of images one pixel wide, so that a converter need not do it layer by layer.

TFLite has no operators for signals ``[N, C, L]``: a converter writes each of them as a RESHAPE, an operator for images
and a RESHAPE back. Here the input gets a width of 1 once, every operation that has a form for images works on
``[N, C, L, 1]``, and the width goes at the outputs and in front of what has no such form. The values of every tensor
stay what they are, in the same order.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

from torchshrink.converters import onnx_file
from torchshrink.converters.float_tflite import signal_rules

# What makes a graph one of signals. Other operations follow when an input of theirs already has a width.
_FIRST = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "Resize"}
_OPSET_OF_AXES_AS_INPUT = 13


def lift(model: ModelProto) -> ModelProto:
    """Return a float graph with its operations on ``[N, C, L]`` moved to ``[N, C, L, 1]``; inputs and outputs stay.

    Tensors keep their names when they get a width, except the graph's inputs, outputs and constants: their names go
    on to mean what they meant.

    Args:
        model: Not changed.

    Returns:
        The new graph, or ``model`` itself when there is nothing to gain: no two operations on signals in a row, or a
        graph with branches or loops.
    """
    nested = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
    if any(item.type in nested for node in model.graph.node for item in node.attribute):
        return model
    possible = _Walk(model, range(len(model.graph.node)))
    worthwhile = {index for group in possible.groups() if _saves(model, group) for index in group}
    return _Walk(model, worthwhile).finish() if worthwhile else model


def _saves(model: ModelProto, group: Sequence[int]) -> bool:
    """Return whether operations on one width save a converter anything: a single one needs as many moves as it does."""
    return sum(model.graph.node[index].op_type not in signal_rules.ONE_BY_ONE for index in group) > 1


class _Walk:
    """Goes through a graph in its order and writes the new one; implements `signal_rules.Tensors`.

    Every tensor of the old graph has up to two forms in the new one: as it was and with a width. The missing one is
    made when an operation asks for it. Only the nodes at the indices in ``allowed`` may get a width.
    """

    def __init__(self, model: ModelProto, allowed: Collection[int]) -> None:
        self._model = ModelProto()
        self._model.CopyFrom(model)
        self._arrays = onnx_file.constants(model) | _constant_nodes(model)
        self._ranks = _ranks(model) | {name: array.ndim for name, array in self._arrays.items()}
        self._names = set(self._ranks) | {name for node in model.graph.node for name in node.output}
        self._defaults = {item.name for item in model.graph.input} & set(self._arrays)
        self._outputs = {item.name for item in model.graph.output}
        self._nodes: list[NodeProto] = []
        self._added: dict[str, NDArray[Any]] = {}
        self._lifted: dict[str, str] = {}
        self._operands: dict[str, str] = {}
        self._flat: dict[str, str] = {}
        self._only_lifted: set[str] = set()
        self.opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=1)
        self._groups: list[tuple[set[str], list[int]]] = []
        for index, node in enumerate(model.graph.node):
            self._take(index, node, index in allowed)

    def groups(self) -> list[list[int]]:
        """Return the indices of the nodes that have a width, those together that hand it on to each other."""
        return [indices for _, indices in self._groups]

    def _take(self, index: int, node: NodeProto, is_allowed: bool) -> None:
        """Add a node to the new graph, with a width when it can have one and its first input or another has it."""
        new = NodeProto()
        new.CopyFrom(node)
        if is_allowed and self._may_lift(node) and signal_rules.RULES[node.op_type](self, new):
            self._name_outputs(new)
            self._group(index, node)
            return
        for position, name in enumerate(node.input):
            new.input[position] = self.flat(name)
        self._nodes.append(new)

    def finish(self) -> ModelProto:
        """Return the new graph."""
        graph = self._model.graph
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        onnx_file.replace_initializers(self._model, self._added)
        used = {name for node in self._nodes for name in node.input}
        kept = [item for item in graph.input if item.name in used or item.name not in self._defaults]
        del graph.input[:]
        graph.input.extend(kept)
        return onnx.shape_inference.infer_shapes(self._model)

    def _may_lift(self, node: NodeProto) -> bool:
        if node.op_type not in signal_rules.RULES or node.domain not in ("", "ai.onnx"):
            return False
        is_signal = node.op_type in _FIRST and self._ranks.get(node.input[0]) == 3
        signals = {name for name in node.input if self._ranks.get(name) == 3} - set(self._arrays)
        follows = any(name in self._lifted for name in signals)
        is_kept = all(self._ranks.get(name) == 3 for name in node.output)
        return (is_signal or follows) and (is_kept or node.op_type.startswith("Reduce"))

    def _name_outputs(self, node: NodeProto) -> None:
        """Add a node whose outputs have a width; those of the graph get the name without one back right away."""
        names = list(node.output)
        self._nodes.append(node)
        for index, name in enumerate(names):
            if self._ranks.get(name) == 3:
                is_result = name in self._outputs
                self._lifted[name] = node.output[index] = self._unused(f"{name}_lifted") if is_result else name
                if is_result:
                    self._nodes.append(self._move("Squeeze", self._lifted[name], name))
                else:
                    self._only_lifted.add(name)

    def _group(self, index: int, node: NodeProto) -> None:
        tensors = (set(node.input) | set(node.output)) & set(self._lifted) - set(self._arrays)
        joined = [group for group in self._groups if group[0] & tensors]
        self._groups = [group for group in self._groups if group not in joined]
        indices = [each for _, others in joined for each in others] + [index]
        self._groups.append((tensors.union(*(names for names, _ in joined)), indices))

    def rank(self, name: str) -> int | None:
        return self._ranks.get(name)

    def constant(self, name: str) -> NDArray[Any] | None:
        return self._arrays.get(name)

    def lifted(self, name: str) -> str:
        if name not in self._lifted:
            if name in self._arrays:
                self._lifted[name] = self.add(f"{name}_lifted", self._arrays[name][..., np.newaxis])
            else:
                self._lifted[name] = self._unused(f"{name}_lifted")
                self._nodes.append(self._move("Unsqueeze", self.flat(name), self._lifted[name]))
        return self._lifted[name]

    def operand(self, name: str) -> str:
        if self._ranks[name] == 0:
            return name
        if name not in self._arrays:
            return self.lifted(name)
        if name not in self._operands:
            self._operands[name] = self.add(f"{name}_lifted", self._widened(name))
            if name in self._defaults:
                self._declare(self._operands[name])
        return self._operands[name]

    def flat(self, name: str) -> str:
        if name in self._only_lifted:
            self._only_lifted.remove(name)
            self._flat[name] = self._unused(f"{name}_flat")
            self._nodes.append(self._move("Squeeze", self._lifted[name], self._flat[name]))
        return self._flat.get(name, name)

    def add(self, name: str, values: Sequence[Any] | NDArray[Any]) -> str:
        name = self._unused(name)
        self._added[name] = values if isinstance(values, np.ndarray) else np.asarray(values, np.int64)
        return name

    def _widened(self, name: str) -> NDArray[Any]:
        """Return a constant with a width, in the shape that onnx2tf 1.29 broadcasts correctly.

        It mistakes ``[1, C, 1, 1]`` and ``[L, 1]`` for what they become when channels go last.
        """
        array = self._arrays[name]
        shape = [1] * (3 - array.ndim) + [*array.shape, 1]
        is_per_channel = shape[0] == shape[2] == 1 and name not in self._defaults
        return array.reshape(shape[1:] if is_per_channel else shape)

    def _unused(self, name: str) -> str:
        """Return ``name``, with a number when it is taken."""
        others = (f"{name}_{number}" for number in itertools.count(1))
        found = next(text for text in itertools.chain([name], others) if text not in self._names)
        self._names.add(found)
        return found

    def _move(self, kind: str, source: str, target: str) -> NodeProto:
        """Return the node that adds or removes the width; of -1, unlike of 3, onnx2tf always finds the place."""
        if self.opset < _OPSET_OF_AXES_AS_INPUT:
            return helper.make_node(kind, [source], [target], axes=[-1])
        return helper.make_node(kind, [source, self.add("axes", [-1])], [target])

    def _declare(self, name: str) -> None:
        """Say that a constant is an input with a default value, as the one was that it is made from."""
        array = self._added[name]
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        self._model.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))


def _ranks(model: ModelProto) -> dict[str, int]:
    """Return how many dimensions every tensor has, where that can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {item.name: item.type.tensor_type for item in (*graph.value_info, *graph.input, *graph.output)}
    return {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}


def _constant_nodes(model: ModelProto) -> dict[str, NDArray[Any]]:
    """Return what the graph's Constant nodes hold."""
    values = {
        node.output[0]: onnx_file.attribute(node, "value") for node in model.graph.node if node.op_type == "Constant"
    }
    return {name: numpy_helper.to_array(value) for name, value in values.items() if value is not None}

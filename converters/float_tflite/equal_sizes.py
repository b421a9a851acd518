"""Say in the graph itself where channels go last, for inputs whose channels are as many as another side.

onnx2tf puts the channels of every input last, and finds out what became of that by comparing sizes. For
``[N, C, L]`` with as many channels as steps it cannot. Such an input therefore comes channels last already, and an
operation moves them back.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from torchshrink.converters import onnx_file

CHANNELS_LAST = "channels last"  # onnx2tf is told to leave the order of what is described so


def spell_out(model: ModelProto) -> ModelProto:
    """Let such inputs come channels last and say so in their ``doc_string``; ``model`` is changed.

    Layer norms whose gains could belong to another side, or are of several, are written as what they are made of.
    """
    _take_norms_apart(model)
    for item in onnx_file.inputs(model):
        sides = [side.dim_value for side in item.type.tensor_type.shape.dim]
        if len(sides) == 3 and sides[1] == sides[2]:
            item.doc_string = CHANNELS_LAST
            _move_back(model, item.name)
    return model


def _move_back(model: ModelProto, name: str) -> None:
    """Read an input through a transposition; where it gets a width first, behind that, which makes the two one."""
    constants = onnx_file.constants(model)
    readers = [node for node in model.graph.node if name in node.input]
    for node in readers:
        axes = constants.get(node.input[1]) if node.op_type == "Unsqueeze" and len(node.input) > 1 else None
        if axes is not None and axes.tolist() in ([-1], [3]):
            widened, node.output[0] = node.output[0], f"{node.output[0]}_channels_last"
            node.input[1] = f"{name}_width"
            model.graph.initializer.append(numpy_helper.from_array(np.array([2]), node.input[1]))
            _insert_after(model, node, _transpose(node.output[0], widened, [0, 3, 1, 2]))
        else:
            node.input[:] = [f"{name}_channels_first" if each == name else each for each in node.input]
    if any(f"{name}_channels_first" in node.input for node in readers):
        model.graph.node.insert(0, _transpose(name, f"{name}_channels_first", [0, 2, 1]))


def _transpose(source: str, target: str, order: list[int]) -> NodeProto:
    return helper.make_node("Transpose", [source], [target], f"{target}_moved", perm=order)


def _insert_after(model: ModelProto, node: NodeProto, new: NodeProto) -> None:
    place = next(index for index, each in enumerate(model.graph.node) if each is node or each.output == node.output)
    model.graph.node.insert(place + 1, new)


def _take_norms_apart(model: ModelProto) -> None:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        item.name: [side.dim_value for side in item.type.tensor_type.shape.dim]
        for item in (*inferred.value_info, *inferred.input)
    }
    axes_are_inputs = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx")) >= 18
    for index, node in reversed(list(enumerate(model.graph.node))):
        shape = shapes.get(node.input[0], []) if node.op_type == "LayerNormalization" else []
        axis = onnx_file.attribute(node, "axis", -1) % max(len(shape), 1) - len(shape)
        is_unclear = shape[-1:] and shape[-1] in shape[1:-1] if axis == -1 else shape
        if is_unclear and len(node.output) == 1 and axes_are_inputs:
            parts = _parts_of_norm(model, node, len(shape), list(range(axis, 0)))
            del model.graph.node[index]
            for part in reversed(parts):
                model.graph.node.insert(index, part)


def _parts_of_norm(model: ModelProto, node: NodeProto, rank: int, sides: list[int]) -> list[NodeProto]:
    """Return ``(x - mean) / sqrt(mean of squares + epsilon) * gain + bias`` over these sides."""
    source, output = node.input[0], node.output[0]
    axes, epsilon = f"{output}_axes", f"{output}_epsilon"
    value = onnx_file.attribute(node, "epsilon", 1e-5)
    model.graph.initializer.append(numpy_helper.from_array(np.array(sides), axes))
    model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), epsilon))
    steps = [("ReduceMean", "mean", [source, axes]), ("Sub", "centred", [source, "mean"]),
             ("Mul", "squares", ["centred", "centred"]), ("ReduceMean", "variance", ["squares", axes]),
             ("Add", "sum", ["variance", epsilon]), ("Sqrt", "spread", ["sum"]), ("Div", "unit", ["centred", "spread"]),
             ("Mul", "scaled", ["unit", node.input[1]])]  # fmt: skip
    if len(node.input) > 2 and node.input[2]:
        steps.append(("Add", "shifted", ["scaled", node.input[2]]))
    if len(sides) == rank - 1:  # onnx2tf finds the channels of constants that have as many sides as their tensor
        arrays = onnx_file.constants(model)
        for name in [each for each in node.input[1:3] if each in arrays]:
            wide = arrays[name][None]
            model.graph.initializer.append(numpy_helper.from_array(wide, f"{output}_{name}"))
            steps = [(kind, made, [f"{output}_{name}" if i == name else i for i in ins]) for kind, made, ins in steps]
    names = {name: f"{output}_{name}" for _, name, _ in steps[:-1]} | {steps[-1][1]: output}
    return [
        helper.make_node(kind, [names.get(each, each) for each in inputs], [names[name]], names[name])
        for kind, name, inputs in steps
    ]

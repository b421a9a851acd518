"""Write operations in the form that onnx2tf and TFLite understand; what is computed stays the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

from torchshrink.converters import onnx_file
from torchshrink.quiet import quiet

_OPSET_OF_GELU = 20
_GELU = {"half": 0.5, "one": 1.0, "root": math.sqrt(2), "reciprocal": math.sqrt(0.5), "cube": 3.0,
         "cubic": 0.044715, "slope": math.sqrt(2 / math.pi)}  # fmt: skip


def fold_constants(model: ModelProto) -> ModelProto:
    """Return a graph without operations on constants, or ``model`` itself: onnx2tf makes no tensors of them.

    An input with a default value is no constant.
    """
    from onnxscript.optimizer import fold_constants_ir

    graph = onnx_ir.from_proto(model)
    with quiet():  # it warns of what it leaves, such as operations with several outputs
        folded = fold_constants_ir(graph, output_size_limit=2**30, should_fold=lambda _: True)
    return onnx_ir.to_proto(graph) if folded.modified else model


def split_norms(model: ModelProto) -> ModelProto:
    """Write ReduceL2 as the root of a sum of squares: onnx2tf fails on the norms of a matrix's rows."""
    norms = [(index, node) for index, node in enumerate(model.graph.node) if node.op_type == "ReduceL2"]
    for index, node in reversed(norms):
        output = node.output[0]
        node.op_type, node.output[0] = "ReduceSumSquare", f"{output}_squared"
        model.graph.node.insert(index + 1, helper.make_node("Sqrt", [node.output[0]], [output], f"{output}_root"))
    return model


def add_up_stacks(model: ModelProto) -> ModelProto:
    """Write the sum of tensors that were stacked for it as a chain of sums: onnx2tf mixes up five dimensions."""
    made, arrays = onnx_file.producers(model), onnx_file.constants(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        stack = made.get(node.input[0]) if node.op_type == "ReduceSum" and len(node.input) > 1 else None
        axes = arrays.get(node.input[1]) if stack is not None else None
        parts = _stacked(stack, axes, made, arrays) if stack is not None and axes is not None else []
        if len(parts) < 2 or onnx_file.attribute(node, "keepdims", 1):
            nodes.append(node)
            continue
        total, output = parts[0], node.output[0]
        for index, part in enumerate(parts[1:], 1):
            result = output if index == len(parts) - 1 else f"{output}_{index}"
            nodes.append(helper.make_node("Add", [total, part], [result], f"{result}_added"))
            total = result
    if len(nodes) > len(model.graph.node):
        onnx_file.replace_nodes(model, nodes)
        onnx_file.replace_nodes(model, list(model.graph.node))  # what only the stacks read
    return model


def _stacked(stack: NodeProto, axes: NDArray[Any], made: dict[str, NodeProto], arrays: Any) -> list[str]:
    """Return which tensors were stacked along the one of ``axes``; none where it is no stack."""
    parts = [made[name] for name in stack.input if name in made and made[name].op_type == "Unsqueeze"]
    is_stack = stack.op_type == "Concat" and len(parts) == len(stack.input)
    places = [arrays.get(part.input[1]) if len(part.input) > 1 else None for part in parts]
    wanted = [onnx_file.attribute(stack, "axis")]
    is_one = axes.tolist() == wanted and all(place is not None and place.tolist() == wanted for place in places)
    return [part.input[0] for part in parts] if is_stack and is_one else []


def spread_kernels(model: ModelProto) -> ModelProto:
    """Write zeros into the kernels of transposed convolutions with a dilation: TFLite has none."""
    arrays = onnx_file.constants(model)
    spread: dict[str, NDArray[Any]] = {}
    for node in model.graph.node:
        steps = onnx_file.attribute(node, "dilations") if node.op_type == "ConvTranspose" else None
        if steps is None or set(steps) == {1} or node.input[1] not in arrays:
            continue
        weight, name = arrays[node.input[1]], f"{node.input[1]}_spread"
        size = [step * (side - 1) + 1 for step, side in zip(steps, weight.shape[2:], strict=True)]
        spread[name] = np.zeros((*weight.shape[:2], *size), weight.dtype)
        spread[name][(..., *(slice(None, None, step) for step in steps))] = weight
        kept = [item for item in node.attribute if item.name not in ("dilations", "kernel_shape")]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("kernel_shape", size)])
        node.input[1] = name
    if spread:
        onnx_file.replace_initializers(model, spread)
    return model


def add_sides_at_the_end(model: ModelProto) -> ModelProto:
    """Call the last side -1 where one is added there: onnx2tf takes its number for that of a side of an image."""
    arrays = onnx_file.constants(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph
    ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in (*inferred.value_info, *inferred.output)}
    for node in model.graph.node:
        axes = arrays.get(node.input[1]) if node.op_type == "Unsqueeze" and len(node.input) > 1 else None
        if axes is not None and axes.tolist() == [ranks.get(node.output[0], 0) - 1]:
            node.input[1] = f"{node.output[0]}_side"
            model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), node.input[1]))
    return model


def fuse_gelu(model: ModelProto) -> ModelProto:
    """Return a graph in which GELU, exact or approximated with tanh, is one operation, or ``model`` itself.

    Taken apart it would need TensorFlow's own Erf, which LiteRT does not have.

    Source: Hendrycks and Gimpel, arXiv:1606.08415: ``0.5 x (1 + erf(x / sqrt(2)))``, or
    ``0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``.
    """
    from onnxscript.rewriter import RewriteRule, RewriteRuleSet

    exact, by_tanh = (lambda op, x, kind=kind, **_: op.Gelu(x, approximate=kind) for kind in ("none", "tanh"))
    rules = [
        RewriteRule(_divided, exact, _are_of_gelu),
        RewriteRule(_multiplied, exact, _are_of_gelu),
        RewriteRule(_cubic, by_tanh, _are_of_gelu),
    ]
    graph = onnx_ir.from_proto(model)
    if not RewriteRuleSet(rules, commute=True).apply_to_model(graph):
        return model
    graph.opset_imports[""] = max(graph.opset_imports[""], _OPSET_OF_GELU)
    return onnx_ir.to_proto(RemoveUnusedNodesPass()(graph).model)


# The names of what these take: a rule finds out by them what stands where.
def _divided(op: Any, x: Any, half: Any, one: Any, root: Any) -> Any:
    return op.Mul(x, op.Mul(half, op.Add(one, op.Erf(op.Div(x, root)))))


def _multiplied(op: Any, x: Any, half: Any, one: Any, reciprocal: Any) -> Any:
    return op.Mul(x, op.Mul(half, op.Add(one, op.Erf(op.Mul(x, reciprocal)))))


def _cubic(op: Any, x: Any, half: Any, one: Any, slope: Any, cubic: Any, cube: Any) -> Any:
    inner = op.Mul(slope, op.Add(x, op.Mul(cubic, op.Pow(x, cube))))
    return op.Mul(x, op.Mul(half, op.Add(one, op.Tanh(inner))))


def _are_of_gelu(_: Any, **values: onnx_ir.Value) -> bool:
    """Return whether the constants are the numbers that they are called."""
    stored = {name: values[name].const_value for name in values.keys() & _GELU.keys()}
    return all(
        value is not None and value.size == 1 and math.isclose(value.numpy().item(), _GELU[name], rel_tol=1e-5)
        for name, value in stored.items()
    )

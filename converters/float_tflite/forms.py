"""Write operations in the form that onnx2tf and TFLite understand; what is computed stays the same."""

from __future__ import annotations

import math
from typing import Any

import onnx_ir
from onnx import ModelProto, helper
from onnx_ir.passes.common import RemoveUnusedNodesPass

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

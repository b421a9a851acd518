"""BatchNorm after a convolution or linear layer: folded into it, or written so that what will be folded is trained.

Source: Jacob et al., arXiv:1712.05877, section 3.2; the form that needs one forward pass is Krishnamoorthi,
arXiv:1806.08342, section 3.2.2. torchao has both, but with the eps and momentum of a default BatchNorm in its pattern,
into weights that other operations use as well, and with a division by gains that are zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from torchshrink.model.graphs import MODULES
from torchshrink.quantize.fake import divided

aten = torch.ops.aten

_TRANSPOSED: dict[Any, int] = {aten.conv_transpose1d.default: 6, aten.conv_transpose2d.input: 6}  # where ``groups`` is
_CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv1d.padding, aten.conv2d.padding}
_WEIGHTED = {*_CONVOLUTIONS, *_TRANSPOSED, aten.linear.default}


def can_fold(norm: Node) -> bool:
    """Return whether a node is a BatchNorm of fixed statistics right after weights that nothing else follows."""
    if norm.target is not aten.batch_norm.default or norm.args[3] is None:
        return False  # without running statistics it normalises by the batch
    source: Any = norm.args[0]
    if source.target not in _WEIGHTED or len(source.users) != 1:
        return False
    is_by_channel = source.target is not aten.linear.default or source.meta["val"].dim() == 2
    parts = [*source.args[1:3], *norm.args[1:5]]
    return is_by_channel and all(part is None or (isinstance(part, Node) and part.op == "get_attr") for part in parts)


@torch.no_grad()
def fold(graph: GraphModule) -> None:
    """Write every ``norm(convolution(x))`` as one convolution with weights of its own, in place.

    Also ``norm(convolution(x, quantize(weight * factor)) / factor)``, as `unfold` left it: those weights stay what
    they were in training, to the bit; statistics and shift become the bias.
    """
    values, made, before = _Values(graph), _Constants(graph), _attributes(graph)
    for norm in graph.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        if can_fold(norm):
            _fold_plain(norm, values, made)
        elif isinstance(norm.args[0], Node) and "unfolded" in norm.meta:
            _fold_trained(norm, values, made)
    graph.graph.eliminate_dead_code()
    _forget(graph, before - _attributes(graph))
    graph.recompile()


def unfold(graph: GraphModule) -> None:
    """Write ``norm(convolution(x, w))`` as ``norm(convolution(x, w * factor) / factor)``, in place, to be trained.

    ``factor``, the norm's gain over its running deviation, makes of the weights what they will be once it is folded,
    so that these are quantized; the norm sees what it always saw. Where a gain is zero it is taken for one. Only
    convolutions that are annotated, others stay float.
    """
    for norm in graph.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        if can_fold(norm) and Q_ANNOTATION_KEY in norm.args[0].meta:
            _unfold(graph, norm)
    graph.recompile()


def _unfold(graph: GraphModule, norm: Node) -> None:
    source: Any = norm.args[0]
    weight, bias = source.args[1], source.args[2] if len(source.args) > 2 else None
    with graph.graph.inserting_before(source):
        factor = _factor(norm)
        product = _call(source, aten.mul.Tensor, weight, _call(source, aten.view.default, factor, _over(source)))
    dims = source.meta["val"].dim()
    shape = [1, -1, *[1] * (dims - 2)]
    with graph.graph.inserting_after(source):
        quotient = _call(source, divided, source, None)
    with graph.graph.inserting_before(quotient):
        divisor = _call(source, aten.view.default, factor, shape)
    result = quotient
    if bias is not None:
        with graph.graph.inserting_before(norm):
            result = _call(source, aten.add.Tensor, quotient, _call(source, aten.view.default, bias, shape))
    result.meta[MODULES] = source.meta.pop(MODULES, [])
    norm.args = (result, *norm.args[1:])
    quotient.args = (source, divisor)
    source.args = (source.args[0], product, None, *source.args[3:])
    inputs = source.meta[Q_ANNOTATION_KEY].input_qspec_map
    inputs[product] = inputs.pop(weight)
    norm.meta["unfolded"] = True


def _factor(norm: Node) -> Node:
    """Add ``gain / sqrt(variance + eps)``, with one for a gain that is zero or that the norm does not have."""
    _, gain, _, _, variance, _, _, eps, *_ = norm.args
    inverse = _call(norm, aten.rsqrt.default, _call(norm, aten.add.Tensor, variance, eps))
    if gain is None:
        return inverse
    safe = _call(norm, aten.add.Tensor, gain, _call(norm, aten.eq.Scalar, gain, 0))
    return _call(norm, aten.mul.Tensor, safe, inverse)


def _call(like: Node, target: Any, *args: Any) -> Node:
    """Add an operation that belongs to the module of ``like`` at the place that the graph inserts at."""
    made = like.graph.call_function(target, args)
    made.meta = {key: like.meta[key] for key in ("nn_module_stack", "val") if key in like.meta}
    return made


def _over(source: Node) -> list[int]:
    """Return the shape in which a value for each output channel multiplies the weight of a convolution."""
    weight: Any = source.args[1]
    dims = weight.meta["val"].dim() if "val" in weight.meta else source.meta["val"].dim()
    return [1, -1, *[1] * (dims - 2)] if source.target in _TRANSPOSED else [-1, *[1] * (dims - 1)]


def _fold_plain(norm: Node, values: _Values, made: _Constants) -> None:
    source: Any = norm.args[0]
    _, gain, shift, mean, variance, _, _, eps, *_ = norm.args
    factor = torch.rsqrt(values(variance) + eps) * (1 if gain is None else values(gain))
    arguments = [*source.args, None][: max(3, len(source.args))]
    weight, bias = arguments[1:3]
    offset = (0 if bias is None else values(bias)) - values(mean)
    groups = source.args[_TRANSPOSED[source.target]] if _groups_follow(source) else 1
    parts: list[Any] = [weight, bias, gain, shift, mean, variance]
    names = [None if part is None else str(part.target) for part in parts]
    with source.graph.inserting_before(source):
        scaled = _times(values(weight), factor, source.target in _TRANSPOSED, groups)
        arguments[1] = made(weight, weight, (*names, eps, "weight"), scaled)
        moved = offset * factor + (0 if shift is None else values(shift))
        arguments[2] = made(weight, weight, (*names, eps, "bias"), moved)
    _replace(norm, source, arguments)


def _groups_follow(source: Node) -> bool:
    return source.target in _TRANSPOSED and len(source.args) > _TRANSPOSED[source.target]


def _times(weight: Tensor, factor: Tensor, is_transposed: bool, groups: int) -> Tensor:
    if not is_transposed:
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
    parts = weight.reshape(groups, -1, *weight.shape[1:])
    return (parts * factor.reshape(groups, 1, -1, *[1] * (weight.dim() - 2))).reshape(weight.shape)


def _fold_trained(norm: Node, values: _Values, made: _Constants) -> None:
    quotient, bias = _without_bias(norm.args[0])
    source: Any = quotient.args[0]
    quantizer: Any = source.args[1]
    product: Any = quantizer.args[0] if quantizer.op == "call_module" else quantizer
    _, gain, shift, mean, *_ = norm.args
    alive: Any = 1 if gain is None else values(gain) != 0
    factor = values(product.args[1].args[0]) * alive
    offset = (0 if bias is None else values(bias)) - values(mean)
    arguments = list(source.args)
    with source.graph.inserting_before(source):
        moved = offset * factor + (0 if shift is None else values(shift))
        arguments[2] = made(source, product.args[0], (norm.name, "bias"), moved)
    with source.graph.inserting_before(quantizer):
        over = alive if gain is None else alive.reshape(product.args[1].args[1])
        weight = made(source, product.args[0], (norm.name, "weight"), values(product) * over)
    product.replace_all_uses_with(weight)
    arguments[1] = weight if quantizer is product else quantizer
    _replace(norm, source, arguments)


def _replace(norm: Node, source: Node, arguments: list[Any]) -> None:
    """Let the convolution stand for the norm too: it belongs to the modules of both."""
    source.args = tuple(arguments)
    source.meta[MODULES] = norm.meta.get(MODULES, [])
    source.meta["nn_module_stack"] = source.meta.get("nn_module_stack", {}) | norm.meta.get("nn_module_stack", {})
    norm.replace_all_uses_with(source)
    norm.graph.erase_node(norm)


def _without_bias(source: Any) -> tuple[Any, Node | None]:
    """Return the quotient of a convolution, and the bias that is added to it."""
    return (source.args[0], source.args[1].args[0]) if source.target is aten.add.Tensor else (source, None)


class _Values:
    """What the nodes compute that depend on parameters and buffers only, as the graph computes it."""

    def __init__(self, graph: GraphModule) -> None:
        self._graph = graph

    def __call__(self, node: Any) -> Any:
        if not isinstance(node, Node):
            return node
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        return node.target(*(self(argument) for argument in node.args))  # type: ignore[operator]

    def _attribute(self, target: str) -> Tensor:
        module, _, name = target.rpartition(".")
        tensor: Tensor = getattr(self._graph.get_submodule(module), name)
        return tensor.detach()


class _Constants:
    """New parameters of a graph, one for all convolutions that are made of the same weights and norms."""

    def __init__(self, graph: GraphModule) -> None:
        self._graph = graph
        self._names: dict[tuple[Any, ...], str] = {}

    def __call__(self, like: Node, weight: Node, key: tuple[Any, ...], value: Tensor) -> Node:
        """Add a constant that ends with the last part of ``key`` and begins as the weight does that it comes from."""
        if key not in self._names:
            layer = str(weight.target).removesuffix("weight").replace(".", "_").strip("_") or "layer"
            name = f"{layer}_{key[-1]}"
            self._names[key] = f"{layer}_{len(self._names)}_{key[-1]}" if hasattr(self._graph, name) else name
            self._graph.register_parameter(self._names[key], nn.Parameter(value, requires_grad=False))
        made = self._graph.graph.get_attr(self._names[key])
        if "val" in like.meta:
            made.meta["val"] = like.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
        return made


def _attributes(graph: GraphModule) -> set[str]:
    return {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}


def _forget(graph: GraphModule, names: set[str]) -> None:
    """Drop the weights of which others were made."""
    for name in names:
        module, _, last = name.rpartition(".")
        delattr(graph.get_submodule(module), last)

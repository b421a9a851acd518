"""How the operators of PyTorch are quantized: one row for each. `converters/README.md` says how to add one.

What stands in no row has no int8 kernel, and stays float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Node
from torchao.quantization.pt2e.quantizer import FixedQParamsQuantizationSpec

from torchshrink.quantize import scheme

aten = torch.ops.aten

Role = Literal["weighted", "product", "pair", "single", "joined", "moved", "fused"]


def _any_form(_: Node) -> bool:
    return True


@dataclass(frozen=True)
class Operator:
    """An operator that TFLite computes in int8.

    Attributes:
        role: What is quantized: ``"weighted"`` is a weighted sum of its input; a ``"product"`` multiplies two
            matrices, the second of which has zero in the middle of its grid; a ``"pair"`` computes element by element
            on two tensors, a ``"single"`` on one; the inputs of what is ``"joined"`` are on the grid of the output;
            what is ``"moved"``, selected or averaged stays on the grid of its input; ``"fused"`` is nothing by itself.
        axis: The dimension of the weight that holds the output channels.
        is_clamp: Whether TFLite computes it together with a weighted sum or a pair before it.
        output: The only grid that the kernel computes on.
        has_kernel: Whether TFLite has a kernel for this form of it.
    """

    role: Role
    axis: int = 0
    is_clamp: bool = False
    output: FixedQParamsQuantizationSpec | None = None
    has_kernel: Callable[[Node], bool] = _any_form


def _one_group(node: Node) -> bool:
    """Return False for several groups: the output channels have no axis of their own."""
    return len(node.args) <= 6 or bool(node.args[6] == 1)


def _no_constant(node: Node) -> bool:
    """Return False for a constant, which the exporter's float graph folds into a convolution beside the difference."""
    return not any(isinstance(operand, Node) and operand.op == "get_attr" for operand in node.args[:2])


def _of_matrices(node: Node) -> bool:
    """Return False where one of the two is a vector."""
    return all(factor.meta["val"].dim() > 1 for factor in node.all_input_nodes if "val" in factor.meta)


def _known_limits(node: Node) -> bool:
    """Return whether these are the limits of ReLU6 or of RELU_N1_TO_1."""
    return (*node.args[1:3], *(-1.0, 1.0)[len(node.args) - 1 :]) in ((0, 6), (-1, 1))


def _over_everything(node: Node) -> bool:
    """Return False for several windows, which overlap or are of several sizes."""
    sizes: Any = node.args[1]
    return set(sizes) == {1}


def _known_places(node: Node) -> bool:
    """Return whether values are taken from constant places along one dimension."""
    places: Any = node.args[1] if isinstance(node.args[1], list | tuple) else node.args[-1:]
    given = [place for place in places if place is not None]
    while len(given) == 1 and given[0].target in (aten.detach_.default, aten.lift_fresh_copy.default):
        given = list(given[0].args)
    return len(given) == 1 and given[0].op == "get_attr"


def _plain(node: Node) -> bool:
    """Return False for another factor than 1."""
    return set(node.args[1:]) <= {1}


def _whole_windows(node: Node) -> bool:
    """Return False where windows reach over an edge and yet count what is outside, or round their number up."""
    settings: dict[int, Any] = dict(enumerate(node.args))
    counts_padding = any(settings.get(3, [0])) and settings.get(5, True)
    return not settings.get(4) and not counts_padding and settings.get(6) is None


def _zeros_or_mirrored(node: Node) -> bool:
    settings: dict[int, Any] = dict(enumerate(node.args))
    mode, value = settings.get(2, "constant"), settings.get(3)
    return mode == "reflect" or (mode == "constant" and not value)


_CONVOLUTION, _TRANSPOSED = Operator("weighted"), Operator("weighted", axis=1, has_kernel=_one_group)
_NORM, _PAIR, _SINGLE, _MOVED = Operator("fused"), Operator("pair"), Operator("single"), Operator("moved")
_DIFFERENCE = Operator("pair", has_kernel=_no_constant)
_CLAMP, _HARDTANH = Operator("single", is_clamp=True), Operator("single", is_clamp=True, has_kernel=_known_limits)
_MEAN, _AVERAGE = Operator("single", has_kernel=_over_everything), Operator("moved", has_kernel=_whole_windows)
_SIGMOID, _SOFTMAX = Operator("single", output=scheme.SIGMOID), Operator("single", output=scheme.SOFTMAX)

OPERATORS: dict[Any, Operator] = {
    aten.conv1d.default: _CONVOLUTION,
    aten.conv1d.padding: _CONVOLUTION,
    aten.conv2d.default: _CONVOLUTION,
    aten.conv2d.padding: _CONVOLUTION,
    aten.conv_transpose1d.default: _TRANSPOSED,
    aten.conv_transpose2d.input: _TRANSPOSED,
    aten.linear.default: Operator("weighted"),
    aten.batch_norm.default: _NORM,
    aten._native_batch_norm_legit.default: _NORM,
    aten.bmm.default: Operator("product"),
    aten.matmul.default: Operator("product", has_kernel=_of_matrices),
    # two tensors
    aten.add.Tensor: _PAIR,
    aten.add_.Tensor: _PAIR,
    aten.sub.Tensor: _DIFFERENCE,
    aten.sub_.Tensor: _DIFFERENCE,
    aten.mul.Tensor: _PAIR,
    aten.mul_.Tensor: _PAIR,
    # activations
    aten.relu.default: _CLAMP,
    aten.relu_.default: _CLAMP,
    aten.relu6.default: _CLAMP,
    aten.hardtanh.default: _HARDTANH,
    aten.hardtanh_.default: _HARDTANH,
    aten.abs.default: _SINGLE,
    aten.elu.default: Operator("single", has_kernel=_plain),
    aten.elu_.default: Operator("single", has_kernel=_plain),
    aten.gelu.default: _SINGLE,
    aten.hardswish.default: _SINGLE,
    aten.hardswish_.default: _SINGLE,
    aten.rsqrt.default: _SINGLE,
    aten.leaky_relu.default: _SINGLE,
    aten.leaky_relu_.default: _SINGLE,
    aten.sigmoid.default: _SIGMOID,
    aten.sigmoid_.default: _SIGMOID,
    aten.softmax.int: _SOFTMAX,
    aten._softmax.default: _SOFTMAX,
    aten.tanh.default: Operator("single", output=scheme.TANH),
    # over dimensions
    aten.mean.dim: _SINGLE,
    aten.adaptive_avg_pool1d.default: _MEAN,
    aten.adaptive_avg_pool2d.default: _MEAN,
    aten.avg_pool1d.default: _AVERAGE,
    aten.avg_pool2d.default: _AVERAGE,
    aten.amax.default: _MOVED,
    aten.amin.default: _MOVED,
    aten.max_pool1d.default: _MOVED,
    aten.max_pool2d.default: _MOVED,
    aten.upsample_nearest1d.default: _MOVED,
    aten.upsample_nearest1d.vec: _MOVED,
    aten.upsample_nearest2d.default: _MOVED,
    aten.upsample_nearest2d.vec: _MOVED,
    aten.upsample_linear1d.default: _MOVED,
    aten.upsample_linear1d.vec: _MOVED,
    aten.upsample_bilinear2d.default: _MOVED,
    aten.upsample_bilinear2d.vec: _MOVED,
    # only moved
    aten.pad.default: Operator("moved", has_kernel=_zeros_or_mirrored),
    aten.pixel_shuffle.default: _MOVED,
    aten.pixel_unshuffle.default: _MOVED,
    aten.reshape.default: _MOVED,
    aten.view.default: _MOVED,
    aten.flatten.using_ints: _MOVED,
    aten.permute.default: _MOVED,
    aten.transpose.int: _MOVED,
    aten.squeeze.dim: _MOVED,
    aten.squeeze.dims: _MOVED,
    aten.unsqueeze.default: _MOVED,
    aten.slice.Tensor: _MOVED,
    aten.expand.default: _MOVED,
    aten.repeat.default: _MOVED,
    aten.tile.default: _MOVED,
    aten.flip.default: _MOVED,
    aten.index.Tensor: Operator("moved", has_kernel=_known_places),
    aten.index_select.default: Operator("moved", has_kernel=_known_places),
    aten.contiguous.default: _MOVED,
    aten.clone.default: _MOVED,
    aten.dropout.default: _MOVED,
    aten.feature_dropout.default: _MOVED,
    aten.cat.default: Operator("joined"),
}


def row(node: Node) -> Operator | None:
    """Return how a node is quantized; None where TFLite has no int8 kernel for it, in this form."""
    found = OPERATORS.get(node.target)
    return found if found is not None and found.has_kernel(node) else None


def role(node: Node) -> Role | None:
    """Return what is quantized of a node, in whatever form it is."""
    return OPERATORS[node.target].role if node.target in OPERATORS else None

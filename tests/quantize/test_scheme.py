"""The TFLite 8-bit specification, clause by clause, on a U-Net quantized by training and by calibration.

https://ai.google.dev/edge/litert/models/quantization_spec
"""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from torchshrink import prune, quantize
from torchshrink.errors import RecipeError
from torchshrink.model.unet import UNet

aten = torch.ops.aten
CONVOLUTIONS = (aten.conv2d.default, aten.conv_transpose2d.input)


def is_op(node: Node, name: str) -> bool:
    return str(node.target) == f"quantized_decomposed.{name}.default"


def nodes(graph: GraphModule, *targets: object) -> list[Node]:
    return [node for node in graph.graph.nodes if node.target in targets]


def quantizers(graph: GraphModule) -> list[Node]:
    return [node for node in graph.graph.nodes if is_op(node, "quantize_per_tensor")]


def read(node: Node) -> tuple[float, int]:
    """Scale and zero point of a (de)quantize node of an activation."""
    return node.args[1], node.args[2]  # type: ignore[return-value]


def quantizer_after(node: Node) -> Node:
    """The only consumer of a float operation."""
    (user,) = node.users
    assert is_op(user, "quantize_per_tensor"), f"{node} -> {user}"
    return user


def quantizers_before(node: Node) -> list[Node]:
    sources = node.args[0] if isinstance(node.args[0], list | tuple) else [node.args[0]]
    assert all(is_op(source, "dequantize_per_tensor") for source in sources)
    return [source.args[0] for source in sources]


def weights(graph: GraphModule) -> Iterator[tuple[Node, np.ndarray, np.ndarray, np.ndarray, int]]:
    """Every convolution with its codes, scales, zero points and axis."""
    for node in nodes(graph, *CONVOLUTIONS):
        dequantize = node.args[1]
        assert is_op(dequantize, "dequantize_per_channel")
        codes, scales, zero_points = (getattr(graph, source.target).numpy() for source in dequantize.args[:3])
        assert dequantize.args[4:] == (-127, 127, torch.int8)
        yield node, codes, scales, zero_points, dequantize.args[3]


def test_every_activation_is_int8_with_the_whole_range(graph: GraphModule) -> None:
    found = quantizers(graph)
    # input, 6 convolutions with their ReLU, pool, transposed convolution, concatenation, head, sigmoid
    assert len(found) == 12
    for node in found:
        assert node.args[3:] == (-128, 127, torch.int8)
        scale, zero_point = read(node)
        assert scale > 0
        assert -128 <= zero_point <= 127
        for user in node.users:
            assert is_op(user, "dequantize_per_tensor")
            assert user.args[1:] == node.args[1:]


def test_every_operation_is_between_dequantize_and_quantize(graph: GraphModule) -> None:
    operations = [node for node in graph.graph.nodes if getattr(node.target, "namespace", "") == "aten"]
    # 7 convolutions, 1 transposed, 6 ReLU, pool, concatenation, sigmoid; no BatchNorm and nothing else
    counts = {str(target): len(nodes(graph, target)) for target in {node.target for node in operations}}
    assert counts == {
        "aten.conv2d.default": 7,
        "aten.conv_transpose2d.input": 1,
        "aten.relu.default": 6,
        "aten.max_pool2d.default": 1,
        "aten.cat.default": 1,
        "aten.sigmoid.default": 1,
    }
    for node in operations:
        if node.target is not aten.relu.default:
            quantizers_before(node)
        if aten.relu.default not in [user.target for user in node.users]:
            quantizer_after(node)


def test_relu_is_fused_into_its_convolution(graph: GraphModule) -> None:
    for node in nodes(graph, aten.relu.default):
        (source,) = node.all_input_nodes
        assert source.target is aten.conv2d.default
        assert list(source.users) == [node]


def test_weights_are_symmetric_int8_per_output_channel(graph: GraphModule) -> None:
    for node, codes, scales, zero_points, axis in weights(graph):
        # Weights of a transposed convolution are [in, out, *kernel]: torchao drops the spec's axis in training.
        assert axis == (1 if node.target is aten.conv_transpose2d.input else 0), node
        assert codes.dtype == np.int8
        assert codes.min() >= -127
        assert scales.shape == zero_points.shape == (codes.shape[axis],)
        assert (scales > 0).all()
        assert (zero_points == 0).all()


def test_every_channel_uses_its_range(graph: GraphModule) -> None:
    """A scale that is too large for its channel, such as another channel's, leaves codes unused."""
    for node, codes, _, _, axis in weights(graph):
        rows = np.moveaxis(codes.astype(int), (axis, 1 - axis), (0, -1))
        rows = rows.reshape(len(rows), -1)
        pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2).sum(2)
        for weight, pair in zip(np.abs(rows).max(1), np.abs(pairs).max(1), strict=True):
            # Each of two that are rounded may add half a code.
            assert weight in (0, 127) or (weight < 127 and pair in (126, 127, 128)), node
            assert pair <= 128, node


def test_sigmoid_has_its_fixed_output(graph: GraphModule) -> None:
    (node,) = nodes(graph, aten.sigmoid.default)
    assert read(quantizer_after(node)) == (1 / 256, -128)


def test_concatenation_shares_one_set(graph: GraphModule) -> None:
    (node,) = nodes(graph, aten.cat.default)
    first, second = quantizers_before(node)
    assert read(first) == read(second) == read(quantizer_after(node))


def test_pool_has_its_inputs_parameters(graph: GraphModule) -> None:
    (node,) = nodes(graph, aten.max_pool2d.default)
    (before,) = quantizers_before(node)
    assert read(before) == read(quantizer_after(node))


def test_biases_lie_on_the_int32_grid(graph: GraphModule) -> None:
    for node, _, scales, _, _ in weights(graph):
        bias = getattr(graph, node.args[2].target)
        assert bias.dtype == torch.float32
        codes = bias.double().numpy() / (node.args[0].args[1] * scales.astype(np.float64))
        # float32 resolves a code of 1e5 to about 0.01
        assert np.abs(codes - np.rint(codes)).max() <= 0.02, node
        assert np.abs(codes).max() < 2**31


def test_rounding_a_bias_moves_it_by_half_a_step(pruned_unet: UNet, ptq_graph: GraphModule) -> None:
    """The head has no BatchNorm, so that its float bias is known; and it is not on the grid by itself."""
    (head,) = [node for node in nodes(ptq_graph, aten.conv2d.default) if node.args[2].name == "head_bias"]
    step = head.args[0].args[1] * getattr(ptq_graph, head.args[1].args[1].target)
    moved = (ptq_graph.head_bias - pruned_unet.head.bias.detach()).abs()
    assert (moved <= 0.5001 * step).all()
    assert (moved > 0).any()


def test_pruned_weights_are_zero_codes(pruned_unet: UNet, graph: GraphModule) -> None:
    found = [codes for _, codes, _, _, _ in weights(graph)]
    total, zeros = sum(codes.size for codes in found), sum(int((codes == 0).sum()) for codes in found)
    assert total == sum(layer.weight.numel() for layer in prune.prunable_layers(pruned_unet).values())
    assert prune.sparsity(pruned_unet) == pytest.approx(0.6, abs=0.001)
    assert zeros / total >= prune.sparsity(pruned_unet)


def test_pruned_zeros_are_the_same_ones(pruned_unet: UNet, qat_graph: GraphModule) -> None:
    """BatchNorm scales whole channels, so that a folded weight is zero where the pruned one was."""
    masks = {layer.weight.shape: layer.weight == 0 for layer in prune.prunable_layers(pruned_unet).values()}
    assert len(masks) == 7  # two of the eight layers have the same shape
    by_shape = {torch.Size(codes.shape): codes for _, codes, _, _, _ in weights(qat_graph)}
    for shape, mask in masks.items():
        if shape != (4, 4, 3, 3):
            assert (by_shape[shape][mask.numpy()] == 0).all(), shape


def test_any_batch_size(graph: GraphModule) -> None:
    inputs = torch.randn(5, 1, 16, 16)
    alone = torch.cat([graph(inputs[index : index + 1]) for index in range(5)])
    steps = (graph(inputs) - alone).abs() * 256  # of the sigmoid at the end
    # The last bit of a float sum depends on the batch, as the build of torch has it; it seldom rounds to another code.
    assert steps.max() <= 1
    assert (steps > 0).float().mean() < 0.01


def test_weights_of_four_bits(pruned_unet: UNet, inputs: Tensor) -> None:
    """Codes of convolutions span just [-7, 7] in each channel; transposed ones, without such kernels, keep 8 bits."""
    prepared = quantize.prepare_qat(pruned_unet, inputs[:1], weights="int4")
    prepared(inputs)
    graph = quantize.convert(prepared)
    for node in nodes(graph, *CONVOLUTIONS):
        codes, scales = (getattr(graph, source.target) for source in node.args[1].args[:2])
        axis = 1 if node.target == aten.conv_transpose2d.input else 0
        largest = codes.abs().flatten(1).amax(1) if axis == 0 else codes.abs().transpose(0, 1).flatten(1).amax(1)
        assert set(largest.tolist()) <= {0, 7} if axis == 0 else 7 < int(largest.max()) <= 127
        assert len(scales) == codes.shape[axis]


def test_another_grid_of_weights_is_refused(pruned_unet: UNet, inputs: Tensor) -> None:
    with pytest.raises(RecipeError, match="weights='int2': expected 'int8' or 'int4'"):
        quantize.prepare_qat(pruned_unet, inputs[:1], weights="int2")  # type: ignore[arg-type]

"""Folding the BatchNorms of a trained graph changes nothing that the graph computes."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import quantize
from torchshrink.quantize.batch_norms import fold as fold_norms
from torchshrink.quiet import quiet

aten = torch.ops.aten


def trained(model: nn.Module, inputs: Tensor) -> quantize.PreparedModule:
    prepared = quantize.prepare_qat(model, inputs)
    optimizer = torch.optim.SGD(prepared.parameters(), 0.01)
    for _ in range(3):
        optimizer.zero_grad()
        (prepared(inputs) - 0.3).square().mean().backward()
        optimizer.step()
    return prepared.eval()


def fold(prepared: quantize.PreparedModule) -> GraphModule:
    with quiet():  # torch.fx warns of itself when it copies a graph
        graph = copy.deepcopy(prepared.graph_module)
    fold_norms(graph)
    return graph


def quantized_weights(graph: GraphModule) -> list[Tensor]:
    """Return what every convolution multiplies with, in order."""
    found: list[Tensor] = []
    convolutions = [node for node in graph.graph.nodes if node.op == "call_function" and "conv" in str(node.target)]
    hooks = [
        graph.get_submodule(str(node.args[1].target)).register_forward_hook(lambda *given: found.append(given[-1]))
        for node in convolutions
    ]
    with torch.no_grad():
        graph(INPUTS)
    for hook in hooks:
        hook.remove()
    return found


torch.manual_seed(0)
INPUTS = torch.randn(4, 1, 8, 8)
MODELS = {
    "bias": nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)),
    "no bias": nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU6()),
    "transposed": nn.Sequential(nn.Conv2d(1, 6, 1), nn.ConvTranspose2d(6, 3, 2, 2), nn.BatchNorm2d(3)),
    "depthwise": nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU()),
    "no affine": nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False)),
}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_that_is_computed_changes(name: str) -> None:
    prepared = trained(MODELS[name], INPUTS)
    folded = fold(prepared)
    with torch.no_grad():
        torch.testing.assert_close(folded(INPUTS), prepared.graph_module(INPUTS), rtol=1e-4, atol=1e-5)
    before, after = quantized_weights(prepared.graph_module), quantized_weights(folded)
    assert len(after) == len(before) > 0
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert not folded.graph.find_nodes(op="call_function", target=aten.batch_norm.default)


def test_a_norm_without_a_convolution_stays() -> None:
    prepared = trained(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)), INPUTS)
    folded = fold(prepared)
    assert len(folded.graph.find_nodes(op="call_function", target=aten.batch_norm.default)) == 1
    with torch.no_grad():
        torch.testing.assert_close(folded(INPUTS), prepared.graph_module(INPUTS))


def test_the_trained_module_can_go_on() -> None:
    prepared = trained(MODELS["bias"], INPUTS)
    before = [parameter.detach().clone() for parameter in prepared.parameters()]
    quantize.convert(prepared)
    assert all(torch.equal(*pair) for pair in zip(before, prepared.parameters(), strict=True))

"""Clusters against a naive k-means, and shared values against training, files and quantization."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import thinned
import torch
import toys
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import checkpoint, prune, quantize
from torchshrink.bench import entropy_bytes, gzip_bytes
from torchshrink.errors import RecipeError
from torchshrink.model.unet import UNet
from torchshrink.prune.clusters import Clusters, cluster
from torchshrink.quantize import PreparedModule
from torchshrink.quiet import quiet

Array = NDArray[np.float64]


def linear(values: Array) -> nn.Linear:
    layer = nn.Linear(values.size, 1, bias=False)
    layer.weight.data = torch.tensor(values[None], dtype=torch.float32)
    return layer


def net() -> nn.Module:
    """Every kind of layer that is clustered, and BatchNorm, which is not; takes [N, 1, 2, 4]."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 2, stride=2),
        nn.Flatten(2),
        nn.Conv1d(6, 8, 3, padding=1),
        nn.ConvTranspose1d(8, 4, 2, stride=2),
        nn.Linear(64, 7),
    )


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.weight.detach().clone() for name, layer in prune.prunable_layers(model).items()}


def distinct(model: nn.Module) -> dict[str, int]:
    return {name: len(np.unique(weight.numpy())) for name, weight in weights(model).items()}


def partition(weight: Tensor) -> Tensor:
    """Which elements are equal, whatever their values."""
    return weight.flatten()[:, None] == weight.flatten()[None]


def sparse(model: nn.Module, amount: float = 0.5) -> nn.Module:
    return prune.remove(prune.magnitude(model, amount))


# --- k-means


def naive(values: Array, count: int) -> Array:
    """What every value becomes by Lloyd's algorithm from evenly spaced centroids, the distance to each computed."""
    centroids = np.linspace(values.min(), values.max(), count)
    while True:
        nearest = np.abs(values[:, None] - centroids[None]).argmin(1)
        means = centroids.copy()
        for index in set(nearest):
            means[index] = values[nearest == index].mean()
        if np.array_equal(means, centroids):
            return centroids[nearest]
        centroids = means


SHAPES: dict[str, Callable[[np.random.Generator], Array]] = {
    "normal": lambda rng: rng.normal(size=500),
    "uniform": lambda rng: rng.uniform(-3, -1, size=300),
    "two far groups": lambda rng: np.concatenate([rng.normal(-5, 0.1, 99), rng.normal(5, 0.1, 99)]),
    "one outlier": lambda rng: np.append(rng.normal(size=200), 40.0),
}


@pytest.mark.parametrize(
    ("shape", "count", "seed"),
    thinned.product(SHAPES, [2, 3, 8, 16, 50], range(3), often=lambda shape, count, seed: seed == 0),
)
def test_weights_become_the_centroids_of_k_means(shape: str, count: int, seed: int) -> None:
    values = SHAPES[shape](np.random.default_rng(seed)).astype(np.float32).astype(np.float64)
    layer = linear(values)
    clusters = cluster(layer, count)
    np.testing.assert_allclose(layer.weight.detach()[0], naive(values, count), rtol=1e-6, atol=1e-9)
    assert clusters.counts == {"weight": len(np.unique(naive(values, count)))}


@pytest.mark.parametrize("count", [2, 5, 16])
def test_zeros_are_left_out_of_k_means_and_take_one_of_the_values(count: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=400).astype(np.float32).astype(np.float64)
    values[rng.random(400) < 0.6] = 0
    layer = linear(values)
    cluster(layer, count)
    found = layer.weight.detach()[0].numpy()
    expected = values.copy()
    expected[values != 0] = naive(values[values != 0], count - 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found == 0, values == 0)
    assert len(np.unique(found)) == 1 + len(np.unique(naive(values[values != 0], count - 1))) <= count


def test_an_example_by_hand() -> None:
    layer = linear(np.array([0.0, -1.0, 2.0, 0.0, -1.5, 2.5, 2.25]))
    assert cluster(layer, 3).counts == {"weight": 3}
    assert layer.weight.tolist() == [[0.0, -1.25, 2.25, 0.0, -1.25, 2.25, 2.25]]


def test_a_value_between_two_centroids_goes_to_the_lower() -> None:
    layer = linear(np.array([1.0, 2.0, 3.0]))
    cluster(layer, 2)
    assert layer.weight.tolist() == [[1.5, 1.5, 3.0]]


@pytest.mark.parametrize("values", [[1.0, 1.5, 9.0], [0.0, 2.0, 2.0, -7.0, 0.0], [0.0, 0.0], [3.0, 3.0]])
def test_few_values_stay_as_they_are(values: list[float]) -> None:
    layer = linear(np.array(values))
    cluster(layer, 3)
    assert layer.weight.tolist() == [values]


@pytest.mark.parametrize("count", [2, 7, 16])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_every_layer_has_at_most_count_values(count: int, is_sparse: bool) -> None:
    model = sparse(net()) if is_sparse else net()
    before, bias = weights(model), model[-1].bias.clone()
    cluster(model, count, ignore=())
    assert all(2 <= number <= count for number in distinct(model).values())
    for name, weight in weights(model).items():
        assert torch.equal(weight == 0, before[name] == 0)
        assert not torch.signbit(weight[weight == 0]).any()
    assert torch.equal(model[-1].bias, bias)


def test_twice_is_once() -> None:
    model = sparse(net())
    cluster(model, 6)
    before = weights(model)
    cluster(model, 6)
    torch.testing.assert_close(weights(model), before, rtol=0, atol=0)


def test_first_and_last_layers_are_left_alone_unless_named() -> None:
    model = net()
    before = weights(model)
    assert list(cluster(model, 4).counts) == ["3.weight", "5.weight", "6.weight"]
    changed = [name for name, weight in weights(model).items() if not torch.equal(weight, before[name])]
    assert changed == ["3", "5", "6"]
    assert list(cluster(net(), 4, ignore=["Conv*"]).counts) == ["7.weight"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    layer = nn.Linear(50, 50, bias=False).to(dtype)
    clusters = cluster(layer, 16)
    before = layer.weight.detach().clone()
    clusters.apply()
    assert layer.weight.dtype == dtype
    assert torch.equal(layer.weight, before)
    assert len(before.unique()) == 16


def test_channels_last_weights() -> None:
    model = net()
    same = copy.deepcopy(model).to(memory_format=torch.channels_last)
    for module in (model, same):
        clusters = cluster(module, 5)
        with torch.no_grad():
            module[3].weight += torch.arange(module[3].weight.numel()).view_as(module[3].weight)
        clusters.apply()
    torch.testing.assert_close(weights(model), weights(same), rtol=0, atol=0)


# --- Training


INPUTS = torch.randn(64, 1, 2, 4, generator=torch.Generator().manual_seed(5))


def train(
    model: nn.Module, after_step: Callable[[], None], truth: Tensor | None = None, steps: int = 60
) -> list[float]:
    """Fit ``truth``, by default a linear function of the input; returns the losses."""
    truth = INPUTS[:, :, :1, 0] - INPUTS[:, :, 1:, 3] if truth is None else truth
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    losses = []
    for _ in range(steps):
        loss = (model(INPUTS) - truth).pow(2).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step()
    return losses


@pytest.mark.parametrize("is_sparse", [False, True])
def test_values_stay_shared_while_they_train(is_sparse: bool) -> None:
    model = sparse(net()) if is_sparse else net()
    truth = model(INPUTS).detach()
    clusters = cluster(model, 6, ignore=())
    before = weights(model)
    losses = train(model, clusters.apply, truth)
    assert losses[-1] < 0.7 * losses[0]  # what clustering had lost is partly won back
    for name, weight in weights(model).items():
        assert torch.equal(partition(weight), partition(before[name])), name
        assert torch.equal(weight == 0, before[name] == 0)
        assert not torch.signbit(weight[weight == 0]).any()
        assert (weight != before[name])[before[name] != 0].all()  # every value has moved


def test_without_help_they_drift_apart() -> None:
    """The meta-test of the last one."""
    model = net()
    cluster(model, 6, ignore=())
    train(model, lambda: None, steps=2)
    assert min(distinct(model).values()) > 6


def test_a_centroid_moves_by_the_mean_gradient_of_its_members() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 5), nn.Linear(5, 1)).double()
    clusters = cluster(model, 4)
    weight = model[2].weight
    before = weight.detach().clone()
    model(torch.randn(9, 6, dtype=torch.float64)).pow(2).sum().backward()
    assert weight.grad is not None
    torch.optim.SGD(model.parameters(), lr=0.3).step()
    clusters.apply()
    for value in before.unique():
        is_member = before == value
        expected = value - 0.3 * weight.grad[is_member].mean()
        torch.testing.assert_close(weight[is_member], expected.expand(int(is_member.sum())), rtol=1e-12, atol=1e-12)


def test_sgd_with_shared_values_is_sgd_on_one_scaled_parameter() -> None:
    """Han's shared gradient is the sum over the members: averaging divides the learning rate by their number."""
    shared, inputs = nn.Parameter(torch.tensor(0.7, dtype=torch.float64)), torch.randn(5, 4, dtype=torch.float64)
    layer = nn.Linear(4, 1, bias=False).double()
    nn.init.constant_(layer.weight, 0.7)
    clusters = cluster(layer, 2)
    optimizers = torch.optim.SGD([shared], lr=0.1 / 4), torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(5):
        for output, optimizer in zip((shared * inputs.sum(1, keepdim=True), layer(inputs)), optimizers, strict=True):
            optimizer.zero_grad()
            (output - 1).pow(2).mean().backward()
            optimizer.step()
        clusters.apply()
        torch.testing.assert_close(layer.weight, shared.expand(1, 4), rtol=1e-12, atol=1e-12)


def test_applying_to_weights_that_did_not_move_changes_no_bit() -> None:
    layer = nn.Linear(1000, 1000, bias=False)
    clusters = cluster(layer, 16)
    before = layer.weight.detach().clone()
    for _ in range(3):
        clusters.apply()
    assert torch.equal(layer.weight, before)


def test_the_mean_of_a_million_weights_is_exact() -> None:
    layer = linear(np.tile([1.0, -1.0], 500_000))
    clusters = cluster(layer, 2)
    with torch.no_grad():
        layer.weight += 2**-10
        layer.weight[0, ::4] += 2**-9  # half of the ones
    clusters.apply()
    assert layer.weight[0, :2].tolist() == [1 + 2**-9, -1 + 2**-10]


# --- Found again


def test_nothing_is_found_in_other_models() -> None:
    assert Clusters.find(net()).counts == {}
    assert Clusters.find(UNet(widths=(2, 4))).counts == {}
    assert Clusters.find(nn.Sequential()).counts == {}


@pytest.mark.parametrize(
    "value",
    [torch.ones(4, 4), torch.zeros(4, 4), torch.tensor([1.0, 1.0, 2.0]), torch.arange(16.0).view(4, 4), torch.eye(1)],
    ids=["constant", "zero", "vector", "all different", "one element"],
)
def test_what_is_no_cluster(value: Tensor) -> None:
    """Constants are how parameters start, such as the scale of a layer; they are to become different."""
    module = nn.Module()
    module.register_parameter("scale", nn.Parameter(value))
    assert Clusters.find(module).counts == {}


def test_the_limit_counts_distinct_values() -> None:
    layer = linear(np.repeat(np.arange(10.0), 2))
    assert Clusters.find(layer, limit=9).counts == {}
    assert Clusters.find(layer, limit=10).counts == {"weight": 10}
    assert Clusters.find(linear(np.repeat(np.arange(256.0), 2))).counts == {"weight": 256}
    assert Clusters.find(linear(np.repeat(np.arange(257.0), 2))).counts == {}


@pytest.mark.parametrize("is_sparse", [False, True])
def test_a_file_keeps_the_clusters(tmp_path: Path, is_sparse: bool) -> None:
    model = sparse(UNet(widths=(4, 8))) if is_sparse else UNet(widths=(4, 8))
    counts = cluster(model, 8).counts
    checkpoint.save(model, tmp_path / "a.safetensors")
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    torch.testing.assert_close(weights(loaded), weights(model), rtol=0, atol=0)
    found = Clusters.find(loaded).counts
    assert {name: found[name] for name in counts} == counts


def test_found_clusters_stay_under_masks_and_after_them() -> None:
    """As when a clustered file is trained again: its zeros are masked, which is undone in the end."""
    model = sparse(net())
    cluster(model, 6, ignore=())
    before = weights(model)
    prune.keep_zeros(model)
    train(model, Clusters.find(model).apply)
    prune.remove(model)
    for name, weight in weights(model).items():
        assert torch.equal(partition(weight), partition(before[name])), name
        assert torch.equal(weight == 0, before[name] == 0)


def test_negative_zeros_become_plain_ones() -> None:
    layer = linear(np.array([-0.0, -0.0, 1.0, 1.0]))
    clusters = Clusters.find(layer)
    with torch.no_grad():
        layer.weight -= 0.5
    clusters.apply()
    assert layer.weight.tolist() == [[0, 0, 0.5, 0.5]]
    assert not torch.signbit(layer.weight).any()


# --- What it is for


@pytest.mark.parametrize("count", [4, 16])
def test_clustered_files_compress(tmp_path: Path, count: int) -> None:
    """By entropy, to log2(count) bits a weight at most; random float32 weights cannot be compressed."""
    model = nn.Sequential(nn.Linear(200, 200, bias=False), nn.Linear(200, 200, bias=False))
    checkpoint.save(model, tmp_path / "before.safetensors")
    cluster(model, count, ignore=())
    checkpoint.save(model, tmp_path / "after.safetensors")
    assert entropy_bytes(weight.numpy() for weight in weights(model).values()) <= 80_000 * math.log2(count) / 8
    assert gzip_bytes(tmp_path / "before.safetensors") > 0.85 * 4 * 80_000
    assert gzip_bytes(tmp_path / "after.safetensors") < 1.6 * 80_000 * math.log2(count) / 8


# --- Quantization

COUNT = 6


@pytest.fixture(scope="module")
def clustered_unet(pruned_unet: UNet) -> UNet:
    model = copy.deepcopy(pruned_unet)
    cluster(model, COUNT, ignore=())
    return model


@pytest.fixture(scope="module")
def clustered_qat(clustered_unet: UNet, inputs: Tensor) -> PreparedModule:
    """Trained as `trained_qat` is."""
    return toys.trained(quantize.prepare_qat(clustered_unet, inputs), inputs)


@pytest.fixture(scope="module")
def clustered_graph(clustered_qat: PreparedModule) -> GraphModule:
    return quantize.convert(clustered_qat)


def codes(graph: GraphModule) -> list[NDArray[np.int8]]:
    """The int8 weights of every layer, as [output channels, other]."""
    found = []
    for node in graph.graph.nodes:
        if "dequantize_per_channel" in str(node.target) and getattr(graph, node.args[0].target).dtype == torch.int8:
            found.append(getattr(graph, node.args[0].target).movedim(node.args[3], 0).flatten(1).numpy())
    return found


def most_codes(graph: GraphModule) -> int:
    return max(len(np.unique(channel)) for channel in itertools.chain(*codes(graph)))


def test_quantization_aware_training_keeps_clusters(clustered_unet: UNet, clustered_qat: PreparedModule) -> None:
    before, after = weights(clustered_unet), dict(clustered_qat.graph_module.named_parameters())
    for name, weight in before.items():
        trained = after[f"{name}.weight"].detach()
        assert torch.equal(partition(trained), partition(weight)), name
        assert torch.equal(trained == 0, weight == 0)
        assert not torch.equal(trained, weight)


def test_an_output_channel_has_no_more_codes_than_its_layer_has_values(
    clustered_graph: GraphModule, qat_graph: GraphModule
) -> None:
    """Each has a scale of its own, and its BatchNorm folded in: a layer has more codes than a channel."""
    assert len(codes(clustered_graph)) == 8
    assert most_codes(clustered_graph) <= COUNT
    assert most_codes(qat_graph) > 2 * COUNT  # the meta-test


def test_clustered_codes_have_less_entropy(clustered_graph: GraphModule, qat_graph: GraphModule) -> None:
    sizes = {graph: sum(array.size for array in codes(graph)) for graph in (clustered_graph, qat_graph)}
    assert len(set(sizes.values())) == 1
    assert entropy_bytes(codes(clustered_graph)) < 0.75 * entropy_bytes(codes(qat_graph))


def test_a_copy_of_a_prepared_module_keeps_its_own_clusters(small_net: nn.Module, inputs: Tensor) -> None:
    cluster(small_net, 4, ignore=())
    prepared = quantize.prepare_qat(small_net, inputs)
    with quiet():
        copied = copy.deepcopy(prepared)
    before = copy.deepcopy(dict(prepared.named_parameters()))
    with torch.no_grad():
        for value in copied.parameters():
            value += torch.rand_like(value)
    copied.apply_masks()
    named = dict(copied.graph_module.named_parameters())
    for name, weight in weights(small_net).items():
        assert torch.equal(partition(named[f"{name}.weight"]), partition(weight))
        assert not torch.equal(named[f"{name}.weight"], weight)
    assert all(torch.equal(value, before[name]) for name, value in prepared.named_parameters())


# --- What cannot be clustered


@pytest.mark.parametrize("count", [-1, 0, 1, 257])
def test_counts_out_of_range(count: int) -> None:
    with pytest.raises(RecipeError, match=f"count={count}: .* from 2 to 256"):
        cluster(net(), count)


@pytest.mark.parametrize(("model", "ignore"), [(nn.ReLU(), None), (net(), ["*"])])
def test_nothing_to_cluster(model: nn.Module, ignore: list[str] | None) -> None:
    with pytest.raises(RecipeError, match="no convolution or linear layer to cluster"):
        cluster(model, ignore=ignore)


def test_masked_models_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"torchshrink\.prune\.remove"):
        cluster(prune.magnitude(net(), 0.5))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(RecipeError, match="ignore 'encoder' fits no layer"):
        cluster(net(), ignore=["encoder"])

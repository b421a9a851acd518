"""Checkpoints of slimmed models: the header's channel counts, taken over or refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from torchshrink import checkpoint, prune
from torchshrink.errors import ModelError
from torchshrink.model.resize import resize, sizes
from torchshrink.model.unet import UNet


class Scaled(nn.Module):
    """A parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.register_buffer("window", torch.arange(5.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        nn.Conv2d(8, 8, 3, groups=8),
        Scaled(),
        nn.ConvTranspose2d(8, 4, 2, groups=2),
        nn.GroupNorm(2, 4),
        nn.Flatten(),
        nn.LayerNorm(144),
        nn.Linear(144, 3),
    )


INPUTS = (2, 1, 9, 9)


@pytest.fixture
def slim() -> nn.Module:
    """Half of the channels of `net`; 4, 4 and 2 remain."""
    return prune.channels(net().eval(), torch.randn(INPUTS), 0.5, scope="layer")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slim.safetensors"


@pytest.fixture
def rewrite(path: Path) -> Callable[[Callable[[dict[str, Any]], Any]], Path]:
    """Save a model, then change its header's architecture."""

    def write(model: nn.Module, change: Callable[[dict[str, Any]], Any]) -> Path:
        checkpoint.save(model, path)
        header = checkpoint.describe(path)
        change(header["architecture"])
        save_file(load_file(path), path, metadata={"torchshrink": json.dumps(header)})
        return path

    return write


def test_sizes_are_those_of_the_layers(slim: nn.Module) -> None:
    assert sizes(slim) == {
        "0": {"in_channels": 1, "out_channels": 4, "groups": 1},
        "1": {"num_features": 4},
        "2": {"num_parameters": 4},
        "3": {"in_channels": 4, "out_channels": 4, "groups": 4},
        "4": {"scale": [4, 1, 1]},
        "5": {"in_channels": 4, "out_channels": 2, "groups": 2},
        "6": {"num_channels": 2},
        "8": {"normalized_shape": [72]},
        "9": {"in_features": 72, "out_features": 3},
    }
    assert json.loads(json.dumps(sizes(slim))) == sizes(slim)


def test_resize_makes_the_slim_architecture(slim: nn.Module) -> None:
    model = net()
    model[0].weight.requires_grad_(False)
    resize(model, sizes(slim), slim.state_dict())
    assert repr(model) == repr(slim)
    shapes = {name: value.shape for name, value in slim.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["0.weight"]
    model.load_state_dict(slim.state_dict())
    inputs = torch.randn(INPUTS)
    assert torch.equal(model.eval()(inputs), slim(inputs))


class Counting(nn.Module):
    """It calls a size by a name, and computes from it and from a buffer that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.is_causal = 4, False
        self.layer = nn.Linear(8, 8)
        self.register_buffer("slopes", torch.arange(4.0), persistent=False)


@pytest.mark.parametrize(
    "values",
    [
        {"heads": 5}, {"heads": 0}, {"heads": True}, {"heads": "2"}, {"heads": [2]}, {"is_causal": 1}, {"other": 2},
        {"_version": 1}, {"slopes": [5]}, {"slopes": 2}, {"layer": 1},
    ],
)  # fmt: skip
def test_attributes_that_a_module_cannot_have_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"layer 'inner' the sizes .* cannot shrink to"):
        resize(nn.ModuleDict({"inner": Counting()}), {"inner": values}, {})


def test_attributes_and_buffers_of_a_pruned_module_are_taken_over() -> None:
    model: Any = nn.ModuleDict({"inner": Counting()})
    resize(model, {"inner": {"heads": 2, "slopes": [2]}}, {"inner.slopes": torch.zeros(2)})
    assert model.inner.heads == 2
    assert model.state_dict()["inner.slopes"].shape == (2,)
    assert sizes(model) == {
        "inner": {"heads": 2, "slopes": [2]}, "inner.layer": {"in_features": 8, "out_features": 8}
    }  # fmt: skip


@pytest.mark.parametrize("count", [0, 5, True, "2", [2], None])
def test_numbers_of_heads_that_attention_cannot_have_are_refused(count: Any) -> None:
    model = nn.ModuleDict({"inner": nn.MultiheadAttention(8, 4)})
    values = sizes(model)["inner"] | {"num_heads": count}
    with pytest.raises(ModelError, match=r"layer 'inner' the sizes .* cannot shrink to"):
        resize(model, {"inner": values}, {})


def test_layers_that_fit_are_left_alone() -> None:
    model = net()
    before = dict(model.named_parameters())
    resize(model, sizes(net()), {})
    assert all(value is before[name] for name, value in model.named_parameters())


def test_one_layer_is_the_whole_model(path: Path) -> None:
    layer = nn.Linear(4, 2)
    checkpoint.save(layer, path)
    assert torch.equal(checkpoint.load(path, lambda: nn.Linear(6, 3)).weight, layer.weight)


def test_the_header_rebuilds_a_slim_unet(path: Path) -> None:
    inputs = torch.randn(1, 1, 8, 8)
    model = prune.channels(UNet(widths=(8, 16)).eval(), inputs, 0.5)
    checkpoint.save(model, path)
    loaded = checkpoint.load(path)
    assert isinstance(loaded, UNet)
    assert loaded.config == model.config  # what it was made from
    assert repr(loaded) == repr(model)
    assert torch.equal(loaded(inputs), model(inputs))


def test_checkpoints_of_before_have_no_layers(rewrite: Callable[..., Path]) -> None:
    for model, factory in ((UNet(widths=(2, 4)).eval(), None), (net().eval(), net)):
        path = rewrite(model, lambda architecture: architecture.pop("layers"))
        with safe_open(path, framework="pt") as file:
            assert "layers" not in file.metadata()["torchshrink"]
        loaded = checkpoint.load(path, factory)
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_slim_models_without_layers_do_not_fit(slim: nn.Module, rewrite: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"slim\.safetensors .* 16 of 19 tensors of another .*0\.weight \[4,"):
        checkpoint.load(rewrite(slim, lambda architecture: architecture.pop("layers")), net)


# --- Headers that are not to be trusted

DAMAGES: dict[str, tuple[Any, str]] = {
    "a list": ([], "the checkpoint describes its layers by [], not by their names"),
    "null": (None, "the checkpoint describes its layers by None, not by their names"),
    "a text": ("0", "the checkpoint describes its layers by '0', not by their names"),
    "an unknown layer": ({"bogus": {"out_channels": 2}}, "Sequential has no layer 'bogus', which the checkpoint"),
    "a layer without sizes": ({"7": {"num_features": 2}}, "the checkpoint gives layer '7' the sizes"),
    "sizes that are no object": ({"0": 4}, "the checkpoint gives layer '0' the sizes 4, which"),
    "a list of sizes": ({"0": ["in_channels"]}, "the checkpoint gives layer '0' the sizes ['in_channels'], which"),
    "null sizes": ({"0": None}, "the checkpoint gives layer '0' the sizes None, which"),
    "a size too few": (
        {"0": {"out_channels": 4}},
        "the checkpoint gives layer '0' the sizes {'out_channels': 4}, which",
    ),
    "a size too many": (
        {"1": {"num_features": 4, "forward": 1}},
        "the checkpoint gives layer '1' the sizes {'num_features': 4, 'forward': 1}, which",
    ),
    **{
        f"num_features {value!r}": (
            {"1": {"num_features": value}},
            f"the checkpoint gives layer '1' the sizes {{'num_features': {value!r}}}, which {{'num_features': 8}} ",
        )
        for value in (-4, 0, 4.0, True, "4", None, [4], {}, 9, 10**12)
    },
    "a growing parameter": ({"4": {"scale": [9, 1, 1]}}, "the checkpoint gives layer '4' the sizes"),
    "another rank": ({"4": {"scale": [4, 1]}}, "the checkpoint gives layer '4' the sizes"),
    "a number for a shape": ({"8": {"normalized_shape": 72}}, "the checkpoint gives layer '8' the sizes"),
    "a nested shape": ({"8": {"normalized_shape": [[3]]}}, "the checkpoint gives layer '8' the sizes"),
    "an empty shape": ({"8": {"normalized_shape": []}}, "the checkpoint gives layer '8' the sizes"),
    "groups that do not divide": (
        {"3": {"in_channels": 4, "out_channels": 4, "groups": 3}},
        "the checkpoint gives layer '3' the sizes",
    ),
    "other sizes than the tensors": (
        {"0": {"in_channels": 1, "out_channels": 5, "groups": 1}},
        "the checkpoint holds 0.weight of shape (4, 1, 3, 3), but describes it as (5, 1, 3, 3)",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_malformed_layers(slim: nn.Module, rewrite: Callable[..., Path], damage: str) -> None:
    layers, text = DAMAGES[damage]

    def change(architecture: dict[str, Any]) -> None:
        whole = isinstance(layers, dict)
        architecture["layers"] = {**architecture["layers"], **layers} if whole else layers

    with pytest.raises(ModelError) as caught:
        checkpoint.load(rewrite(slim, change), net)
    assert text in str(caught.value)
    assert ".safetensors does not fit Sequential: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kernels_of_another_size_do_not_slip_through(path: Path) -> None:
    """Though the layer is made anew."""
    checkpoint.save(nn.Conv1d(2, 4, 3), path)
    with pytest.raises(ModelError, match=r"holds weight of shape \(4, 2, 3\), but describes it as \(4, 2, 5\)"):
        checkpoint.load(path, lambda: nn.Conv1d(2, 6, 5, padding=2))


def test_the_factory_must_be_of_the_same_architecture(slim: nn.Module, path: Path) -> None:
    checkpoint.save(slim, path)
    with pytest.raises(ModelError, match="UNet has no layer '0', which the checkpoint describes"):
        checkpoint.load(path, lambda: UNet(widths=(2, 4)))
    smaller = copy.deepcopy(net())
    smaller[0] = nn.Conv2d(1, 2, 3, bias=False)
    with pytest.raises(ModelError, match=r"'out_channels': 4.* cannot shrink to"):
        checkpoint.load(path, lambda: smaller)


def test_weights_that_are_missing(slim: nn.Module, path: Path) -> None:
    checkpoint.save(slim, path)
    header, tensors = checkpoint.describe(path), load_file(path)
    del tensors["5.weight"]
    save_file(tensors, path, metadata={"torchshrink": json.dumps(header)})
    with pytest.raises(ModelError, match=r"does not fit Sequential: .*not in the file: 5\.weight"):
        checkpoint.load(path, net)

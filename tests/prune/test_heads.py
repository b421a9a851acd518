"""Heads of attention: what remains computes what the whole model does when the output projection reads none of them.

The forms are those of well-known libraries, written anew. The reference never asks which heads were removed: every
weight has a value of its own, so columns of an output projection that the smaller model lacks are set to zero there.
"""

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchshrink import checkpoint, prune
from torchshrink.errors import RecipeError
from torchshrink.model.attention import FewerHeads, take_heads

WIDTH, HEADS, TOKENS = 24, 4, 9


class Fused(nn.Module):
    """Queries, keys and values of one layer, as in timm's vision transformers."""

    def __init__(self, has_norms: bool = False) -> None:
        super().__init__()
        self.num_heads, self.head_dim = HEADS, WIDTH // HEADS
        self.attn_dim = WIDTH
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.q_norm = nn.LayerNorm(self.head_dim) if has_norms else nn.Identity()
        self.norm = nn.LayerNorm(WIDTH) if has_norms else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        count, length, _ = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        weights = (self.q_norm(query) * self.head_dim**-0.5 @ key.transpose(-2, -1)).softmax(-1)
        found: Tensor = self.proj(self.norm((weights @ value).transpose(1, 2).reshape(count, length, self.attn_dim)))
        return found


class Separate(nn.Module):
    """A layer each for queries, keys and values, and as many heads as there is room for, as in transformers' ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = HEADS, WIDTH // HEADS
        self.all_head_size = WIDTH
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.attention_head_size)
        query, key, value = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class Apart(nn.Module):
    """The output projection is a sibling of what counts the heads, as in transformers' BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.output = Separate(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.output(self.attention(x))
        return found


class Windowed(nn.Module):
    """Windows with a table of what each head thinks of a distance, and a scale of each head, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.window = HEADS, 3
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.table = nn.Parameter(torch.randn(2 * self.window - 1, HEADS))
        self.scale = nn.Parameter(torch.ones(HEADS, 1, 1))
        place = torch.arange(self.window)
        self.register_buffer("distance", place[:, None] - place + self.window - 1)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        windows = x.reshape(-1, self.window, width)
        query, key, value = self.qkv(windows).reshape(len(windows), self.window, 3, self.num_heads, -1).unbind(2)
        products = torch.einsum("nqhc,nkhc->nhqk", F.normalize(query, dim=-1), F.normalize(key, dim=-1)) * self.scale
        weights = (products + self.table[self.distance].permute(2, 0, 1)).softmax(-1)
        found: Tensor = self.proj(torch.einsum("nhqk,nkhc->nqhc", weights, value).flatten(2))
        return found.reshape(count, length, width)


class Slopes(nn.Module):
    """The layer's weight without calling it, biases and slopes of its own, in buffers that no checkpoint holds."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.q_bias, self.v_bias = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.register_buffer("slopes", 2.0 ** -torch.arange(HEADS), persistent=False)
        self.register_buffer("k_bias", torch.randn(WIDTH, generator=torch.Generator().manual_seed(2)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        count, length, _ = x.shape
        qkv = F.linear(x, self.qkv.weight, torch.cat([self.q_bias, self.k_bias, self.v_bias]))
        query, key, value = qkv.reshape(count, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        place = torch.arange(length)
        slopes = self.slopes[:, None, None] * -(place[:, None] - place).abs()
        found: Tensor = self.proj(F.scaled_dot_product_attention(query, key, value, slopes).transpose(1, 2).flatten(2))
        return found


class Shared(nn.Module):
    """Two heads ask one for keys and values; layers are called what language models call them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = HEADS, HEADS // 2, WIDTH // HEADS
        self.q_proj, self.o_proj = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k_proj, self.v_proj = (nn.Linear(WIDTH, WIDTH // 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        query = self.q_proj(x).unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)
        key, value = (
            layer(x).unflatten(-1, (self.num_kv_heads, self.head_dim)).transpose(1, 2).repeat_interleave(2, 1)
            for layer in (self.k_proj, self.v_proj)
        )
        found: Tensor = self.o_proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return found


class Torchs(nn.Module):
    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **settings)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.mha(x, x, x, need_weights=False)[0]
        return found


class FromInput(nn.Module):
    """It takes the width of a head, and of all, from that of its input: no number of heads but its own will do."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        count, length, width = x.shape
        qkv = self.qkv(x).reshape(count, length, 3, self.num_heads, width // self.num_heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(count, length, width)
        found: Tensor = self.proj(x)
        return found


class Model(nn.Module):
    """Two blocks of attention and a feed-forward part, with norms, between an embedding and a head."""

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.patches = nn.Linear(5, WIDTH)
        self.attention = nn.ModuleList(make() for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.wide = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        for index in range(2):
            x = x + self.attention[index](self.norms[2 * index](x))
            x = x + self.narrow[index](F.gelu(self.wide[index](self.norms[2 * index + 1](x))))
        found: Tensor = self.head(x.mean(1))
        return found


class Encoder(nn.Module):
    """Layers of PyTorch's own, which compute attention by themselves when nothing is trained."""

    def __init__(self, is_nested: bool = False, **settings: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 2 * WIDTH, activation="gelu", **settings)
        self.patches, self.encoder = (
            nn.Linear(5, WIDTH),
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=is_nested),
        )
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(self.patches(x)).mean(1))
        return found


# How to make a model, and the attributes of what counts the heads when two are left.
FORMS: dict[str, tuple[Callable[[], nn.Module], dict[str, int]]] = {
    "fused": (lambda: Model(Fused), {"num_heads": 2, "attn_dim": 12, "head_dim": 6}),
    "norms": (lambda: Model(lambda: Fused(has_norms=True)), {"num_heads": 2, "attn_dim": 12, "head_dim": 6}),
    "apart": (
        lambda: Model(Apart), {"num_attention_heads": 2, "all_head_size": 12, "attention_head_size": 6}
    ),
    "windowed": (lambda: Model(Windowed), {"num_heads": 2, "window": 3}),
    "slopes": (lambda: Model(Slopes), {"num_heads": 2}),
    "shared": (lambda: Model(Shared), {"num_heads": 2, "num_kv_heads": 1, "head_dim": 6}),
    "torch's": (lambda: Model(Torchs), {"num_heads": 2, "embed_dim": WIDTH, "head_dim": 6}),
    "torch's of other keys": (lambda: Model(lambda: Torchs(kdim=WIDTH, vdim=WIDTH, bias=False)), {"num_heads": 2}),
    "encoder": (lambda: Encoder(batch_first=True), {"num_heads": 2}),
    "encoder, length first": (lambda: Encoder(norm_first=True), {"num_heads": 2}),
}  # fmt: skip
INPUTS = torch.randn(2, TOKENS, 5, generator=torch.Generator().manual_seed(1))


def distinct(model: nn.Module) -> nn.Module:
    """Give every parameter values of its own."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(parameter[0].numel(), 1) ** 0.5
        parameter.data += "norm" in name and name.endswith("weight")
    return model.eval()


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def counting(model: nn.Module) -> list[str]:
    """Return the modules that count heads, as `roots` names them."""
    return [name for name in prune.roots(model, INPUTS) if not isinstance(model.get_submodule(name), nn.Linear)]


def halved(model: nn.Module) -> nn.Module:
    return prune.channels(model, INPUTS, amounts=dict.fromkeys(counting(model), 0.5))


def silenced(model: nn.Module, slim: nn.Module) -> nn.Module:
    """Set the columns of the output projections to zero that the slim model does not have."""
    model = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear) and layer.weight.shape[1] > slim.get_submodule(name).weight.shape[1]:
            layer.weight.data *= torch.isin(layer.weight, slim.get_submodule(name).weight)
    return model


@torch.no_grad()
def run(model: nn.Module) -> Tensor:
    found: Tensor = model(INPUTS)
    return found


def test_what_remains_computes_the_same(form: str) -> None:
    make, attributes = FORMS[form]
    model = distinct(make())
    before = copy.deepcopy(model.state_dict())
    assert len(counting(model)) == 2
    slim = halved(model)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    for name in counting(model):
        module = slim.get_submodule(name)
        assert {key: getattr(module, key) for key in attributes} == attributes
    lost = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and slim.get_submodule(name).in_features == layer.in_features // 2
    ]
    assert len(lost) == 2  # the output projections
    reference = silenced(model, slim)
    if form == "norms":  # the norm of all heads would see which are gone
        for net in (reference, slim):
            for block in net.attention:
                block.norm.register_forward_hook(lambda module, inputs, _: inputs[0] * module.weight + module.bias)
    torch.testing.assert_close(run(slim), run(reference), rtol=0, atol=1e-5)
    assert not torch.allclose(run(slim), run(model), atol=1e-3)  # the heads mattered


def test_with_gradients_it_computes_the_same(form: str) -> None:
    slim = halved(distinct(FORMS[form][0]()))
    torch.testing.assert_close(slim(INPUTS).detach(), run(slim), rtol=0, atol=1e-5)
    slim.train()(INPUTS).square().mean().backward()
    assert all(parameter.grad is not None for parameter in slim.parameters())


def test_what_remains_exports(form: str) -> None:
    slim = halved(distinct(FORMS[form][0]()))
    torch.testing.assert_close(run(torch.export.export(slim, (INPUTS,)).module()), run(slim))


def test_what_remains_is_saved_and_loaded(form: str, tmp_path: Path) -> None:
    make, attributes = FORMS[form]
    slim, path = halved(distinct(make())), tmp_path / "slim.safetensors"
    checkpoint.save(slim, path)
    loaded = checkpoint.load(path, make)
    assert torch.equal(run(loaded), run(slim))
    for name in counting(slim):
        assert {key: getattr(loaded.get_submodule(name), key) for key in attributes} == attributes


@pytest.mark.parametrize("form", sorted(set(FORMS) - {"norms"}))  # the norm of all heads sees which are gone
def test_heads_are_removed_again(form: str) -> None:
    slim = halved(distinct(FORMS[form][0]()))
    if form == "shared":  # one is left, of what goes together
        assert counting(slim) == []
    else:
        again = halved(slim)
        torch.testing.assert_close(run(again), run(silenced(slim, again)), rtol=0, atol=1e-5)


def test_a_share_of_everything_takes_heads_and_widths(form: str) -> None:
    model = distinct(FORMS[form][0]())
    slim = prune.channels(model, INPUTS, 0.5)
    heads = [slim.get_submodule(name) for name in counting(model)]
    left = sum(getattr(module, "num_heads", getattr(module, "num_attention_heads", 0)) for module in heads)
    assert left == HEADS
    assert sum(parameter.numel() for parameter in slim.parameters()) < 0.65 * sum(
        parameter.numel() for parameter in model.parameters()
    )


def test_heads_that_read_the_width_of_the_input_stay_and_are_named() -> None:
    model = distinct(Model(FromInput))
    with pytest.warns(
        UserWarning,
        match=r"^the heads of attention\.0, attention\.1 stay: without some Model does not run .*\(RuntimeError: shape",
    ):
        slim = prune.channels(model, INPUTS, 0.5, ignore=["narrow.*", "patches"])
    assert [layer.out_features for layer in slim.wide] != [2 * WIDTH] * 2  # the rest is cut
    assert [block.qkv.out_features for block in slim.attention] == [3 * WIDTH] * 2
    with pytest.raises(RecipeError, match=r"Model has no channels .*; without heads of attention\.0 it does not run"):
        prune.channels(model, INPUTS, 0.5, ignore=["wide.*", "narrow.*", "patches"])


def test_a_bias_after_the_keys_keeps_torchs_heads() -> None:
    assert counting(Model(lambda: Torchs(add_bias_kv=True)).eval()) == []


@pytest.mark.parametrize("ignore", ["attention.0.qkv", "attention.0.proj"])
def test_ignored_layers_keep_their_heads(ignore: str) -> None:
    slim = prune.channels(distinct(Model(Fused)), INPUTS, 0.5, scope="layer", ignore=[ignore])
    assert [block.num_heads for block in slim.attention] == [HEADS, HEADS // 2]


def test_channels_of_heads_are_rounded() -> None:
    model = distinct(Model(Fused))
    slim = prune.channels(model, INPUTS, 0.5, scope="layer", round_to=9)
    assert [block.num_heads for block in slim.attention] == [3, 3]  # heads of 6: 18 is a multiple of 9, 12 is none


def heads_left(form: str, change: Callable[[nn.Module], None], **settings: Any) -> Any:
    """Return a model with two heads of the first attention, which ``change`` has changed, and the slim one."""
    model = distinct(FORMS[form][0]())
    change(model)
    return model, prune.channels(model, INPUTS, amounts={counting(model)[0]: 0.5}, **settings)


@pytest.mark.parametrize("importance", ["l1", "l2"])
def test_heads_of_small_weights_go(importance: Any) -> None:
    def shrink(model: Any) -> None:
        model.attention[0].qkv.weight.data.view(3, HEADS, -1, WIDTH)[:, [0, 2]] *= 0.1

    model, slim = heads_left("fused", shrink, importance=importance)
    rows = model.attention[0].qkv.weight.view(3, HEADS, -1, WIDTH)[:, [1, 3]].flatten(0, 2)
    assert torch.equal(slim.attention[0].qkv.weight, rows)


def test_taylor_removes_heads_that_nothing_reads() -> None:
    def deafen(model: Any) -> None:
        model.attention[0].proj.weight.data.view(WIDTH, HEADS, -1)[:, [1, 2]] *= 0.0

    def loss(net: nn.Module) -> Tensor:
        found: Tensor = net(INPUTS).square().mean()
        return found

    model, slim = heads_left("fused", deafen, importance="taylor", loss=loss)
    torch.testing.assert_close(run(slim), run(model), rtol=0, atol=1e-5)


def test_random_numbers_are_drawn_from_nobody_elses() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    model = Model(Fused).eval()
    torch.manual_seed(0)
    prune.roots(model, INPUTS)
    assert torch.equal(torch.rand(3), expected)


# --- PyTorch's attention with fewer heads


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", ["none", "boolean", "numbers", "each"])
def test_with_all_heads_it_is_torchs(kind: str, batch_first: bool, average: bool, need_weights: bool) -> None:
    own = nn.MultiheadAttention(WIDTH, HEADS, kdim=10, batch_first=batch_first).eval()
    fewer = nn.Sequential(copy.deepcopy(own))
    take_heads(fewer, "0", HEADS)
    query, key, value = (torch.randn(3, length, width) for length, width in ((5, WIDTH), (7, 10), (7, WIDTH)))
    if not batch_first:
        query, key, value = (given.transpose(0, 1) for given in (query, key, value))
    masks = {
        "none": {},
        "boolean": {"attn_mask": torch.rand(5, 7) > 0.7, "key_padding_mask": torch.arange(7).repeat(3, 1) > 5},
        "numbers": {"attn_mask": torch.randn(5, 7), "key_padding_mask": torch.randn(3, 7)},
        "each": {"attn_mask": torch.randn(3 * HEADS, 5, 7)},
    }[kind]
    settings = {"need_weights": need_weights, "average_attn_weights": average, **masks}
    assert type(fewer[0]) is FewerHeads
    for one, other in zip(fewer[0](query, key, value, **settings), own(query, key, value, **settings), strict=True):
        torch.testing.assert_close(one, other)


def test_a_single_sample_is_torchs() -> None:
    own = nn.MultiheadAttention(WIDTH, HEADS).eval()
    fewer = nn.Sequential(copy.deepcopy(own))
    take_heads(fewer, "0", HEADS)
    x, padding = torch.randn(5, WIDTH), torch.tensor([False] * 4 + [True])
    for one, other in zip(fewer[0](x, x, x, padding), own(x, x, x, padding), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match="give attn_mask too"):
        fewer[0](x, x, x, is_causal=True)


def test_an_encoder_with_padding_makes_no_nested_tensors() -> None:
    slim: Any = halved(distinct(Encoder(is_nested=True, batch_first=True)))
    padding = torch.arange(TOKENS).repeat(2, 1) > 5
    tokens = torch.randn(2, TOKENS, WIDTH)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        found = slim.encoder(tokens, src_key_padding_mask=padding)
        alone = slim.encoder(tokens[:, :6])
    torch.testing.assert_close(found[:, :6], alone)


class Caching(Windowed):
    """In evaluation it keeps what it made of its table, until the mode changes, as LeViT does."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def train(self, mode: bool = True) -> "Caching":
        self.kept = {}
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and "table" not in self.kept:
            self.kept["table"] = self.table[self.distance].permute(2, 0, 1)
        count, length, width = x.shape
        windows = x.reshape(-1, self.window, width)
        query, key, value = self.qkv(windows).reshape(len(windows), self.window, 3, self.num_heads, -1).unbind(2)
        products = torch.einsum("nqhc,nkhc->nhqk", query, key) * self.scale
        table = self.table[self.distance].permute(2, 0, 1) if self.training else self.kept["table"]
        found: Tensor = self.proj(torch.einsum("nhqk,nkhc->nqhc", (products + table).softmax(-1), value).flatten(2))
        return found.reshape(count, length, width)


def test_what_a_module_keeps_for_evaluation_is_made_anew() -> None:
    model = distinct(Model(Caching)).eval()
    frozen = next(module for module in model.modules() if isinstance(module, nn.Linear)).train()
    before = run(model)
    slim = halved(model)
    torch.testing.assert_close(run(slim), run(silenced(model, slim)), rtol=0, atol=1e-5)
    torch.testing.assert_close(run(model), before, rtol=0, atol=0)
    name = next(name for name, module in model.named_modules() if module is frozen)
    assert slim.get_submodule(name).training
    assert not slim.training

"""A model that shrinks inside any loop: what happens when, and what is refused."""

import copy
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchshrink import loops, quantize
from torchshrink.errors import MissingExtraError, ModelError, RecipeError
from torchshrink.loops.shrinking import exchange_parameters
from torchshrink.prune import magnitude, remove, sparsity
from torchshrink.quantize import PreparedModule

EXAMPLE = torch.zeros(2, 1, 8, 8)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))


def train(model: loops.Shrinking, steps: int, of: int | None = None, stride: int = 1) -> list[float]:
    """Return the sparsity after each step; the loop counts ``stride`` steps for each of its own."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    found = []
    for step in range(stride, steps + 1, stride):
        model.train()
        model(torch.randn(2, 1, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.step(step, of or steps, optimizer)
        found.append(sparsity(model.model))
    return found


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pruned_gradually_and_plain_at_the_end(stride: int) -> None:
    model = loops.Shrinking(net(), EXAMPLE, amount=0.5, qat=False)
    found = train(model, 60, stride=stride)
    assert found == sorted(found)
    assert 0 < found[8 // stride] < 0.5
    assert found[24 // stride] == found[-1] == pytest.approx(0.5, abs=0.02)
    plain = model.finish()
    assert not plain.training
    assert set(plain.state_dict()) == set(net().state_dict())
    assert sparsity(plain) == pytest.approx(0.5, abs=0.02)


def test_zeros_that_there_are_stay() -> None:
    pruned = remove(magnitude(net(), 0.5))
    zeros = [value == 0 for value in pruned.parameters() if value.dim() > 1]
    model = loops.Shrinking(pruned, EXAMPLE, qat=False)
    train(model, 5)
    weights = [value for value in model.finish().parameters() if value.dim() > 1]
    assert all(bool((value[mask] == 0).all()) for value, mask in zip(weights, zeros, strict=True))


@pytest.fixture(scope="module")
def trained() -> tuple[loops.Shrinking, dict[int, Any]]:
    """With what was seen after some steps."""
    torch.manual_seed(0)
    model, seen = loops.Shrinking(net(), EXAMPLE, amount=0.5), {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for step in range(1, 21):
        model.train()
        (model(torch.randn(2, 1, 8, 8)) - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        model.step(step, 20, optimizer)
        names = {id(value): name for name, value in model.named_parameters()}
        held = [value for group in optimizer.param_groups for value in group["params"]]
        seen[step] = {
            "int8": model.is_int8,
            "frozen": model._is_frozen,
            "held": {names[id(value)].rpartition("graph_module.")[2] for value in held if id(value) in names},
            "momentum": sum(value in optimizer.state for value in held),
            "weights": copy.deepcopy(list(model.parameters())),
        }
    return model, seen


@pytest.mark.slow
def test_the_switch_to_int8(trained: tuple[loops.Shrinking, dict[int, Any]]) -> None:
    _, seen = trained
    assert [step for step in seen if seen[step]["int8"]] == list(range(10, 21))
    assert [step for step in seen if seen[step]["frozen"]] == list(range(16, 21))
    assert seen[10]["held"] == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert seen[10]["momentum"] == 4  # it goes on with what the optimizer gathered
    pairs = zip(seen[11]["weights"], seen[12]["weights"], strict=True)
    assert all(not torch.equal(before, after) for before, after in pairs)  # it is trained


@pytest.mark.slow
def test_what_comes_of_it(trained: tuple[loops.Shrinking, dict[int, Any]]) -> None:
    graph = trained[0].finish()
    assert quantize.is_quantized(graph)
    codes = [value for value in graph.state_dict().values() if value.dtype == torch.int8 and value.dim() > 1]
    zeros = sum(int((value == 0).sum()) for value in codes)
    assert zeros >= 0.5 * sum(value.numel() for value in codes) - 1


@pytest.mark.slow
def test_the_graph_follows_a_flag_that_somebody_sets(trained: tuple[loops.Shrinking, dict[int, Any]]) -> None:
    """As Lightning does after validating: the flags, without calling train()."""
    model, calls = copy.copy(trained[0]), []
    model._modules = dict(model._modules)
    model.model = Recorder(calls)
    model.eval()
    model(torch.ones(1))
    model.training = True
    model(torch.ones(1))
    model(torch.ones(1))
    assert calls[-1] is True
    assert calls.count(True) == 1


class Recorder(PreparedModule):
    """Writes down the modes that it is put in."""

    def __init__(self, calls: list[bool]) -> None:
        nn.Module.__init__(self)
        self.calls = calls

    def train(self, mode: bool = True) -> PreparedModule:
        self.calls.append(mode)
        return self

    def forward(self, *inputs: Tensor) -> Any:
        return inputs[0]


def test_a_training_that_ended_early() -> None:
    for steps, settings in ((10, {"amount": 0.5, "qat": False}), (30, {})):
        model = loops.Shrinking(net(), EXAMPLE, **settings)
        train(model, steps, of=100)
        with pytest.raises(ModelError, match=f"the training ended after step {steps} of 100, before the model"):
            model.finish()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pruned_by": 0.6, "qat_from": 0.5}, r"pruned_by=0\.6, qat_from=0\.5, frozen_from=0\.8: expected shares"),
        ({"frozen_from": 1.5}, "expected shares"),
        ({"amount": 1.0}, r"amount=1\.0: expected a sparsity below 1"),
        ({"method": "nonsense"}, "nonsense"),
    ],
)
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        loops.Shrinking(net(), EXAMPLE, **settings)


def test_an_optimizer_goes_on_with_other_parameters() -> None:
    """Names, momentum and other groups; worked out by hand."""
    old = {"a": nn.Parameter(torch.ones(2)), "folded": nn.Parameter(torch.ones(1))}
    other, new = nn.Parameter(torch.ones(3)), {"a": nn.Parameter(torch.ones(2))}
    optimizer = torch.optim.SGD([{"params": [*old.values()]}, {"params": [other], "lr": 0.5}], lr=0.1, momentum=0.9)
    sum((value.sum() for value in (*old.values(), other)), torch.zeros(())).backward()
    optimizer.step()
    exchange_parameters([optimizer], old, new)
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]
    assert optimizer.param_groups[0]["params"][0] is new["a"]
    assert optimizer.param_groups[1]["params"][0] is other
    new["a"].grad = torch.zeros(2)
    optimizer.step()
    assert torch.allclose(new["a"], torch.full((2,), 1 - 0.1 * 0.9))  # one step by momentum alone
    with pytest.raises(RecipeError, match="no optimizer trains the model"):
        exchange_parameters([optimizer], old, new)


def test_a_callback_needs_something_to_shrink() -> None:
    with pytest.raises(RecipeError, match=r"Sequential has no torchshrink\.loops\.Shrinking in it: wrap the network"):
        loops.advance(net(), 1, 10, [])
    with pytest.raises(RecipeError, match="a training of inf steps has no middle"):
        loops.advance(nn.Sequential(loops.Shrinking(net(), EXAMPLE)), 1, float("inf"), [])


@pytest.mark.parametrize("name", ["lightning", "transformers"])
def test_trainers_that_are_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    for absent in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.delitem(sys.modules, f"torchshrink.loops.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=f"torchshrink.loops.{name} needs {name}: pip install {name}"):
        importlib.import_module(f"torchshrink.loops.{name}")

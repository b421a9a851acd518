"""Fast fake quantization computes what torch's kernels do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchao.quantization.pt2e import FakeQuantize
from torchao.quantization.pt2e.fake_quantize import FixedQParamsFakeQuantize

from torchshrink import quantize
from torchshrink.model.unet import UNet
from torchshrink.quantize import batch_norms, fake, scheme
from torchshrink.quantize.fake import FakeFixed, FakeInt8, divided


@pytest.fixture(params=["processor", "accelerator"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute as on either, though on this processor."""
    if request.param == "accelerator":
        monkeypatch.setattr(fake, "_is_waited_for", lambda _: True)


def run_far(monkeypatch: pytest.MonkeyPatch, losses: Callable[[], list[float]]) -> list[float]:
    """Return what training gives when no number is asked of tensors, as on an accelerator."""
    with monkeypatch.context() as patch:
        patch.setattr(fake, "_is_waited_for", lambda _: True)
        return losses()


def on_grid(kind: type[nn.Module], x: Tensor, scale: float, zero_point: int) -> tuple[Tensor, Tensor]:
    """Return what a fake quantizer of known parameters makes of ``x``, and the gradient that it lets through."""
    module = scheme.activation_spec(is_qat=True).observer_or_fake_quant_ctr(dtype=torch.int8, quant_min=-128,
                                                                           quant_max=127)  # fmt: skip
    assert isinstance(module, FakeInt8)
    module.__class__ = kind
    module.enable_observer(False)
    module.scale.fill_(scale)
    module.zero_point.fill_(zero_point)
    x = x.clone().requires_grad_()
    result = module(x)
    result.backward(torch.arange(1.0, x.numel() + 1).reshape(x.shape))
    assert x.grad is not None
    return result.detach(), x.grad


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("scale", "zero_point"), [(0.25, 0), (0.0173, -128), (0.031, 57), (2.0**-12, 127)])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_every_bit_and_every_gradient_is_that_of_the_kernel(
    scale: float, zero_point: int, order: torch.memory_format
) -> None:
    torch.manual_seed(0)
    halves = (torch.arange(-300, 300) + 0.5) * scale  # what lies between two codes, and beyond the last
    x = torch.cat([halves, torch.randn(1448) * 200 * scale]).reshape(2, 4, 16, 16).to(memory_format=order)
    found, expected = (on_grid(kind, x, scale, zero_point) for kind in (FakeInt8, FakeQuantize))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert 0 < int((found[1] == 0).sum()) < x.numel()


@pytest.mark.parametrize("is_pooled", [False, True])
def test_what_is_on_the_grid_already_is_not_put_there_again(is_pooled: bool) -> None:
    """Parts that it made itself, joined or pooled: the same values and gradients, and no further node of its own."""
    module = scheme.activation_spec(is_qat=True).observer_or_fake_quant_ctr(dtype=torch.int8, quant_min=-128,
                                                                           quant_max=127)  # fmt: skip
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 4, 4, requires_grad=True) for _ in range(2)]
    module(torch.cat(parts))  # the first step, in which ranges move
    module.activation_post_process.commit()
    made = [module(part) for part in parts]
    joined = nn.functional.max_pool2d(made[0], 2) if is_pooled else torch.cat(made)
    assert module(joined) is joined
    assert module(joined.detach()) is not joined
    assert torch.equal(module(joined.detach()), joined.detach())
    assert module(torch.cat([made[0], parts[1]])) is not joined  # a part that is not on the grid
    assert module(torch.cat([made[0], parts[1]])).grad_fn.name() == "_OnGridBackward"


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pairs", [True, False])
def test_weights_are_what_the_kernel_makes_of_them(axis: int, pairs: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3) * torch.tensor([1e-9, 1.0, 3.0, 0.0, 50.0, 0.1]).reshape(6, 1, 1, 1)
    found = []
    for kind in (FakeInt8, FakeQuantize):
        spec = scheme.weight_spec(True, axis, pairs)
        module = spec.observer_or_fake_quant_ctr(
            dtype=torch.int8, quant_min=-127, quant_max=127, qscheme=torch.per_channel_symmetric
        )
        module.__class__ = kind
        leaf = weight.clone().requires_grad_()
        result = module(leaf)
        result.sum().backward()
        found.append((result.detach(), leaf.grad, module.scale, module.zero_point))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("is_symmetric", [False, True])
def test_parameters_of_a_range_are_torchaos(is_symmetric: bool) -> None:
    torch.manual_seed(0)
    spec = scheme.activation_spec(True, is_symmetric)
    module = spec.observer_or_fake_quant_ctr(dtype=torch.int8, quant_min=-128, quant_max=127, qscheme=spec.qscheme)
    ranges = torch.randn(300, 2) * 10 ** torch.randint(-6, 6, (300, 1)).float()
    for low, high in [*ranges.sort(dim=1).values, (torch.zeros(()), torch.zeros(()))]:
        module.activation_post_process.min_val, module.activation_post_process.max_val = low, high
        for ours, theirs in zip(module.calculate_qparams(), FakeQuantize.calculate_qparams(module), strict=True):
            assert torch.equal(ours, theirs.to(ours.dtype)), (low, high)


def test_a_range_that_nothing_was_seen_of_is_torchaos_where_no_number_is_asked_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = scheme.activation_spec(True).observer_or_fake_quant_ctr(dtype=torch.int8, quant_min=-128, quant_max=127)
    with pytest.warns(UserWarning, match="must run observer"):
        expected = module.calculate_qparams()
    monkeypatch.setattr(fake, "_is_waited_for", lambda _: True)
    assert [float(each) for each in module.calculate_qparams()] == [float(each) for each in expected] == [1, 0]


def test_what_is_no_number_is_none_afterwards_where_it_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An accelerator is not asked whether it saw NaN: the loss, which is looked at later, has to show it."""
    monkeypatch.setattr(fake, "_is_waited_for", lambda _: True)
    module = scheme.activation_spec(True).observer_or_fake_quant_ctr(dtype=torch.int8, quant_min=-128, quant_max=127)
    values = torch.tensor([0.5, 1.0])
    module(values)
    module.activation_post_process.commit()
    found = module(torch.tensor([float("nan"), 0.5]))
    assert found.isnan().tolist() == [True, False]
    module.activation_post_process.commit()
    assert module(values).tolist() == pytest.approx([0.5, 1.0], abs=1 / 255)
    assert module.activation_post_process.max_val == 1  # a batch of NaN moves no range


def test_a_loaded_state_says_whether_ranges_move() -> None:
    model = quantize.prepare_qat(UNet(widths=(4, 8)), torch.randn(1, 1, 16, 16))
    model.freeze()
    other = quantize.prepare_qat(UNet(widths=(4, 8)), torch.randn(1, 1, 16, 16))
    other.load_state_dict(model.state_dict())
    moving = [module.is_observing for module in other.modules() if isinstance(module, FakeInt8)]
    assert moving == [module.is_observing for module in model.modules() if isinstance(module, FakeInt8)]
    assert any(moving)  # of weights
    assert not all(moving)


def test_known_parameters_are_those_of_torchaos_own() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sigmoid(), nn.Conv2d(2, 2, 3), nn.Tanh())
    prepared = quantize.prepare_qat(model, torch.randn(1, 1, 8, 8))
    found = [module for module in prepared.modules() if isinstance(module, FakeFixed)]
    assert [float(module.scale) for module in found] == [1 / 256, 1 / 128]
    assert not [module for module in prepared.modules() if type(module) is FixedQParamsFakeQuantize]
    for module in found:
        x = torch.linspace(-3, 3, 4097, requires_grad=True)
        module(x).sum().backward()
        other = x.detach().clone().requires_grad_()
        expected = FixedQParamsFakeQuantize(module._observer_ctr)(other)
        expected.sum().backward()
        assert torch.equal(module(x.detach()), expected.detach())
        assert torch.equal(x.grad, other.grad)  # type: ignore[arg-type]


def test_what_is_no_range_is_refused() -> None:
    module = scheme.activation_spec(True).observer_or_fake_quant_ctr(dtype=torch.int8, quant_min=-128, quant_max=127)
    with pytest.raises(AssertionError, match="nan"):
        module(torch.tensor([[float("nan"), 1.0]]))


def test_the_gradient_of_a_division_by_channel_is_the_analytic_one() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    factor = (torch.rand(1, 3, 1, dtype=torch.float64) + 0.5).requires_grad_()
    assert torch.autograd.gradcheck(divided, (x, factor))
    assert torch.equal(divided(x, factor), x / factor)


def test_training_is_what_it_was_with_torchs_own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, inputs = UNet(widths=(4, 8)), torch.randn(4, 1, 16, 16)
    truth = (inputs > 0.5).float()

    def losses() -> list[float]:
        prepared = quantize.prepare_qat(copy.deepcopy(model), inputs[:1])
        optimizer = torch.optim.SGD(prepared.parameters(), lr=0.1)
        found = []
        for step in range(6):
            if step == 4:
                prepared.freeze()
            loss = nn.functional.binary_cross_entropy(prepared(inputs), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        return found

    fast = losses()
    far = run_far(monkeypatch, losses)
    monkeypatch.setattr(FakeInt8, "forward", FakeQuantize.forward)
    monkeypatch.setattr(FakeInt8, "calculate_qparams", FakeQuantize.calculate_qparams)
    monkeypatch.setattr(batch_norms, "divided", torch.ops.aten.div.Tensor)
    slow = losses()
    assert fast == pytest.approx(slow, abs=2e-4)  # rounding alone, which may move single codes
    assert far == fast
    assert fast[3] < fast[0]  # then the statistics froze

"""Fast fake quantization computes what torch's kernels do."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torchao.quantization.pt2e import FakeQuantize

from torchshrink import quantize
from torchshrink.model.unet import UNet
from torchshrink.quantize import batch_norms, scheme
from torchshrink.quantize.fake import FakeInt8, divided


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


def test_parameters_of_a_range_are_torchaos() -> None:
    torch.manual_seed(0)
    module = scheme.activation_spec(True).observer_or_fake_quant_ctr(dtype=torch.int8, quant_min=-128, quant_max=127)
    ranges = torch.randn(300, 2) * 10 ** torch.randint(-6, 6, (300, 1)).float()
    for low, high in [*ranges.sort(dim=1).values, (torch.zeros(()), torch.zeros(()))]:
        module.activation_post_process.min_val, module.activation_post_process.max_val = low, high
        for ours, theirs in zip(module.calculate_qparams(), FakeQuantize.calculate_qparams(module), strict=True):
            assert torch.equal(ours, theirs.to(ours.dtype)), (low, high)


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
    monkeypatch.setattr(scheme, "FakeInt8", FakeQuantize)
    monkeypatch.setattr(batch_norms, "divided", torch.ops.aten.div.Tensor)
    slow = losses()
    assert fast == pytest.approx(slow, abs=2e-4)  # rounding alone, which may move single codes
    assert fast[3] < fast[0]  # then the statistics froze

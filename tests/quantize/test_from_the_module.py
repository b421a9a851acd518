"""A prepared graph computes what its module does: in evaluation, in training, and what its norms learn.

The reference is the module itself, run by PyTorch; `plain` takes fake quantization out of the graph.
"""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from torchshrink import quantize
from torchshrink.converters import to_onnx
from torchshrink.errors import DataError, ModelError, ParityError, RecipeError
from torchshrink.quantize import PreparedModule, parity
from torchshrink.quantize.noise import snr_db
from torchshrink.quiet import quiet

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Calls(nn.Module):
    """Computes what a function says, with parts that are called as attributes."""

    def __init__(self, function: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def convolution(inputs: int = 3, outputs: int = 4, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **settings)


def randomised(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None:
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def plain(prepared: PreparedModule) -> PreparedModule:
    """Return a copy whose fake quantizers let everything through."""
    with quiet():  # torch.fx warns of itself when it copies a graph
        found = copy.deepcopy(prepared)
    found.graph_module = parity.without_quantization(prepared.graph_module)
    return found


def normed(norm: nn.Module) -> nn.Module:
    return randomised(nn.Sequential(convolution(), norm, nn.ReLU(), convolution(4, 2)))


def zero_gain() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight[:2] = 0
    return norm


NORMS: dict[str, Callable[[], nn.Module]] = {
    "eps and momentum": lambda: normed(nn.BatchNorm2d(4, eps=0.1, momentum=0.03)),
    "average of all batches": lambda: normed(nn.BatchNorm2d(4, momentum=None)),
    "not affine": lambda: normed(nn.BatchNorm2d(4, affine=False)),
    "no statistics": lambda: normed(nn.BatchNorm2d(4, track_running_stats=False)),
    "zero gain": lambda: normed(zero_gain()),
    "InstanceNorm": lambda: normed(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "linear": lambda: randomised(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.BatchNorm1d(4, eps=0.1))),
    "signal": lambda: randomised(nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4, eps=0.1))),
    "transposed": lambda: randomised(
        nn.Sequential(nn.ConvTranspose2d(3, 4, 2, 2), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 4, 2, groups=2),
                      nn.BatchNorm2d(4))
    ),
    "one convolution, two norms": lambda: randomised(
        Calls(lambda m, x: (m.a(m.c(x)), m.b(m.c(2 * x)), m.c(x)), c=convolution(), a=nn.BatchNorm2d(4),
              b=nn.BatchNorm2d(4, eps=0.1))
    ),
    "both called twice": lambda: randomised(
        Calls(lambda m, x: m.n(m.c(x)) + m.n(m.c(x.flip(2))), c=convolution(), n=nn.BatchNorm2d(4))
    ),
    "two convolutions, one norm": lambda: randomised(
        Calls(lambda m, x: m.n(m.c(x)) + m.n(m.d(x)), c=convolution(), d=convolution(), n=nn.BatchNorm2d(4))
    ),
}  # fmt: skip


def tensors(value: Any) -> list[Tensor]:
    return [value.detach()] if isinstance(value, Tensor) else [item.detach() for item in value]


def close(found: Any, wanted: Any) -> None:
    for one, other in zip(tensors(found), tensors(wanted), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NORMS)
def test_norms_compute_and_learn_as_in_the_module(name: str) -> None:
    model = NORMS[name]()
    trained, prepared = copy.deepcopy(model).train(), plain(quantize.prepare_qat(model, IMAGES))
    for batch in (IMAGES, 2 * IMAGES + 1):
        close(prepared(batch), trained(batch))
    close(prepared.eval()(IMAGES), trained.eval()(IMAGES))
    learned = dict(prepared.graph_module.named_buffers())
    for buffer, value in trained.named_buffers():
        if buffer in learned:
            torch.testing.assert_close(learned[buffer], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NORMS)
def test_norms_folded_for_calibration(name: str) -> None:
    model = NORMS[name]()
    close(plain(quantize.prepare_ptq(model, IMAGES))(IMAGES), model(IMAGES))


def test_a_frozen_norm_stays_frozen() -> None:
    model = normed(nn.BatchNorm2d(4))
    model[1].requires_grad_(False)  # type: ignore[index]
    prepared = plain(quantize.prepare_qat(model, IMAGES))
    close(prepared(5 * IMAGES + 3), model(5 * IMAGES + 3))
    close(prepared(IMAGES), model(IMAGES))


def test_a_model_in_training_keeps_the_modes_of_its_parts() -> None:
    model = nn.Sequential(normed(nn.BatchNorm2d(4)), convolution(2, 4), nn.BatchNorm2d(4)).train()
    model[0].eval()
    prepared = plain(quantize.prepare_qat(model, IMAGES))
    close(prepared(IMAGES), copy.deepcopy(model)(IMAGES))


class FrozenInside(nn.Sequential):
    """Keeps its norm in evaluation, as backbones of detectors do."""

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self[1].eval()
        return self


def test_what_a_model_keeps_in_evaluation_stays_there() -> None:
    model = randomised(FrozenInside(convolution(), nn.BatchNorm2d(4), convolution(4, 2), nn.BatchNorm2d(2)))
    prepared = quantize.prepare_qat(model, IMAGES)
    prepared(3 * IMAGES + 2)
    buffers = dict(prepared.graph_module.named_buffers())
    assert torch.equal(buffers["1.running_mean"], model[1].running_mean)
    assert not torch.equal(buffers["3.running_mean"], model[3].running_mean)


# --- Random numbers


class Depth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.empty(x.shape[0], 1, 1, 1).bernoulli_(0.5) / 0.5 if self.training else x


class Scaled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x) if self.training else x


class Skipped(nn.Module):
    """Branches on a number that it draws, which no graph can hold."""

    def __init__(self, draw: Callable[[], Any]) -> None:
        super().__init__()
        self.draw, self.layer = draw, convolution(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training and self.draw() < 0.999 else self.layer(x)


class Auxiliary(nn.Module):
    """Has a second output in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(convolution(), nn.BatchNorm2d(4)), convolution(4, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return (self.head(x), x) if self.training else self.head(x)


def attention(m: Any, x: Tensor) -> Tensor:
    tokens = m.c(x).flatten(2).transpose(1, 2)
    found: Tensor = m.a(tokens, tokens, tokens, need_weights=False)[0]
    return found


def last_step(m: Any, x: Tensor) -> Tensor:
    found: Tensor = m.o(m.r(x[:, 0])[0][:, -1])
    return found


RANDOM: dict[str, Callable[[], nn.Module]] = {
    "stochastic depth": lambda: Calls(lambda m, x: m.c(x) + m.d(m.c(x)), c=convolution(), d=Depth()),
    "rand": lambda: nn.Sequential(convolution(), Scaled()),
    "skipped by torch": lambda: nn.Sequential(convolution(), Skipped(lambda: torch.rand(1))),
    "skipped by Python": lambda: nn.Sequential(convolution(), Skipped(random.random)),
    "dropouts": lambda: nn.Sequential(
        convolution(), nn.Dropout(0.5), nn.Dropout2d(0.5), nn.AlphaDropout(0.5), nn.FeatureAlphaDropout(0.5), nn.RReLU()
    ),
    "attention": lambda: Calls(
        attention, c=convolution(), a=nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
    ),
    "recurrent": lambda: Calls(
        last_step, r=nn.LSTM(8, 4, num_layers=2, dropout=0.5, batch_first=True), o=nn.Linear(4, 2)
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_nothing_random_is_left(name: str) -> None:
    model = RANDOM[name]().eval()
    prepared = quantize.prepare_qat(model, IMAGES)
    prepared(IMAGES)
    close(plain(prepared).eval()(IMAGES), model(IMAGES))
    graph = quantize.convert(prepared)
    assert torch.equal(graph(IMAGES), graph(IMAGES))


def test_what_training_alone_returns_is_left_out() -> None:
    model = randomised(Auxiliary())
    prepared = quantize.prepare_qat(model, IMAGES)
    before = copy.deepcopy(prepared.graph_module.state_dict())
    assert prepared(IMAGES).shape == (4, 2, 8, 8)
    moved = [name for name, value in prepared.graph_module.state_dict().items() if not torch.equal(value, before[name])]
    assert "body.1.running_mean" in moved


class Sampling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Careless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5)


@pytest.mark.parametrize("kind", [Sampling, Careless])
def test_what_is_random_in_evaluation_too_is_refused_by_name(kind: type[nn.Module]) -> None:
    model = nn.Sequential(convolution(), kind()).eval()
    with pytest.raises(ModelError, match=rf"layer '1' \({kind.__name__}\) draws random numbers in evaluation too"):
        quantize.prepare_ptq(model, IMAGES)


# --- Wrappers, blocks, weights that are computed


def compiled_inside() -> nn.Module:
    return nn.Sequential(convolution(), torch.compile(convolution(4, 4)), nn.ReLU())


def older_weight_norm() -> nn.Module:
    with quiet():  # it is deprecated
        return nn.Sequential(torch.nn.utils.weight_norm(convolution()), nn.BatchNorm2d(4))


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = convolution()

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = self.layer(inputs[0])
        return found


def frozen_block(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        x = m.n(m.c(x)).relu()
    found: Tensor = m.d(x)
    return found


def half_block(m: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = m.n(m.c(x)).relu()
    found: Tensor = m.d(y.float() if y.dtype != x.dtype else y)
    return found


@torch.autocast("cpu", torch.bfloat16)
def all_half(m: Any, x: Tensor) -> Tensor:
    found: Tensor = m.d(m.n(m.c(x)).relu()).float()
    return found


def inference_block(m: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        x = m.n(m.c(x)).relu()
    found: Tensor = m.d(x)
    return found


def blocks(function: Callable[[Any, Tensor], Tensor]) -> nn.Module:
    return randomised(Calls(function, c=convolution(), n=nn.BatchNorm2d(4), d=convolution(4, 2)))


@pytest.mark.parametrize("function", [half_block, all_half, inference_block])
def test_blocks_of_half_precision_and_without_gradients_are_calibrated(
    function: Callable[[Any, Tensor], Tensor],
) -> None:
    model = blocks(function)
    prepared = quantize.prepare_ptq(model, IMAGES)
    quantize.calibrate(prepared, [IMAGES])
    with torch.no_grad():
        assert snr_db(quantize.convert(prepared)(IMAGES), model(IMAGES)) > 25


def constants(m: Any, x: Tensor) -> Tensor:
    y = m.c(x).flatten(2)
    found: Tensor = y * torch.cat([y.new_full((32,), 8.0), y.new_full((32,), 16.0)])
    return found


KINDS: dict[str, Callable[[], nn.Module]] = {
    "DataParallel": lambda: nn.DataParallel(nn.Sequential(convolution(), nn.ReLU())),
    "average of models": lambda: torch.optim.swa_utils.AveragedModel(nn.Sequential(convolution(), nn.ReLU())),
    "compiled": lambda: torch.compile(nn.Sequential(convolution(), nn.ReLU())),  # type: ignore[dict-item,return-value]
    "a part compiled": compiled_inside,
    "*inputs": Several,
    "blocks": lambda: blocks(frozen_block),
    "constants concatenated": lambda: Calls(constants, c=convolution()),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(convolution()), nn.BatchNorm2d(4)),
    "older weight norm": older_weight_norm,
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(convolution()), nn.ReLU()),
    "orthogonal": lambda: nn.Sequential(nn.Flatten(), parametrizations.orthogonal(nn.Linear(192, 4))),
    "double": lambda: nn.Sequential(convolution(), nn.BatchNorm2d(4)).double(),
    "half": lambda: nn.Sequential(convolution(), nn.ReLU()).half(),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_models(name: str) -> None:
    with quiet():  # torch.compile warns while it is imported
        model = KINDS[name]().eval()
    images = IMAGES.to(next(model.parameters()).dtype)
    with quiet(), torch.compiler.set_stance("force_eager"):  # compiling takes minutes
        wanted = model(images).detach().float()
    prepared = quantize.prepare_ptq(model, images)
    torch.testing.assert_close(plain(prepared)(images), wanted, rtol=1e-2, atol=1e-2)
    quantize.calibrate(prepared, [images])
    found = quantize.convert(prepared)(images)
    assert snr_db(found, wanted) > 25


def test_weights_of_a_block_without_gradients_are_not_trained() -> None:
    prepared = quantize.prepare_qat(KINDS["blocks"](), IMAGES)
    trained = {name for name, value in prepared.graph_module.named_parameters() if value.requires_grad}
    assert trained == {"d.weight", "d.bias"}


def test_torchscript_is_refused_by_name() -> None:
    with quiet():  # it is deprecated
        scripted = torch.jit.trace(convolution(), IMAGES)
    with pytest.raises(ModelError, match="is TorchScript: give the module"):
        quantize.prepare_ptq(scripted, IMAGES)


def test_wrapped_names_can_stay_float() -> None:
    model = nn.DataParallel(nn.Sequential(convolution(), nn.ReLU(), convolution(4, 2)))
    for names in (["module.0"], ["module.2"]):
        prepared = quantize.prepare_ptq(model, IMAGES, names)
        quantize.calibrate(prepared, [IMAGES])
        found = [str(node.target) for node in quantize.convert(prepared).graph.nodes]
        assert sum("dequantize_per_channel" in target for target in found) == 1


def test_a_fixed_batch_is_said_to_be_one() -> None:
    model = Calls(lambda m, x: m.c(x) * torch.ones(4, 1, 1, 1), c=convolution())
    with pytest.raises(ModelError, match="must take any number of samples"):
        quantize.prepare_ptq(model, IMAGES)


# --- The gate


def test_a_graph_that_computes_something_else_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchshrink.quantize import pt2e

    made = pt2e.observe

    def spoiled(*given: Any) -> Any:
        graph = made(*given)
        dict(graph.named_parameters())["2.bias"].data += 1e-3
        return graph

    monkeypatch.setattr(pt2e, "observe", spoiled)
    model = nn.Sequential(convolution(), nn.ReLU(), convolution(4, 4), nn.Sigmoid()).eval()
    with pytest.raises(ParityError, match=r"output differs in evaluation, first at '2' \(Conv2d\)"):
        quantize.prepare_qat(model, IMAGES)


# --- What data said


def small() -> PreparedModule:
    return quantize.prepare_ptq(nn.Sequential(convolution(), nn.ReLU()), IMAGES)


@pytest.mark.parametrize(
    ("second", "kind", "said"),
    [
        (IMAGES[:0], DataError, "batch 2 of the calibration data holds no sample: leave it out"),
        (IMAGES.numpy(), DataError, "batch 2 of the calibration data holds a ndarray: give tensors"),
        (IMAGES > 0, DataError, "batch 2 of the calibration data holds bool: give float32, as the example was"),
        (IMAGES.to(torch.complex64), DataError, "holds complex64: give float32"),
        (torch.rand(4, 3, 9, 9), ModelError, r"input of \[4, 3, 9, 9\] does not fit the example .*size\(\)\[2\] == 8"),
    ],
)
def test_batches_that_cannot_be_calibrated_on(second: Any, kind: type[Exception], said: str) -> None:
    prepared = quantize.prepare_ptq(nn.Sequential(convolution()).eval(), IMAGES)
    with pytest.raises(kind, match=said):
        quantize.calibrate(prepared, [(IMAGES,), (second,)])


def test_labels_are_no_input() -> None:
    with pytest.raises(
        DataError, match="batch 1 of the calibration data holds 2 inputs, the model takes 1: give those"
    ):
        quantize.calibrate(small(), [(IMAGES, torch.zeros(len(IMAGES)))])


@pytest.mark.parametrize("batches", [None, IMAGES, 3])
def test_what_is_no_list_of_batches(batches: Any) -> None:
    for call in (lambda: quantize.calibrate(small(), batches), lambda: quantize.ptq(convolution().eval(), batches)):
        with pytest.raises(RecipeError, match=r"batches=.*: expected a list of batches, such as \[images\], got a"):
            call()


@pytest.mark.parametrize(("model", "said"), [(torch.relu, "a builtin"), (None, "None"), (nn.ReLU, "a class, not an")])
def test_what_is_no_module(model: Any, said: str, tmp_path: Path) -> None:
    calls = (quantize.prepare_ptq, quantize.prepare_qat, lambda *given: to_onnx(*given, tmp_path / "m.onnx"))
    for call in calls:
        with pytest.raises(ModelError, match=rf"expected a torch\.nn\.Module, got {said}"):
            call(model, IMAGES)


def test_weights_that_are_no_numbers_are_named() -> None:
    model = nn.Sequential(convolution())
    model[0].bias.data[0] = float("nan")
    with pytest.raises(ModelError, match=r"parameter '0\.bias' holds NaN or infinite values"):
        quantize.prepare_qat(model, IMAGES)


def test_rows_that_are_shortened_when_they_are_read_are_short() -> None:
    model, tokens = (
        nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Linear(4, 2)).eval(),
        torch.arange(9).reshape(3, 3),
    )
    with torch.no_grad():
        model[0].weight.mul_(3)
        prepared = quantize.prepare_ptq(model, tokens)
        quantize.calibrate(prepared, [tokens])
        torch.testing.assert_close(quantize.convert(prepared)(tokens), model(tokens), rtol=0, atol=0.05)


def test_a_mode_that_the_models_own_train_sets_is_kept() -> None:
    """Though it was never called: a new model is in training from the beginning."""

    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Self:
            super().train(mode)
            self[1].eval()
            return self

    prepared = quantize.prepare_qat(Frozen(convolution(), nn.BatchNorm2d(4)), IMAGES)
    before = {name: value.clone() for name, value in prepared.graph_module.named_buffers() if "running" in name}
    prepared.train()(IMAGES + 5)
    assert before
    for name, value in before.items():
        torch.testing.assert_close(dict(prepared.graph_module.named_buffers())[name], value, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("example", "said"),
    [
        (IMAGES[:0], "no sample"),
        (torch.tensor(1.0), "no sample"),
        (None, "a NoneType: give"),
        ({"x": IMAGES}, "a dict: give a tensor"),
        ([[1.0]], "a list: give"),
    ],
)
def test_examples_that_tell_nothing(example: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"the example input holds {said}"):
        quantize.prepare_qat(nn.Sequential(convolution()), example)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    spoiled = IMAGES.clone()
    spoiled[0, 0, 0, 0] = value
    with pytest.raises(DataError, match="batch 2 of the calibration data holds NaN or infinite values: remove it"):
        quantize.calibrate(small(), [IMAGES, spoiled])


def test_an_output_that_is_no_number_is_named() -> None:
    """Of a layer that stays float, where nothing is observed."""
    prepared = quantize.prepare_ptq(Calls(lambda m, x: torch.log(m.c(x)), c=convolution()), IMAGES)
    with pytest.raises(DataError, match="first in 'log'"):
        quantize.calibrate(prepared, [IMAGES])


def test_values_that_the_model_makes_infinite_are_named() -> None:
    model = Calls(lambda m, x: m.d(torch.log(m.c(x).relu())), c=convolution(), d=convolution(4, 2))
    with pytest.raises(DataError, match="first in 'log'"):
        quantize.calibrate(quantize.prepare_ptq(model, IMAGES), [IMAGES])


def test_no_data_is_refused() -> None:
    with pytest.raises(DataError, match="no batch"):
        quantize.calibrate(small(), [])
    with pytest.raises(ModelError, match="no batch was seen"):
        quantize.convert(small())


def test_a_diverged_training_is_refused() -> None:
    prepared = quantize.prepare_qat(nn.Sequential(convolution(), nn.ReLU()), IMAGES)
    with pytest.raises(ModelError, match="training computes NaN, first in 'input"):
        prepared(IMAGES * float("nan"))


def test_integers_are_taken_by_tables_and_refused_by_convolutions() -> None:
    ids = torch.randint(0, 9, (4, 5))
    model = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4))
    prepared = quantize.prepare_ptq(model, ids)
    quantize.calibrate(prepared, [ids])
    assert quantize.noise(quantize.convert(prepared), model, ids)[-1].snr_db > 25
    with pytest.raises(ModelError, match=r"fails on an input of \[4, 3, 8, 8\] uint8"):
        quantize.prepare_ptq(convolution(), torch.zeros(4, 3, 8, 8, dtype=torch.uint8))


class Recurrent(nn.Module):
    """Takes its states as PyTorch's layers do: the samples are no first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(4, 8, batch_first=True)

    def forward(self, x: Tensor, states: Tensor) -> Any:
        return self.layer(x, states)


def test_states_whose_samples_are_not_first_are_refused_with_the_way_out() -> None:
    with pytest.raises(ModelError, match=r"take states as \[N, layers, H\], and let the model move them"):
        quantize.prepare_ptq(Recurrent(), (torch.randn(1, 7, 4), torch.zeros(1, 1, 8)))


def test_a_bias_beyond_int32_is_kept() -> None:
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1))
    with torch.no_grad():
        model[1].weight[0] = 0
        model[1].bias.copy_(torch.tensor([-30.0, 20.0]))
    prepared = quantize.prepare_ptq(model, 0.01 * IMAGES)
    quantize.calibrate(prepared, [0.01 * IMAGES])
    found = quantize.convert(prepared)(0.01 * IMAGES)
    torch.testing.assert_close(found[:, 0], torch.full_like(found[:, 0], -30.0), rtol=0.01, atol=0)


def test_weights_that_are_rounded_once_more_are_no_other_weights() -> None:
    """Each norm is rounded into the weights before it; twelve in a row are more than the rounding of one."""
    torch.manual_seed(0)
    inputs = torch.randn(4, 3, 8, 8)
    sizes = zip([3, *[4] * 11], [4] * 12, strict=True)
    layers = [each for size in sizes for each in (nn.Conv2d(*size, 1), nn.BatchNorm2d(4, momentum=None), nn.ReLU())]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(4, 2, 1))
    model(inputs)
    reference = model.eval()(inputs)
    assert snr_db(plain(quantize.prepare_ptq(model, inputs))(inputs), reference) > 40

"""What each layer costs, on models whose answer is known; and models that are the same afterwards."""

import itertools
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from torchshrink import prune, sensitivity
from torchshrink.bench import count_macs, count_parameters
from torchshrink.errors import DataError, ModelError, RecipeError
from torchshrink.model.unet import UNet
from torchshrink.quantize import scheme
from torchshrink.sensitivity import LayerInfo, Sensitivity, Suggestion, layer_table, substitutes
from torchshrink.sensitivity.layer_table import Inspection
from torchshrink.sensitivity.measurement import _running_maximum
from torchshrink.task import Normalization, Samples, Task


class SquaredError(nn.Module):
    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        return (output - truth).square().mean()


class Muted(nn.Module):
    """Its second layer has no say."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.muted = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.heard(x) + 0 * self.muted(x))


class Attention(nn.Module):
    """Never calls ``attention.out_proj``, but uses its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.attention(x, x, x, need_weights=False)[0])
        return found


class Untouchable(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """A test part that nobody may read."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        raise AssertionError("the test part was read")


def task_of(inputs: Tensor, truth: Tensor, loss: nn.Module | None = None) -> Task:
    samples: Samples = TensorDataset(inputs, truth)  # type: ignore[assignment]
    return Task("numbers", samples, samples, Untouchable(), Normalization((0.0,), (1.0,)), loss or SquaredError())


def linear(rows: list[list[float]]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight.data = torch.tensor(rows)
    return layer


def traces(model: nn.Module) -> dict[str, Any]:
    """Everything of a model that measuring could leave changed."""
    state = model.state_dict(keep_vars=True)
    return {
        "objects": {name: (id(value), value._version, value.requires_grad) for name, value in state.items()},
        "bytes": {name: value.detach().numpy().tobytes() for name, value in state.items()},
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (UNet(widths=(4, 8, 12)), (1, 16, 24)),
        (UNet(in_channels=2, widths=(4, 8), dims=1), (2, 32)),
        (UNet(widths=(4, 8), up="nearest"), (1, 8, 8)),
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), (7, 6)),
        (nn.ConvTranspose2d(4, 6, 3, 2, groups=2), (4, 5, 7)),
    ],
    ids=["2-D", "1-D", "nearest", "linear", "grouped"],
)
def test_layers_add_up_to_the_model(model: nn.Module, size: tuple[int, ...]) -> None:
    before = traces(model)
    example = torch.randn(3, *size)
    found = sensitivity.layers(model, example)
    assert [layer.name for layer in found] == list(prune.prunable_layers(model))
    assert sum(layer.macs for layer in found) == count_macs(model, example) > 0
    assert traces(model) == before


def test_layer_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
    model[0].weight.data = torch.arange(216.0).reshape(8, 3, 3, 3) - 10
    (layer,) = sensitivity.layers(model, torch.zeros(1, 3, 10, 12))
    expected = LayerInfo("0", "Conv2d", (8, 3, 3, 3), 224, 10 * 12 * 27 * 8, 1 / 216, -10.0, 205.0)
    assert layer.sparsity == pytest.approx(expected.sparsity)
    assert layer == LayerInfo(**(vars(expected) | {"sparsity": layer.sparsity}))


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(input=x))  # type: ignore[no-any-return]

    (layer,) = sensitivity.layers(Twice(), torch.zeros(1, 3))
    assert layer.macs == 18


def test_products_of_no_layer_are_not_a_layers() -> None:
    model, example = Attention(), torch.randn(1, 5, 8)
    found = {layer.name: layer.macs for layer in sensitivity.layers(model, example)}
    assert found == {"attention.out_proj": 0, "head": 5 * 64}
    assert count_macs(model, example) > 5 * 64


def test_measuring_and_suggesting_leave_the_model_as_it_was(tiny_task: Task) -> None:
    model = UNet(widths=(2, 4)).train()
    model.encoder[0][1].eval()
    model.head.weight.data[0, 0] = -0.0  # equal to 0, but other bytes
    before = traces(model)
    found = sensitivity.measure(model, tiny_task, samples=4)
    sensitivity.suggest(model, tiny_task, found, 0.05)
    assert traces(model) == before


def test_a_model_that_fails_is_left_as_it_was(tiny_task: Task) -> None:
    class Fragile(nn.Sequential):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > self.limit:
                raise KeyboardInterrupt
            return super().forward(x)  # type: ignore[no-any-return]

        limit = math.inf

    model = Fragile(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1), nn.Sigmoid()).train()
    found = sensitivity.measure(model, tiny_task, samples=2)
    before = traces(model)
    for limit in (0, 1, 2, 4, 6, 8):
        model.calls, model.limit = 0, limit
        with pytest.raises(KeyboardInterrupt):
            sensitivity.measure(model, tiny_task, samples=2)
        assert traces(model) == before
    model.calls, model.limit = 0, 2
    with pytest.raises(KeyboardInterrupt):
        sensitivity.suggest(model, tiny_task, found, 1.0)
    assert traces(model) == before


def test_loss_increases_by_hand() -> None:
    """The output is 1 * 4 + 2 * 3 + 3 * 2 + 4 * 1 = 20; without the smallest weight 16, without two 10, three 4."""
    model, task = (
        linear([[1.0, -2.0, 3.0, 4.0]]),
        task_of(torch.tensor([[4.0, -3.0, 2.0, 1.0]]), torch.tensor([[19.0]])),
    )
    found = sensitivity.measure(model, task, amounts=(0.75, 0.25, 0.5))
    assert (found.loss, found.samples) == (1.0, 1)
    assert found.pruned == {"": {0.25: 9.0 - 1, 0.5: 81.0 - 1, 0.75: 225.0 - 1}}
    assert list(found.pruned[""]) == [0.25, 0.5, 0.75]


def test_what_is_pruned_is_what_by_layer_prunes() -> None:
    for amount, size in itertools.product((0.0, 0.01, 0.3, 0.5, 0.9), (1, 2, 7, 100)):
        layer = nn.Linear(size, 3)
        expected = prune.remove(prune.by_layer(linear(layer.weight.tolist()), {"": amount})).weight
        assert torch.equal(substitutes.cutter(layer.weight, (0.5, amount))(amount), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_equal_weights_and_other_types(dtype: torch.dtype) -> None:
    weight = torch.tensor([[0.1, -0.1, 0.1], [0.1, 0.1, 0.7]], dtype=dtype)
    assert (substitutes.cutter(weight, (0.5,))(0.5) == 0).tolist() == [[True, True, True], [False, False, False]]


def test_a_layer_without_a_say_is_not_sensitive(tiny_task: Task) -> None:
    found = sensitivity.measure(Muted(), tiny_task)
    assert set(found.pruned["muted"].values()) == {0.0}
    assert found.int8["muted"] == 0.0
    assert all(value != 0 for value in found.pruned["heard"].values())
    assert found.int8["heard"] != 0
    assert found.samples == 8  # all there are


def test_a_weight_that_the_layer_itself_does_not_use_is_measured() -> None:
    model, inputs = Attention().eval(), torch.randn(4, 5, 8)
    task = task_of(inputs, model(inputs).detach())
    found = sensitivity.measure(model, task)
    assert found.loss < 1e-12
    assert found.pruned["attention.out_proj"][0.9] > found.pruned["attention.out_proj"][0.3] > 0
    assert found.int8["attention.out_proj"] > 0
    best = sensitivity.suggest(model, task, found, 1e-3)
    assert best.increase == pytest.approx(loss_at(model, task, best.amounts) - found.loss, rel=1e-4)


def test_weights_on_the_grid_lose_nothing_in_int8() -> None:
    codes = torch.randint(-63, 64, (4, 6), generator=torch.Generator().manual_seed(0)).float()
    codes[:, 0], codes[:, 1] = 127, -codes[:, 1].abs()  # no two neighbours beyond what 16 bits hold
    on_grid, off_grid = linear((codes * 2**-7).tolist()), linear((codes * 2**-7 + 0.3 * 2**-7).tolist())
    off_grid.weight.data[:, 0] = 127 * 2**-7
    inputs = torch.eye(6)
    with torch.no_grad():
        found = [sensitivity.measure(m, task_of(inputs, m(inputs))).int8[""] for m in (on_grid, off_grid)]
    # The output needs 255 steps for the range of its 255 codes: what is left is a step of 1/2 at most.
    assert abs(found[0]) < 1e-5
    assert found[1] > 2e-6
    assert torch.equal(substitutes.int8_weight(on_grid), on_grid.weight)
    assert not torch.equal(substitutes.int8_weight(off_grid), off_grid.weight)


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 6, 2), nn.ConvTranspose1d(4, 6, 3), nn.Conv1d(4, 8, 3, groups=2)],
    ids=lambda layer: type(layer).__name__,
)
def test_int8_weights_are_those_of_the_scheme(layer: Any) -> None:
    axis = 1 if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) else 0
    layer.weight.data.select(axis, 1).mul_(1e-5)  # a channel below the smallest step
    layer.weight.data.select(axis, 2).zero_()
    spec = scheme.weight_spec(False, axis)
    observer = spec.observer_or_fake_quant_ctr(
        dtype=spec.dtype, quant_min=spec.quant_min, quant_max=spec.quant_max, qscheme=spec.qscheme, ch_axis=axis
    )
    observer(layer.weight.detach())
    scale, zero_point = observer.calculate_qparams()
    expected = torch.fake_quantize_per_channel_affine(layer.weight.detach(), scale, zero_point.int(), axis, -127, 127)
    torch.testing.assert_close(substitutes.int8_weight(layer), expected, rtol=1e-6, atol=0)


def test_int8_weights_of_a_grouped_transposed_convolution() -> None:
    layer = nn.ConvTranspose1d(4, 6, 2, groups=2)
    found = substitutes.int8_weight(layer)
    for group in range(2):
        rows = slice(2 * group, 2 * group + 2)  # the inputs of this group
        for output in range(3):
            weight = layer.weight.detach()[rows, output]
            # The largest weight, or the largest sum of two that a kernel without VNNI adds in 16 bits.
            scale = max(weight.abs().max(), weight.sum(0).abs().max()) / 127
            torch.testing.assert_close(found[rows, output], (weight / scale).round() * scale)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (0.5, 3.0), (-4.0, -1.0), (0.0, 0.0)])
def test_int8_outputs_are_those_of_the_scheme(low: float, high: float) -> None:
    values = torch.linspace(low - 0.5, high + 0.5, 301)[None]
    spec = scheme.activation_spec(True)
    observer: Any = torch.ao.quantization.MinMaxObserver(
        dtype=spec.dtype, quant_min=-128, quant_max=127, qscheme=spec.qscheme, eps=2.0**-16
    )
    observer(torch.tensor([low, high]))
    scale, zero_point = observer.calculate_qparams()
    expected = torch.fake_quantize_per_tensor_affine(values, scale, zero_point.int(), -128, 127)
    layer = nn.Linear(301, 301, bias=False)
    layer.weight.data = torch.eye(301)
    with substitutes.int8_output(layer, (torch.tensor(low), torch.tensor(high))), torch.no_grad():
        torch.testing.assert_close(layer(values), expected)
    with torch.no_grad():
        assert torch.equal(layer(values), values)


def loss_at(model: nn.Module, task: Task, amounts: dict[str, float]) -> float:
    """The loss after by_layer, on a copy."""
    import copy

    changed = prune.remove(prune.by_layer(copy.deepcopy(model), amounts)).eval()
    inputs, truth = task.validation[:]  # type: ignore[index]
    with torch.no_grad():
        return float(task.loss(changed(inputs), truth))


@pytest.mark.parametrize("budget", [0.0, 0.001, 0.02, 0.1, 10.0])
def test_suggestion_keeps_the_budget(budget: float, tiny_task: Task, small_net: nn.Module) -> None:
    for layer in (small_net[0], small_net[2]):
        layer.weight.data *= 3
    found = sensitivity.measure(small_net, tiny_task)
    best = sensitivity.suggest(small_net, tiny_task, found, budget)
    assert best.increase <= best.budget == budget
    assert best.increase == pytest.approx(loss_at(small_net, tiny_task, best.amounts) - found.loss, abs=1e-6)
    assert set(best.amounts.values()) <= {0.0, *sensitivity.AMOUNTS}
    if budget == 10.0:
        assert set(best.amounts.values()) == {0.9}


def test_suggestion_by_hand() -> None:
    """What is predicted of a layer only chooses the candidates; what the whole model loses is measured."""
    model = nn.Sequential(linear([[1.0, 0.0], [0.0, 0.1]]), linear([[1.0, 0.2], [0.3, 10.0]]))
    inputs = torch.eye(2)
    task = task_of(inputs, model(inputs).detach())
    costs = {"0": {0.5: 0.0, 0.7: 0.04}, "1": {0.5: 0.001, 0.7: 0.5}}
    known = Sensitivity(0.0, 2, costs, {"0": 0.0, "1": 0.0})
    # The half of "0" that is zero costs nothing; the two small weights of "1" add (0.3^2 + 0.02^2) / 4 = 0.0226.
    tight = sensitivity.suggest(model, task, known, 0.01)
    assert tight == Suggestion({"0": 0.5, "1": 0.0}, 0.0, 0.01)
    loose = sensitivity.suggest(model, task, known, 0.03)
    assert loose.amounts == {"0": 0.5, "1": 0.5}
    assert loose.increase == pytest.approx((0.3**2 + 0.02**2) / 4)


def test_a_sparsity_beyond_a_failed_one_is_not_suggested(tiny_task: Task, small_net: nn.Module) -> None:
    costs = {"0": {0.3: 0.0, 0.5: math.inf, 0.7: 0.0}, "2": {0.3: math.nan, 0.5: 0.0, 0.7: 0.0}}
    known = Sensitivity(0.5, 8, costs, dict.fromkeys(costs, 0.0))
    best = sensitivity.suggest(small_net, tiny_task, known, 10.0)
    assert best.amounts == {"0": 0.3, "2": 0.0}
    assert _running_maximum({0.7: -1.0, 0.5: -0.5, 0.9: 2.0}) == {0.5: 0.0, 0.7: 0.0, 0.9: 2.0}


def test_zeros_that_are_there_stay(tiny_task: Task, small_net: nn.Module) -> None:
    prune.remove(prune.by_layer(small_net, {"2": 0.8}))
    found = sensitivity.measure(small_net, tiny_task)
    assert [found.pruned["2"][amount] for amount in (0.3, 0.5, 0.7)] == [0.0, 0.0, 0.0]
    best = sensitivity.suggest(small_net, tiny_task, found, 0.0)
    assert best.amounts["2"] >= prune.sparsity(small_net[2]) > 0.79
    prune.by_layer(small_net, best.amounts)


def test_evaluations_are_few(tiny_task: Task) -> None:
    class Watcher:
        seen: list[tuple[int, int]]

        def __init__(self) -> None:
            self.seen = []

        def start(self, title: str) -> None:
            self.seen.clear()

        def update(self, done: int, total: int, note: str = "") -> None:
            self.seen.append((done, total))

        def note(self, text: str) -> None:
            raise AssertionError

    model, watcher = UNet(widths=(2, 4, 8)), Watcher()
    found = sensitivity.measure(model, tiny_task, samples=2, progress=watcher)
    assert watcher.seen[-1] == (13, 13)
    sensitivity.suggest(model, tiny_task, found, progress=watcher)
    assert 1 <= len(watcher.seen) <= 8


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda m: prune.magnitude(m, 0.5), ModelError, "weight of 0 is masked"),
        (lambda m: nn.utils.parametrizations.weight_norm(m[0]), ModelError, "weight of 0 is masked or parametrized"),
    ],
)
def test_computed_weights_are_refused(
    change: Callable[[Any], Any], error: type[Exception], words: str, tiny_task: Task, small_net: nn.Module
) -> None:
    change(small_net)
    assert len(sensitivity.layers(small_net, torch.zeros(1, 1, 16, 16))) == 3
    with pytest.raises(error, match=words):
        sensitivity.measure(small_net, tiny_task)


def test_masked_layers_are_described_by_what_they_compute_with(small_net: nn.Module) -> None:
    prune.by_layer(small_net, {"2": 0.75})
    layer = sensitivity.layers(small_net, torch.zeros(1, 1, 16, 16))[1]
    assert (layer.name, layer.sparsity, layer.parameters) == ("2", 0.75, 4 * 4 * 9 + 4)


def test_refusals(tiny_task: Task, small_net: nn.Module) -> None:
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        sensitivity.layers(nn.ReLU(), torch.zeros(1, 1))
    with pytest.raises(ModelError, match=r"Sequential does not run on an input of shape \(1, 3, 8, 8\): RuntimeError"):
        sensitivity.layers(small_net, torch.zeros(1, 3, 8, 8))
    assert traces(small_net)["hooks"] == [0] * 7
    for settings in ({"samples": 0}, {"amounts": ()}, {"amounts": (0.5, 1.0)}, {"amounts": (math.nan,)}):
        with pytest.raises(RecipeError, match="between 0 and 1"):
            sensitivity.measure(small_net, tiny_task, **settings)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="fits no layer"):
        sensitivity.measure(small_net, tiny_task, ignore=["nothing"])
    found = sensitivity.measure(small_net, tiny_task, samples=1, ignore=["0", "4"])
    assert list(found.pruned) == list(found.int8) == ["2"]
    for budget in (-0.1, math.nan, math.inf):
        with pytest.raises(RecipeError, match="budget="):
            sensitivity.suggest(small_net, tiny_task, found, budget)
    with pytest.raises(ModelError, match="no layer '2'"):
        sensitivity.suggest(nn.Linear(1, 1), tiny_task, found)


def test_data_that_does_not_fit(tiny_task: Task, small_net: nn.Module) -> None:
    images = torch.zeros(2, 1, 4, 4)
    with pytest.raises(DataError, match=r"outputs \[1, 4, 4\] and truth \[3, 4, 4\] per sample"):
        sensitivity.measure(small_net, task_of(images, torch.zeros(2, 3, 4, 4)))
    with pytest.raises(DataError, match="cannot be evaluated on this data"):
        sensitivity.measure(small_net, task_of(torch.zeros(2, 3, 4, 4), images))
    with pytest.raises(DataError, match="loss of the unchanged model is nan"):
        sensitivity.measure(small_net, task_of(images, images * math.nan))


@pytest.fixture
def inspection() -> Inspection:
    found = [
        LayerInfo("first", "Conv2d", (2, 1, 3, 3), 20, 1_800_000, 0.5, -0.25, 1.5),
        LayerInfo("last", "Linear", (1, 2), 2, 200_000, 0.0, 0.1, 0.2),
        LayerInfo("ignored", "Linear", (1, 2), 2, 0, 0.0, 0.1, 0.2),
    ]
    costs = {"first": {0.3: 0.0, 0.9: 0.12345}, "last": {0.3: -0.00004, 0.9: math.inf}}
    known = Sensitivity(0.5, 10, costs, {"first": -0.001, "last": math.nan})
    return Inspection(found, 28, 2_500_000, known, Suggestion({"first": 0.3, "last": 0.0}, 0.004, 0.01))


def test_table(inspection: Inspection) -> None:
    headings, cells = layer_table.table(inspection)
    assert headings[-4:] == ("30%", "90%", "int8", "suggested")
    assert cells[0] == (
        *("first", "Conv2d", "2x1x3x3", "20", "1.800", "50%", "-0.25", "1.5"),
        *("0.0000", "+0.1235", "-0.0010", "30%"),
    )
    assert cells[1][-4:] == ("0.0000", "+inf", "+nan", "0%")
    assert cells[2][-4:] == ("", "", "", "")
    assert [line[:5] for line in cells[3:]] == [
        ("everything else", "", "", "4", "0.500"),
        ("total", "", "", "28", "2.500"),
    ]
    assert {len(line) for line in cells} == {len(headings)}
    assert layer_table.table(Inspection(inspection.layers, 28, 2_500_000))[0][-2:] == ("weights from", "to")


def test_verdict(inspection: Inspection) -> None:
    assert inspection.suggested_sparsity == pytest.approx(0.3 * 18 / 22)
    assert "24.5% of all weights are zero and the loss rises by +0.0040" in layer_table.verdict(inspection)
    assert layer_table.verdict(Inspection(inspection.layers, 28, 0)) == ""


def test_json_holds_no_infinity(inspection: Inspection) -> None:
    content = json.loads(json.dumps(layer_table.to_dict(inspection), allow_nan=False))
    assert content["layers"][0]["pruned"] == {"0.3": 0.0, "0.9": 0.12345}
    assert content["layers"][1]["pruned"] == {"0.3": -0.00004, "0.9": None}
    assert content["layers"][1]["int8"] is None
    assert content["layers"][0]["suggested"] == 0.3
    assert "pruned" not in content["layers"][2]
    assert content["suggestion"]["loss_increase"] == 0.004
    assert (content["parameters"], content["macs"], content["loss"], content["samples"]) == (28, 2_500_000, 0.5, 10)


def test_plot(inspection: Inspection, tmp_path: Path) -> None:
    sizes = []
    for name, known in (("full", inspection), ("bare", Inspection(inspection.layers, 28, 2_500_000))):
        layer_table.plot(known, tmp_path / f"{name}.png")
        data = (tmp_path / f"{name}.png").read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        sizes.append(struct.unpack(">II", data[16:24]))
    assert sizes[0][0] > sizes[1][0]  # there is a second panel
    layer_table.plot(inspection, tmp_path / "full.svg")
    assert (tmp_path / "full.svg").read_text().startswith("<?xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare.png", "full.png", "full.svg"]


def test_totals_are_the_models(tiny_task: Task) -> None:
    model = UNet(widths=(2, 4))
    found = sensitivity.layers(model, tiny_task.validation[0][0][None])
    content = Inspection(found, count_parameters(model)[0], count_macs(model, torch.zeros(1, 1, 16, 16)))
    cells = {line[0]: line[3:5] for line in layer_table.table(content)[1]}
    assert cells["everything else"] == ("32", "0.000")  # scales and shifts of 16 normalised channels

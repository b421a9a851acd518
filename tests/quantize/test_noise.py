"""The noise of a quantized graph, by module, and what it is put down to."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchshrink import checkpoint, quantize
from torchshrink.errors import ModelError
from torchshrink.model import graphs
from torchshrink.quantize.noise import LIMIT_DB, NOISE, Noise, from_rows, snr_db, to_rows, worst_db

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def quantized(model: nn.Module, images: Tensor = IMAGES) -> torch.fx.GraphModule:
    prepared = quantize.prepare_ptq(model, images)
    quantize.calibrate(prepared, [images])
    return quantize.convert(prepared)


def test_decibels_by_hand() -> None:
    wanted = torch.tensor([3.0, 4.0])
    assert snr_db(torch.tensor([3.0, 4.5]), wanted) == pytest.approx(20)  # 25 / 0.25
    assert snr_db(wanted, wanted) == math.inf
    assert math.isnan(snr_db(torch.tensor([3.0, float("nan")]), wanted))
    infinite = torch.tensor([3.0, 4.0, -math.inf])  # as a mask has it
    assert snr_db(torch.tensor([3.0, 4.5, -math.inf]), infinite) == pytest.approx(20)


def test_every_module_and_output_is_named() -> None:
    """Also after a file: the graph is written as JSON and read again."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 2, 1), nn.Sigmoid())
    ).eval()
    graph = quantized(model)
    read = graphs.from_json(*graphs.to_json(graph))
    for found in (quantize.noise(graph, model, IMAGES), quantize.noise(read, model, IMAGES)):
        assert [item.name for item in found] == ["1", "2", "3.0", "3.1", "3", "output"]  # "0" is folded into "1"
        assert [item.is_output for item in found] == [False] * 5 + [True]
        assert all(item.snr_db > 25 and not item.reason for item in found)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()


def test_convert_measures_against_the_module_that_was_calibrated(tmp_path: Path) -> None:
    """On what was seen last; a checkpoint keeps it."""
    model = small()
    prepared = quantize.prepare_ptq(model, IMAGES)
    quantize.calibrate(prepared, [3 * IMAGES, torch.cat([IMAGES, 0 * IMAGES])])
    graph = quantize.convert(prepared)
    found, wanted = quantize.noise(graph), quantize.noise(graph, model, IMAGES)
    assert [item.name for item in found] == [item.name for item in wanted] == ["1", "2", "3", "output"]
    assert [item.snr_db for item in found] == pytest.approx([item.snr_db for item in wanted], abs=1e-3)
    assert worst_db(graph) == found[-1].snr_db
    checkpoint.save(graph, tmp_path / "int8.safetensors")
    assert quantize.noise(checkpoint.load(tmp_path / "int8.safetensors")) == found  # type: ignore[arg-type]


def test_convert_measures_against_the_module_as_training_left_it() -> None:
    prepared = quantize.prepare_qat(small(), IMAGES)
    for _ in range(3):
        prepared(IMAGES)
    with torch.no_grad():
        prepared.graph_module.get_parameter("3.weight").mul_(5)
    graph = quantize.convert(prepared)
    assert all(item.snr_db > 25 for item in quantize.noise(graph))
    assert not [name for name, _ in graph.named_buffers() if "num_batches_tracked" in name]
    fresh = quantize.prepare_qat(small(), IMAGES)
    fresh.load_state_dict(prepared.state_dict())
    assert quantize.noise(quantize.convert(fresh)) == []  # has seen nothing to measure on


def test_a_sigmoid_near_zero_is_as_good_as_its_fixed_grid() -> None:
    """All values below half a step become zero: no signal is left, and nothing is wrong."""
    model = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Sigmoid()).eval()
    nn.init.constant_(model[0].bias, -8)  # type: ignore[arg-type]
    graph = quantized(model)
    last = quantize.noise(graph)[-1]
    assert last.snr_db < LIMIT_DB
    assert not last.reason


def test_what_is_stored_is_read_again_or_refused() -> None:
    items = [Noise("a", False, 20.5), Noise("b", True, math.inf)]
    assert from_rows(to_rows(items)) == items
    assert to_rows([Noise("c", True, math.nan)])[0]["snr_db"] < LIMIT_DB
    graph = quantized(small())
    for damaged in ({"a": 1}, [{"name": "a"}], [to_rows(items)[0] | {"name": 3}], 5):
        graph.meta[NOISE] = damaged
        with pytest.raises(ModelError, match="damaged: quantize the model again"):
            quantize.noise(graph)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.small, self.after = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.after(torch.cat([self.small(x), 3e2 * x], 1)[:, :2])


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((8, 8), -5e3).triu(1)  # not what stands for minus infinity, and stays float
        return torch.softmax(8 * self.layer(x) + mask, -2)  # not over rows, for which ranges leave the mask out


def warned(model: nn.Module) -> Noise:
    with pytest.warns(UserWarning, match=f"less than {LIMIT_DB:g}; the first tensor below"):
        graph = quantized(model)
    with pytest.warns(UserWarning, match=f"less than {LIMIT_DB:g}; the first tensor below"):
        found = quantize.noise(graph, model, IMAGES)
    return next(item for item in found if item.reason)


def test_ranges_that_a_concatenation_cannot_hold_are_the_reason() -> None:
    assert "concatenation" in warned(Two().eval()).reason


def test_a_mask_is_the_reason() -> None:
    assert "mask" in warned(Masked().eval()).reason


class Clipped(nn.Module):
    """What is far outside of the range of interest is cut off after it was quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.clip, self.layer = nn.Hardtanh(0, 6), nn.Conv2d(3, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.clip(x))


def test_an_outlier_is_the_reason() -> None:
    images = IMAGES.clone()
    images[0, 0, 0, 0] = 1e4
    with pytest.warns(UserWarning, match=r"likely for a few values far larger than all others: .*clamp its result"):
        quantized(Clipped().eval(), images)


def test_dead_data_is_the_reason() -> None:
    """Calibrated on what is far larger than what is seen last."""
    prepared = quantize.prepare_ptq(small(), IMAGES)
    quantize.calibrate(prepared, [1e4 * IMAGES, IMAGES])
    with pytest.warns(UserWarning, match=r"likely for values that hardly vary beside the range of the data: give cali"):
        quantize.convert(prepared)


def test_other_noise_is_put_down_to_depth() -> None:
    """A layer that takes the difference of nearly equal numbers: nothing is odd about its values."""
    layer = nn.Conv2d(3, 1, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -1.0, 0.0]).reshape(1, 3, 1, 1))
    model = nn.Sequential(layer)
    images = IMAGES.clone()
    images[:, 1] = images[:, 0] + 1e-3 * images[:, 2]
    graph = quantized(model, images)
    with pytest.warns(UserWarning, match="keep_float"):
        assert quantize.noise(graph, model, images)[0].cure


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def test_alone_is_what_a_module_adds_to_inputs_in_float() -> None:
    """By hand, of its codes and of the grids that the graph holds; a block has all of its parts in it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), Residual(), nn.Conv2d(4, 2, 1, bias=False)).eval()
    graph = quantized(model)
    found = {item.name: item for item in quantize.noise(graph)}
    assert all(item.alone_db is not None for item in found.values() if not item.is_output)
    assert found["output"].alone_db is None
    values: dict[str, Tensor] = {}
    with torch.no_grad():
        values["0"] = model[0](IMAGES)
        values["1"] = model[1](values["0"])
        values["2"] = model[2](values["1"])
    steps = [node for node in graph.graph.nodes if ".quantize_per_tensor" in str(node.target)]
    weights = [node for node in graph.graph.nodes if ".dequantize_per_channel" in str(node.target)]

    def weight(place: int) -> Tensor:
        codes, scale = (getattr(graph, str(node.target)) for node in weights[place].args[:2])
        return codes.float() * scale.float().reshape(-1, 1, 1, 1)

    def rounded(value: Tensor, place: int) -> Tensor:
        scale, zero = steps[place].args[1:3]
        return (torch.round(value / scale) + zero).clamp(-128, 127).sub(zero) * scale

    of_input, of_first, of_body, of_sum, of_last = range(5)
    first = rounded(nn.functional.conv2d(rounded(IMAGES, of_input), weight(0)), of_first)
    body = rounded(nn.functional.conv2d(values["0"], weight(1), padding=1).relu(), of_body)
    wanted = {
        "0": first,  # which has the noise of the model's input in it
        "1": rounded(values["0"] + body, of_sum),
        "1.body": body,
        "1.body.1": rounded(model[1].body[0](values["0"]).relu(), of_body),  # type: ignore[index, operator, union-attr]
        "2": rounded(nn.functional.conv2d(values["1"], weight(2)), of_last),
    }
    truths = values | {name: model[1].body(values["0"]) for name in ("1.body", "1.body.1")}  # type: ignore[operator, union-attr]
    for name, value in wanted.items():
        assert found[name].alone_db == pytest.approx(snr_db(value, truths[name]), abs=1e-2), name
    last = found["2"].alone_db
    assert last is not None
    assert last > found["2"].snr_db + 1  # what comes before is not in it


def test_what_stays_float_is_exact_alone_and_older_figures_have_none() -> None:
    model = small()
    prepared = quantize.prepare_ptq(model, IMAGES, keep_float=["3"])
    quantize.calibrate(prepared, [IMAGES])
    graph = quantize.convert(prepared)
    found = {item.name: item for item in quantize.noise(graph)}
    assert found["3"].alone_db == math.inf > found["3"].snr_db
    rows = graph.meta[NOISE]
    assert next(row for row in rows if row["name"] == "3")["alone_db"] is None
    old = [{key: value for key, value in row.items() if key != "alone_db"} for row in rows]
    assert all(item.alone_db is None for item in from_rows(old))
    assert from_rows(rows) == quantize.noise(graph)


def test_a_second_call_is_not_given_what_the_first_one_rounded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.block(x))

    torch.manual_seed(1)
    found = {item.name: item for item in quantize.noise(quantized(Twice().eval()))}
    again = found["block@1"].alone_db
    assert again is not None
    assert again > found["block@1"].snr_db + 1

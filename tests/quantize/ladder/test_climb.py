"""The ladder as a whole: it stops when it may, says what it did, and ends in advice."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import quantize
from torchshrink.errors import DataError, RecipeError
from torchshrink.progress import Silent
from torchshrink.quantize.ladder import climb
from torchshrink.quantize.noise import snr_db


class _Notes(Silent):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[0].weight[3] *= 60
        model[2].weight[:, 3] /= 60
    return model


@pytest.fixture(scope="module")
def batches() -> list[Tensor]:
    return list(torch.randn(96, 8, generator=torch.Generator().manual_seed(1)).split(32))


class Streaming(nn.Module):
    """Takes and gives its states, samples first."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 8, num_layers=2, batch_first=True)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        found, state = self.rnn(x, state.transpose(0, 1).contiguous())
        return found, state.transpose(0, 1)


@pytest.mark.parametrize("shape", [(2, 4, 8), (1, 4, 8), ()])
def test_inputs_that_do_not_hold_their_samples_first_are_named(shape: tuple[int, ...]) -> None:
    good, bad = ([(torch.randn(4, 5, 4), torch.randn(size)) for _ in range(3)] for size in ((4, 2, 8), shape))
    assert quantize.ptq(Streaming().eval(), good)(*good[0])[1].shape == (4, 2, 8)
    with pytest.raises(DataError, match=r"batch 1 .* holds \[4\] samples, its input 1 .*: samples come first in every"):
        quantize.ptq(Streaming().eval(), [good[0], *bad[1:]])


def test_it_stops_where_the_budget_is_met(model: nn.Module, batches: list[Tensor]) -> None:
    notes = _Notes()
    graph = quantize.ptq(model, batches, budget_db=5.0, progress=notes)
    assert quantize.is_quantized(graph)
    assert [text.partition(":")[0] for text in notes.texts] == ["calibrated"]


def test_each_step_says_what_it_gained_and_the_last_advises(model: nn.Module, batches: list[Tensor]) -> None:
    notes = _Notes()
    graph = quantize.ptq(model, batches, "bias", budget_db=200.0, progress=notes)
    steps = [text.partition(":")[0].partition(" (")[0] for text in notes.texts]
    assert steps[:-1] == ["calibrated", "ranges", "equalization", "bias correction"]
    assert notes.texts[-1].endswith("dB of the 200 wanted: allow more effort, or train it for int8")
    x = torch.cat(batches)
    plain = quantize.ptq(model, batches, "none")
    with torch.no_grad():
        assert snr_db(graph(x), model(x)) > snr_db(plain(x), model(x)) + 5


def test_layers_are_kept_float_when_that_is_enough(batches: list[Tensor]) -> None:
    """An input that is a thousand times the others takes the grid from all of them, and no scale can be moved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4)).eval()
    scale = torch.tensor([1000.0, *[1.0] * 7])
    with torch.no_grad():
        model[0].weight[:, 0] = 0.0
    notes = _Notes()
    graph = quantize.ptq(model, [batch * scale for batch in batches], budget_db=20.0, progress=notes)
    assert notes.texts[-1].startswith("kept float (0): +")
    x = torch.cat(batches) * scale
    with torch.no_grad():
        assert snr_db(graph(x), model(x)) > 19


@pytest.mark.parametrize(
    ("enough", "tried", "kept"),
    [((), [2], 0), ((2,), [2, 1], 2), ((1, 2), [2, 1], 1)],
    ids=["not even half", "half", "one"],
)
def test_the_most_layers_are_tried_before_fewer(
    batches: list[Tensor], monkeypatch: pytest.MonkeyPatch, enough: tuple[int, ...], tried: list[int], kept: int
) -> None:
    """Where half of them would not be enough, one try says so."""
    counts: list[int] = []

    def dbs(_: climb._Climb, graph: GraphModule) -> tuple[float, float]:
        floats = 4 - sum("dequantize_per_channel" in str(node.target) for node in graph.graph.nodes)
        if floats:
            counts.append(floats)
        return (40.0 if floats in enough else 10.0), 10.0

    monkeypatch.setattr(climb._Climb, "_dbs", dbs)
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).eval()
    notes = _Notes()
    graph = quantize.ptq(model, batches, progress=notes)
    assert counts == tried
    assert any(text.startswith("kept float (") for text in notes.texts) == bool(kept)
    assert 4 - sum("dequantize_per_channel" in str(node.target) for node in graph.graph.nodes) == kept


@pytest.mark.filterwarnings("error:output .* of the quantized graph")
def test_noise_is_measured_once_of_the_graph_that_is_returned(model: nn.Module, batches: list[Tensor]) -> None:
    """Not of what a step began with, and no warning of a graph that is not taken."""
    graph = quantize.ptq(model, batches, "rounding", budget_db=200.0)
    known, _ = climb._split(batches)
    assert quantize.noise(graph)[-1].snr_db == pytest.approx(
        snr_db(graph(known[0][64:68]), model(known[0][64:68])), abs=1e-3
    )


def test_a_step_that_loses_on_what_it_was_calibrated_on_is_taken_back(
    model: nn.Module, batches: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What few held-out samples gain is no gain where the others lose; the best that is left of a step is taken."""
    found = iter([(10.0, 20.0), (12.0, 19.9), (11.0, 21.0), (13.0, 2.0), (10.5, 30.0), (14.0, 20.5)])
    monkeypatch.setattr(climb._Climb, "_dbs", lambda *_: next(found))
    notes = _Notes()
    quantize.ptq(model, batches, "equalization", progress=notes)
    assert notes.texts[:3] == ["calibrated: 10.0 dB", "ranges (99.999%): +1.0 dB, 11.0 dB", "equalization: no gain"]


def test_what_is_held_out_is_from_all_over() -> None:
    known, held = climb._split(list(torch.arange(20.0).split(4)))
    assert held[0].tolist() == [4, 9, 14, 19]
    assert sorted([*known[0].tolist(), *held[0].tolist()]) == list(range(20))


def test_what_it_does_not_take() -> None:
    with pytest.raises(RecipeError, match=r"effort='all': expected one of none, ranges, .*, float"):
        quantize.ptq(nn.Linear(2, 2), [torch.zeros(1, 2)], "all")  # type: ignore[arg-type]
    for wrong in ("30", None, True, float("nan")):
        with pytest.raises(RecipeError, match=r"budget_db=.*: expected a number of dB"):
            quantize.ptq(nn.Linear(2, 2), [torch.zeros(1, 2)], budget_db=wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no batch"):
        quantize.ptq(nn.Linear(2, 2), [])

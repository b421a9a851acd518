"""Quantize after training, with as many steps as a budget of noise asks for."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink.errors import DataError, RecipeError
from torchshrink.model.signature import Inputs, as_tuple
from torchshrink.progress import SILENT, Progress
from torchshrink.quantize import exits, parity
from torchshrink.quantize.flow import calibrate, check_batches, converted, prepare_ptq
from torchshrink.quantize.ladder import bias_correction, costly, equalization, ranges, rounding
from torchshrink.quantize.noise import measure, snr_db
from torchshrink.quantize.prepared import PreparedModule
from torchshrink.quantize.tracing import in_float32
from torchshrink.quiet import quiet

Effort = Literal["none", "ranges", "equalization", "bias", "rounding", "float"]
BUDGET_DB = 30.0
_MOST = 128  # samples that the steps after calibration look at
_AT_ONCE = 16  # samples that are calibrated on together, at least: what an observer does for a batch takes long
_HELD_OUT = 5  # one of so many samples is measured, where there are enough
_FLOAT = 0.5  # share of the layers that stay float at most


@dataclass(frozen=True)
class Plan:
    """How a model is quantized: what each step adds.

    Attributes:
        ranges: Of the activations.
        is_equalized: Whether channels are scaled.
        is_rounded: Whether weights are rounded by what their layer computes.
        is_corrected: Whether biases are corrected.
        keep_float: Modules that stay float.
    """

    ranges: ranges.Ranges = "mse"
    is_equalized: bool = False
    is_rounded: bool = False
    is_corrected: bool = False
    keep_float: tuple[str, ...] = ()


class _Made(NamedTuple):
    """What a plan leads to: a quantized graph, the float one, and signal to noise of samples held out and of others."""

    plan: Plan
    graph: GraphModule
    floats: GraphModule
    dbs: tuple[float, float]


def ptq(
    model: nn.Module,
    batches: Iterable[Inputs],
    effort: Effort = "float",
    *,
    budget_db: float = BUDGET_DB,
    keep_float: Sequence[str] = (),
    portable: bool = True,
    progress: Progress = SILENT,
) -> GraphModule:
    """Return the quantized graph of ``model``, without training and without labels.

    Steps are taken in the order of `Effort` until the outputs have ``budget_db``: other ranges, channels equalized
    between layers, biases corrected, weights rounded by what their layer computes (AdaRound), and at last the fewest
    layers kept float, unless half of them would not be enough. A step that gains nothing is left out. Each step's gain
    is said, and when all is not enough, that the model should be trained for int8.

    Args:
        model: A float module; it is left as it was.
        batches: ``[N, C, *size]``, or one for each argument of the model: inputs alone, some hundred samples for all
            steps. A fifth of them is not calibrated on but measured, where there are ten or more.
        effort: The last step that may be taken; ``"none"`` calibrates only.
        budget_db: Signal to noise that is enough, in dB, of the worst output against the float model.
        keep_float: As `torchshrink.quantize.prepare_ptq` takes it.
        portable: The same.
        progress: Told about every step.

    Raises:
        RecipeError: When there is no such effort, ``budget_db`` is no number, or ``batches`` one tensor.
        DataError: When there is no batch, or something in it is not finite.
        ModelError: When the model cannot be traced.
        ParityError: When its graph computes something else.

    Source: Nagel et al., arXiv:1906.04721 and arXiv:2004.10568, and the order of Nagel et al., arXiv:2106.08295,
    figure 8.
    """
    if effort not in get_args(Effort):
        raise RecipeError(f"effort={effort!r}: expected one of {', '.join(get_args(Effort))}")
    if isinstance(budget_db, bool) or not isinstance(budget_db, int | float) or math.isnan(budget_db):
        raise RecipeError(f"budget_db={budget_db!r}: expected a number of dB")
    check_batches(batches)
    climb = _Climb(model, list(batches), tuple(keep_float), portable, budget_db, progress)
    allowed = get_args(Effort).index(effort)
    for step in (climb.ranges, climb.equalization, climb.bias, climb.rounding, climb.keep)[:allowed]:
        if climb.db >= budget_db:
            break
        step()
    if allowed and not climb.db >= budget_db:
        progress.note(
            f"{climb.db:.1f} dB of the {budget_db:g} wanted: "
            + (
                "train it for int8 (torchshrink qat)"
                if effort == "float"
                else "allow more effort, or train it for int8"
            )
        )
    climb.measure()
    return climb.graph


class _Climb:
    """The best graph so far, and how it was made."""

    def __init__(
        self,
        model: nn.Module,
        batches: list[Inputs],
        keep_float: tuple[str, ...],
        portable: bool,
        budget_db: float,
        progress: Progress,
    ) -> None:
        if not batches:
            raise DataError("there is no batch in the calibration data: give at least one")
        self.model, self.portable, self.budget_db, self.progress = model, portable, budget_db, progress
        self.known, self.measured = _split(batches)
        self.some = tuple(value[:_MOST] for value in self.known)
        self.size = max(_AT_ONCE, len(as_tuple(batches[0])[0]))
        self._wanted = [(inputs, parity.try_out(model, inputs)) for inputs in (self.measured, self.some)]
        self.plan = Plan(keep_float=keep_float)
        self._observed: dict[tuple[bool, tuple[str, ...]], PreparedModule] = {}
        self._hold(self._made(self.plan))
        progress.note(f"calibrated: {self.db:.1f} dB")

    def ranges(self) -> None:
        """Try all kinds of ranges."""
        self._try("ranges", [replace(self.plan, ranges=kind) for kind in ranges.OTHERS])

    def equalization(self) -> None:
        """Equalize channels."""
        self._try("equalization", [replace(self.plan, is_equalized=True)])

    def bias(self) -> None:
        """Correct biases."""
        self._try("bias correction", [replace(self.plan, is_corrected=True)])

    def rounding(self) -> None:
        """Round weights by what their layer computes."""
        self._try("rounding", [replace(self.plan, is_rounded=True)])

    def keep(self) -> None:
        """Keep the fewest layers float that are enough; where the most are not, nothing else is tried."""
        *fewer, most = self._plans_in_float()
        last = self._enough(most)
        if last is None:
            self.progress.note("layers kept float: half of them would not be enough")
            return
        found = next(filter(None, map(self._enough, fewer)), last)
        added = found.plan.keep_float[len(self.plan.keep_float) :]
        self._take(f"kept float ({', '.join(added)})", found)

    def measure(self) -> None:
        """Note in the best graph how far it is from the model, and warn where that is too far."""
        measure(self.graph, self.floats, in_float32(self._seen))

    def _plans_in_float(self) -> list[Plan]:
        """Return plans that keep more and more layers float: 1, 2, 4, ..., the most costly ones first."""
        names = costly.most_costly(self.graph, self.floats, self.some)
        most = max(1, int(_FLOAT * len(names)))
        counts = (2**power for power in range(most.bit_length()))
        return [replace(self.plan, keep_float=(*self.plan.keep_float, *names[:count])) for count in counts]

    def _enough(self, plan: Plan) -> _Made | None:
        """Return what is made by a plan, or nothing where that has too much noise."""
        made = self._made(plan)
        return made if made.dbs[0] >= self.budget_db else None

    def _try(self, name: str, plans: Sequence[Plan]) -> None:
        self.progress.start(name)
        # What few samples gain may be lost by all others: a step has to be no loss where it was calibrated, too.
        gained = [made for made in map(self._made, plans) if made.dbs[0] > self.db and made.dbs[1] >= self.seen_db]
        if gained:
            best = max(gained, key=lambda made: made.dbs)
            self._take(f"{name} ({best.plan.ranges})" if name == "ranges" else name, best)
        else:
            self.progress.note(f"{name}: no gain")

    def _take(self, name: str, made: _Made) -> None:
        self.progress.note(f"{name}: {made.dbs[0] - self.db:+.1f} dB, {made.dbs[0]:.1f} dB")
        self._hold(made)

    def _hold(self, made: _Made) -> None:
        self.plan, self.graph, self.floats, (self.db, self.seen_db) = made

    def _made(self, plan: Plan) -> _Made:
        """Return the quantized graph of a plan, and what it is worth."""
        with quiet():  # torch.fx warns of itself when it copies a graph
            prepared = copy.deepcopy(self._calibrated(plan))
        ranges.choose(prepared.graph_module, plan.ranges)
        graph, floats = converted(prepared)
        if plan.is_rounded:
            rounding.round_again(graph, floats, self.some, progress=self.progress)
        if plan.is_corrected:
            bias_correction.correct(graph, floats, self.some)
        return _Made(plan, graph, floats, self._dbs(graph))

    def _calibrated(self, plan: Plan) -> PreparedModule:
        """Return the observed graph of a plan; the last one is kept, for several steps begin with it."""
        key = plan.is_equalized, plan.keep_float
        if key not in self._observed:
            example = tuple(value[:1] for value in self.known)
            prepared = prepare_ptq(self.model, example, plan.keep_float, self.portable)
            if plan.is_equalized:
                equalization.equalize(prepared.graph_module, self.some)
            calibrate(prepared, zip(*(torch.split(value, self.size) for value in self.known), strict=True))
            self._observed, self._seen = {key: prepared}, prepared.seen
        return self._observed[key]

    @torch.no_grad()
    def _dbs(self, graph: GraphModule) -> tuple[float, float]:
        """Return the signal to noise of the worst output, of samples held out and of others; -inf for no number."""
        held, others = (_worst_db(exits.named(graph(*inputs)), wanted) for inputs, wanted in self._wanted)
        return held, others


def _worst_db(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    values = [snr_db(found[name], value) for name, value in wanted.items() if value.is_floating_point()]
    return min((-math.inf if math.isnan(value) else value for value in values), default=math.inf)


def _split(batches: Sequence[Inputs]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return the samples to calibrate on, and those to measure: from all over, for data may be in some order.

    Raises:
        DataError: When the inputs of a batch do not hold as many samples each.
    """
    for number, batch in enumerate(batches):
        first, *others = (value.shape[:1] for value in as_tuple(batch) if isinstance(value, Tensor))
        if wrong := [place for place, count in enumerate(others, 1) if count != first or not count]:
            raise DataError(
                f"batch {number} of the calibration data holds {list(first)} samples, its input {wrong[0]} "
                f"{list(others[wrong[0] - 1])}: samples come first in every input; let a model take the states of an "
                "LSTM or a GRU as [N, layers, hidden] and turn them itself"
            )
    whole = tuple(torch.cat(parts) for parts in zip(*(as_tuple(batch) for batch in batches), strict=True))
    count = len(whole[0])
    if count < 2 * _HELD_OUT:
        return whole, whole
    is_held = torch.arange(count) % _HELD_OUT == _HELD_OUT - 1
    return tuple(value[~is_held] for value in whole), tuple(value[is_held] for value in whole)

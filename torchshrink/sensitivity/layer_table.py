"""What is known about the layers of a model, as a table, as JSON and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchshrink.digits import written, written_change
from torchshrink.files import atomic

if TYPE_CHECKING:
    from torchshrink.sensitivity import LayerInfo, Sensitivity, Suggestion

SCHEMA = 1
_REST = "everything else"
_DECADES = 1e3  # between the palest and the darkest loss increase of the picture


@dataclass(frozen=True)
class Inspection:
    """A model, layer by layer.

    Attributes:
        layers: Those that can be pruned.
        parameters: Of the whole model.
        macs: Multiply-accumulates of the whole model and one sample.
        sensitivity: What each layer alone costs; unknown without data.
        suggestion: A sparsity for each layer; unknown without data.
    """

    layers: Sequence[LayerInfo]
    parameters: int
    macs: int
    sensitivity: Sensitivity | None = None
    suggestion: Suggestion | None = None

    @property
    def suggested_sparsity(self) -> float:
        """Share of the weights of all layers that the suggestion sets to zero, in [0, 1]."""
        assert self.suggestion is not None
        sizes = {layer.name: math.prod(layer.shape) for layer in self.layers}
        zeros = sum(sizes[name] * amount for name, amount in self.suggestion.amounts.items())
        return zeros / max(sum(sizes.values()), 1)


def table(inspection: Inspection) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and cells: one line per layer, one for what is in no layer, and the sum."""
    headings: list[str] = ["layer", "type", "weight", "parameters", "million MACs", "sparse", "weights from", "to"]
    if inspection.sensitivity:
        headings += [f"{amount:.0%}" for amount in _amounts(inspection.sensitivity)] + ["int8"]
    if inspection.suggestion:
        headings.append("suggested")
    cells = [_line(layer, inspection) for layer in inspection.layers]
    parameters = inspection.parameters - sum(layer.parameters for layer in inspection.layers)
    macs = inspection.macs - sum(layer.macs for layer in inspection.layers)
    if parameters or macs:
        cells.append([_REST, "", "", f"{parameters:,}", _millions(macs)])
    cells.append(["total", "", "", f"{inspection.parameters:,}", _millions(inspection.macs)])
    return tuple(headings), [(*line, *[""] * (len(headings) - len(line))) for line in cells]


def verdict(inspection: Inspection) -> str:
    """Return one sentence: what the suggestion costs; empty without one."""
    if inspection.sensitivity is None or inspection.suggestion is None:
        return ""
    sensitivity, suggestion = inspection.sensitivity, inspection.suggestion
    return (
        f"Loss {written(sensitivity.loss)} on {sensitivity.samples} validation samples; the columns on the right say "
        "how much it rises when that layer alone is pruned or in int8. With every layer at its suggested sparsity, "
        f"{inspection.suggested_sparsity:.1%} of all weights are zero and the loss rises by "
        f"{written_change(suggestion.increase, sensitivity.loss)} "
        f"before fine-tuning (budget {suggestion.budget:g})."
    )


def to_dict(inspection: Inspection) -> dict[str, Any]:
    """Return everything as JSON has it; a loss increase that is not finite is ``None``."""
    sensitivity, suggestion = inspection.sensitivity, inspection.suggestion
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "parameters": inspection.parameters,
        "macs": inspection.macs,
        "layers": [_layer_dict(layer, inspection) for layer in inspection.layers],
    }
    if sensitivity is not None:
        content |= {"loss": sensitivity.loss, "samples": sensitivity.samples}
    if suggestion is not None:
        content["suggestion"] = {
            "amounts": suggestion.amounts,
            "sparsity": inspection.suggested_sparsity,
            "loss_increase": suggestion.increase,
            "budget": suggestion.budget,
        }
    return content


def plot(inspection: Inspection, path: Path) -> None:
    """Draw each layer's share of parameters and MACs, and its loss increases, as PNG or SVG by the path's ending."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sensitivity = inspection.sensitivity
    columns = 0 if sensitivity is None else len(_amounts(sensitivity)) + 1
    height = 1.6 + 0.32 * len(inspection.layers)
    figure = Figure(figsize=(7 + 0.9 * columns, max(height, 3.0)), layout="constrained")
    FigureCanvasAgg(figure)
    if sensitivity is None:
        _draw_shares(figure.add_subplot(), inspection)
    else:
        shares, increases = figure.subplots(1, 2, sharey=True, width_ratios=[4, 0.9 * columns])
        _draw_shares(shares, inspection)
        _draw_increases(figure, increases, inspection, sensitivity)
    with atomic(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _amounts(sensitivity: Sensitivity) -> list[float]:
    return sorted(next(iter(sensitivity.pruned.values())))


def _title(layer: LayerInfo) -> str:
    return layer.name or layer.kind  # a model that is one layer has no name for it


def _line(layer: LayerInfo, inspection: Inspection) -> list[str]:
    line = [
        _title(layer),
        layer.kind,
        "x".join(map(str, layer.shape)),
        f"{layer.parameters:,}",
        _millions(layer.macs),
        f"{layer.sparsity:.0%}",
        f"{layer.least:.3g}",
        f"{layer.greatest:.3g}",
    ]
    if inspection.sensitivity:
        costs = inspection.sensitivity.pruned.get(layer.name)
        amounts = _amounts(inspection.sensitivity)
        line += [_increase(costs[amount]) for amount in amounts] if costs else [""] * len(amounts)
        line.append(_increase(inspection.sensitivity.int8[layer.name]) if costs else "")
    if inspection.suggestion:
        amount = inspection.suggestion.amounts.get(layer.name)
        line.append("" if amount is None else f"{amount:.0%}")
    return line


def _millions(count: int) -> str:
    return f"{count / 1e6:,.3f}"


def _increase(value: float) -> str:
    return f"{value:+.4f}" if round(value, 4) else "0.0000"


def _layer_dict(layer: LayerInfo, inspection: Inspection) -> dict[str, Any]:
    content: dict[str, Any] = {
        "name": layer.name,
        "type": layer.kind,
        "shape": list(layer.shape),
        "parameters": layer.parameters,
        "macs": layer.macs,
        "sparsity": layer.sparsity,
        "min": layer.least,
        "max": layer.greatest,
    }
    if inspection.sensitivity and layer.name in inspection.sensitivity.pruned:
        costs = inspection.sensitivity.pruned[layer.name]
        content["pruned"] = {f"{amount:g}": _finite(costs[amount]) for amount in sorted(costs)}
        content["int8"] = _finite(inspection.sensitivity.int8[layer.name])
    if inspection.suggestion and layer.name in inspection.suggestion.amounts:
        content["suggested"] = inspection.suggestion.amounts[layer.name]
    return content


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _draw_shares(axes: Any, inspection: Inspection) -> None:
    rows = range(len(inspection.layers))
    for label, color, offset, whole, values in (
        ("parameters", "#4477aa", -0.2, inspection.parameters, [layer.parameters for layer in inspection.layers]),
        ("MACs", "#ee8866", 0.2, inspection.macs, [layer.macs for layer in inspection.layers]),
    ):
        widths = [100 * value / max(whole, 1) for value in values]
        axes.barh([row + offset for row in rows], widths, height=0.38, color=color, label=label)
    axes.set_yticks(rows, [_title(layer) for layer in inspection.layers], fontsize=8)
    axes.set_ylim(len(inspection.layers) - 0.5, -0.5)  # the first layer on top
    axes.set_xlabel("share of the model [%]")
    axes.set_title(f"{inspection.parameters:,} parameters, {inspection.macs / 1e6:,.4g} million MACs", fontsize=10)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8)


def _draw_increases(figure: Any, axes: Any, inspection: Inspection, sensitivity: Sensitivity) -> None:
    """Colour each layer and treatment by its loss increase, and frame what is suggested."""
    from matplotlib.colors import LogNorm
    from matplotlib.patches import Rectangle

    amounts = _amounts(sensitivity)
    lines = [
        [*(sensitivity.pruned[layer.name][amount] for amount in amounts), sensitivity.int8[layer.name]]
        if layer.name in sensitivity.pruned
        else [math.nan] * (len(amounts) + 1)
        for layer in inspection.layers
    ]
    greatest = max((value for line in lines for value in line if math.isfinite(value)), default=0.0)
    high = max(greatest, 1e-3)
    low = high / _DECADES
    shown = [[max(value, low) if math.isfinite(value) else math.nan for value in line] for line in lines]
    image = axes.imshow(shown, aspect="auto", cmap="YlOrRd", norm=LogNorm(low, high))
    axes.set_facecolor("#dddddd")  # of what is unknown
    for row, (layer, line) in enumerate(zip(inspection.layers, lines, strict=True)):
        for column, value in enumerate(line):
            color = "white" if math.isfinite(value) and value > greatest / 8 else "black"
            text = _increase(value) if math.isfinite(value) else "-"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        suggested = inspection.suggestion.amounts.get(layer.name, 0.0) if inspection.suggestion else 0.0
        column = sum(amount <= suggested for amount in amounts) - 1
        if column >= 0:
            corner = (column - 0.47, row - 0.44)
            axes.add_patch(Rectangle(corner, 0.94, 0.88, fill=False, edgecolor="#1155cc", linewidth=1.6))
    axes.set_xticks(range(len(amounts) + 1), [*(f"{amount:.0%} zeros" for amount in amounts), "int8"], fontsize=8)
    axes.tick_params(labelleft=False, left=False)
    axes.set_title("rise of the loss, one layer at a time; framed: suggested", fontsize=10)
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, extend="min")
    bar.ax.tick_params(labelsize=8)

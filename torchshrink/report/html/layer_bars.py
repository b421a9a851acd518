"""The figure of the page that shows what each layer holds and computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from torchshrink.report.html import svg
from torchshrink.report.schema import Layer

COLORS = ("#4c8dd6", "#e8590c", "#2f9e44", "#9c6ade")
MOST_LAYERS = 24  # with bars of their own
_LONGEST_NAME = 40
_PALE = 0.35  # how much of a colour is left for zeros
_GROUP = 0.62  # of a layer's height is for its bars, the rest for its name

Layers = Mapping[str, Sequence[Layer]]


@dataclass(frozen=True)
class LayerBars:
    """A picture and how to read it.

    Attributes:
        svg: The element.
        legend: Colours and the variants that they stand for.
        left_out: Variants that are not in the picture.
    """

    svg: Markup
    legend: Sequence[tuple[str, str]]
    left_out: Sequence[str]


def layer_bars(layers: Layers) -> LayerBars | None:
    """Draw parameters, zeros apart, and MACs of each layer in up to four variants; ``None`` without any layer.

    Args:
        layers: By variant, as ``layers`` of a report: entries with ``name``, ``params``, ``nonzero`` and ``macs``.
    """
    known = {variant: found for variant, found in layers.items() if found}
    if not known:
        return None
    chosen = _chosen(known)
    bars = _merged({variant: known[variant] for variant in chosen})
    titles = {
        _gid(row, column): f"{name}, {variant}: {_figures(each[variant])}"
        for row, (name, each) in enumerate(bars.items())
        for column, variant in enumerate(chosen)
        if variant in each
    }
    label = f"Parameters and MACs of each layer in {', '.join(chosen)}"
    picture = svg.embed(lambda path: _draw(bars, chosen, path), "layers", label, titles)
    legend = list(zip(COLORS, chosen, strict=False))
    return LayerBars(picture, legend, [variant for variant in known if variant not in chosen])


def _chosen(layers: Layers) -> list[str]:
    """Return the first variant and those with the fewest parameters that are not zero, in the order of the report."""
    first, *others = layers
    others.sort(key=lambda variant: sum(layer["nonzero"] for layer in layers[variant]))
    kept = {first, *others[: len(COLORS) - 1]}
    return [variant for variant in layers if variant in kept]


def _merged(layers: Layers) -> dict[str, dict[str, Layer]]:
    """Return each layer's figures by variant; the small ones of a model with many layers are added up at the end."""
    merged: dict[str, dict[str, Layer]] = {}
    for variant, found in layers.items():
        for layer in found:
            merged.setdefault(layer["name"], {})[variant] = layer
    if len(merged) <= MOST_LAYERS:
        return merged
    by_size = sorted(merged, key=lambda name: -max(layer["params"] for layer in merged[name].values()))
    large = set(by_size[: MOST_LAYERS - 1])
    small = [each for name, each in merged.items() if name not in large]
    title = f"{len(small)} smaller layers"
    rest = {variant: _sum(title, [each[variant] for each in small if variant in each]) for variant in layers}
    return {name: each for name, each in merged.items() if name in large} | {title: rest}


def _sum(name: str, layers: Sequence[Layer]) -> Layer:
    return {
        "name": name,
        "params": sum(layer["params"] for layer in layers),
        "nonzero": sum(layer["nonzero"] for layer in layers),
        "macs": sum(layer["macs"] for layer in layers),
    }


def _gid(row: int, column: int) -> str:
    return f"layer-{row}-{column}"


def _figures(layer: Layer) -> str:
    zeros = layer["params"] - layer["nonzero"]
    apart = f" ({zeros:,} of them zero)" if zeros else ""
    return f"{layer['params']:,} parameters{apart}, {layer['macs']:,} MACs"


def _draw(bars: Mapping[str, Mapping[str, Layer]], variants: Sequence[str], path: Path) -> None:
    """Draw one group of bars per layer, its name above them: beside them it would take a phone's screen."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, MaxNLocator

    height = _GROUP / len(variants)
    figure = Figure(figsize=(3.8, 0.8 + len(bars) * (0.2 + 0.1 * len(variants))), layout="constrained")
    held, computed = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    for row, (name, each) in enumerate(bars.items()):
        top = row + 1 - _GROUP
        text = held.text(0, top, _short(name), transform=held.get_yaxis_transform(), va="bottom", fontsize=8.5)
        text.set_in_layout(False)  # a long name runs into the free line of the other half
        for column, variant in enumerate(variants):
            if variant not in each:
                continue
            layer, color, place = each[variant], COLORS[column], top + (column + 0.5) * height
            style: dict[str, Any] = {"height": 0.86 * height, "color": color, "gid": _gid(row, column)}
            held.barh(place, layer["nonzero"], **style)
            if zeros := layer["params"] - layer["nonzero"]:
                held.barh(place, zeros, left=layer["nonzero"], alpha=_PALE, **style)
            computed.barh(place, layer["macs"], **style)
    for axes, title in ((held, "parameters"), (computed, "multiply-accumulates")):
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlabel(title)
        axes.grid(axis="x", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", left=False, labelleft=False)
    held.set_ylim(len(bars) + 0.1, -0.1)  # the first layer on top
    svg.save(figure, path)


def _short(name: str) -> str:
    """Return the end of a long name, which tells a model's layers apart."""
    return name if len(name) <= _LONGEST_NAME else f"\u2026{name[1 - _LONGEST_NAME :]}"

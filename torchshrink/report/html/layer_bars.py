"""The figures of the page that show what each layer holds and computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torchshrink.report.html.figure import COLORS, EDGE, Figure, Trace, axis, bars, names_above
from torchshrink.report.schema import Layer

MOST_LAYERS = 24  # with bars of their own
MOST_VARIANTS = 4
_PALE = 0.35  # how much of a colour is left for zeros
_GROUP = 0.62  # of a layer's height is for its bars, the rest for its name

Layers = Mapping[str, Sequence[Layer]]


@dataclass(frozen=True)
class LayerBars:
    """Figures and what they lack.

    Attributes:
        figures: Of parameters, and of multiply-accumulates.
        left_out: Variants that are not in them.
    """

    figures: Sequence[Figure]
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
    merged = _merged({variant: known[variant] for variant in chosen})
    figures = [
        _figure("Parameters", merged, chosen, lambda layer: layer["nonzero"], lambda layer: layer["params"]),
        _figure("Multiply-accumulates", merged, chosen, lambda layer: layer["macs"]),
    ]
    return LayerBars(figures, [variant for variant in known if variant not in chosen])


def _chosen(layers: Layers) -> list[str]:
    """Return the first variant and those with the fewest parameters that are not zero, in the order of the report."""
    first, *others = layers
    others.sort(key=lambda variant: sum(layer["nonzero"] for layer in layers[variant]))
    kept = {first, *others[: MOST_VARIANTS - 1]}
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


def _figures(layer: Layer) -> str:
    zeros = layer["params"] - layer["nonzero"]
    apart = f" ({zeros:,} of them zero)" if zeros else ""
    return f"{layer['params']:,} parameters{apart}, {layer['macs']:,} MACs"


def _figure(
    title: str,
    layers: Mapping[str, Mapping[str, Layer]],
    variants: Sequence[str],
    read: Callable[[Layer], int],
    whole: Callable[[Layer], int] | None = None,
) -> Figure:
    """Draw a group of bars for each layer; from what is read to the whole they are pale."""
    text, lines = names_above(list(layers))
    height, data = _GROUP / len(variants), [text]
    for column, variant in enumerate(variants):
        found = [(row, name, each[variant]) for row, (name, each) in enumerate(layers.items()) if variant in each]
        places = [row - 0.14 + (column + 0.5) * height for row, _, _ in found]
        said = [f"{name}, {variant}: {_figures(layer)}" for _, name, layer in found]
        style: Trace = {"orientation": "h", "width": 0.86 * height}
        kept = [read(layer) for _, _, layer in found]
        data.append(bars(variant, COLORS[column], kept, places, said, **style))
        if whole is not None:
            rest = [whole(layer) - read(layer) for _, _, layer in found]
            data.append(bars(variant, COLORS[column], rest, places, said, **style, base=kept, opacity=_PALE))
    layout = {
        "xaxis": axis("", tickformat="~s", nticks=5, rangemode="tozero"),
        "xaxis2": EDGE,
        "yaxis": lines,
        "barmode": "overlay",
    }
    label = f"{title} of each layer in {', '.join(variants)}"
    return Figure(title, label, data, layout, (), 60 + len(layers) * (20 + 11 * len(variants)))

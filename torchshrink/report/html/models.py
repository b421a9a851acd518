"""The plots of models: how each was trained, what quantization cost where, how its weights spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torchshrink.report import samples
from torchshrink.report.html.figure import COLORS, Figure, Trace, axis, bars, line, log
from torchshrink.report.judge import Judge
from torchshrink.report.schema import Row, TensorNoise
from torchshrink.report.tradeoff import BY_LOSS

_EPOCH = ("train_loss", "validation_loss")


def training(curves: Mapping[str, Sequence[Mapping[str, float]]], judge: Judge = BY_LOSS) -> list[Figure]:
    """Draw the losses, and what decides, of each epoch that each variant was trained.

    Args:
        curves: By variant, its epochs: ``train_loss``, ``validation_loss``, and metrics over the validation set.
        judge: What decides.
    """
    wanted: dict[str, tuple[str, ...]] = {"Loss in training": _EPOCH}
    if judge.decides != "loss":
        wanted[f"{judge.decides[:1].upper()}{judge.decides[1:]} in training"] = (judge.decides,)
    found = []
    for title, keys in wanted.items():
        data: list[Trace] = []
        for number, (variant, epochs) in enumerate(curves.items()):
            color = COLORS[number % len(COLORS)]
            for key in keys:
                known = [(at, each[key]) for at, each in enumerate(epochs, 1) if key in each]
                if not known:
                    continue
                said = [f"{variant}, epoch {at}: {key.replace('_', ' ')} {figure:.4g}" for at, figure in known]
                style = {"color": color, "width": 1.5, "dash": "dot" if key == "train_loss" else "solid"}
                x, y = zip(*known, strict=True)
                data.append(line(variant, color, x, y, said, line=style, mode="lines+markers", marker={"size": 4}))
        if data:
            notes = ["Dotted: over the training set; else over the validation set."] if keys == _EPOCH else []
            label = f"{title} of {', '.join(curves)}, by epoch"
            layout = {"xaxis": axis("epoch", tickformat="d"), "yaxis": axis(keys[-1].replace("_", " "))}
            found.append(Figure(title, label, data, layout, notes))
    return found


def noise(tensors: Mapping[str, Sequence[TensorNoise]]) -> list[Figure]:
    """Draw the signal to noise of each tensor of each variant's int8 graph, in the order of computation."""
    found = []
    for variant, each in tensors.items():
        data = []
        for key, name, mode in (("snr_db", "accumulated", "lines+markers"), ("alone_db", "alone", "markers")):
            known = [(at, item, item.get(key)) for at, item in enumerate(each, 1)]
            known = [(at, item, figure) for at, item, figure in known if figure is not None]
            said = [f"{item['name']}: {figure:.1f} dB {name}{_why(item)}" for _, item, figure in known]
            color = COLORS[key == "alone_db"]
            x, y = [at for at, _, _ in known], [figure for _, _, figure in known]
            data += [line(name, color, x, y, said, mode=mode, marker={"color": color, "size": 6})] if known else []
        layout = {"xaxis": axis("tensor, in the order of computation"), "yaxis": axis("signal to noise [dB]")}
        label = f"Signal to noise of the int8 graph of {variant}; a table under Verification has the figures"
        found.append(Figure(variant, label, data, layout))
    return found


def histograms(rows: Sequence[Row], out: Path) -> list[Figure]:
    """Draw how the weights spread in the dense file, in float and in int8, and in the smallest file."""
    found: list[Figure] = []
    for row in _telling(rows):
        if spread := samples.weights(out, row["name"]):
            kind, unit = ("int8 codes", "code") if spread.is_int8 else ("values", "weight")
            centers = (spread.edges[:-1] + spread.edges[1:]) / 2
            said = [f"{unit} {at:.4g}: {count:,}" for at, count in zip(centers, spread.counts, strict=True)]
            data = [bars("", COLORS[2 if spread.is_int8 else 0], centers, spread.counts, said)]
            layout = {"xaxis": axis(unit), "yaxis": log("weights"), "bargap": 0}
            zeros = spread.counts[len(spread.counts) // 2] / max(int(spread.counts.sum()), 1)
            notes = [f"{zeros:.0%} in {'code 0' if spread.is_int8 else 'the bin around 0'}"]
            label = f"Histogram of the weights of {row['name']}: {notes[0]}"
            found.append(Figure(f"{row['name']}, {kind}", label, data, layout, notes, 240))
    return found


def _telling(rows: Sequence[Row]) -> list[Row]:
    if not rows:
        return []
    files = [row for row in rows if row["variant"] == rows[0]["variant"]]
    chosen = [next((row for row in files if row["precision"] == precision), None) for precision in ("fp32", "int8")]
    chosen.append(min(rows, key=lambda row: row["bytes"]))
    return list({row["name"]: row for row in chosen if row is not None}.values())


def _why(item: TensorNoise) -> str:
    return f" ({item['reason']})" if item["reason"] else ""

"""Pictures by matplotlib as parts of a page: text stays text, lines follow the page's light or dark colours."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

_INK, _FAINT = "#010203", "#040506"  # stand-ins, because matplotlib knows no colours of a page
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "torchshrink",
    "text.parse_math": False,  # names hold what they like
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.framealpha": 0.0,
    "legend.edgecolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9.0,
}


def embed(draw: Callable[[Path], None], prefix: str, label: str, titles: dict[str, str] | None = None) -> Markup:
    """Return what ``draw`` writes into an .svg file as an element of a page.

    Args:
        draw: Makes its figure and saves it.
        prefix: Keeps the ids of this picture apart from those of the page's others.
        label: What the picture shows, for those who cannot see it.
        titles: What to say of an element when the pointer is on it, by its gid.
    """
    import matplotlib as mpl

    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder, mpl.rc_context(_STYLE):
        path = Path(folder, "picture.svg")
        draw(path)
        text = path.read_text(encoding="utf-8")
    return clean(text, prefix, label, titles or {})


def ink() -> str:
    """Return the colour that becomes that of the page's text."""
    return _INK


def save(figure: Any, path: Path) -> None:
    """Write a figure as SVG, the same bytes for the same figure."""
    figure.savefig(path, format="svg", metadata={"Date": None})


def clean(text: str, prefix: str, label: str, titles: dict[str, str]) -> Markup:
    """Make an SVG file of matplotlib an element of a page: no prolog, comments or metadata, its ids its own."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r">\s*\n\s*<", "><", text)
    used = {name for pair in re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', text) for name in pair}
    text = re.sub(r"<g id=\"([^\"]+)\">", lambda found: _titled(found, titles), text)
    text = re.sub(r"<[^<>]*>", lambda found: _tag(found[0], prefix, used), text)
    head = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert head is not None
    opening = f'<svg viewBox="{head[0][9:-1]}" width="{head[1]}" height="{head[2]}" role="img" aria-label="{{}}">'
    return Markup(opening).format(label) + Markup(text[text.index(">") + 1 :].strip())


def _titled(found: re.Match[str], titles: dict[str, str]) -> str:
    return f"{found[0]}<title>{escape(titles[found[1]])}</title>" if found[1] in titles else found[0]


def _tag(tag: str, prefix: str, used: set[str]) -> str:
    """Change one tag, never the text between tags."""
    tag = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", tag)
    tag = tag.replace('xlink:href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-")
    tag = tag.replace(_INK, "currentColor").replace(_FAINT, "var(--line)")
    tag = re.sub(r"font: ((?:\w+ )*?)([\d.]+px) [^;\"]*", _font, tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", tag)  # hundredths of a point


def _font(found: re.Match[str]) -> str:
    """Leave the family to the page."""
    weight = f"font-weight: {found[1].strip()}; " if found[1].strip() else ""
    return f"{weight}font-size: {found[2]}"

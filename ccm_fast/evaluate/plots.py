"""Curves as figures. Measured ones are solid, published ones dashed; one colour for each family of codecs."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

from .curves import DISTANCES, UNITS, Curve

__all__ = ["draw", "inline_svg", "save", "svg_text"]

# Told apart on white and on near-black; ours is the warm one.
_COLOURS = {
    "jpeg": "#808080",
    "jpeg444": "#a3907a",
    "jpeg2000": "#a0704c",
    "webp": "#2f9e54",
    "avif": "#3b82f6",
    "avif420": "#8db4f5",
    "avif-iq": "#1e4fb0",
    "jxl": "#d6409f",
    "hevc": "#c99700",
    "hm": "#a3a000",
    "vvc": "#8b5cf6",
    "vvc-medium": "#5b2bc4",
    "bmshj2018": "#6f8f2f",
    "mbt2018-mean": "#5fa8a8",
    "mbt2018": "#0f9a9a",
    "cheng2020": "#00a5d0",
    "cheng2020-attn": "#2477a8",
    "elic2022": "#b5485d",
    "cool-chic": "#374151",
}
_OURS = ("#e8501f", "#f08c00", "#c2255c", "#9c36b5")
_OTHERS = ("#7c8a99", "#55a630", "#4c6ef5", "#bc8034")
_TEXT = "#010203"  # stands for the page's own text colour until inline_svg puts that in


def colours(curves: Sequence[Curve]) -> dict[str, str]:
    """Colour of every curve, by name."""
    ours = [c.name for c in curves if c.model]
    others = [c.name for c in curves if not c.model and c.family not in _COLOURS]
    result = {c.name: _COLOURS.get(c.family, "") for c in curves}
    result.update({name: _OURS[k % len(_OURS)] for k, name in enumerate(ours)})
    result.update({name: _OTHERS[k % len(_OTHERS)] for k, name in enumerate(others)})
    return result


def draw(
    curves: Sequence[Curve],
    metric: str,
    title: str = "",
    text: str = "black",
    legend: bool = True,
    size: tuple[float, float] = (9, 6.2),
):
    """A matplotlib Figure of one metric of METRICS, `size` inches wide and high.

    The rates shown reach half as far again as our models', or everything where there is no model.
    """
    from matplotlib.figure import Figure

    shown = [c for c in curves if metric in c.quality]
    ours = [c for c in shown if c.model] or shown
    right = max((1.5 if c.model else 1.0) * max(c.bpp) for c in ours) if ours else 1.0
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    paint = colours(curves)
    heights = []
    for curve in sorted(shown, key=lambda c: c.model):  # ours on top
        points = list(zip(curve.bpp, curve.quality[metric], strict=True))
        heights += [q for b, q in points if b <= right]
        style = {"linestyle": "--", "linewidth": 1.0} if curve.published else {"linestyle": "-", "linewidth": 1.5}
        style |= {"marker": "o", "markersize": 2.5 if curve.published else 4}
        if curve.model:
            style |= {"linewidth": 2.8, "markersize": 6}
        axes.plot(*zip(*points, strict=True), color=paint[curve.name], label=curve.label, gid=gid(curve), **style)
    axes.set_xlim(0, right)
    if heights:
        low, high = min(heights), max(heights)
        axes.set_ylim(low - 0.03 * (high - low) - 1e-3, high + 0.03 * (high - low) + 1e-3)
    axes.set_xlabel("bits per pixel (real files)")
    axes.set_ylabel(UNITS[metric])
    if metric in DISTANCES:
        axes.yaxis.set_major_formatter(lambda value, place: f"{abs(value):g}")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    if legend and shown:
        handles, labels = axes.get_legend_handles_labels()
        place = {label: k for k, label in enumerate(c.label for c in curves)}
        order = sorted(range(len(labels)), key=lambda k: place[labels[k]])
        axes.legend([handles[k] for k in order], [labels[k] for k in order], loc="lower right", fontsize=8, ncols=2)
    for part in (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels()):
        part.set_color(text)
    for spine in axes.spines.values():
        spine.set_color(text)
    axes.tick_params(color=text)
    return figure


def gid(curve: Curve) -> str:
    """The curve's id in SVG files, less the figure's part."""
    return "curve-" + re.sub(r"[^a-z0-9]+", "-", curve.name.lower().replace("*", " published")).strip("-")


def svg_text(figure, salt: str) -> str:
    """A matplotlib figure as an SVG file's text, the same every time; `salt` makes ids that differ between figures."""
    import matplotlib

    out = io.StringIO()
    # The same figure, the same bytes: no date, ids from the salt. Text stays text, in the reader's own font.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def save(curves: Sequence[Curve], metric: str, title: str, stem: Path) -> list[Path]:
    """Write STEM.png and STEM.svg, on white."""
    figure = draw(curves, metric, title)
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    figure.savefig(png, dpi=100)
    svg.write_text(svg_text(figure, stem.name), encoding="utf-8")
    return [png, svg]


def inline_svg(curves: Sequence[Curve], metric: str) -> str:
    """An <svg> element to be put into a page: transparent, in the page's text colour, without legend.

    Curves are groups of the class ``curve`` with the attribute ``data-curve``.
    """
    # Two stand beside each other on a page: drawn this small, their text is as large as the page's small print.
    figure = draw(curves, metric, text=_TEXT, legend=False, size=(6.4, 4.8))
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        axes.patch.set_alpha(0)
    text = svg_text(figure, metric)
    text = text[text.index("<svg") :].replace(_TEXT, "currentColor")
    text = re.sub(r'<metadata>.*?</metadata>|(?<=<svg )(width|height)="[^"]*"', "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'id="(curve-[^"]+)"', r'class="curve" data-curve="\1"', text)
    # Two figures in a page must not share ids.
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{metric}-", text)
    return text

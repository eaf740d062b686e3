"""Draws docs/trend.svg: rate at equal quality against hours of training, from the table in the training journal.

    python benchmarks/trend.py

The figure is of the rows from the first `joint` training on (docs/experiments/training.md, "Trend"). Before that, and
for smaller models, the four qualities lie elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path

from matplotlib.figure import Figure

from ccm_fast.evaluate.curves import Curve, bd_rate
from ccm_fast.evaluate.plots import svg_text

ROOT = Path(__file__).parent.parent
JOURNAL, FIGURE = ROOT / "docs" / "experiments" / "training.md", ROOT / "docs" / "trend.svg"
# Symbols are counted as the default encoder chooses them from this row on: nearer to files, and not comparable.
CODED = "the same, symbols as they are coded"
FIRST = "13,000 steps of `joint`"


def rows() -> list[tuple[str, float, Curve]]:
    """What was trained, processor hours, and the curve of four qualities; in order."""
    text = JOURNAL.read_text(encoding="utf-8").partition("## Trend")[2].partition("\n## ")[0]
    found, hours = [], 0.0
    for line in text.splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split("|")]
        points = [re.search(r"([\d.]+)(?: bpp)?, ([\d.]+)", c) for c in cells[2:6]]
        if len(cells) != 6 or not all(points):
            continue
        if number := re.match(r"[\d.]+", cells[1]):
            hours = float(number[0])
        bpp, psnr = ([float(p[k]) for p in points] for k in (1, 2))
        found.append((cells[0], hours, Curve(cells[0], cells[0], bpp, {"psnr": psnr}, "ccm-small")))
    start = next(k for k, (name, _, _) in enumerate(found) if name.startswith(FIRST))
    return found[start:]


def figure() -> str:
    """The figure, SVG."""
    found = rows()
    fork = next(k for k, (name, _, _) in enumerate(found) if name.startswith(CODED))
    drawing = Figure(figsize=(8, 4.5), layout="constrained")
    axes = drawing.add_subplot()
    for part, label in ((found[:fork], "nearest symbols"), (found[fork:], "symbols as the default encoder codes them")):
        last = part[-1][2]
        points = [(hours, bd_rate(last, curve, "psnr").percent) for _, hours, curve in part]
        points = [(hours, 0.0 if percent is None else percent) for hours, percent in points]
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set_xlabel("processor hours of training")
    axes.set_ylabel("BD-rate against the last point of its line, %")
    axes.grid(alpha=0.25)
    axes.legend()
    return svg_text(drawing, "trend")


if __name__ == "__main__":
    FIGURE.write_text(figure(), encoding="utf-8")

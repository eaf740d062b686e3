"""The plots of README.md and docs/benchmarks.md, from result files.

Their points are written into the SVG files as a comment, by which :func:`agrees` compares: how matplotlib draws differs
from release to release.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

__all__ = ["TITLES", "agrees", "points", "write"]

#: File in docs -> title.
TITLES = {
    "time_per_image.svg": "Seconds to decode a picture of 768x512, one thread",
    "scaling.svg": "Decoding time over pixels",
}
_NET = {"mbt2018": "mbt2018", "cheng2020-anchor": "cheng2020"}


def _load(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def points(file: str, results: Path) -> dict:
    """What a plot shows; empty without results."""
    found: dict = {}
    if file == "time_per_image.svg":
        for kind, name in _NET.items():
            if r := _load(results / f"dropin_{kind}_1t.json"):
                found[f"{name}, CompressAI"] = r["seconds"]["compressai decompress"]["median"]
                found[f"{name}, accelerated"] = r["seconds"]["decompress"]["median"]
                found[f"{name}, accelerated: y string to latents"] = r["seconds"]["y to y_hat"]["median"]
        if r := _load(results / "kodak_ccm-small.json"):
            (line,) = [x for x in r["summary"] if x["quality"] == 4]
            d = line["seconds"]["decode 1t"]
            found["ccm-small, quality 4"] = sum(d[part] for part in ("z", "h_s", "entropy", "g_s"))
            found["ccm-small: bytes to latents"] = d["z"] + d["h_s"] + d["entropy"]
        return {name: _round(v) for name, v in found.items()}
    if r := _load(results / "scaling_cpu.json"):
        for c in r["cases"]:
            if c["batch"] == 1:
                for part, label in (("decompress", "to pixels"), ("entropy", "bytes to latents")):
                    threads = f"{c['threads']} thread{'s' if c['threads'] > 1 else ''}"
                    line = found.setdefault(f"{label}, {threads}", [])
                    line.append([c["width"] * c["height"], _round(c[part]["median"])])
    return found


def _mark(data: dict) -> str:
    return f"<!-- points: {json.dumps(data)} -->"


def agrees(file: str, results: Path, docs: Path) -> bool:
    """Whether the plot is of these results, or neither exists."""
    data, path = points(file, results), docs / file
    return _mark(data) in path.read_text(encoding="utf-8") if data and path.exists() else not data and not path.exists()


def write(file: str, results: Path, docs: Path) -> None:
    """Draw a plot, if there are results and it does not show them yet."""
    data = points(file, results)
    if agrees(file, results, docs) or not data:
        return
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6) if file == "time_per_image.svg" else (8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    if file == "time_per_image.svg":
        names = list(data)[::-1]
        colour = ["#7c8a99" if "CompressAI" in n else "#f3b79f" if "latents" in n else "#e8501f" for n in names]
        bars = axes.barh(names, [data[n] for n in names], color=colour)
        axes.bar_label(bars, [f" {data[n]:.3g} s" for n in names], fontsize=8)
        axes.set_xscale("log")
        axes.set_xlim(right=3 * max(data.values()))
        axes.set_xlabel("seconds, logarithmic")
    else:
        for k, (name, line) in enumerate(data.items()):
            x, y = zip(*sorted(line), strict=True)
            style = {"color": "#e8501f" if "pixels" in name else "#3b82f6", "linestyle": "-" if k < 2 else "--"}
            axes.plot([v / 1e6 for v in x], y, marker="o", label=name, **style)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("megapixels")
        axes.set_ylabel("seconds")
        axes.legend(fontsize=8)
    axes.set_title(TITLES[file], fontsize=10)
    axes.grid(alpha=0.25)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": file, "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub("</svg>\\s*$", f"{_mark(data)}\n</svg>\n", out.getvalue())
    (docs / file).write_text(text, encoding="utf-8")

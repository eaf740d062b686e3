"""The tables of a report, as heads and rows of text: for the terminal, for Markdown and for HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from .curves import DISTANCES, KIN, LOOKS, METRICS, TITLES, Curve, Delta, bd_rate

__all__ = ["bd_table", "checks", "checks_table", "deltas", "markdown", "models_table", "plain", "points_table"]

Table = tuple[list[str], list[list[str]]]
ALWAYS = ("psnr", "ms-ssim")  # what every entry has; other metrics where they were measured


def entry(anchor: Curve, test: Curve) -> dict:
    """BD-rates of a test against an anchor, by metric, as JSON holds them."""
    names = {"anchor": anchor.name, "anchor_label": anchor.label, "test": test.name, "test_label": test.label}
    measured = [m for m in METRICS if m in ALWAYS or m in anchor.quality or m in test.quality]
    return names | {metric: asdict(bd_rate(anchor, test, metric)) for metric in measured}


def _shown(found: Iterable[dict]) -> list[str]:
    """The metrics to make columns of."""
    found = list(found)
    return [m for m in METRICS if m in ALWAYS or any(d.get(m, {}).get("percent") is not None for d in found)]


def deltas(anchors: Sequence[Curve], tests: Sequence[Curve]) -> list[dict]:
    """:func:`entry` of every test against every anchor."""
    return [entry(a, t) for t in tests for a in anchors if a is not t]


def checks(curves: Sequence[Curve]) -> list[dict]:
    """:func:`entry` of every codec that was measured against published curves of the same codec."""
    published = {c.family: c for c in curves if c.published}
    pairs = [(published.get(KIN.get(c.family, c.family)), c) for c in curves if not (c.published or c.model)]
    about = [(a, t, a.result.get("description", "")) for a, t in pairs if a is not None]
    return [entry(a, t) | {"anchor_description": text} for a, t, text in about]


def checks_table(found: Sequence[dict]) -> Table:
    """Of entries of :func:`checks`."""
    head, rows = bd_table(found, "test")
    published = [d["anchor_description"] or d["anchor_label"] for d in found]
    return ["measured", "published", *head[1:]], [[row[0], p, *row[1:]] for row, p in zip(rows, published, strict=True)]


def _cells(entry: dict, metric: str) -> list[str]:
    if metric not in entry:
        return ["none", "not measured"]
    d = Delta(**entry[metric])
    if d.percent is None:
        return ["none", d.reason]
    if metric in DISTANCES:
        return [f"{d.percent:+.1f} %", f"{-d.low:.2f} to {-d.high:.2f}"]
    return [f"{d.percent:+.1f} %", f"{d.low:.1f} to {d.high:.1f}" + " dB" * (metric not in LOOKS)]


def bd_table(found: Sequence[dict], vary: str) -> Table:
    """Of entries of :func:`deltas`; ``vary`` is what differs between the rows: "anchor" or "test"."""
    shown = _shown(found)
    head = [vary, *(text for m in shown for text in (f"BD-rate, {TITLES[m]}", "over"))]
    return head, [[d[f"{vary}_label"], *(text for m in shown for text in _cells(d, m))] for d in found]


def models_table(models: dict[str, list[dict]]) -> Table:
    """Several models, or efforts of one, beside each other; from their labels and entries of :func:`deltas`."""
    shown = _shown(d for found in models.values() for d in found)
    head = ["anchor"] + [f"{label}, {TITLES[m]}" for m in shown for label in models]
    anchors = dict.fromkeys(d["anchor_label"] for found in models.values() for d in found)
    cells = {(label, d["anchor_label"]): d for label, found in models.items() for d in found}
    rows = []
    for anchor in anchors:
        each = [(cells.get((label, anchor)), metric) for metric in shown for label in models]
        rows.append([anchor, *("" if d is None else _cells(d, metric)[0] for d, metric in each)])
    return head, rows


def points_table(curve: Curve) -> Table:
    """A curve's points, as they stand in its result file."""
    r = curve.result["results"]
    head = ["setting", "bpp", "PSNR, dB", "MS-SSIM", "SSIMULACRA2", "Butteraugli"]
    head += ["encode, s", "decode, s", "encode, CPU s", "decode, CPU s"]
    keys = ["setting", "bpp", "psnr-rgb", "ms-ssim-rgb", *LOOKS, "encoding_time", "decoding_time"]
    keys += ["encoding_cpu_time", "decoding_cpu_time"]
    formats = ["{:g}", "{:.4f}", "{:.2f}", "{:.4f}", "{:.1f}", "{:.2f}"] + ["{:.3f}"] * 4
    kept = [k for k, key in enumerate(keys) if key in r]
    rows = [[formats[k].format(r[keys[k]][i]) for k in kept] for i in range(len(r["bpp"]))]
    return [head[k] for k in kept], rows


def plain(table: Table) -> str:
    """For a terminal."""
    head, rows = table
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]

    def line(row: list[str]) -> str:
        first, *others = (c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths)))
        return "  ".join([first, *others]).rstrip()

    return "\n".join(map(line, [head, *rows]))


def markdown(table: Table) -> str:
    """For a .md file."""
    head, rows = table
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])

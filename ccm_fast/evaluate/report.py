"""One HTML file with everything: no network, light and dark, readable on a phone and on paper."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from . import report_crops
from .curves import METRICS, UNITS, Curve
from .plots import colours, gid, inline_svg
from .tables import Table, bd_table, checks_table, models_table, points_table

__all__ = ["render"]

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1b1d20; --faint: #5c636b; --line: #d5d9de; --band: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #131517; --text: #e4e7ea; --faint: #a2a9b1; --line: #363b41; --band: #1c1f23; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 76rem; background: var(--page); color: var(--text);
       font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
p { max-width: 60rem; }
.faint, figcaption, th { color: var(--faint); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem), 1fr)); gap: 1rem; }
.plots svg { width: 100%; height: auto; display: block; }
.plots figure, .crops figure { margin: 0; }
.key { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: .5rem 0 1rem; padding: 0; border: 0;
       font-size: .9rem; }
.key label { white-space: nowrap; }
.swatch { display: inline-block; width: 1.6em; height: 0; margin: 0 .3em; border-top: 3px solid;
          vertical-align: middle; }
.swatch.published { border-top-style: dashed; border-top-width: 2px; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tbody tr:hover { background: var(--band); }
figcaption { font-size: .85rem; } figcaption b { color: var(--text); }
summary { cursor: pointer; }
@media print { .key input { display: none; } details { display: block; } }
"""

_SCRIPT = """
for (const box of document.querySelectorAll('.key input')) {
  const show = () => {
    for (const g of document.querySelectorAll('[data-curve="' + box.value + '"]'))
      g.style.display = box.checked ? '' : 'none';
  };
  box.addEventListener('change', show);
  show();  // browsers keep the boxes' state over a reload
}
"""

CONVENTIONS = (
    "Rates are those of real files, all headers included, as bits per pixel: the mean over the images."
    " PSNR is over R, G and B together, of the rounded 8-bit image that the decoder writes, and so is MS-SSIM"
    " (pytorch-msssim, mean over R, G, B). Both are taken for each image and then averaged;"
    " MS-SSIM is shown in decibels of its mean."
    " SSIMULACRA2 (package ssimulacra2) says how different two pictures look: above 90 no difference is seen, 70 is"
    " high quality, 50 medium, 30 low. Butteraugli (libjxl's butteraugli_main, 3-norm) is a distance of looks, which is"
    " 0 for equal pictures."
    " BD-rates are the mean difference in rate at equal quality (bjontegaard package, monotone cubic pieces over log"
    " rate), over the qualities that both curves reach; negative: fewer bits than the anchor. Where the common range is"
    " less than a quarter of the shorter curve's, or a curve has under four points or does not rise, no number is"
    " given."
)

CHECKS_TITLE = "Measured against published"
CHECKS = (
    "The same codec, measured here and published. Versions, options, chroma formats and containers differ, so that"
    " zero is not expected; a large difference in either direction asks for a reason."
)


def _table(table: Table) -> str:
    head, rows = table
    # Heads are broken between words alone: a hyphen there is one that does not break.
    cells = "".join(f'<th scope="col">{escape(c).replace("-", "&#8209;")}</th>' for c in head)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{cells}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _key(curves: Sequence[Curve]) -> str:
    paint = colours(curves)
    boxes = [
        f'<label><input type="checkbox" value="{gid(c)}" checked>'
        f'<span class="swatch{" published" * c.published}" style="border-color:{paint[c.name]}"></span>'
        f"{escape(c.label)}</label>"
        for c in curves
    ]
    return '<fieldset class="key" aria-label="Curves to show">' + "\n".join(boxes) + "</fieldset>"


def render(
    title: str,
    subtitle: str,
    curves: Sequence[Curve],
    against: dict[str, list[dict]],
    everything: list[dict],
    anchor: Curve | None,
    checked: Sequence[dict],
    sheets: Sequence[dict],
    skipped: Sequence[str],
    environment: dict[str, str],
) -> str:
    """The page.

    Args:
        title: plain text.
        subtitle: plain text.
        curves: measured and published.
        against: label of each of our models -> its entries of :func:`tables.deltas`, one for each anchor.
        everything: entries of all curves against `anchor`.
        anchor: see above.
        checked: from :func:`tables.checks`.
        sheets: from :func:`crops.side_by_side`.
        skipped: a line for each codec that is missing, and why.
        environment: what it ran on.
    """
    parts = [f"<h1>{escape(title)}</h1>", f'<p class="faint">{escape(subtitle)}</p>']
    if skipped:
        parts.append("<p>Left out: " + escape("; ".join(skipped)) + ".</p>")
    shown = [m for m in METRICS if any(m in c.quality for c in curves)]
    parts += ["<h2>Rate and distortion</h2>", _key(curves), '<div class="plots">']
    for metric in shown:
        name = escape(UNITS[metric], quote=True)
        parts.append(f'<figure aria-label="{name} over bits per pixel">{inline_svg(curves, metric)}</figure>')
    parts.append("</div>")
    if against or everything:
        parts.append("<h2>BD-rates</h2>")
    if len(against) > 1:
        parts += ["<h3>Ours against each</h3>", _table(models_table(against))]
    for label, found in against.items():
        parts += [f"<h3>{escape(label)} against each</h3>", _table(bd_table(found, "anchor"))]
    if everything and anchor is not None:
        parts += [f"<h3>Each against {escape(anchor.label)}</h3>", _table(bd_table(everything, "test"))]
    if checked:
        parts += [f"<h3>{CHECKS_TITLE}</h3>", f"<p>{CHECKS}</p>", _table(checks_table(checked))]
    if sheets:
        parts += ["<h2>Side by side</h2>", f"<p>{report_crops.TEXT}</p>", *(report_crops.crops(s) for s in sheets)]
    parts += [
        "<h2>Points</h2>",
        "<p>Seconds are means over the images of one call on the machine below, on the wall and of its processors.</p>",
    ]
    for curve in curves:
        if not curve.published:
            summary = f"<summary><b>{escape(curve.label)}</b> {escape(curve.result['description'])}</summary>"
            parts.append(f"<details>{summary}{_table(points_table(curve))}</details>")
    parts += ["<h2>How it was measured</h2>", f"<p>{escape(CONVENTIONS)}</p>"]
    if environment:
        table = ["", ""], [[k, v] for k, v in environment.items()]
        parts.append(f"<details><summary>Environment</summary>{_table(table)}</details>")
    body = "\n".join(parts)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{report_crops.STYLE}</style>
</head>
<body>
{body}
<script>{_SCRIPT}{report_crops.SCRIPT}</script>
</body>
</html>
"""

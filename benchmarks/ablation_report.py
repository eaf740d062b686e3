"""The table, the figure and the document of benchmarks/context_ablation.py, from its results."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from common import wrapped

from ccm_fast.evaluate.curves import Curve, Delta, bd_rate
from ccm_fast.evaluate.plots import svg_text
from ccm_fast.evaluate.tables import markdown

__all__ = ["DOCUMENT", "RESULT", "document", "table", "write_document"]

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "context_ablation.json"
DOCUMENT = ROOT / "docs" / "context_ablation.md"
FIGURE = ROOT / "docs" / "context_ablation.svg"
ANCHOR = "spatial"
ORDER = ("hyper", "spatial", "channel-4", "ccm-2", "ccm-4", "ccm-8", "ccm-uneven", "ccm-4-sorted")
PAPER = -6.30  # percent, on Kodak: arXiv 2103.02884


def by_variant(result: dict) -> dict[str, list[dict]]:
    """The runs of each variant, in the order of the table."""
    runs = sorted(result["runs"].values(), key=lambda run: (ORDER.index(run["variant"]), run["seed"]))
    return {name: [r for r in runs if r["variant"] == name] for name in dict.fromkeys(r["variant"] for r in runs)}


def anchor_of(result: dict, run: dict) -> dict | None:
    """The run of the paper's baseline that a run is compared with: that of its seed."""
    return result["runs"].get(f"{ANCHOR}/{run['seed']}")


def delta(result: dict, run: dict, key: str) -> Delta | None:
    """BD-rate of a run against its anchor, by real files ("bpp") or by the float model ("float_bpp")."""
    anchor = anchor_of(result, run)
    if anchor is None:
        return None
    curves = []
    for each in (anchor, run):
        rows = sorted(each["rows"], key=lambda r: r[key])
        curves.append(Curve(each["variant"], "", [r[key] for r in rows], {"psnr": [r["psnr"] for r in rows]}, ""))
    return bd_rate(*curves)


def spread(values: list[float], form: str, unit: str = "") -> str:
    """Mean, and standard deviation where there are several."""
    if not values:
        return "none"
    text = form.format(statistics.fmean(values)) + unit
    return text + (f" ± {form.replace('+', '').format(statistics.stdev(values))}" if len(values) > 1 else "")


def deltas(result: dict, runs: list[dict], key: str) -> str:
    """BD-rates of one variant's runs, as a cell."""
    found = [d for d in (delta(result, run, key) for run in runs) if d is not None]
    numbers = [d.percent for d in found if d.percent is not None]
    return spread(numbers, "{:+.2f}", " %") if numbers or not found else found[0].reason


def table(result: dict) -> str:
    """Markdown: sizes, bits per pixel by quality, BD-rates against the baseline of the same seed."""
    runs = by_variant(result)
    qualities = sorted({row["quality"] for each in runs.values() for run in each for row in run["rows"]})
    head = ["variant", "groups", "widths", "parameters", "multiply-adds a latent", "seeds", "steps", "CPU, min"]
    head += [f"bpp, quality {q:g}" for q in qualities]
    head += ["BD-rate, files", "BD-rate, float", "context + rANS, ms"]
    body, times = [], result.get("decode_ms", {})
    for name, mine in runs.items():
        bpp = {q: [r["bpp"] for run in mine for r in run["rows"] if r["quality"] == q] for q in qualities}
        one = mine[0]
        body.append(
            [
                name,
                "+".join(map(str, one["groups"])),
                ", ".join(map(str, one["widths"])),
                f"{one['parameters'] / 1e6:.2f} M",
                f"{one['multiply_adds'] / 1e3:.0f} k",
                str(len(mine)),
                f"{statistics.fmean(run['steps'] for run in mine):.0f}",
                f"{statistics.fmean(run['cpu_seconds'] for run in mine) / 60:.0f}",
                *(spread(bpp[q], "{:.4f}") for q in qualities),
                deltas(result, mine, "bpp"),
                deltas(result, mine, "float_bpp"),
                f"{times[name]:.1f}" if name in times else "not timed",
            ]
        )
    return markdown((head, body))


def figure(result: dict) -> str:
    """SVG: files of each variant against the baseline's, over the baseline's bits per pixel; a line for each seed."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(8, 5), layout="constrained")
    axes = drawing.add_subplot()
    colours = ("#7c8a99", "#1b1d20", "#2f9e54", "#3b82f6", "#e8501f", "#8b5cf6", "#c99700", "#0f9a9a")
    for name, mine in by_variant(result).items():
        if name == ANCHOR:
            continue
        label = name
        for run in mine:
            anchor = anchor_of(result, run)
            if anchor is None:
                continue
            base = {r["quality"]: r["bpp"] for r in anchor["rows"]}
            rows = [r for r in run["rows"] if r["quality"] in base]
            x = [base[r["quality"]] for r in rows]
            y = [100 * (r["bpp"] / base[r["quality"]] - 1) for r in rows]
            axes.plot(x, y, marker="o", markersize=4, color=colours[ORDER.index(name)], label=label)
            label = None  # one entry in the legend for all seeds
    axes.axhline(0, color=colours[1], linewidth=1)
    axes.set_xlabel(f"bits per pixel of {ANCHOR} (real files)")
    axes.set_ylabel(f"files against {ANCHOR} of the same seed, %")
    axes.grid(alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=9)
    return svg_text(drawing, FIGURE.stem)


def claim(result: dict) -> str:
    """One sentence on the pair that the paper is about."""
    mine = by_variant(result).get("ccm-4", [])
    numbers = [
        d.percent for d in (delta(result, run, "bpp") for run in mine) if d is not None and d.percent is not None
    ]
    if not numbers:
        return "The pair of the paper's claim, `spatial` and `ccm-4`, has not been trained yet."
    seeds = f"{len(numbers)} seed" + "s" * (len(numbers) > 1)
    text = f"`ccm-4` against `spatial`: {spread(numbers, '{:+.2f}', ' %')} bits at equal quality ({seeds}"
    if len(numbers) > 1:
        error = statistics.stdev(numbers) / math.sqrt(len(numbers))
        text += f", mean and standard deviation; standard error of the mean {error:.2f}"
    return text + f"). The paper reports {PAPER:+.2f} % on Kodak, between models trained in full."


def document(result: dict) -> str:
    """docs/context_ablation.md."""
    setup, lines = result.get("setup"), []
    lines += ["<!-- Written by benchmarks/context_ablation.py from benchmarks/results/context_ablation.json. -->", ""]
    lines += ["# Does the cross-channel context pay?", ""]
    if not result["runs"]:
        return "\n".join([*lines, "Nothing has been trained yet.", ""])
    budget = f"{setup['steps']} steps" if "steps" in setup else f"{setup['seconds']:g} s of processor time"
    n, M, h, w = result["latents"]
    lines += [
        claim(result),
        "",
        f"Entropy models of several kinds on the same frozen latents ({M} channels). Each is trained from scratch for"
        f" {budget}: Adam at {setup['lr']:g}, falling along a cosine, and weights that read y in units of its power."
        f" Batches have {setup['batch']} times {h}x{w} positions, drawn from {n // 2} training crops and their mirror"
        " images. Data order and noise are the same for each seed."
        f" Rates are of real `.ccm` files of {result['test_images']} test images that all decode to the same pictures;"
        " BD-rates are against `spatial` of the same seed; negative: fewer bits. *Float* is the"
        " code length by the float model, before the integers (calibrated, not fine-tuned).",
        "",
        "- `hyper`: hyperprior only. `spatial`: one group and a masked 5x5 convolution, the paper's baseline."
        " `channel-4`: four groups without masked convolutions. `ccm-N`: both, N equal groups. `ccm-uneven`: both,"
        " groups of 1/8, 1/8, 1/4 and 1/2 of the channels, the strong channels first.",
        "- *Widths*: of the layers in which a group's contexts are added and its parameters made. They are as wide in"
        " total, over all groups, for every variant; the convolutions over earlier groups are the same for all that"
        " have them. Parameters are of the whole entropy model; multiply-adds are the decoder's (h_s and contexts).",
        "- Equal groups get their shares of the strong channels, whatever the groups the transforms were trained with.",
        "- *Context + rANS*: h_s included, one thread, quality 4; decoders in turns, medians.",
        "",
        table(result),
        "",
        f"![Files against those of {ANCHOR}](context_ablation.svg)",
        "",
        f"Machine: {result['environment']['cpu']}, one thread. Transforms: {setup['transforms']}.",
    ]
    return wrapped("\n".join(lines) + "\n")


def write_document(result: dict) -> None:
    """Write the document and its figure."""
    DOCUMENT.write_text(document(result), encoding="utf-8")
    FIGURE.write_text(figure(result), encoding="utf-8")

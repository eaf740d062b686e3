"""Predicts how long latents_kernel takes on GPUs that nobody here has: no figure of this file is a measurement.

Cycles of the kernel's loops come from its machine code (sass.py) and published latencies; what the groups wait for each
other comes from a simulation of the schedule, step by step and tile by tile. Results: results/cuda_cost.json, and the
tables of docs/cuda.md.

    python benchmarks/cuda_cost.py                          from the cycles stored with the results
    python benchmarks/cuda_cost.py --machine-code FOLDER    cycles anew: compiles for sm_80, 89, 90 (8 s each)
    python benchmarks/cuda_cost.py --offsets                the table of offsets anew, too (a minute)
    python benchmarks/cuda_cost.py --check                  whether docs/cuda.md says what the results say
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cuda_fit import CALIBRATION, calibration
from cuda_model import IMPROVEMENTS, microseconds, offset_in_steps, outside, predict
from cuda_nets import MBT2018_BYTES, SIZES, Model, mbt2018, names, pictures
from cuda_pieces import (
    BANDS,
    BARRIER,
    CONTEXT_MISS,
    DENSE_MISS,
    ENTRY_MISS,
    GENERIC,
    GPUS,
    L2_BYTES,
    LAUNCH,
    ROOT,
    SHUFFLE,
    TRIED,
    UNUSUAL,
    machine_cycles,
    read_machine_code,
)
from cuda_schedule import build_order
from cuda_steps import Options

RESULT = ROOT / "benchmarks" / "results" / "cuda_cost.json"
DOCUMENT = ROOT / "docs" / "cuda.md"
FILTER = ROOT / "benchmarks" / "results" / "cuda_filter.json"
MEASURED = ROOT / "benchmarks" / "results" / "gpu_check_h100" / "whole.json"

GPU = GPUS["H100"]
QUALITIES = ("2.0", "4.0", "6.0")
EVERY = 3  # of the photographs: every third one, eight; two of these in larger pictures
BATCH = 64


def _ms(cycles: float) -> float:
    return round(microseconds(cycles, GPU) / 1000, 3)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def predicted(nets: list[Model], size: str, code: dict, lanes: int = 0, bands: tuple[str, ...] = tuple(BANDS)) -> dict:
    """Of each picture by itself: mean and worst, the mean's parts, and what lies around; bands of the mean."""
    found: dict = {"lanes": [c.stream.lanes for c in predict(nets[:1], GPU, size, "low", code["low"])[1]]}
    if lanes:
        found["lanes"] = [lanes] * len(nets[0].groups)
    h, w = SIZES[size]
    streams = [n.streams(h * w, lanes) for n in nets]
    # Of each group's stream: what the choice of an engine goes by.
    found["rounds"] = [round(_mean([s.coded * h * w / s.lanes for s in own])) for own in zip(*streams, strict=True)]
    for band in bands:
        outcomes = [predict([n], GPU, size, band, code[band], Options(lanes=lanes))[0] for n in nets]
        around = [outside(n, GPU, size, band, code[band]) for n in nets]
        parts = sorted({k for o in outcomes for k in o.parts})
        found[band] = {
            "ms": _mean([_ms(o.total) for o in outcomes]),
            "worst_ms": max(_ms(o.total) for o in outcomes),
            "parts_ms": {k: _mean([_ms(o.parts.get(k, 0.0)) for o in outcomes]) for k in parts},
            "dense_busy": round(_mean([o.dense_busy for o in outcomes]), 3),
            "outside_us": {k: _mean([a[k] for a in around]) for k in around[0]},
            "worst_z_us": max(a["decode_z"] for a in around),
        }
    return found


def results(code: dict, source: str, offsets: dict) -> dict:
    """Everything that the document shows."""
    small, base, wide = pictures("ccm-small")[::EVERY], pictures("ccm-base")[::EVERY], [mbt2018()]
    h100 = code["H100"]
    rows = []
    for model, nets in (("ccm-small", small), ("ccm-base", base), ("mbt2018", wide)):
        for size, lanes in (("768x512", 0), ("768x512", 32), ("1920x1080", 0)):
            if size == "768x512" or model != "mbt2018":
                some = nets if size == "768x512" else nets[::4]
                found = predicted(some, size, h100, lanes)
                rows.append({"model": model, "size": size, "lanes_chosen": not lanes, **found})
    by_quality = {
        model: {q: predicted(pictures(model, q)[::EVERY], "768x512", h100) for q in QUALITIES if q != "4.0"}
        for model in ("ccm-small", "ccm-base")
    }
    for model, per in by_quality.items():
        per["4.0"] = next({**r} for r in rows if (r["model"], r["size"], r["lanes_chosen"]) == (model, "768x512", True))
    everyone = pictures("ccm-small")
    batch = [everyone[k % len(everyone)] for k in range(BATCH)]
    together = {
        name: {band: _ms(predict(batch, GPU, "768x512", band, h100[band], options)[0].total) for band in bands}
        for name, options, bands in (
            ("as it is", Options(), tuple(BANDS)),
            ("32 lanes", Options(lanes=32), ("fitted",)),
        )
    }
    typical = [nearest_to_mean(nets, h100["fitted"]) for nets in (small, base, wide)]
    better = []
    for net in typical:
        cases = {k: Options(**v) for k, v in IMPROVEMENTS.items()}
        lean: dict = {"lanes": 32, "lean_epilogues": True}
        cases["32 lanes, epilogues of half the cycles"] = Options(**lean)
        cases["the same, rounds of half the cycles"] = Options(lean_rounds=True, **lean)
        found = {
            case: _ms(predict([net], GPU, "768x512", "fitted", h100["fitted"], options)[0].total)
            for case, options in {"as it is": Options(), **cases}.items()
        }
        better.append({"model": net.name, "cases": found})
    return {
        "prediction": "No GPU has run any of this.",
        "source": source,
        "images": names()[::EVERY],
        "assumptions": {
            "bands": BANDS, "gpus": {n: vars(g) for n, g in GPUS.items()}, "shuffle": SHUFFLE, "popc_flo": UNUSUAL,
            "barrier": BARRIER, "generic": GENERIC, "context_miss": CONTEXT_MISS, "entry_miss": ENTRY_MISS,
            "dense_miss": DENSE_MISS, "l2_bytes": L2_BYTES, "launch_us": LAUNCH, "mbt2018_bytes": MBT2018_BYTES,
        },
        "calibration": calibration(),
        "cycles": code,
        "offsets": offsets,
        "predictions": rows,
        "by_quality": by_quality,
        "batch": together,
        "improvements": better,
    }  # fmt: skip


def nearest_to_mean(nets: list[Model], code: dict) -> Model:
    """The picture whose time is nearest to that of all."""
    totals = [predict([n], GPU, "768x512", "fitted", code)[0].total for n in nets]
    return min(zip(nets, totals, strict=True), key=lambda pair: abs(pair[1] - _mean(totals)))[0]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _in_bands(low: float, fitted: float, high: float, digits: int = 2) -> str:
    return f"**{fitted:.{digits}f}** ({low:.{digits}f} to {high:.{digits}f})"


def _band(row: dict) -> str:
    return _in_bands(row["low"]["ms"], row["fitted"]["ms"], row["high"]["ms"])


def _row(found: dict, model: str, size: str, chosen: bool = True) -> dict:
    wanted = (model, size, chosen)
    return next(r for r in found["predictions"] if (r["model"], r["size"], r["lanes_chosen"]) == wanted)


def times(found: dict) -> str:
    """The whole of latents_kernel."""
    rows = []
    for r in found["predictions"]:
        if r["lanes_chosen"]:
            many = _band(_row(found, r["model"], r["size"], False)) if r["size"] == "768x512" else ""
            lanes = ", ".join(map(str, r["lanes"]))
            rows.append([r["model"], r["size"], lanes, _band(r), f"{r['fitted']['worst_ms']:.2f}", many])
    return _table(
        ["predicted, H100, ms", "", "lanes (first picture)", "as chosen, mean", "worst", "32 lanes, mean"], rows
    )


def calibrated(found: dict) -> str:
    """The kernel that was measured."""
    left_out = json.loads(CALIBRATION.read_text(encoding="utf-8"))["fit"]["left_out_percent"]
    rows = [
        [p["file"], str(p["quality"]), f"{p['measured_ms']:.1f}", f"{p['predicted_ms']:.1f}",
         f"{100 * (p['predicted_ms'] / p['measured_ms'] - 1):+.0f} %", f"{out:+.0f} %"]
        for p, out in zip(found["calibration"], left_out, strict=True)
    ]  # fmt: skip
    head = ["", "quality", "measured, ms", "the model with what was fitted, ms", "differs by", "fitted to the others"]
    return _table(head, rows)


def fitted(found: dict) -> str:
    """Numbers that fit nearly as well."""
    grid = json.loads(CALIBRATION.read_text(encoding="utf-8"))["fit"]["grid"]
    rows = [
        [f"{r['scale']:g}", f"{r['slow_round']:,.0f}", f"{r['clock']:g}", f"{r['rms_percent']:.1f} %"] for r in grid
    ]
    return _table(["latencies, times the published", "cycles a slow round", "clock, GHz", "RMS of twelve"], rows)


GROUPED = {
    "rANS": ("rans",),
    "products": ("products",),
    "waiting for its crew": ("crew",),
    "bases, requantization": ("requantize",),
    "rows, publishing": ("choose rows", "publish"),
    "barriers, news, looks": ("barriers", "news", "ready", "overhead", "begin"),
    "waiting for the group before": ("wait",),
}


def shares(found: dict) -> str:
    """Of the last group's time."""
    rows = []
    for r in found["predictions"]:
        if r["size"] == "768x512":
            parts = r["fitted"]["parts_ms"]
            cells = [f"{100 * sum(parts.get(p, 0) for p in own) / r['fitted']['ms']:.0f} %" for own in GROUPED.values()]
            rows.append([r["model"], "as chosen" if r["lanes_chosen"] else "32", *cells])
    return _table(["predicted, H100, 768x512", "lanes", *GROUPED], rows)


# Of a profile on an H100 (results/gpu_check_h100): transforms and pixels of the same net.
def _transforms() -> float:
    files = json.loads(MEASURED.read_text(encoding="utf-8"))["records"][0]["profile"]["files"]
    return 1000 * max(f["stages"]["g_s"]["median"] + f["stages"]["pixels"]["median"] for f in files)


def _filter(size: str, band: str) -> float:
    """Milliseconds, predicted by cuda_filter.py."""
    found: dict[str, dict[str, float]] = json.loads(FILTER.read_text(encoding="utf-8"))["us"]
    return found[size][band] / 1000


def _whole(row: dict, band: str) -> float:
    """From streams on the GPU to pixels on the GPU."""
    return row[band]["ms"] + sum(row[band]["outside_us"].values()) / 1000 + _transforms() + _filter(row["size"], band)


def targets(found: dict) -> str:
    """Targets of the project, and how far."""
    small, base, wide = (
        _row(found, m, s) for m, s in (("ccm-small", "768x512"), ("ccm-base", "1920x1080"), ("mbt2018", "768x512"))
    )
    z = [small[band]["outside_us"]["decode_z"] / 1000 for band in BANDS]
    batch = found["batch"]["as it is"]
    lines = [
        ("ccm-small, 768x512: decode_y", 1.5, [small[b]["ms"] for b in BANDS]),
        ("the same, the worst picture", 1.5, [small[b]["worst_ms"] for b in BANDS]),
        ("decode_z", 0.05, z),
        (f"whole decode, with {_transforms():.2f} ms measured for g_s and pixels, and a filter", 2.5,
         [_whole(small, b) for b in BANDS]),
        ("ccm-base, 1920x1080: decode_y", 3.0, [base[b]["ms"] for b in BANDS]),
        ("mbt2018, 768x512: decode_y", 3.0, [wide[b]["ms"] for b in BANDS]),
        (f"{BATCH} photographs, ccm-small: decode_y", BATCH / 5.0, [batch[b] for b in BANDS]),
    ]  # fmt: skip
    rows = [
        [name, f"{aim:g} ms", f"{_in_bands(*values, 3 if aim < 1 else 2)} ms", f"{values[1] / aim:.1f} times"]
        for name, aim, values in lines
    ]
    return _table(["H100, quality 4, lanes as chosen", "target", "predicted", "of the target"], rows)


def batches(found: dict) -> str:
    """Photographs at once."""
    rows = [
        [
            name,
            _in_bands(*per.values()) if len(per) > 1 else f"{per['fitted']:.2f}",
            f"{BATCH / per['fitted'] * 1000:,.0f}",
        ]
        for name, per in found["batch"].items()
    ]
    return _table([f"predicted, H100, {BATCH} photographs, ms", "decode_y", "images a second"], rows)


def better(found: dict) -> str:
    """What changes would bring."""
    head = ["predicted, H100, 768x512, ms", *(e["model"] for e in found["improvements"])]
    first = found["improvements"][0]["cases"]
    alone = sorted(IMPROVEMENTS, key=lambda k: first[k])
    last = [k for k in first if k not in IMPROVEMENTS and k != "as it is"]
    rows = [[case, *(f"{e['cases'][case]:.2f}" for e in found["improvements"])] for case in ["as it is", *alone, *last]]
    return _table(head, rows)


def rounds(found: dict) -> str:
    """Cycles of a round of rANS."""
    names = {
        "rans": "a round, of 1 to 32 lanes",
        "rans alone": "the last one or two of a chunk, for which nothing was loaded ahead",
        "modes": f"{TRIED} rounds that are tried at once, all right",
        "modes failed": "the same with one wrong, which is done over as a round",
        "slow": "what a round takes longer with one symbol outside its window, beside it",
        "staged": "the same of one before which 64 more words enter the ring",
    }
    code = found["cycles"]
    rows = [
        [text, *(f"{code[g]['fitted'][n]['lone']:.0f}" for g in GPUS), f"{code['H100']['fitted'][n]['issue']:.0f}"]
        for n, text in names.items()
    ]
    return _table(["cycles, fitted latencies", *GPUS, "instructions (sm_90)"], rows)


def qualities(found: dict) -> str:
    """Photographs of three qualities, with the lanes that the encoder chooses."""
    rows = [
        [f"{name}, {what}", *(show(per[q]) for q in QUALITIES)]
        for name, per in found["by_quality"].items()
        for what, show in (
            ("mean", _band),
            ("worst", lambda r: f"{r['fitted']['worst_ms']:.2f}"),
            ("decode_z, mean (worst)", _z_of),
        )
        if name == "ccm-small" or what == "mean"
    ]
    return _table(["predicted, H100, 768x512, ms", *(f"quality {q[0]}" for q in QUALITIES)], rows)


def _z_of(row: dict) -> str:
    return f"{row['fitted']['outside_us']['decode_z'] / 1000:.3f} ({row['fitted']['worst_z_us'] / 1000:.3f})"


def pieces(found: dict) -> str:
    """Cycles of the rest of a step."""
    names = {
        "conv 2": "masked convolution: 32 bytes of k, 16 positions, weights in shared memory",
        "conv 2 L2": "the same, weights from L2",
        "rows 2": "1x1 layers: 32 bytes of k, 16 positions",
        "first bytes 2": "before and after it: bases, first loads, last product, requantization to bytes",
        "later bytes 2": "the same of a 1x1 layer",
        "later scale 2": "the same of the head (scales)",
        "choose": "rows of 32 channels of one position",
        "publish": "publishing of as many",
        "dense": "dense tile: 32 bytes of k, 16 positions",
    }
    code = found["cycles"]
    rows = [
        [text, *(f"{code[g]['low'][n]['lone']:.0f}" for g in GPUS), f"{code['H100']['low'][n]['issue']:.0f}"]
        for n, text in names.items()
    ]
    return _table(["a warp's cycles", *GPUS, "instructions (sm_90)"], rows)


def offsets(found: dict) -> str:
    """Steps between the starts of two groups."""
    rows = [[size, *(str(v) for v in o.values())] for size, o in found["offsets"].items()]
    head = ["", "steps of a group", "offset, as it is", "tiles of 4 x 8", "tiles of 4 x 16"]
    return _table(head, rows)


def around(found: dict) -> str:
    """Launches before and after."""
    rows = []
    for r in found["predictions"]:
        if r["lanes_chosen"] and r["model"] != "mbt2018":
            low, high = r["low"]["outside_us"], r["high"]["outside_us"]
            filters = f"{_filter(r['size'], 'low'):.3f} to {_filter(r['size'], 'high'):.3f}"
            rows.append(
                [r["size"], r["model"], *(f"{low[k] / 1000:.3f} to {high[k] / 1000:.3f}" for k in low), filters]
            )
    names_ = found["predictions"][0]["low"]["outside_us"]
    return _table(["predicted, H100, ms", "sizes of", *names_, "picture filter"], rows)


def source(found: dict) -> str:
    """What was compiled."""
    return f"Machine code of csrc/entropy/cuda, by git's name {found['source']}."


SECTIONS: dict[str, Callable[[dict], str]] = {
    "cost-times": times, "cost-qualities": qualities,
    "cost-shares": shares, "cost-targets": targets, "cost-better": better, "cost-rounds": rounds,
    "cost-pieces": pieces, "cost-offsets": offsets, "cost-around": around,
    "cost-calibration": calibrated, "cost-fit": fitted, "cost-batch": batches, "cost-source": source,
}  # fmt: skip


def fill(text: str, found: dict) -> str:
    """The document with its generated sections brought up to date."""
    for section, make in SECTIONS.items():
        pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- /{section} -->)", re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"{DOCUMENT.name} has no section {section}")
        body = make(found)
        text = pattern.sub(lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text)
    return text


def offsets_of(model) -> dict:
    """Steps between the starts of two groups, as it is and as it could be."""
    return {
        size: {
            "steps": build_order(*SIZES[size]).steps,
            "as it is": offset_in_steps(size, model),
            "tiles of 4 x 8": offset_in_steps(size, model, (4, 8)),
            "tiles of 4 x 16": offset_in_steps(size, model, (4, 16)),
        }
        for size in SIZES
    }


def source_tree() -> str:
    """Git's name of the kernels' folder; a plus for changes that are not committed."""
    git, folder = ["git", "-C", str(ROOT)], "csrc/entropy/cuda"
    tree = subprocess.run([*git, "rev-parse", "--short", f"HEAD:{folder}"], capture_output=True, text=True)
    dirty = subprocess.run([*git, "status", "--short", "--", folder], capture_output=True, text=True).stdout.strip()
    return tree.stdout.strip() + ("+" if dirty else "")


def main() -> None:
    """Write the results and the document's tables, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine-code", type=Path, metavar="FOLDER")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--offsets", action="store_true")
    args = parser.parse_args()
    if args.check:
        old = DOCUMENT.read_text(encoding="utf-8")
        sys.exit(0 if fill(old, json.loads(RESULT.read_text(encoding="utf-8"))) == old else f"{DOCUMENT.name} is stale")
    stored = json.loads(RESULT.read_text(encoding="utf-8"))
    if args.machine_code:
        code = {}
        for name, gpu in GPUS.items():
            own, crews = (read_machine_code(args.machine_code, gpu.arch, crews) for crews in (False, True))
            code[name] = {
                band: {**machine_cycles(own, gpu, scale), "crews": machine_cycles(crews, gpu, scale)}
                for band, scale in BANDS.items()
            }
        source = source_tree()
    else:
        code, source = stored["cycles"], stored["source"]
    found = results(code, source, offsets_of(pictures("ccm-base")[0]) if args.offsets else stored["offsets"])
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if DOCUMENT.exists():
        DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), found), encoding="utf-8")
    print(targets(found))


if __name__ == "__main__":
    main()

"""Predicts how long latents_kernel takes on GPUs that nobody here has: no figure of this file is a measurement.

Cycles of the kernel's loops come from its machine code (sass.py) and published latencies; what the groups wait for each
other comes from a simulation of the schedule, step by step and tile by tile. Results: results/cuda_cost.json, and the
tables of docs/cuda.md.

    python benchmarks/cuda_cost.py                          from the cycles stored with the results
    python benchmarks/cuda_cost.py --machine-code FOLDER    cycles anew: compiles for sm_80, 89, 90 (8 s each)
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

from cuda_model import IMPROVEMENTS, SIZES, Options, microseconds, models, offset_in_steps, outside, predict
from cuda_pieces import (
    BANDS,
    BARRIER,
    CONTEXT_MISS,
    DENSE_MISS,
    ENTRY_MISS,
    GENERIC,
    GPUS,
    L2_BYTES,
    LANES,
    LAUNCH,
    ROOT,
    SHUFFLE,
    UNUSUAL,
    machine_cycles,
    read_machine_code,
)
from cuda_schedule import build_order

RESULT = ROOT / "benchmarks" / "results" / "cuda_cost.json"
DOCUMENT = ROOT / "docs" / "cuda.md"


def results(code: dict, source: str) -> dict:
    """Everything that the document shows."""
    nets = models()
    rows = []
    for size in SIZES:
        for name, model in nets.items():
            for gpu_name, gpu in GPUS.items():
                for lanes in (0, 32):
                    if lanes and rows[-1]["lanes"] == lanes and rows[-1]["gpu"] == gpu_name:
                        continue
                    row: dict = {"size": size, "model": name, "gpu": gpu_name}
                    for band in BANDS:
                        outcome, costs = predict(model, gpu, size, band, code[gpu_name][band], Options(lanes=lanes))
                        row["lanes"], row["in_shared"] = costs.lanes, costs.in_shared
                        row["lanes_chosen"] = not lanes
                        row[band] = {
                            "us": round(microseconds(outcome.total, gpu), 1),
                            "parts_us": {k: round(microseconds(v, gpu), 1) for k, v in outcome.parts.items()},
                            "starts_us": [round(microseconds(v, gpu), 1) for v in outcome.starts],
                            "dense_busy": round(outcome.dense_busy, 3),
                            "outside_us": {
                                k: round(v, 1) for k, v in outside(model, gpu, size, band, code[gpu_name][band]).items()
                            },
                        }
                    rows.append(row)
    better = []
    for name, size, gpu_name in (
        ("ccm-base", "768x512", "H100"), ("ccm-base", "1920x1080", "H100"), ("ccm-base", "768x512", "A100"),
        ("mbt2018", "768x512", "H100"),
    ):  # fmt: skip
        model, gpu = nets[name], GPUS[gpu_name]
        cases = {k: Options(**v) for k, v in IMPROVEMENTS.items()}
        together: dict = {"lanes": 32, "lean_epilogues": True}
        cases["32 lanes, epilogues of half the cycles"] = Options(**together)
        cases["the same, rounds of half the cycles"] = Options(lean_rounds=True, **together)
        cases["the same, 128 lanes"] = Options(lean_rounds=True, stream_warps=4, **together)
        entry: dict = {"model": name, "size": size, "gpu": gpu_name, "cases": {}}
        for case, options in {"as it is": Options(), **cases}.items():
            entry["cases"][case] = {
                band: round(
                    microseconds(predict(model, gpu, size, band, code[gpu_name][band], options)[0].total, gpu), 1
                )
                for band in BANDS
            }
        better.append(entry)
    offsets = {
        size: {
            "steps": build_order(*SIZES[size]).steps,
            "as it is": offset_in_steps(size, nets["ccm-base"]),
            "every step": offset_in_steps(size, nets["ccm-base"], news=1),
            "tiles of 4 x 8": offset_in_steps(size, nets["ccm-base"], (4, 8)),
            "tiles of 4 x 16": offset_in_steps(size, nets["ccm-base"], (4, 16)),
        }
        for size in SIZES
    }
    return {
        "prediction": "No GPU has run any of this.",
        "source": source,
        "assumptions": {
            "bands": BANDS, "gpus": {n: vars(g) for n, g in GPUS.items()}, "shuffle": SHUFFLE, "popc_flo": UNUSUAL,
            "barrier": BARRIER, "generic": GENERIC, "context_miss": CONTEXT_MISS, "entry_miss": ENTRY_MISS,
            "dense_miss": DENSE_MISS, "l2_bytes": L2_BYTES, "launch_us": LAUNCH,
            "payload_768x512": {n: round(m.payload) for n, m in nets.items()},
        },
        "cycles": code,
        "offsets": offsets,
        "predictions": rows,
        "improvements": better,
    }  # fmt: skip


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _band(low: float, high: float) -> str:
    return f"{low / 1000:.1f} to {high / 1000:.1f}"


def _row(found: dict, size: str, model: str, gpu: str, chosen: bool = True) -> dict:
    match = [r for r in found["predictions"] if (r["size"], r["model"], r["gpu"]) == (size, model, gpu)]
    return next(r for r in match if r["lanes_chosen"] == chosen) if chosen else match[-1]


def times(found: dict) -> str:
    """The whole of latents_kernel."""
    rows = []
    for size in SIZES:
        for model in found["assumptions"]["payload_768x512"]:
            cells, lanes = [], _row(found, size, model, "H100")["lanes"]
            for chosen in (True, False):
                for gpu in GPUS:
                    r = _row(found, size, model, gpu, chosen)
                    cells.append(_band(r["low"]["us"], r["high"]["us"]))
            rows.append([size, model, str(lanes), *cells])
    head = ["predicted, ms", "sizes of", "lanes chosen", *GPUS, *(f"{g}, 32 lanes" for g in GPUS)]
    return _table(head, rows)


GROUPED = {
    "rANS": ("rans",),
    "products": ("products",),
    "bases, requantization": ("requantize",),
    "rows, publishing": ("choose rows", "publish"),
    "barriers, news, looks": ("barriers", "news", "ready", "overhead", "begin"),
    "waiting for the group before": ("wait",),
}


def shares(found: dict) -> str:
    """Of the last group's time."""
    rows = []
    for size, model, chosen in (
        ("768x512", "ccm-small", True), ("768x512", "ccm-base", True), ("768x512", "ccm-base", False),
        ("1920x1080", "ccm-base", True), ("3840x2160", "ccm-base", True), ("768x512", "mbt2018", True),
    ):  # fmt: skip
        r = _row(found, size, model, "H100", chosen)
        parts, total = r["low"]["parts_us"], r["low"]["us"]
        cells = [f"{100 * sum(parts.get(p, 0) for p in names) / total:.0f} %" for names in GROUPED.values()]
        rows.append([size, model, str(r["lanes"]), *cells])
    return _table(["predicted, H100, low band", "sizes of", "lanes", *GROUPED], rows)


def targets(found: dict) -> str:
    """Targets of the project, and how far."""
    rows = []
    for size, aim in (("768x512", 1000), ("1920x1080", 3000)):
        for chosen in (True, False):
            r = _row(found, size, "ccm-base", "H100", chosen)
            low, high = r["low"]["us"], r["high"]["us"]
            verdict = (
                "met"
                if high <= aim
                else ("open" if low <= aim else f"missed {low / aim:.0f} to {high / aim:.0f} times")
            )
            rows.append([size, str(r["lanes"]), f"{aim / 1000:.0f} ms", f"{_band(low, high)} ms", verdict])
    return _table(["ccm-base, H100", "lanes", "target", "predicted", ""], rows)


def better(found: dict) -> str:
    """What changes would bring."""
    head = ["predicted, ms"] + [f"{e['model']} {e['size']} {e['gpu']}" for e in found["improvements"]]
    first = found["improvements"][0]["cases"]
    alone = sorted(IMPROVEMENTS, key=lambda k: first[k]["low"])
    last = [k for k in first if k not in IMPROVEMENTS and k != "as it is"]
    rows = []
    for case in ["as it is", *alone, *last]:
        rows.append([case, *(_band(e["cases"][case]["low"], e["cases"][case]["high"]) for e in found["improvements"])])
    return _table(head, rows)


def rounds(found: dict) -> str:
    """Cycles of a round of rANS."""
    code = found["cycles"]
    rows = []
    for lanes in LANES:
        cells = [str(lanes)]
        for gpu in GPUS:
            c = code[gpu]["low"]
            cells.append(f"{c[f'rans {lanes}']['lone']:.0f} ({c[f'rans {lanes} refill']['lone']:.0f})")
        c = code["H100"]["low"][f"rans {lanes}"]
        cells += [f"{c['issue']:.0f}", f"{code['H100']['low'][f'rans {lanes}']['lone'] / lanes:.0f}"]
        rows.append(cells)
    return _table(
        ["lanes", *(f"{g}, cycles a round" for g in GPUS), "instructions (sm_90)", "cycles a symbol, H100"], rows
    )


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
    head = ["", "steps of a group", "offset, as it is", "announced every step", "tiles of 4 x 8", "tiles of 4 x 16"]
    return _table(head, rows)


def around(found: dict) -> str:
    """Launches before and after."""
    rows = []
    for size in SIZES:
        for model in ("ccm-small", "ccm-base"):
            r = _row(found, size, model, "H100")
            low, high = r["low"]["outside_us"], r["high"]["outside_us"]
            rows.append([size, model, *(f"{low[k] / 1000:.2f} to {high[k] / 1000:.2f}" for k in low)])
    return _table(["predicted, H100, ms", "sizes of", *low], rows)


SECTIONS: dict[str, Callable[[dict], str]] = {
    "cost-times": times, "cost-shares": shares, "cost-targets": targets, "cost-better": better, "cost-rounds": rounds,
    "cost-pieces": pieces, "cost-offsets": offsets, "cost-around": around,
    "cost-source": lambda found: f"Machine code of commit {found['source']}.",
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


def source_commit() -> str:
    """Of the kernels; a plus for changes that are not committed."""
    git = ["git", "-C", str(ROOT)]
    paths = ["--", "csrc/entropy/cuda", "csrc/format", "csrc/model"]
    commit = subprocess.run([*git, "log", "-1", "--format=%h", *paths], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run([*git, "status", "--short", *paths], capture_output=True, text=True).stdout.strip()
    return commit + ("+" if dirty else "")


def main() -> None:
    """Write the results and the document's tables, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine-code", type=Path, metavar="FOLDER")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        old = DOCUMENT.read_text(encoding="utf-8")
        sys.exit(0 if fill(old, json.loads(RESULT.read_text(encoding="utf-8"))) == old else f"{DOCUMENT.name} is stale")
    if args.machine_code:
        code = {}
        for name, gpu in GPUS.items():
            pieces = read_machine_code(args.machine_code, gpu.arch)
            code[name] = {band: machine_cycles(pieces, gpu, scale) for band, scale in BANDS.items()}
        source = source_commit()
    else:
        stored = json.loads(RESULT.read_text(encoding="utf-8"))
        code, source = stored["cycles"], stored["source"]
    found = results(code, source)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if DOCUMENT.exists():
        DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), found), encoding="utf-8")
    for row in found["predictions"]:
        print(
            f"{row['size']:10} {row['model']:10} {row['gpu']:9} {row['lanes']:2} lanes",
            row["low"]["us"],
            row["high"]["us"],
        )


if __name__ == "__main__":
    main()

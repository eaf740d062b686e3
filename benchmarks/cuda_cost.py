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

from cuda_model import (
    IMPROVEMENTS,
    SIZES,
    Options,
    calibration,
    microseconds,
    models,
    offset_in_steps,
    outside,
    photographs,
    predict,
)
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

RESULT = ROOT / "benchmarks" / "results" / "cuda_cost.json"
DOCUMENT = ROOT / "docs" / "cuda.md"


# What is predicted; others only take time.
CASES = [("768x512", "H100")]
QUALITIES = ("2.0", "4.0", "6.0")


def results(code: dict, source: str, offsets: dict) -> dict:
    """Everything that the document shows."""
    nets = models()
    rows = []
    for size, gpu_name in CASES:
        gpu = GPUS[gpu_name]
        for name, model in nets.items():
            for lanes in (0, 32):
                row: dict = {"size": size, "model": name, "gpu": gpu_name, "lanes_chosen": not lanes}
                for band in BANDS:
                    cycles = code[gpu_name][band]
                    outcome, costs = predict(model, gpu, size, band, cycles, Options(lanes=lanes))
                    row["lanes"], row["in_shared"] = [c.stream.lanes for c in costs], costs[-1].in_shared
                    row[band] = {
                        "us": round(microseconds(outcome.total, gpu), 1),
                        "parts_us": {k: round(microseconds(v, gpu), 1) for k, v in outcome.parts.items()},
                        "starts_us": [round(microseconds(v, gpu), 1) for v in outcome.starts],
                        "dense_busy": round(outcome.dense_busy, 3),
                        "outside_us": {k: round(v, 1) for k, v in outside(model, gpu, size, band, cycles).items()},
                    }
                rows.append(row)
    by_quality: dict[str, dict] = {}
    for quality in QUALITIES:
        for name, model in photographs(quality).items():
            totals = [
                predict(model, GPUS["H100"], "768x512", band, code["H100"][band], Options())[0].total for band in BANDS
            ]
            by_quality.setdefault(name, {})[quality] = [round(microseconds(t, GPUS["H100"]), 1) for t in totals]
    better = []
    for name in ("ccm-small", next(n for n in nets if n.startswith("ccm-small,")), "mbt2018"):
        cases = {k: Options(**v) for k, v in IMPROVEMENTS.items()}
        together: dict = {"lanes": 32, "lean_epilogues": True}
        cases["32 lanes, epilogues of half the cycles"] = Options(**together)
        cases["the same, rounds of half the cycles"] = Options(lean_rounds=True, **together)
        cases["the same, 128 lanes"] = Options(lean_rounds=True, lean_epilogues=True, lanes=128)
        gpu, cycles = GPUS["H100"], code["H100"]["fitted"]
        found = {
            case: round(microseconds(predict(nets[name], gpu, "768x512", "fitted", cycles, options)[0].total, gpu), 1)
            for case, options in {"as it is": Options(), **cases}.items()
        }
        better.append({"model": name, "cases": found})
    return {
        "prediction": "No GPU has run any of this.",
        "source": source,
        "assumptions": {
            "bands": BANDS, "gpus": {n: vars(g) for n, g in GPUS.items()}, "shuffle": SHUFFLE, "popc_flo": UNUSUAL,
            "barrier": BARRIER, "generic": GENERIC, "context_miss": CONTEXT_MISS, "entry_miss": ENTRY_MISS,
            "dense_miss": DENSE_MISS, "l2_bytes": L2_BYTES, "launch_us": LAUNCH,
            "payload_768x512": {n: round(sum(c * b for c, b, *_ in m.symbols) * 32 * 48 / 8) for n, m in nets.items()},
        },
        "calibration": calibration(),
        "cycles": code,
        "offsets": offsets,
        "predictions": rows,
        "by_quality": by_quality,
        "improvements": better,
    }  # fmt: skip


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _band(row: dict) -> str:
    return f"**{row['fitted']['us'] / 1000:.1f}** ({row['low']['us'] / 1000:.1f} to {row['high']['us'] / 1000:.1f})"


def _row(found: dict, size: str, model: str, gpu: str, chosen: bool = True) -> dict:
    match = [r for r in found["predictions"] if (r["size"], r["model"], r["gpu"]) == (size, model, gpu)]
    return next(r for r in match if r["lanes_chosen"] == chosen)


def times(found: dict) -> str:
    """The whole of latents_kernel."""
    rows = []
    for model in found["assumptions"]["payload_768x512"]:
        for size, gpu in CASES:
            chosen, many = (_row(found, size, model, gpu, c) for c in (True, False))
            lanes = ", ".join(map(str, chosen["lanes"]))
            rows.append([model, size, gpu, lanes, _band(chosen), _band(many)])
    return _table(["predicted, ms", "", "GPU", "lanes chosen", "with them", "32 lanes"], rows)


def calibrated(found: dict) -> str:
    """The kernel that was measured."""
    rows = [
        [p["file"], str(p["quality"]), f"{p['measured_ms']:.1f}", f"{p['predicted_ms']:.1f}",
         f"{100 * (p['predicted_ms'] / p['measured_ms'] - 1):+.0f} %"]
        for p in found["calibration"]
    ]  # fmt: skip
    return _table(["", "quality", "measured, ms", "the model with what was fitted, ms", "differs by"], rows)


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
    for model in found["assumptions"]["payload_768x512"]:
        for chosen in (True, False):
            r = _row(found, "768x512", model, "H100", chosen)
            parts, total = r["fitted"]["parts_us"], r["fitted"]["us"]
            cells = [f"{100 * sum(parts.get(p, 0) for p in names) / total:.0f} %" for names in GROUPED.values()]
            rows.append([model, "as chosen" if chosen else "32", *cells])
    return _table(["predicted, H100, 768x512", "lanes", *GROUPED], rows)


def targets(found: dict) -> str:
    """Targets of the project, and how far."""
    rows = []
    for model, size, aim in (("ccm-small", "768x512", 1.5), ("mbt2018", "768x512", 3)):
        for name in found["assumptions"]["payload_768x512"]:
            if name.split(",")[0] == model:
                r = _row(found, size, name, "H100")
                rows.append([name, size, f"{aim} ms", f"{_band(r)} ms", f"{r['fitted']['us'] / 1000 / aim:.1f} times"])
    return _table(["H100, lanes as chosen", "", "target", "predicted", "of the target"], rows)


def better(found: dict) -> str:
    """What changes would bring."""
    head = ["predicted, H100, 768x512, ms", *(e["model"] for e in found["improvements"])]
    first = found["improvements"][0]["cases"]
    alone = sorted(IMPROVEMENTS, key=lambda k: first[k])
    last = [k for k in first if k not in IMPROVEMENTS and k != "as it is"]
    rows = [
        [case, *(f"{e['cases'][case] / 1000:.1f}" for e in found["improvements"])]
        for case in ["as it is", *alone, *last]
    ]
    return _table(head, rows)


def rounds(found: dict) -> str:
    """Cycles of a round of rANS."""
    names = {
        "rans": "a round, of 1 to 32 lanes",
        "modes": f"{TRIED} rounds that are tried at once, all right",
        "modes failed": "the same with one wrong, which is done over as a round",
        "slow": "what a round takes longer with one symbol outside its window, beside it",
    }
    code = found["cycles"]
    rows = [
        [text, *(f"{code[g]['fitted'][n]['lone']:.0f}" for g in GPUS), f"{code['H100']['fitted'][n]['issue']:.0f}"]
        for n, text in names.items()
    ]
    return _table(["cycles, fitted latencies", *GPUS, "instructions (sm_90)"], rows)


def qualities(found: dict) -> str:
    """Photographs of three qualities, with the lanes that the encoder chooses."""
    low, fitted, high = (list(BANDS).index(b) for b in ("low", "fitted", "high"))
    rows = [
        [name, *(f"**{t[fitted] / 1000:.1f}** ({t[low] / 1000:.1f} to {t[high] / 1000:.1f})" for t in per.values())]
        for name, per in found["by_quality"].items()
    ]
    return _table(["predicted, H100, 768x512, ms", *(f"quality {q[0]}" for q in QUALITIES)], rows)


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
    for size, _ in CASES:
        for model in ("ccm-small", "ccm-base"):
            r = _row(found, size, model, "H100")
            low, high = r["low"]["outside_us"], r["high"]["outside_us"]
            rows.append([size, model, *(f"{low[k] / 1000:.2f} to {high[k] / 1000:.2f}" for k in low)])
    return _table(["predicted, H100, ms", "sizes of", *low], rows)


def source(found: dict) -> str:
    """What was compiled."""
    return f"Machine code of csrc/entropy/cuda, by git's name {found['source']}."


SECTIONS: dict[str, Callable[[dict], str]] = {
    "cost-times": times, "cost-qualities": qualities,
    "cost-shares": shares, "cost-targets": targets, "cost-better": better, "cost-rounds": rounds,
    "cost-pieces": pieces, "cost-offsets": offsets, "cost-around": around,
    "cost-calibration": calibrated, "cost-source": source,
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
            "every step": offset_in_steps(size, model, news=1),
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
            pieces = read_machine_code(args.machine_code, gpu.arch)
            code[name] = {band: machine_cycles(pieces, gpu, scale) for band, scale in BANDS.items()}
        source = source_tree()
    else:
        code, source = stored["cycles"], stored["source"]
    found = results(code, source, offsets_of(models()["ccm-base"]) if args.offsets else stored["offsets"])
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if DOCUMENT.exists():
        DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), found), encoding="utf-8")
    for row in found["predictions"]:
        print(
            f"{row['size']:10} {row['model']:20} {row['gpu']:9} {row['lanes']} lanes",
            *(row[band]["us"] for band in BANDS),
        )


if __name__ == "__main__":
    main()

"""Rate and distortion on Kodak and CLIC: measures, keeps the results, and writes docs/rate_distortion.md from them.

The other codecs' results are committed, so that after a training only our model is measured, in some minutes:

    python benchmarks/rate_distortion.py --kodak DIR --clic DIR --reference DIR --threads 1 --crops 0
    python benchmarks/rate_distortion.py --kodak DIR --reference DIR --effort default 9   two curves of our model
    python benchmarks/rate_distortion.py --kodak DIR --models ccm-small-msssim            another of our models
    python benchmarks/rate_distortion.py --kodak DIR --models --codecs vvc                one codec, no model
    python benchmarks/rate_distortion.py --kodak DIR --clic DIR --reference DIR --codecs all   everything: hours
    python benchmarks/rate_distortion.py                                                  the document alone
    python benchmarks/rate_distortion.py --check                                          is it what the results say?

Measurements that are done are kept under runs/rd/, and so is each report.html. Tests run --check.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from common import wrapped

from ccm_fast.command import evaluate
from ccm_fast.evaluate import codecs, curves, report, tables

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
PUBLISHED = RESULTS / "published"  # curves that CompressAI's collection lacks
DATA = {
    "kodak": ("Kodak", "the 24 photographs of the Kodak set, 768x512 or 512x768"),
    "clic": (
        "CLIC 2025",
        "8 photographs of CLIC 2025's validation set, 2 to 3.4 megapixels",
    ),
}


def _model_of(path: Path) -> str | None:
    """The model that a file of results is of, if it is of one; an effort is written after the label's comma."""
    result = json.loads(path.read_text(encoding="utf-8"))
    return result["name"].split(",")[0] if result["model"] else None


def measure(name: str, folder: Path, args) -> None:
    """One data set: measure what is missing, keep results and figures."""
    out = ROOT / "runs" / "rd" / name
    earlier = [p for p in sorted(RESULTS.glob(f"rd_{name}_*.json")) if p.name != f"rd_{name}_bd.json"]
    # Models measured now replace their earlier results: those of other weights, or of an effort that is no longer asked
    # for, must not stay behind under their names.
    stale = [p for p in earlier if _model_of(p) in {Path(model).stem for model in args.models}]
    earlier = [p for p in earlier if p not in stale]
    # Published curves are of Kodak.
    published = [args.reference, PUBLISHED] if args.reference and name == "kodak" else []
    wanted = [folder, "--models", *args.models, "--codecs", args.codecs, "--name", DATA[name][0]]
    wanted += ["--crops", args.crops, "--jobs", args.jobs, "--out", out]
    if args.effort:
        wanted += ["--effort", *args.effort]
    if args.threads:
        wanted += ["--threads", args.threads]
    if earlier or published:
        wanted += ["--reference", *earlier, *published]
    start = time.perf_counter()
    if evaluate.main([str(a) for a in wanted]):
        sys.exit(f"{name}: something failed, see above; nothing was copied")
    print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    rates = json.loads((out / "bd_rates.json").read_text(encoding="utf-8"))
    for path in stale:
        path.unlink()
    for codec in rates.pop("measured"):
        shutil.copy(out / f"{codec}.json", RESULTS / f"rd_{name}_{codec}.json")
    (RESULTS / f"rd_{name}_bd.json").write_text(json.dumps(rates, indent=1) + "\n", encoding="utf-8")
    for metric in ("psnr", "ms-ssim"):  # what all codecs were measured by, and the document shows
        shutil.copy(out / f"rd_{metric}.svg", DOCS / f"rd_{name}_{metric}.svg")


def times(found: list[curves.Curve], entries: list[dict]) -> list[str]:
    """What coding takes beside what it saves: of every curve with times, at the rate nearest to half a bit a pixel."""
    rates = {d["test"]: d["psnr"]["percent"] for d in entries}
    rows = []
    for curve in found:
        r = curve.result["results"]
        if "decoding_cpu_time" not in r or rates.get(curve.name) is None:
            continue
        k = min(range(len(r["bpp"])), key=lambda k: abs(r["bpp"][k] - 0.5))
        milliseconds = [f"{1000 * r[f'{what}_cpu_time'][k]:,.0f}" for what in ("encoding", "decoding")]
        rows.append(
            (rates[curve.name], [curve.label, f"{rates[curve.name]:+.1f} %", f"{r['bpp'][k]:.2f}", *milliseconds])
        )
    head = ["codec", f"BD-rate against {entries[0]['anchor_label']}", "at bpp", "encoding, CPU ms", "decoding, CPU ms"]
    return ["### Time beside rate", "", tables.markdown((head, [row for _, row in sorted(rows)])), ""]


def section(name: str) -> list[str]:
    """The part of the document that is about one data set."""
    title, text = DATA[name]
    path = RESULTS / f"rd_{name}_bd.json"
    if not path.is_file():
        return []
    rates = json.loads(path.read_text(encoding="utf-8"))
    rates["models"] = dict(sorted(rates["models"].items()))
    files = sorted(p for p in RESULTS.glob(f"rd_{name}_*.json") if p != path)
    found = curves.load_curves(files)
    absent = [name for name in codecs.CODECS if name not in {c.name for c in found}]
    lines = [f"## {title}", "", f"On {text}." + f" Not measured here yet: {', '.join(absent)}." * bool(absent), ""]
    lines += [f"![PSNR over rate](rd_{name}_psnr.svg)", "", f"![MS-SSIM over rate](rd_{name}_ms-ssim.svg)", ""]
    if len(rates["models"]) > 1:
        lines += ["### Ours against each", "", tables.markdown(tables.models_table(rates["models"])), ""]
    else:
        for label, entries in rates["models"].items():
            lines += [f"### {label} against each", "", tables.markdown(tables.bd_table(entries, "anchor")), ""]
    if everything := rates["everything"]:
        anchor = everything[0]
        lines += [f"### Each against {anchor['anchor_label']}", ""]
        lines += [tables.markdown(tables.bd_table(everything, "test")), ""]
        models = [d for entries in rates["models"].values() for d in entries]
        lines += times(found, [*everything, *(d for d in models if d["anchor"] == anchor["anchor"])])
    if rates.get("checks"):
        lines += [f"### {report.CHECKS_TITLE}", "", report.CHECKS, ""]
        lines += [tables.markdown(tables.checks_table(rates["checks"])), ""]
    lines += ["### Points", ""]
    for curve in sorted(found, key=lambda c: not c.model):
        e, jobs = curve.result["environment"], curve.result["jobs"]
        machine = f"{e['cpu']}, {e['cores']} cores, torch {e['torch']}, {jobs} job" + "s" * (jobs > 1)
        lines += [f"**{curve.label}**: {curve.result['description']}. {machine}.", ""]
        lines += [tables.markdown(tables.points_table(curve)), ""]
    return lines


def document() -> str:
    """docs/rate_distortion.md, from the committed results."""
    lines = ["<!-- Written by benchmarks/rate_distortion.py from benchmarks/results/rd_*.json. -->", ""]
    lines += ["# Rate and distortion", "", report.CONVENTIONS, ""]
    lines += [
        "Curves called *published* are from CompressAI's collection of results on Kodak (results/image/kodak in its"
        " repository, BSD 3-Clause Clear): codecs of 2020 and 2021 with their options, learned models as their authors"
        " trained them. They were not measured here, and their times are not shown.",
        "",
        "Cool-Chic 5.0's points are those that its authors have published (results/v5.0 in its repository, BSD"
        " 3-Clause). It trains a network for each picture, and so needs fewer bits than any codec above. That takes its"
        " encoder minutes a picture, by its authors' account; ours takes tenths of a second. Decoding is of one order:"
        " a twentieth to a tenth of a second for version 4.2, on the processor that its authors had.",
        "",
        "Seconds are means over the images of one call, on the wall and of its processors. The machine was not idle:"
        " wall seconds are upper bounds, processor seconds less so. For HEVC and VVC, which are commands, both hold the"
        " start of a process and its input and output.",
        "",
        "The other codecs are asked for the least squared error where they have a choice. Their users usually get"
        " something else. AVIF has tune=psnr and full chroma, HEVC tune psnr and full chroma, VVC qpa 0. Each codec's"
        " exact options stand above its points.",
        "",
    ]
    for name in DATA:
        lines += section(name)
    return wrapped("\n".join(lines).rstrip() + "\n")


def main() -> None:
    """Measure, write, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kodak", type=Path, metavar="DIR")
    parser.add_argument("--clic", type=Path, metavar="DIR")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="published results on Kodak")
    parser.add_argument("--models", nargs="*", default=["ccm-small"])
    parser.add_argument("--effort", nargs="*", help="of our encoder: one curve for each (default: its default)")
    parser.add_argument("--codecs", default="none", help="as for ccm-fast eval (default: none, they are committed)")
    parser.add_argument("--crops", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for name in DATA:
        if folder := getattr(args, name):
            measure(name, folder, args)
    target, text = DOCS / "rate_distortion.md", document()
    if args.check:
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            sys.exit(f"{target.name} is not what the results say: run python benchmarks/rate_distortion.py")
        return
    target.write_text(text, encoding="utf-8")
    print(f"written: {target}")


if __name__ == "__main__":
    main()

"""Rate and distortion as eyes see it, against AVIF as its encoder tunes itself: a table of results from a run of eval.

    ccm-fast eval KODAK -m ccm-small --tune default ms-ssim -c avif-iq -q 1 2 4 6 8 -o DIR
    python benchmarks/eyes.py DIR

Needs the packages of the extra `eval` and libjxl's butteraugli_main (Debian: libjxl-devtools). Images that are not
measured for all curves yet are left out: a run that is not over is a result of fewer images. benchmarks/readme.py makes
tables of what is written, benchmarks/results/eyes_kodak.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from common import save

from ccm_fast.evaluate import codecs, curves, tables

LABELS = {"ccm-small": "`ccm-small`", "ccm-small-ms-ssim": "`ccm-small --tune ms-ssim`", "avif-iq": "AVIF, tune=iq"}


def curve(name: str, records: list[dict]) -> curves.Curve:
    """The means over images at each setting."""
    found: dict[str, list[float]] = {"setting": sorted({r["setting"] for r in records})}
    sums = [[r for r in records if r["setting"] == setting] for setting in found["setting"]]
    for key, value in (
        ("bpp", lambda r: 8 * r["bytes"] / r["pixels"]),
        ("psnr-rgb", lambda r: r["psnr"]),
        ("ms-ssim-rgb", lambda r: r["ms_ssim"]),
        *((name, lambda r, name=name: r[name]) for name in curves.LOOKS),
    ):
        found[key] = [sum(map(value, rows)) / len(rows) for rows in sums]
    return curves.curve_of(
        {"name": LABELS[name], "results": found, "environment": {}, "model": name != "avif-iq"}, name, name
    )


def main() -> None:
    """Write the result file."""
    lines = Path(sys.argv[1], "cache.jsonl").read_text(encoding="utf-8").splitlines()
    records = [r for r in map(json.loads, lines) if r["codec"] in LABELS]
    ladder = {name: {r["setting"] for r in records if r["codec"] == name} for name in LABELS}
    done = {(r["codec"], r["image"]): set() for r in records}
    for r in records:
        done[r["codec"], r["image"]].add(r["setting"])
    images = sorted({i for _, i in done if all(done.get((name, i)) == ladder[name] for name in LABELS)})
    found = [curve(name, [r for r in records if r["codec"] == name and r["image"] in images]) for name in LABELS]
    result = {
        "images": images,
        "avif": codecs.classical("avif-iq").description,
        "model": codecs.model_codec("ccm-small").description,
        "curves": {c.label: c.result["results"] for c in found},
        "against_avif": tables.deltas([found[-1]], found[:-1]),
    }
    print(f"written: {save('eyes_kodak', result)}, {len(images)} images")


if __name__ == "__main__":
    main()

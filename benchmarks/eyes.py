"""Rate and distortion as eyes see it, against AVIF as its encoder tunes itself: a table of results from a run of eval.

    ccm-fast eval KODAK -m ccm-small ccm-small-msssim --tune default ms-ssim -c avif-iq -q 1 2 4 6 8 -o DIR
    python benchmarks/eyes.py DIR

Needs the packages of the extra `eval` and libjxl's butteraugli_main (Debian: libjxl-devtools). Images that are not
measured for all curves yet are left out: a run that is not over is a result of fewer images. benchmarks/readme.py makes
tables of what is written, benchmarks/results/eyes_kodak.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from common import save

from ccm_fast.evaluate import codecs, curves, tables
from ccm_fast.shipped import available

LABELS = {
    "ccm-small": "`ccm-small`",
    "ccm-small-ms-ssim": "`ccm-small --tune ms-ssim`",
    "ccm-small-msssim": "`ccm-small-msssim`",
    "ccm-small-msssim-ms-ssim": "`ccm-small-msssim --tune ms-ssim`",
    "avif-iq": "AVIF, tune=iq",
}
# Qualities at which pictures of equal size are compared.
PAIRS = (2.0, 4.0, 6.0)


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


def ahead(name: str, records: list[dict], metric: str) -> list[int]:
    """Photographs and qualities in which a codec's picture is better than AVIF's of its size, and how many there are.

    AVIF's is that of its curve for the photograph, between the settings on either side by the logarithm of the size;
    what lies beyond the curve is left out.
    """
    sign, wins, pairs = -1 if metric in curves.DISTANCES else 1, 0, 0
    for r in records:
        if r["codec"] != name or r["setting"] not in PAIRS:
            continue
        others = [o for o in records if o["codec"] == "avif-iq" and o["image"] == r["image"]]
        sizes, values = np.array(sorted((o["bytes"], o[metric]) for o in others)).T
        if sizes[0] <= r["bytes"] <= sizes[-1]:
            pairs += 1
            wins += bool(sign * (r[metric] - np.interp(np.log(r["bytes"]), np.log(sizes), values)) > 0)
    return [wins, pairs]


def main() -> None:
    """Write the result file."""
    lines = Path(sys.argv[1], "cache.jsonl").read_text(encoding="utf-8").splitlines()
    records = [r for r in map(json.loads, lines) if r["codec"] in LABELS]
    labels = [name for name in LABELS if any(r["codec"] == name for r in records)]
    ladder = {name: {r["setting"] for r in records if r["codec"] == name} for name in labels}
    done = {(r["codec"], r["image"]): set() for r in records}
    for r in records:
        done[r["codec"], r["image"]].add(r["setting"])
    images = sorted({i for _, i in done if all(done.get((name, i)) == ladder[name] for name in labels)})
    records = [r for r in records if r["image"] in images]
    found = [curve(name, [r for r in records if r["codec"] == name]) for name in labels]
    measures = ("psnr", "ms_ssim", *curves.LOOKS)
    result = {
        "images": images,
        "avif": codecs.classical("avif-iq").description,
        "models": [codecs.model_codec(name).description for name in labels if name in available()],
        "curves": {c.label: c.result["results"] for c in found},
        "against_avif": tables.deltas([found[-1]], found[:-1]),
        "ahead": {LABELS[name]: {m: ahead(name, records, m) for m in measures} for name in labels[:-1]},
    }
    print(f"written: {save('eyes_kodak', result)}, {len(images)} images")


if __name__ == "__main__":
    main()

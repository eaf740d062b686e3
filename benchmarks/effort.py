"""What each encoder effort gains (BD-rate against effort 1) and costs (seconds), on photographs of a folder.

Every file is written and decoded: real sizes, PSNR of 8-bit RGB. Seconds are the processor time of one thread, which a
busy machine disturbs little. High efforts take minutes per photograph, so `--images` takes so many, spread over the
folder, and `--keep` adds to the results that are there (of the same weights): each effort is compared with effort 1 on
its own images.

    python benchmarks/effort.py FOLDER [--images 24] [--efforts 1 2 3 4] [--qualities 2 4 6 8] [--keep]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, save
from PIL import Image
from tqdm import tqdm

import ccm_fast
from ccm_fast.effort import LEVELS
from ccm_fast.evaluate.curves import Curve, bd_rate


def one(model, x: torch.Tensor, quality: float, effort: int) -> dict:
    """Bits per pixel of the file, PSNR, and the seconds of encoding."""
    start = time.thread_time()
    out = ccm_fast.compress(model, x, quality, effort=effort, threads=1)
    seconds = time.thread_time() - start
    x_hat = (ccm_fast.decompress(model, **out, threads=1)["x_hat"] * 255).round() / 255
    size = 4 + sum(len(s) for part in out["strings"] for s in part)  # 4: the container's magic and version
    mse = float((x_hat - x).double().square().mean())
    return {"bpp": 8 * size / (x.shape[2] * x.shape[3]), "psnr": -10 * math.log10(mse), "seconds": seconds}


def curve(effort: str, rows: dict[str, dict]) -> Curve:
    """Means over images, by quality."""
    settings = next(iter(rows.values()))
    means = {key: [statistics.mean(r[q][key] for r in rows.values()) for q in settings] for key in ("bpp", "psnr")}
    return Curve(effort, effort, means["bpp"], {"psnr": means["psnr"]}, effort)


def summary(rows: dict[str, dict[str, dict]]) -> dict[str, dict]:
    """By effort: BD-rate against effort 1 on the same images, changes of size and PSNR, seconds."""
    result = {}
    for effort, own in rows.items():
        base, test = curve("1", {name: rows["1"][name] for name in own}), curve(effort, own)
        delta = bd_rate(base, test)
        result[effort] = {
            "images": len(own),
            "bd_rate_percent": delta.percent,
            "reason": delta.reason,
            "bpp_percent": [100 * (t / b - 1) for t, b in zip(test.bpp, base.bpp, strict=True)],
            "psnr_db": [t - b for t, b in zip(test.quality["psnr"], base.quality["psnr"], strict=True)],
            "seconds": statistics.median(r["seconds"] for image in own.values() for r in image.values()),
            "longest_seconds": max(r["seconds"] for image in own.values() for r in image.values()),
        }
    return result


def main() -> None:
    """Measure, print, write benchmarks/results/effort.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--efforts", type=int, nargs="+", default=[1, 2, 3, 4], choices=list(LEVELS))
    parser.add_argument("--qualities", type=float, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--keep", action="store_true", help="add to the results that are there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ccm_fast.load(args.model)
    paths = sorted(args.folder.glob("*.png"))
    paths = paths[:: max(1, len(paths) // args.images)][: args.images]
    qualities = [f"{q:g}" for q in args.qualities]
    about = {"model": args.model, "fingerprint": model.frozen.fingerprint.hex(), "qualities": qualities}
    rows: dict[str, dict[str, dict]] = {}
    if args.keep and (RESULTS / "effort.json").is_file():
        earlier = json.loads((RESULTS / "effort.json").read_text(encoding="utf-8"))
        if any(earlier[key] != value for key, value in about.items()):
            parser.error("effort.json is of other qualities or weights: measure all efforts anew, without --keep")
        rows = earlier["rows"]
    efforts = sorted({1, *args.efforts})
    missing = {p: [e for e in efforts if p.stem not in rows.get(str(e), {})] for p in paths}
    with tqdm(total=sum(len(m) for m in missing.values()) * len(qualities), unit="file") as bar:
        for path, wanted in missing.items():
            with Image.open(path) as image:
                x = torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1)[None].float() / 255
            for quality in qualities:
                for effort in wanted:  # in turns
                    found = rows.setdefault(str(effort), {}).setdefault(path.stem, {})
                    found[quality] = one(model, x, float(quality), effort)
                    bar.update()
    rows = dict(sorted(rows.items(), key=lambda item: int(item[0])))
    result = summary(rows)
    for effort, r in result.items():
        gain = r["reason"] if r["bd_rate_percent"] is None else f"{r['bd_rate_percent']:+.2f} %"
        print(f"effort {effort}: {r['images']} images, BD-rate {gain}, {r['seconds']:.2f} s an image")
    print("written to", save("effort", {**about, "summary": result, "rows": rows}))


if __name__ == "__main__":
    main()

"""What transforms in 16-bit integers cost: files and pictures against those of float transforms.

    python benchmarks/precision.py KODAK [--preset ccm-small] [--qualities 2 4 6 8]

Every picture is encoded and decoded by ``ccm-small`` with float transforms and with integer ones, default effort, real
bytes; and by the small nets of CompressAI's classes that compressai_nets.py has trained, where they lie in
runs/compressai (the middle 512x512 of the pictures). Means over the pictures; BD-rate over the qualities.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import compressai_nets as nets
import torch
from common import save
from compressai_rate import psnr, read

import ccm_fast
from ccm_fast.evaluate.curves import Curve, bd_rate
from ccm_fast.train.data import load_images

PRECISIONS = ("float32", "int16")
CROPPED = 4  # pictures that CompressAI's nets are compared on


def more_bits(rows: list[dict]) -> float | None:
    """Percent of bits that integers take more at equal PSNR."""

    def curve(kind: str) -> Curve:
        points = {what: [row[kind][what] for row in rows] for what in ("bpp", "psnr")}
        return Curve(kind, kind, points["bpp"], {"psnr": points["psnr"]}, kind)

    return bd_rate(*map(curve, PRECISIONS)).percent


def mean_row(results: dict[str, list[tuple[float, float]]], apart: list[float], **who) -> dict:
    """Bits per pixel and PSNR of each precision; how far pictures of the same latents are apart, in levels of 255."""
    row: dict = dict(who)
    for kind in PRECISIONS:
        bpp, quality = (sum(v) / len(v) for v in zip(*results[kind], strict=True))
        row[kind] = {"bpp": bpp, "psnr": quality}
    row["levels_apart"] = 255 * (sum(apart) / len(apart)) ** 0.5
    return row


def measure(pictures: list[torch.Tensor], code, decode, **who) -> dict:
    """code(kind, x): strings and shape; decode(kind, out): picture."""
    results: dict[str, list[tuple[float, float]]] = {kind: [] for kind in PRECISIONS}
    apart = []
    for x in pictures:
        for kind in PRECISIONS:
            out = code(kind, x)
            x_hat = decode(kind, out)
            pixels = x.shape[2] * x.shape[3]
            size = sum(len(s) for part in out["strings"] for s in part)
            results[kind].append((8 * size / pixels, psnr((x_hat * 255).round() / 255, x)))
        other = decode("float32", out)
        apart.append(float((other - x_hat).square().mean()))
    row = mean_row(results, apart, **who)
    change = [100 * (row["int16"]["bpp"] / row["float32"]["bpp"] - 1), row["int16"]["psnr"] - row["float32"]["psnr"]]
    print(f"{who}: bytes {change[0]:+.4f} %, PSNR {change[1]:+.5f} dB, apart {row['levels_apart']:.4f}", flush=True)
    return row


def main() -> None:
    """Measure, print, write benchmarks/results/precision.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kodak", type=Path)
    parser.add_argument("--preset", default="ccm-small")
    parser.add_argument("--qualities", type=float, nargs="+", default=[2, 4, 6, 8])
    parser.add_argument("--train", type=Path, nargs="*", help="photographs that CompressAI's nets are calibrated on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(args.kodak.glob("*.png"))
    pictures = [read(p, None) for p in paths]
    model = ccm_fast.load(args.preset)
    rows = []
    for quality in args.qualities:

        def code(kind: str, x: torch.Tensor, quality: float = quality) -> dict:
            ccm_fast.set_transform_precision(kind)
            return ccm_fast.compress(model, x, quality)

        def decode(kind: str, out: dict) -> torch.Tensor:
            ccm_fast.set_transform_precision(kind)
            return ccm_fast.decompress(model, **out)["x_hat"]

        rows.append(measure(pictures, code, decode, quality=quality))
    result = {"nets": [{"net": args.preset, "images": len(pictures), "rows": rows, "bd_rate_percent": more_bits(rows)}]}
    photographs = load_images(args.train) if args.train else []
    # Of the others, layers have at most 32 channels, which floats are faster for.
    for kind in ("mbt2018", "mbt2018-mean") if photographs else ():
        if not all(nets.path_of(kind, x).exists() for x in nets.LAMBDAS):
            print(f"{kind}: skipped, not trained (compressai_nets.py)")
            continue
        crops = [read(p, 512) for p in paths[:: len(paths) // CROPPED]]
        rows = []
        for x in nets.LAMBDAS:
            net, fast = nets.load(kind, x), {}
            for precision in PRECISIONS:
                ccm_fast.set_transform_precision(precision)
                fast[precision] = ccm_fast.accelerate(net, [photographs[k] for k in range(32)], steps=40)
            rows.append(
                measure(
                    crops,
                    lambda k, image, fast=fast: fast[k].compress(image),
                    lambda k, out, fast=fast: fast[k].decompress(**out)["x_hat"],
                    **{"lambda": x},
                )
            )
        result["nets"].append({"net": kind, "images": len(crops), "rows": rows, "bd_rate_percent": more_bits(rows)})
    for net in result["nets"]:
        print(f"{net['net']}: BD-rate {net['bd_rate_percent']:+.4f} %")
    print("written to", save("precision", result))


if __name__ == "__main__":
    main()

"""What the integers cost in rate: real bytes of accelerated nets against CompressAI's own, at equal PSNR.

    python benchmarks/compressai_rate.py --kodak FOLDER --train TAR...

Nets trained by compressai_nets.py (what is missing is trained first), four rates; BD-rate (package bjontegaard). Each
image is coded by CompressAI's compress and decoded by the exact path (the same picture, bit for bit, as its
decompress), and by the accelerated net, once calibrated on photographs and once on our own pictures.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import compressai_nets as nets
import numpy as np
import torch
from common import save
from PIL import Image

import ccm_fast
from ccm_fast.train.data import load_images


def read(path: Path, crop: int | None) -> torch.Tensor:
    """float [1, 3, H, W]; the middle of the picture, if ``crop``."""
    x = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
    if crop:
        i, j = ((s - crop) // 2 for s in x.shape[2:])
        x = x[..., i : i + crop, j : j + crop]
    return x


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """In dB."""
    return float(-10 * torch.log10((a - b).square().mean()))


def main() -> None:
    """Run, print, write benchmarks/results/compressai_rate_KIND.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kodak", type=Path, required=True, help="folder of PNG files")
    parser.add_argument("--train", type=Path, nargs="+", required=True, help="tar shards or folders of photographs")
    parser.add_argument("--kind", default="mbt2018", choices=list(nets.KINDS))
    parser.add_argument("--images", type=int, default=6, help="of the folder, evenly spread")
    parser.add_argument("--crop", type=int, help="side of the middle square to take instead of whole images")
    parser.add_argument("--calibration", type=int, default=32, help="photographs, of the last shard")
    parser.add_argument("--steps", type=int, help="of fine-tuning; accelerate's default if left out")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if nets.compressai_models() is None:
        return
    import bjontegaard

    nets.ensure(args.kind, args.train)
    files = sorted(args.kodak.glob("*.png"))
    files = files[:: max(1, len(files) // args.images)][: args.images]
    pictures = [read(f, args.crop) for f in files]
    pixels = sum(x.numel() / 3 for x in pictures)
    photographs = load_images(args.train[-1:])[: args.calibration]
    points: dict[str, list[tuple[float, float]]] = {"compressai": [], "photographs": [], "own pictures": []}
    excess: dict[str, list[list[float]]] = {"photographs": [], "own pictures": []}
    for lmbda in nets.LAMBDAS:
        net = nets.load(args.kind, lmbda)
        for name, images in (("photographs", photographs), ("own pictures", None)):
            history: list[float] = []
            fast = ccm_fast.accelerate(net, images, steps=args.steps, history=history)
            excess[name].append([history[0], history[-1]])
            size = quality = 0.0
            for x in pictures:
                out = fast.compress(x)
                size += sum(len(s[0]) for s in out["strings"])
                quality += psnr(fast.decompress(out["strings"], out["shape"])["x_hat"], x)
            points[name].append((8 * size / pixels, quality / len(pictures)))
        size = quality = 0.0
        for x in pictures:
            with torch.no_grad():
                out = net.compress(x)
            size += sum(len(s[0]) for s in out["strings"])
            quality += psnr(fast.decompress(out["strings"], out["shape"])["x_hat"], x)
        points["compressai"].append((8 * size / pixels, quality / len(pictures)))
        for name, found in points.items():
            print(f"{lmbda:<7g} {name:13} {found[-1][0]:.4f} bpp {found[-1][1]:.3f} dB", flush=True)
    result = {
        "kind": args.kind,
        "images": [f.name for f in files],
        "crop": args.crop,
        "steps": args.steps,
        "points": points,
    }
    result["excess_before_and_after_fine_tuning"] = excess
    anchor = np.array(sorted(points["compressai"])).T
    result["bd_rate_percent"] = {}
    for name in excess:
        test = np.array(sorted(points[name])).T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of too little overlap, where nets were trained briefly
            bd = bjontegaard.bd_rate(*anchor, *test, method="akima", require_matching_points=False, min_overlap=0)
        # Where four short trainings give no rising curve, the plain ratio of bytes still says it.
        ratio = float(np.mean([b[0] / a[0] - 1 for a, b in zip(points["compressai"], points[name], strict=True)]))
        gain = float(np.mean([b[1] - a[1] for a, b in zip(points["compressai"], points[name], strict=True)]))
        result["bd_rate_percent"][name] = float(bd)
        result.setdefault("bytes_percent", {})[name] = 100 * ratio
        result.setdefault("psnr_difference", {})[name] = gain
        print(f"{name}: BD-rate {bd:+.2f} %, bytes {100 * ratio:+.2f} %, PSNR {gain:+.3f} dB")
    print("written to", save(f"compressai_rate_{args.kind}", result))


if __name__ == "__main__":
    main()

"""Processor time of small pictures: reduced decoding beside decoding whole and scaling down, of .ccm and of JPEG.

    python benchmarks/thumbnails.py PICTURES...      # writes benchmarks/results/thumbnails.json

JPEG files have the PSNR of the .ccm ones. All ways take turns; what counts is the processor time of one thread, the
median over rounds and pictures. "Close" is the PSNR of the reduced picture against the whole one scaled down by means
of blocks, beside that of either against the original scaled down. benchmarks/readme.py makes a table for
docs/pictures.md of it.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import save
from loading import of_quality
from PIL import Image

import ccm_fast
from ccm_fast.psnr import psnr

FACTORS = (2, 4, 8)


def _scaled(pixels: np.ndarray, factor: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).reduce(factor))


def _draft(data: bytes, factor: int) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("RGB", (image.width // factor, image.height // factor))
        return np.asarray(image)


def measure(paths: list[Path], quality: float, rounds: int) -> dict:
    """The whole measurement."""
    codec = ccm_fast.Codec.load(threads=1)
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    own = [codec.encode(photo, quality, threads=1) for photo in photos]
    jpeg = [
        of_quality("JPEG", photo, psnr(photo, codec.decode(data, threads=1)))[0]
        for photo, data in zip(photos, own, strict=True)
    ]
    ways: dict[str, dict[int, Callable[[bytes], np.ndarray]]] = {
        "whole": {f: lambda data, f=f: _scaled(codec.decode(data, threads=1), f) for f in FACTORS},
        "reduced": {f: lambda data, f=f: codec.decode(data, threads=1, reduce=f) for f in FACTORS},
        "jpeg whole": {f: lambda data, f=f: _scaled(_draft(data, 1), f) for f in FACTORS},
        "jpeg reduced": {f: lambda data, f=f: _draft(data, f) for f in FACTORS},
    }
    results: dict[str, dict] = {}
    for factor in FACTORS:
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        found: dict[str, list[float]] = {f"{way} {k}": [] for way in ways for k in ("psnr", "close")}
        for round_ in range(rounds):
            for k, photo in enumerate(photos):
                small = {}
                for way, decoders in ways.items():
                    data = (jpeg if way.startswith("jpeg") else own)[k]
                    start = time.process_time()
                    small[way] = decoders[factor](data)
                    seconds[way].append(time.process_time() - start)
                if round_:
                    continue
                for way, pixels in small.items():
                    found[f"{way} psnr"].append(psnr(_scaled(photo, factor), pixels))
                    if "reduced" in way:
                        found[f"{way} close"].append(psnr(small[way.replace("reduced", "whole")], pixels))
        results[str(factor)] = {
            way: {
                "seconds": statistics.median(seconds[way]),
                "psnr": statistics.mean(found[f"{way} psnr"]),
                "close": statistics.mean(found[f"{way} close"]) if found[f"{way} close"] else None,
            }
            for way in ways
        }
    pixels = sum(photo.shape[0] * photo.shape[1] for photo in photos)
    head = {"pictures": len(photos), "pixels": pixels, "quality": quality, "weights": codec.fingerprint.hex()}
    return {**head, "factors": results}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(save("thumbnails", measure(args.paths, args.quality, args.rounds)))


if __name__ == "__main__":
    main()

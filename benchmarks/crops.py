"""Crops of photographs as files of one size show them: the original, AVIF at tune=iq, and our models.

    python benchmarks/crops.py KODAK docs/looks.webp

Every file is as large as that of `ccm-small` at quality 2, or up to 7 % smaller where AVIF has no setting between.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import ccm_fast
from ccm_fast.evaluate import codecs

# Photograph, and (left, top) of its crop: hair, skin with paint, feathers, trees. Crops are this wide and high.
CROPS = [("kodim04", (180, 130)), ("kodim15", (300, 130)), ("kodim23", (430, 60)), ("kodim13", (300, 20))]
WIDTH, HEIGHT = 224, 160
QUALITY = 2.0
# Of the crops themselves, as WebP: what is compared must not be the figure's own errors.
KEPT = 92


def at_most(encode: Callable[[float], bytes], settings: list[float], size: int) -> bytes:
    """The largest file of at most so many bytes, of settings in order of rate."""
    low, high = 0, len(settings)
    best = encode(settings[0])
    while high - low > 1:
        middle = (low + high) // 2
        data = encode(settings[middle])
        if len(data) <= size:
            low, best = middle, data
        else:
            high = middle
    return best


def row(pixels: np.ndarray, left: int, top: int) -> list[np.ndarray]:
    """The crops of one photograph."""
    ours = [ccm_fast.Codec.load(name) for name in ("ccm-small", "ccm-small-msssim")]
    avif = codecs.classical("avif-iq")
    first = ours[0].encode(pixels, quality=QUALITY)
    files = {
        "AVIF": at_most(lambda q: avif.encode(pixels, q), [float(q) for q in range(1, 80)], len(first)),
        "looks": at_most(lambda q: ours[1].encode(pixels, quality=q), [1 + k / 32 for k in range(225)], len(first)),
    }
    print({name: round(len(data) / len(first), 3) for name, data in files.items()}, flush=True)
    shown = [
        pixels,
        avif.decode(files["AVIF"], pixels.shape[:2]),
        ours[0].decode(first),
        ours[1].decode(files["looks"]),
    ]
    return [picture[top : top + HEIGHT, left : left + WIDTH] for picture in shown]


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kodak", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    rows = []
    for name, (left, top) in CROPS:
        with Image.open(args.kodak / f"{name}.png") as image:
            rows.append(np.concatenate(row(np.asarray(image.convert("RGB")), left, top), 1))
    Image.fromarray(np.concatenate(rows)).save(args.out, quality=KEPT, method=6)


if __name__ == "__main__":
    main()

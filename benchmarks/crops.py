"""Crops of photographs as files of one size show them: the original, AVIF at tune=iq, and our models.

    python benchmarks/crops.py KODAK docs/looks.webp

Every file is as large as that of `ccm-small` at quality 2, or up to 7 % smaller where AVIF has no setting between.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from ccm_fast.evaluate import codecs, crops

# Photograph, and (left, top) of its crop: hair, skin with paint, feathers, trees. Crops are this wide and high.
CROPS = [("kodim04", (180, 130)), ("kodim15", (300, 130)), ("kodim23", (430, 60)), ("kodim13", (300, 20))]
WIDTH, HEIGHT = 224, 160
QUALITY = 2.0
# Of the crops themselves, as WebP: what is compared must not be the figure's own errors.
KEPT = 92


def row(pixels: np.ndarray, left: int, top: int) -> list[np.ndarray]:
    """The crops of one photograph."""
    ours, looks, avif = (*map(codecs.model_codec, ("ccm-small", "ccm-small-msssim")), codecs.classical("avif-iq"))
    first = ours.encode(pixels, QUALITY)
    others = {codec: crops.fit(codec, pixels, len(first))[1] for codec in (avif, looks)}
    print({codec.name: round(len(data) / len(first), 3) for codec, data in others.items()}, flush=True)
    files = {avif: others[avif], ours: first, looks: others[looks]}
    shown = [pixels, *(codec.decode(data, pixels.shape[:2]) for codec, data in files.items())]
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

"""Blocks and casts at low qualities, as the model card gives them.

    python benchmarks/blocks.py KODAK [MODEL ...]

Blocks: the mean difference of neighbouring rows and columns of luma in smooth areas of decoded pictures, by their place
among the 16 of a latent; place 0 is where blocks meet. Casts: the mean error of R - G and B - G in near-grey squares.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import uniform_filter

import ccm_fast

# Smooth: the originals' standard deviation of luma in a square of this side, which spans the border of two blocks.
SQUARE, SMOOTH = 17, 4.0
# Near grey: means of squares whose colours differ by less than this, in levels.
SIDE, GREY = 32, 12.0
BLOCK = 16


def luma(pixels: np.ndarray) -> np.ndarray:
    """Of uint8 [H, W, 3], float64 [H, W]."""
    return np.asarray(Image.fromarray(pixels).convert("L")).astype(float)


def steps(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """[2, 16]: sums of differences in smooth areas by place, and how many there are."""
    y = luma(original)
    variance = uniform_filter(y * y, SQUARE) - uniform_filter(y, SQUARE) ** 2
    smooth, found = variance < SMOOTH**2, np.zeros((2, BLOCK))
    for seen, kept in ((luma(decoded), smooth), (luma(decoded).T, smooth.T)):
        differences, where = np.abs(np.diff(seen, axis=0)), kept[1:]
        for place in range(BLOCK):
            chosen = np.arange(1, len(differences) + 1) % BLOCK == place
            found[:, place] += differences[chosen][where[chosen]].sum(), where[chosen].sum()
    return found


def casts(original: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """[2]: the sum of absolute errors of R - G and B - G over near-grey squares, and how many numbers that are."""
    height, width = (s // SIDE * SIDE for s in original.shape[:2])
    differences = []
    for pixels in (original, decoded):
        squares = pixels[:height, :width].astype(float).reshape(height // SIDE, SIDE, width // SIDE, SIDE, 3)
        means = squares.mean((1, 3))
        differences.append(means[..., [0, 2]] - means[..., 1:2])
    grey = np.abs(differences[0]).max(-1) < GREY
    errors = np.abs(differences[1] - differences[0])[grey]
    return np.array([errors.sum(), errors.size])


def main() -> None:
    """Print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kodak", type=Path)
    parser.add_argument("models", nargs="*", default=["ccm-small", "ccm-small-msssim"])
    args = parser.parse_args()
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(args.kodak.glob("*.png"))]
    for name in args.models:
        codec = ccm_fast.Codec.load(name)
        for quality in (1, 2, 4):
            decoded = codec.decode([codec.encode(p, quality=quality) for p in pictures])
            sums, counts = sum(map(steps, pictures, decoded))
            error, squares = sum(map(casts, pictures, decoded))
            print(name, quality, "steps", *np.round(sums / counts, 2), "casts", round(error / squares, 2), flush=True)


if __name__ == "__main__":
    main()

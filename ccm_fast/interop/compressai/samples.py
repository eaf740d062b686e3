"""Pictures to calibrate on where the caller has none: dead leaves.

Overlapping discs of random size, colour, gradient and grain, with sizes spread so that the picture has the statistics
of photographs across scales (Lee, Mumford, Huang 2001: edges, flat areas, a 1 / f^2 spectrum). What calibrating on them
costs against photographs is in docs/compressai.md; nothing has to be shipped or found.
"""

from __future__ import annotations

import numpy as np

__all__ = ["dead_leaves"]


def dead_leaves(count: int, size: int = 256, seed: int = 0) -> list[np.ndarray]:
    """Pictures, uint8 [size, size, 3]."""
    rng = np.random.default_rng(seed)
    return [_one(rng, size) for _ in range(count)]


def _one(rng: np.random.Generator, size: int) -> np.ndarray:
    i, j = np.mgrid[:size, :size].astype(np.float32)
    image = np.zeros((size, size, 3), np.float32)
    hue = rng.uniform(0, 1, 3)  # a picture's colours resemble each other
    low, high = 2.0, 0.75 * size
    leaves = int(rng.integers(80, 400))
    for _ in range(leaves):
        # Radii with density r^-3: the same share of area at every scale.
        u = rng.random()
        r = (low**-2 + u * (high**-2 - low**-2)) ** -0.5 * (8 if rng.random() < 0.3 else 1)
        a, b = rng.uniform(-r, size + r, 2)
        top, bottom = max(0, int(a - r)), min(size, int(a + r) + 2)
        left, right = max(0, int(b - r)), min(size, int(b + r) + 2)
        if top >= bottom or left >= right:
            continue
        y, x = i[top:bottom, left:right] - a, j[top:bottom, left:right] - b
        colour = 0.5 * hue + 0.5 * rng.uniform(0, 1, 3) if rng.random() < 0.7 else np.full(3, rng.uniform(0, 1))
        slope = rng.normal(0, 0.15, 2) / max(r, 8)
        leaf = colour + (slope[0] * y + slope[1] * x)[..., None]
        if rng.random() < 0.4:  # grain or stripes
            angle, period = rng.uniform(0, np.pi), rng.uniform(3, 16)
            stripes = np.sin((y * np.sin(angle) + x * np.cos(angle)) * (2 * np.pi / period))
            leaf = leaf + rng.uniform(0, 0.1) * stripes[..., None]
        leaf = leaf + rng.uniform(0, 0.06) * rng.standard_normal((*y.shape, 1))
        inside = np.clip(r - np.hypot(y, x) + 0.5, 0, 1)[..., None]  # smooth edges
        part = image[top:bottom, left:right]
        part += inside * (leaf - part)
    return np.clip(image * 255, 0, 255).astype(np.uint8)

"""What picture filters gain and cost: files with and without theirs, their pictures, and the decoder's time.

    python benchmarks/picture_filter.py KODAK

Writes results/picture_filter.json, which docs/effort.md shows.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import bjontegaard
import numpy as np
from common import save
from PIL import Image

from ccm_fast import Codec
from ccm_fast.evaluate.metrics import ms_ssim
from ccm_fast.psnr import psnr
from ccm_fast.stream.container import FILTER, parse_container, write_container

QUALITIES = (1, 2, 4, 6, 8)
REPEATS = 5


def _seconds(codec: Codec, data: bytes) -> float:
    start = time.process_time()
    codec.decode(data, threads=1)
    return time.process_time() - start


def measure(codec: Codec, pixels: np.ndarray, quality: float) -> dict[str, dict[str, float]]:
    """Bytes, quality and times of a file as it is ("with") and of the same file "without" its filter."""
    stages: dict[str, float] = {}
    data = codec.encode(pixels, quality=quality, threads=1, timings=stages)
    container = parse_container(data)
    rest = {kind: content for kind, content in container.chunks.items() if kind != FILTER}
    files = {"with": data, "without": write_container(bytes(container.packet), rest)}
    seconds: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(REPEATS):
        for name, file in files.items():
            seconds[name].append(_seconds(codec, file))
    out: dict[str, dict[str, float]] = {}
    for name, file in files.items():
        decoded = codec.decode(file)
        out[name] = {
            "bytes": len(file),
            "psnr": float(psnr(decoded, pixels)),
            "ms_ssim": float(ms_ssim(pixels, decoded) or 0),
            "decode": statistics.median(seconds[name]),
            "encode": sum(stages.values()) - (stages["filter"] if name == "without" else 0),
        }
    return out


def main() -> None:
    """Measure all photographs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kodak", type=Path)
    args = parser.parse_args()
    codec = Codec.load("ccm-small", threads=1)
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(args.kodak.glob("*.png"))]
    levels = []
    for quality in QUALITIES:
        found = [measure(codec, pixels, quality) for pixels in pictures]
        means = {
            name: {key: float(np.mean([one[name][key] for one in found])) for key in found[0][name]}
            for name in ("with", "without")
        }
        levels.append({"quality": quality, **means})
        print(quality, means, flush=True)
    rates = [[one[name]["bytes"] for one in levels] for name in ("without", "with")]
    gains = {
        metric: bjontegaard.bd_rate(
            rates[0],
            [scale(one["without"][metric]) for one in levels],
            rates[1],
            [scale(one["with"][metric]) for one in levels],
            method="pchip",
        )
        for metric, scale in (("psnr", float), ("ms_ssim", lambda v: -10 * np.log10(1 - v)))
    }
    print(gains)
    save("picture_filter", {"model": "ccm-small", "pictures": len(pictures), "levels": levels, "bd_rate": gains})


if __name__ == "__main__":
    main()

"""Processor time and memory of parts of large pictures, by `ccm-fast decode --crop` to PPM, beside whole ones.

    python benchmarks/parts.py PICTURES... --megapixels 25 178      # writes benchmarks/results/parts.json

The large pictures are mosaics of the given ones. Parts lie in the middle. Each command is a process of its own; what
counts is the least processor time of some rounds, and its largest resident memory. benchmarks/readme.py makes a table
for docs/pictures.md of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import save
from PIL import Image

import ccm_fast

# Runs a command and prints its processor seconds and its peak memory in KiB. A small process does so, since a new one's
# peak begins with the memory of the one that makes it.
RUN = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
SIDES = (None, 1024, 256)  # of parts; None: all of the picture


def mosaic(photos: list[np.ndarray], pixels: int) -> np.ndarray:
    """A picture of at most so many pixels, 3 to 2, of photographs side by side, each cut to the size of the least."""
    height = int((pixels / 1.5) ** 0.5)
    width = pixels // height
    h, w = (min(photo.shape[axis] for photo in photos) for axis in (0, 1))
    rows = [
        np.concatenate([photos[(i + j) % len(photos)][:h, :w] for j in range(-(-width // w))], 1)[:, :width]
        for i in range(-(-height // h))
    ]
    return np.ascontiguousarray(np.concatenate(rows)[:height])


def run(arguments: list[str]) -> tuple[float, float]:
    """Processor seconds and peak megabytes of a command."""
    command = [sys.executable, "-m", "ccm_fast", *arguments]
    done = subprocess.run([sys.executable, "-c", RUN, *command], check=True, capture_output=True, text=True)
    seconds, kilobytes = map(float, done.stdout.split())
    return seconds, kilobytes * 1024 / 1e6


def measure(paths: list[Path], megapixels: list[float], quality: float, rounds: int) -> dict:
    """The whole measurement."""
    codec = ccm_fast.Codec.load()
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder, "a.ccm"), Path(folder, "a.ppm")
        for size in megapixels:
            picture = mosaic(photos, int(size * 1e6))
            height, width = picture.shape[:2]
            file.write_bytes(codec.encode(picture, quality, effort=1))
            del picture
            for side in SIDES:
                part = [] if side is None else ["--crop", f"{side}x{side}+{(width - side) // 2}+{(height - side) // 2}"]
                runs = [run(["decode", "--quiet", "-f", *part, str(file), str(out)]) for _ in range(rounds)]
                seconds, memory = (min(values) for values in zip(*runs, strict=True))
                results.append({"width": width, "height": height, "side": side, "seconds": seconds, "memory": memory})
    return {"pictures": len(paths), "quality": quality, "weights": codec.fingerprint.hex(), "parts": results}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--megapixels", nargs="+", type=float, default=[25.0])
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    print(save("parts", measure(args.paths, args.megapixels, args.quality, args.rounds)))


if __name__ == "__main__":
    main()

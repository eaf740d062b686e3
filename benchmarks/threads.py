"""Decoding on one thread and on two, in pairs, alone and beside a process that keeps one core busy.

python benchmarks/threads.py [--model ccm-small] [--repeats 15]

Both decode the same file by turns, so that what else the machine does falls on both alike. `ratio` is the median of
the pairs' quotients, two threads over one; `best` is the quotient of the least times.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from common import save
from PIL import Image

from ccm_fast.native import Codec

SIZES = ((768, 512), (3840, 2160))


def picture(width: int, height: int) -> np.ndarray:
    """Noise with a photograph's spectrum, uint8 [height, width, 3]."""
    rng = np.random.default_rng(0)
    out, octave, amplitude = np.zeros((height, width, 3), np.float32), 2, 1.0
    while octave < max(width, height):
        columns, rows = min(width, octave), max(1, min(height, octave * height // width))
        for c, noise in enumerate(rng.standard_normal((3, rows, columns)) + rng.standard_normal((rows, columns))):
            small = Image.fromarray(noise.astype(np.float32))
            out[..., c] += amplitude * np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))
        octave, amplitude = 2 * octave, 0.55 * amplitude
    return np.rint(255 * np.clip((out - out.mean()) / (4 * out.std()) + 0.5, 0, 1)).astype(np.uint8)


@contextmanager
def busy_process(wanted: bool) -> Iterator[None]:
    """One that computes without end, of the same priority."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if process:
            process.kill()
            process.wait()


def decode(codec: Codec, file, threads: int) -> dict[str, float]:
    """Milliseconds by stage, of the whole, and of all threads' processor time."""
    begin, cpu = time.perf_counter(), time.process_time()
    ((_, _, seconds),) = codec.decode_files([file], threads)
    seconds = {**seconds, "all": time.perf_counter() - begin, "cpu": time.process_time() - cpu}
    return {stage: 1000 * value for stage, value in seconds.items()}


def pairs(codec: Codec, data: bytes, repeats: int) -> dict:
    """One thread and two, by turns."""
    file = codec.open_file(data)
    runs = {1: [], 2: []}
    for threads in runs:
        decode(codec, file, threads)
    for repeat in range(repeats):
        for threads in sorted(runs, reverse=bool(repeat % 2)):
            runs[threads].append(decode(codec, file, threads))
    stages = list(runs[1][0])
    quotients = {s: [b[s] / a[s] for a, b in zip(runs[1], runs[2], strict=True)] for s in stages}
    return {
        "ratio": {s: round(statistics.median(quotients[s]), 3) for s in stages},
        "best": {s: round(min(r[s] for r in runs[2]) / min(r[s] for r in runs[1]), 3) for s in stages},
        "ms": {t: {s: round(statistics.median(r[s] for r in of), 2) for s in stages} for t, of in runs.items()},
    }


def main() -> None:
    """Measure, print, write benchmarks/results/threads.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--keep", action="store_true", help="print only")
    args = parser.parse_args()
    codec = Codec.load(args.model)
    cases = []
    for width, height in SIZES:
        data = codec.encode(picture(width, height), 4)
        repeats = args.repeats if width < 1000 else max(3, args.repeats // 3)
        for busy in (False, True):
            with busy_process(busy):
                found = pairs(codec, data, repeats)
            cases.append({"width": width, "height": height, "busy": busy, "bytes": len(data), **found})
            print(f"{width}x{height} {'beside a busy process' if busy else 'alone'}")
            for stage in found["ratio"]:
                one, two = (found["ms"][t][stage] for t in (1, 2))
                quotient = f"ratio {found['ratio'][stage]:.3f}, of the least {found['best'][stage]:.3f}"
                print(f"  {stage:8} {one:8.2f} ms  {two:8.2f} ms  {quotient}")
    if not args.keep:
        print("written to", save("threads", {"model": args.model, "cases": cases}))


if __name__ == "__main__":
    main()

"""Decoding on one thread and on two, in pairs, alone and beside a process that keeps one core busy.

python benchmarks/threads.py [--model ccm-small] [--blocks 9]

Both decode the same file by turns, in blocks of some decodings, so that what else the machine does falls on both alike
and neither inherits where the system has put the other's threads: the first third of a block does not count. `ratio`
is the median of the blocks' quotients, two threads over one; `best` is the quotient of the least times. The busy
process is in this session ("beside"), or in one of its own ("apart"), as another user's is: Linux divides cores among
sessions first.
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
BUSY = {
    "": "alone",
    "beside": "beside a busy process of this session",
    "apart": "beside a busy process of another session",
}


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
def busy_process(where: str) -> Iterator[None]:
    """One that computes without end, of the same priority."""
    command = [sys.executable, "-c", "while True: pass"]
    process = subprocess.Popen(command, start_new_session=where == "apart") if where else None
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


def pairs(codec: Codec, data: bytes, blocks: int, length: int) -> dict:
    """One thread and two, by turns, so many blocks of each of so many decodings."""
    file = codec.open_file(data)
    runs = {1: [], 2: []}
    for block in range(blocks):
        for threads in sorted(runs, reverse=bool(block % 2)):
            found = [decode(codec, file, threads) for _ in range(length)][length // 3 :]
            runs[threads].append({s: statistics.mean(r[s] for r in found) for s in found[0]})
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
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--keep", action="store_true", help="print only")
    args = parser.parse_args()
    codec = Codec.load(args.model)
    cases = []
    for width, height in SIZES:
        data = codec.encode(picture(width, height), 4)
        blocks, length = (args.blocks, 9) if width < 1000 else (max(3, args.blocks // 3), 3)
        for busy in ("", "beside", "apart"):
            with busy_process(busy):
                found = pairs(codec, data, blocks, length)
            cases.append({"width": width, "height": height, "busy": busy, "bytes": len(data), **found})
            print(f"{width}x{height} {BUSY[busy]}")
            for stage in found["ratio"]:
                one, two = (found["ms"][t][stage] for t in (1, 2))
                quotient = f"ratio {found['ratio'][stage]:.3f}, of the least {found['best'][stage]:.3f}"
                print(f"  {stage:8} {one:8.2f} ms  {two:8.2f} ms  {quotient}")
    if not args.keep:
        print("written to", save("threads", {"model": args.model, "cases": cases}))


if __name__ == "__main__":
    main()

"""Processor time of loading and converting .ccm data by one and by two processes: what cores buy.

    python benchmarks/cores.py PICTURES...      # writes benchmarks/results/cores.json

Loading is a DataLoader over files in memory, converting is `ccm-fast convert` of a folder, its start left out, with as
many processes as there are cores in the row. Numbers of processes take turns. Processor time is what counts: the rate
of an idle machine is cores over processor seconds, as long as a picture takes no more of them beside another.
benchmarks/readme.py makes a table for docs/datasets.md of it, and calculates the rows of machines with more cores.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import save
from loading import Files, collate
from PIL import Image
from torch.utils.data import DataLoader

import ccm_fast

CORES = (1, 2)
COPIES = 3  # of each picture in the folder that is converted


def decode_seconds(files: list[bytes], workers: int, count: int) -> float:
    """Processor seconds of a decode, the median over so many."""
    options = {"batch_size": 4, "num_workers": workers, "collate_fn": collate, "multiprocessing_context": "fork"}
    batches = list(DataLoader(Files(".ccm", files, count + 4 * workers), **options))
    seconds = [s for _, some in batches for s in some]
    return statistics.median(seconds[4 * workers :])  # each worker opens the model first


def convert_seconds(paths: list[Path], jobs: int, quality: float) -> float:
    """Processor seconds of a conversion, per picture: what more pictures take beyond one for each process."""

    def taken(copies: list[Path]) -> float:
        with tempfile.TemporaryDirectory() as folder:
            for k, path in enumerate(copies):
                shutil.copy(path, Path(folder, f"{k}{path.suffix}"))
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "ccm_fast", "convert", folder, f"{folder}-coded", "--no-psnr", "--quiet"]
            subprocess.run([*command, "-q", str(quality), "-j", str(jobs)], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            shutil.rmtree(f"{folder}-coded")
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return (taken(COPIES * paths) - taken(paths[:jobs])) / (COPIES * len(paths) - jobs)


def measure(paths: list[Path], quality: float, rounds: int, count: int) -> dict:
    """The whole measurement."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    files = ccm_fast.encode_batch(photos, quality, threads=1)
    found: dict[int, dict[str, list[float]]] = {cores: {"decode": [], "convert": []} for cores in CORES}
    for _ in range(rounds):
        for cores, seconds in found.items():
            seconds["decode"].append(decode_seconds(files, cores, count))
            seconds["convert"].append(convert_seconds(paths, cores, quality))
    return {
        "pictures": len(photos),
        "pixels": sum(photo.shape[0] * photo.shape[1] for photo in photos),
        "bytes": sum(map(len, files)),
        "quality": quality,
        "weights": ccm_fast.Codec.load().fingerprint.hex(),
        "cores": {
            str(cores): {k: statistics.median(v) for k, v in seconds.items()} for cores, seconds in found.items()
        },
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--count", type=int, default=12)
    args = parser.parse_args()
    print(save("cores", measure(args.paths, args.quality, args.rounds, args.count)))


if __name__ == "__main__":
    main()

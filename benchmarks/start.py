"""Whole commands: how much longer they take than a Python that imports NumPy and Pillow, in pairs.

    python benchmarks/start.py [PICTURE] [--pairs 20]

Prints medians over the pairs, of the clock's time and of processor time (user and system, of all threads), and those of
the differences. Beside other work the second is the one to read. Python's caches of compiled modules are filled first,
as installing the package does.
"""

import argparse
import compileall
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ccm_fast

BASE = [sys.executable, "-c", "import numpy, PIL.Image"]


def seconds(command):
    """(clock, processor) of one process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True)
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path, help="default: a photograph of scikit-image, 512x512")
    parser.add_argument("--pairs", type=int, default=20)
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(Path(ccm_fast.__file__).parent, quiet=2)
    with tempfile.TemporaryDirectory() as name:
        folder, picture = Path(name), args.picture
        if picture is None:
            import skimage.data
            from PIL import Image

            picture = folder / "a.png"
            Image.fromarray(skimage.data.astronaut()).save(picture)
        run = [sys.executable, "-m", "ccm_fast"]
        commands = {
            "encode": [*run, "encode", "-q", "4", "--force", picture, folder / "b.ccm"],
            "decode": [*run, "decode", "--force", folder / "b.ccm", folder / "c.png"],
            "decode to ppm": [*run, "decode", "--force", folder / "b.ccm", folder / "c.ppm"],
        }
        found = {name: [] for name in ("base", *commands)}
        for k in range(args.pairs + 1):
            for name, command in (("base", BASE), *commands.items()):
                taken = seconds(command)
                if k:  # the first round fills the caches
                    found[name].append(taken)
    print("| command | clock, ms | more than imports | processor, ms | more than imports |\n|---|---|---|---|---|")
    for name, rows in found.items():
        cells = []
        for kind in range(2):
            cells.append(1000 * statistics.median(row[kind] for row in rows))
            cells.append(1000 * statistics.median(row[kind] - base[kind] for row, base in zip(rows, found["base"])))
        print(f"| {name} | " + " | ".join(f"{cell:.0f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()

"""Steps of training, interleaved, one thread: processor milliseconds and patches of 128x128 a second.

    python benchmarks/training_speed.py DATA... [--preset ccm-small] [--batch 8] [--crop 128] [--rounds 12]

Processor time and not the clock: training is meant to run beside other work. "first release" is its loop (all of the
model in every step, Adam unfused) on ``ccm-small``. Stages are measured with torch's convolutions and with
``ccm_fast.train.convolutions``; those on fixed transforms with their latents cached, as from the second epoch on. All
count their pixels in patches of 128x128.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import nullcontext

import torch

from ccm_fast.train import loop
from ccm_fast.train.loop import TrainConfig, _Run
from ccm_fast.train.parallel import Processes
from ccm_fast.train.stages import STAGES, select

FIRST = "first release"
# By whether the convolutions are torch's.
CONVOLUTIONS = {True: lambda *modules: nullcontext(), False: loop.fast_convolutions}


def rows(stages: list[str]) -> list[tuple[str, bool]]:
    """Stages, and whether they run with torch's convolutions."""
    return [(FIRST, True), *((stage, of_torch) for stage in stages for of_torch in (True, False))]


def main() -> None:
    """Print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--preset", default="ccm-small")
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=list(STAGES))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(args.stages):
            preset = "ccm-small" if row[0] == FIRST else args.preset
            cfg = TrainConfig(
                folder, args.data, preset=preset, start="random", batch=args.batch, crop=args.crop, bf16="off"
            )
            run = runs[row] = _Run(cfg, Processes())
            run.kind = STAGES.get(row[0], STAGES["joint"])
            select(run.model, run.kind)
            run.stream = run.crops.stream(cfg.batch)
            if row[0] == FIRST:
                run.optimizer = torch.optim.Adam([{"params": run.model.parameters(), "peak": cfg.lr}], lr=cfg.lr)
            if not run.kind.transforms:
                run.step(run.kind, 0.1)
                run.latents.crops.usable = run.latents.crops.usable[: 2 * cfg.batch]  # full after two more steps
                run.latents.crops._epoch = -1
    times: dict[tuple[str, bool], list[float]] = {row: [] for row in runs}
    for _ in range(args.rounds + 3):
        for row, run in runs.items():
            loop.fast_convolutions = CONVOLUTIONS[row[1]]
            clock = time.process_time()
            run.step(run.kind, 0.1)
            times[row].append(time.process_time() - clock)
    result = {}
    for (stage, of_torch), run in runs.items():
        seconds = statistics.median(times[stage, of_torch][3:])
        side = run.latents.crops.crop if run.latents else run.cfg.crop
        name = stage + (", torch's convolutions" if of_torch and stage != FIRST else "")
        result[name] = {"ms": 1000 * seconds, "patches_per_second": run.cfg.batch * (side / 128) ** 2 / seconds}
        print(f"{name:36s} {result[name]['ms']:8.1f} ms {result[name]['patches_per_second']:8.1f} patches/s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

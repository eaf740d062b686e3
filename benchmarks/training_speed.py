"""Steps of training, interleaved, one thread: processor milliseconds and patches of 128x128 a second.

    python benchmarks/training_speed.py DATA... [--preset ccm-small] [--rounds 12]

Processor time and not the clock: training is meant to run beside other work. "before" is the loop of the first release
(all of the model in every step, Adam unfused) on ``ccm-small``. The stages on fixed transforms are measured with
their latents cached, as from the second epoch on, and count their pixels in patches of 128x128.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

import torch

from ccm_fast.train.loop import TrainConfig, _Run
from ccm_fast.train.parallel import Processes
from ccm_fast.train.stages import STAGES, select


def main() -> None:
    """Print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--preset", default="ccm-small")
    parser.add_argument("--rounds", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, preset in (("before", "ccm-small"), *((stage, args.preset) for stage in STAGES)):
            cfg = TrainConfig(folder, list(args.data), preset=preset, start="random", bf16="off")
            run = runs[name] = _Run(cfg, Processes())
            run.kind = STAGES.get(name, STAGES["joint"])
            select(run.model, run.kind)
            run.stream = run.crops.stream(cfg.batch)
            if name == "before":
                run.optimizer = torch.optim.Adam([{"params": run.model.parameters(), "peak": cfg.lr}], lr=cfg.lr)
            if not run.kind.transforms:
                run.step(run.kind, 0.1)
                run.latents.crops.usable = run.latents.crops.usable[: 2 * cfg.batch]  # full after two more steps
                run.latents.crops._epoch = -1
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds + 3):
        for name, run in runs.items():
            clock = time.process_time()
            run.step(run.kind, 0.1)
            times[name].append(time.process_time() - clock)
    result = {}
    for name, run in runs.items():
        seconds = statistics.median(times[name][3:])
        side = run.latents.crops.crop if run.latents else run.cfg.crop
        result[name] = {"ms": 1000 * seconds, "patches_per_second": run.cfg.batch * (side / 128) ** 2 / seconds}
        print(f"{name:12s} {result[name]['ms']:8.1f} ms {result[name]['patches_per_second']:8.1f} patches/s")
    print(json.dumps(result))


if __name__ == "__main__":
    main()

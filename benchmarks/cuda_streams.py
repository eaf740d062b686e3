"""What the streams of photographs hold, as the CUDA engine's cost model wants to know it (cuda_cost.py).

    python benchmarks/cuda_streams.py FOLDER --model ccm-small --skip 4

For each quality, of every picture in FOLDER and as means over them: of each group the lanes that the encoder chooses,
coded symbols a position, bits of one, the share of rounds with a symbol outside its window or an escape, for as many
lanes and for 32, and the share of ``calm`` rounds: of most probable symbols alone, times that nobody takes a word.
``--skip T``: as if symbols with a scale index up to T were not coded; their bits are not given to others.
Results: results/cuda_streams.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import ccm_fast  # noqa: E402
from ccm_fast.decoding import decode_packets, parse_packets  # noqa: E402
from ccm_fast.stream.packet import Stream  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "cuda_streams.json"
WINDOW = 16  # csrc/format/tables.h


class Tables:
    """Of a plan's rows: where windows begin, and what symbols cost."""

    def __init__(self, plan):
        rows = plan.y_rows
        self.lo, self.n = (np.asarray(v, np.int64) for v in (rows.lo, rows.n))
        frequencies = [np.diff(rows.row(r)) for r in range(len(self.n))]
        self.bits = np.concatenate([-np.log2(f / 65536) for f in frequencies])
        self.mode = mode = np.array([int(np.argmax(f[:-1])) for f in frequencies])
        self.window = np.clip(mode - WINDOW // 2, 0, np.maximum(0, self.n - WINDOW))
        self.index = np.repeat(np.arange(64), 1 << plan.fraction_bits.astype(np.int64))
        self.start = np.cumsum(self.n) - self.n

    def look(self, symbol, row):
        """Bits, whether a symbol is an escape or outside of its window, and whether it is the most probable one.

        Of (symbol - offset) and row.
        """
        k = symbol - self.lo[row]
        escaped = (k < 0) | (k >= self.n[row] - 1)
        k = np.where(escaped, self.n[row] - 1, k)
        outside = (k < self.window[row]) | (k >= self.window[row] + WINDOW)
        return self.bits[self.start[row] + k], escaped | outside, k == self.mode[row]


def of_rounds(step, values, lanes):
    """Sums of the rounds of symbols in coding order with their steps."""
    if not len(step):
        return np.zeros(1)
    first = np.r_[0, np.flatnonzero(np.diff(step)) + 1]
    place = np.arange(len(step)) - np.repeat(first, np.diff(np.r_[first, len(step)]))
    _, number = np.unique(step.astype(np.int64) << 32 | place // lanes, return_inverse=True)
    return np.bincount(number, weights=values)


def slow_share(step, slow, lanes):
    """Of rounds with such a symbol."""
    return float(np.mean(of_rounds(step, slow, lanes) > 0))


def calm_share(step, mode, bits, lanes):
    """Of rounds without another symbol than the most probable ones, as often as their bits make nobody take a word."""
    words = of_rounds(step, bits, lanes) / 16
    return float(np.mean((of_rounds(step, ~mode, lanes) == 0) * np.maximum(0, 1 - words)))


def describe(model, tables, x, quality, skips):
    """For each of ``skips``, [{lanes, coded, bits, slow, slow_32, calm}] of the groups of one picture."""
    frozen = model.frozen
    (packet,) = parse_packets(frozen, **ccm_fast.compress(model, x, quality))
    decoded = decode_packets(frozen, [packet])
    offset, row = (p[0].numpy().astype(np.int64) for p in decoded.parameters)
    symbol = decoded.y_hat[0].numpy().astype(np.int64) - offset
    bits, slow, mode = tables.look(symbol, row)
    index, plan = tables.index[row], frozen.plan
    return [
        describe_groups(plan, packet, symbol.shape, bits, slow, mode, index > max(skip, plan.skip)) for skip in skips
    ]


def describe_groups(plan, packet, shape, bits, slow, mode, coded):
    """The same, given these of every symbol, and which are coded."""
    h, w, _ = shape
    found, at = [], 0
    schedules = [plan.schedule_of(g) for g in range(len(packet.y_streams))]
    for channels, schedule, stream in zip(plan.group_channels, schedules, packet.y_streams):
        own = np.s_[..., at : at + channels]
        order = np.argsort(schedule.steps(h, w).ravel(), kind="stable")
        step = np.repeat(np.sort(schedule.steps(h, w).ravel()), channels)
        b, s, o, c = (v[own].reshape(h * w, channels)[order].ravel() for v in (bits, slow, mode, coded))
        lanes = Stream(*stream).lanes
        found.append({
            "lanes": lanes, "coded": float(c.sum() / (h * w)), "bits": float(b[c].sum() / max(1, c.sum())),
            "slow": slow_share(step[c], s[c], min(lanes, 32)), "slow_32": slow_share(step[c], s[c], 32),
            "calm": calm_share(step[c], o[c], b[c], min(lanes, 32)),
        })  # fmt: skip
        at += channels
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--skip", type=int, default=4)
    parser.add_argument("--qualities", type=float, nargs="+", default=[2, 4, 6])
    parser.add_argument("--images", nargs="*", help="file names; none: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ccm_fast.load(args.model)
    tables = Tables(model.frozen.plan)
    files = sorted(p for p in args.folder.iterdir() if not args.images or p.name in args.images)
    out = {"model": args.model, "skip": args.skip, "images": [p.name for p in files], "qualities": {}, "pictures": {}}
    for quality in args.qualities:
        per = {"all": [], "skipped": []}
        for path in files:
            x = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
            for name, found in zip(per, describe(model, tables, x, quality, (-1, args.skip)), strict=True):
                per[name].append(found)
        groups = range(len(model.frozen.plan.group_channels))
        out["qualities"][str(quality)] = {
            name: [{k: float(np.mean([f[g][k] for f in found])) for k in found[0][g]} for g in groups]
            for name, found in per.items()
        }
        out["pictures"][str(quality)] = per
        RESULT.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""What the streams of photographs hold, as the CUDA engine's cost model wants to know it (cuda_cost.py).

    python benchmarks/cuda_streams.py FOLDER --model ccm-small

For each quality and every picture in FOLDER, encoded as `compress` does by default. Of each group: the lanes that the
encoder chooses, ``tapered``, rounds over those of as many lanes to the end, coded symbols a position, bits of one, the
share of rounds with a symbol outside its window or an escape, for as many lanes and for 32, the share ``far`` of those
that lie beyond the window's neighbours, too, and the share of ``calm`` rounds: of most probable symbols alone, times
that nobody takes a word. Of z: lanes, coded symbols and bytes. Results: results/cuda_streams.json.
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
from ccm_fast.entropy.reference_streams import tapered_lanes  # noqa: E402
from ccm_fast.stream.packet import Stream  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "cuda_streams.json"
WINDOW = 16  # csrc/format/tables.h
BESIDE = 16  # neighbours on either side of it: csrc/entropy/cuda/model_cuda.h
SKIPPED = -32768  # in a plan's z_values: of channels that are coded


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
        """Of (symbol - offset) and row: bits, and whether a symbol is

        an escape or outside of its window, beyond the window's neighbours, too, and the most probable one.
        """
        k = symbol - self.lo[row]
        escaped = (k < 0) | (k >= self.n[row] - 1)
        k = np.where(escaped, self.n[row] - 1, k)
        place = k - self.window[row]
        outside = (place < 0) | (place >= WINDOW)
        far = (place < -BESIDE) | (place >= WINDOW + BESIDE)
        return self.bits[self.start[row] + k], escaped | outside, escaped | far, k == self.mode[row]


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


def describe(model, tables, x, quality):
    """What the streams of one picture hold: {"z": ..., "groups": [...]}."""
    frozen = model.frozen
    (packet,) = parse_packets(frozen, **ccm_fast.compress(model, x, quality))
    decoded = decode_packets(frozen, [packet])
    offset, row = (p[0].numpy().astype(np.int64) for p in decoded.parameters)
    looked = tables.look(decoded.y_hat[0].numpy().astype(np.int64) - offset, row)
    plan = frozen.plan
    groups = describe_groups(plan, packet, looked, tables.index[row] > plan.skip)
    z, values = Stream(*packet.z_stream), plan.z_values
    coded = plan.z_rows.n.size if values is None else int(np.sum(values == SKIPPED))
    return {
        "z": {"lanes": z.lanes, "coded": coded * packet.z_shape[0] * packet.z_shape[1], "bytes": len(z.data)},
        "groups": groups,
    }


def describe_groups(plan, packet, looked, coded):
    """Of each group a dict, given what Tables.look says of all symbols, and which are coded."""
    h, w, _ = coded.shape
    found, at = [], 0
    schedules = [plan.schedule_of(g) for g in range(len(packet.y_streams))]
    for channels, schedule, stream in zip(plan.group_channels, schedules, packet.y_streams):
        own = np.s_[..., at : at + channels]
        steps = schedule.steps(h, w).ravel()
        order = np.argsort(steps, kind="stable")
        step = np.repeat(steps[order], channels)
        b, s, f, o, c = (v[own].reshape(h * w, channels)[order].ravel() for v in (*looked, coded))
        lanes, taper = Stream(*stream).lanes, Stream(*stream).taper
        once = min(lanes, 32)
        slow = slow_share(step[c], s[c], once)
        values = {
            "coded": c.sum() / (h * w), "bits": b[c].sum() / max(1, c.sum()), "slow": slow,
            "slow_32": slow_share(step[c], s[c], 32),
            "far": slow_share(step[c], f[c], once) / slow if slow else 0, "calm": calm_share(step[c], o[c], b[c], once),
        }  # fmt: skip
        counts = np.bincount(steps)[np.unique(steps)]
        left = np.cumsum(counts[::-1])[::-1]
        values["tapered"] = np.mean(np.repeat([lanes / tapered_lanes(lanes, taper, n) for n in left], counts))
        found.append({"lanes": lanes, **{k: round(float(v), 5) for k, v in values.items()}})
        at += channels
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="ccm-small")
    parser.add_argument("--qualities", type=float, nargs="+", default=[2.0, 4.0, 6.0])
    parser.add_argument("--images", nargs="*", help="file names; none: all")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = ccm_fast.load(args.model)
    tables = Tables(model.frozen.plan)
    files = sorted(p for p in args.folder.glob("*.png") if not args.images or p.name in args.images)
    pictures = {}
    for quality in args.qualities:
        pictures[str(quality)] = found = []
        for path in files:
            x = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None].float() / 255
            found.append(describe(model, tables, x, quality))
            print(path.name, quality, [g["lanes"] for g in found[-1]["groups"]], flush=True)
    rows = model.frozen.plan.y_rows.n
    head = {
        "model": args.model, "weights": model.frozen.fingerprint.hex(),
        "rows": len(rows), "long_rows": int(np.sum(rows > WINDOW)), "images": [p.name for p in files],
    }  # fmt: skip
    RESULT.write_text(text_of(head, pictures), encoding="utf-8")


def text_of(head, pictures):
    """JSON with a line a picture."""
    qualities = [
        f' "{q}": [\n' + ",\n".join(f"  {json.dumps(p)}" for p in found) + "\n ]" for q, found in pictures.items()
    ]
    return json.dumps(head)[:-1] + ',\n"pictures": {\n' + ",\n".join(qualities) + "\n}}\n"


if __name__ == "__main__":
    main()

"""Predicts how long latents_kernel takes on GPUs that nobody here has: no figure of this file is a measurement.

Cycles of the kernel's loops come from its machine code (sass.py) and published latencies; what the groups wait for each
other comes from a simulation of the schedule, step by step and tile by tile. Results: results/cuda_cost.json, and the
tables of docs/cuda.md.

    python benchmarks/cuda_cost.py                          from the cycles stored with the results
    python benchmarks/cuda_cost.py --machine-code FOLDER    cycles anew: compiles for sm_80, 89, 90 (8 s each)
    python benchmarks/cuda_cost.py --check                  whether docs/cuda.md says what the results say
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path

from cuda_pieces import (
    BANDS,
    BARRIER,
    CHUNK,
    CONTEXT_MISS,
    DENSE_MISS,
    DRAM_GBS,
    ENTRY_MISS,
    GENERIC,
    GPUS,
    L2_BYTES,
    LANES,
    LAUNCH,
    MAX_KNOWN,
    MAX_LANES,
    ROOT,
    SCHEDULERS,
    SHUFFLE,
    STATE_BYTES,
    STEPS_PER_NEWS,
    TILE_COLUMNS,
    TILE_ROWS,
    UNUSUAL,
    WARPS,
    Gpu,
    machine_cycles,
    read_machine_code,
)
from cuda_schedule import Outcome, build_order, simulate

RESULT = ROOT / "benchmarks" / "results" / "cuda_cost.json"
DOCUMENT = ROOT / "docs" / "cuda.md"


def lanes_for_payload(payload: float) -> int:
    """As csrc/include/ccm/rans.h."""
    lanes = 1
    while lanes < MAX_LANES and 2 * lanes * STATE_BYTES * 400 <= payload:
        lanes *= 2
    return lanes


# --- Models


@dataclass(frozen=True)
class Model:
    """Sizes that decide the cost. Convolutions of the dense part: (kernel, input channels, output channels)."""

    name: str
    groups: tuple[int, ...]
    taps: int
    width: int  # of the base
    hidden: tuple[int, ...]
    stack: tuple[int, ...]  # kernels
    cross_width: int
    psi: int
    hyper_channels: int
    payload: float  # bytes of y for 768 x 512
    z_payload: float

    @property
    def channels(self) -> int:
        return sum(self.groups)

    @property
    def shift(self) -> int:
        """Of the last layer's tiles, as DeviceGroup::shift."""
        return sum(k // 2 for k in self.stack[1:])

    def chain(self, g: int) -> list[tuple[int, int, int]]:
        before = sum(self.groups[:g])
        if not before:
            return []
        dims = [before, *[self.cross_width] * (len(self.stack) - 1), self.width]
        return [(k, a, b) for k, (a, b) in zip(self.stack, pairwise(dims), strict=True)]


def models() -> dict[str, Model]:
    """ccm-small and ccm-base of the presets; mbt2018 with N = M = 192."""
    sys.path.insert(0, str(ROOT))
    from ccm_fast.models.config import PRESETS

    kodak = json.loads((RESULT.parent / "kodak_ccm-small.json").read_text(encoding="utf-8"))
    sizes = [i["bytes"] for i in kodak["images"] if i["quality"] == 4]
    payload = sum(sizes) / len(sizes)
    found = {}
    for name in ("ccm-small", "ccm-base"):
        c = PRESETS[name]
        found[name] = Model(
            name, c.groups, c.context_kernel**2 // 2, c.parameter_widths[0], c.parameter_widths[1:], c.cross_kernels,
            c.cross_width, c.psi_channels, c.hyper_channels, payload, 0.003 * 768 * 512 / 8,
        )  # fmt: skip
    # 34,628 bytes: CompressAI's net on one 768 x 512 photograph. Its z takes about a twentieth; assumed.
    found["mbt2018"] = Model("mbt2018", (192,), 12, 640, (512,), (), 0, 384, 192, 34628, 1700)
    return found


SIZES = {"768x512": (32, 48), "1920x1080": (68, 120), "3840x2160": (135, 240)}

# --- Costs, in cycles


@dataclass(frozen=True)
class Options:
    """What could be otherwise; the defaults are the kernel as it is."""

    lanes: int = 0  # 0: as the format chooses
    stream_warps: int = 1  # warps that share a stream, with 32 lanes each (a change of the format)
    lean_rounds: bool = False  # half the cycles of a round, by whatever means
    lean_epilogues: bool = False  # half the cycles of everything between the products
    tile: tuple[int, int] = (TILE_ROWS, TILE_COLUMNS)
    news: int = STEPS_PER_NEWS  # steps between announcements
    one_flag: bool = False  # a claim reads its neighbours' flags at once
    quiet_news: bool = False  # progress is announced by another warp
    partial: bool = False  # a layer's weights fill shared memory as far as they go
    cluster: int = 1  # multiprocessors that share a group's products and keep all weights in shared memory


@dataclass
class Costs:
    """Of one model on one GPU, one band."""

    model: Model
    gpu: Gpu
    scale: float
    code: dict[str, dict]
    options: Options
    lanes: int
    tiles: int
    in_shared: list[float] = field(default_factory=list)  # share of each layer's weights

    def __post_init__(self) -> None:
        m, round16 = self.model, lambda n: -(-n // 16) * 16
        c = max(m.groups)
        depth = max(-(-n // 32) for n in (m.width, *m.hidden))
        arena = 2 * round16(CHUNK * (depth * 32 + 16)) + sum(round16(k * CHUNK * c) for k in (2, 1))
        arena += (
            8 * (CHUNK * c + 96)
            + 64 * 8
            + 4 * CHUNK
            + 80
            + 32 * 64
            + 32
            + 16
            + (round16(4 * self.tiles) if self.tiles <= MAX_KNOWN else 0)
        )
        room = self.gpu.shared - 1024 - arena
        self.in_shared = [0.0] * len(self.layers)
        for k in reversed(range(len(self.layers))):
            m_tiles, k_steps = self.layers[k]
            size = m_tiles * k_steps * 512 / self.options.cluster
            share = 1.0 if size <= room else (max(0.0, room) / size if self.options.partial else 0.0)
            self.in_shared[k] = share
            room -= share * size

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(m_tiles, k_steps) of the step's layers."""
        m, c = self.model, max(self.model.groups)
        dims = [m.width, *m.hidden, 2 * c]
        first = (-(-m.width // 16), -(-(m.taps * (c + 3) // 4 * 4) // 32))
        return [first, *((-(-b // 16), -(-a // 32)) for a, b in pairwise(dims))]

    def of(self, name: str, warps: int = 1) -> float:
        return max(self.code[name]["lone"], warps * self.code[name]["issue"])

    @property
    def l2(self) -> float:
        return self.gpu.l2 * self.scale

    @property
    def l1(self) -> float:
        return self.gpu.l1 * self.scale

    @property
    def shared(self) -> float:
        return (self.gpu.shared_load + GENERIC) * self.scale

    @property
    def barrier(self) -> float:
        return BARRIER * self.scale

    def layer(self, k: int, count: int) -> tuple[float, float]:
        """Products, and everything else of a layer for up to 32 positions."""
        m_tiles, k_steps = self.layers[k]
        m_tiles = -(-m_tiles // self.options.cluster)
        nt = 1 if count <= 8 else 2
        units = m_tiles * (1 if count <= 16 else 2)
        turns, busy = -(-units // WARPS), min(units, WARPS)
        warps, share = -(-busy // SCHEDULERS), self.in_shared[k]
        name = f"{'rows' if k else 'conv'} {nt}"

        def mixed(piece: str) -> float:
            return share * self.of(piece, warps) + (1 - share) * self.of(f"{piece} L2", warps)

        once = mixed(name)
        streamed = (1 - share) * units * k_steps * 512 / L2_BYTES
        kind = "bytes" if k + 1 < len(self.layers) else "scale"
        # The first product's loads and the last one are in the straight piece.
        straight = mixed(f"{'later' if k else 'first'} {kind} {nt}") * (0.5 if self.options.lean_epilogues else 1)
        return max(turns * (k_steps - 1) * once, streamed), turns * straight

    def round(self, lanes: int, bits: float) -> float:
        """A round of rANS of symbols of so many bits."""
        takes = 1 - (1 - min(1.0, bits / 16)) ** lanes  # that some lane takes a word
        plain, refill = self.of(f"rans {lanes}"), self.of(f"rans {lanes} refill")
        once = plain + takes * (refill - plain)
        return once * (0.5 if self.options.lean_rounds else 1.0)

    def rans(self, symbols: int) -> float:
        """A chunk's symbols."""
        m, warps = self.model, self.options.stream_warps
        once = self.round(self.lanes, 8 * m.payload / (32 * 48 * m.channels))
        if warps > 1:  # places of words in the common stream: a look at the other warps' needs
            once += 2 * self.barrier + 2 * self.shared
        rounds = -(-symbols // (self.lanes * warps))
        start = 2 * self.shared + self.l1 + ENTRY_MISS * (self.l2 - self.l1) + 60  # decoder to registers, first window
        return start + rounds * once

    def step(self, count: int, first_group: bool, news: bool) -> dict[str, float]:
        """A step of one group, by part."""
        t: Counter = Counter()
        channels = max(self.model.groups)
        each = -(-channels // 32)
        if not first_group and self.model.stack:  # two looks at the positions, the known tiles
            t["ready"] += 3 * self.l1 + 3 * self.shared + 2 * self.barrier + 60
        for at in range(0, count, CHUNK):
            n = min(CHUNK, count - at)
            t["overhead"] += 2 * self.l1 + self.shared + 40  # descriptors, positions
            for k in range(len(self.layers)):
                product, rest = self.layer(k, n)
                t["products"] += product
                t["requantize"] += rest
                t["overhead"] += 3 * self.l1  # descriptors of the layer
                t["barriers"] += self.barrier * (2 if self.options.cluster == 1 else 10)
            symbols_of_warp = -(-n // WARPS) * each
            t["choose rows"] += 2 * self.l1 + symbols_of_warp * self.of("choose", WARPS // SCHEDULERS)
            t["rans"] += self.rans(n * channels)
            t["publish"] += symbols_of_warp * self.of("publish", WARPS // SCHEDULERS)
            t["barriers"] += 4 * self.barrier
            if count > CHUNK:
                t["publish"] += self.l2 + symbols_of_warp * self.of("publish", WARPS // SCHEDULERS)
                t["barriers"] += 3 * self.barrier
        t["barriers"] += self.barrier
        if news and not self.options.quiet_news:  # one thread's fence, then its look at the failure flag
            t["news"] += self.gpu.fence * self.scale + self.l2
        return dict(t)

    @property
    def news_delay(self) -> float:
        """From the end of a step to another block's seeing it."""
        return self.gpu.fence * self.scale + self.l2

    def task(self, group: int, layer: int) -> float:
        """A dense tile: claiming, products, epilogue, announcing."""
        chain = self.model.chain(group)
        kernel, cin, cout = chain[layer]
        before = sum(self.model.groups[:group])
        rows, columns = self.options.tile
        units = -(-cout // 16) * -(-rows * columns // (TILE_ROWS * TILE_COLUMNS))
        turns, warps = -(-units // WARPS), -(-min(units, WARPS) // SCHEDULERS)
        k_steps = -(-(kernel * kernel * -(-cin // 4) * 4) // 32)
        if layer + 1 == len(chain):
            k_steps += -(-before // 32)  # the skip, 1x1
        product = turns * k_steps * max(self.code["dense"]["lone"], warps * self.code["dense"]["issue"])
        product = max(product, units * k_steps * 512 * DENSE_MISS / L2_BYTES)
        epilogue = turns * self.of("later bytes 2", warps) * (1.5 if layer + 1 == len(chain) else 1)
        radius = kernel // 2
        flags = (1 + -(-2 * radius // rows)) * (1 + -(-2 * radius // columns)) if layer else 0
        if self.options.one_flag:
            flags = min(flags, 1)
        claim = (4 + 2 * flags) * self.l2 + 4 * self.barrier  # counter, order, polls, acquires, CAS
        return claim + product + epilogue + self.barrier + self.gpu.fence * self.scale


def predict(model: Model, gpu: Gpu, size: str, band: str, code: dict, options: Options) -> tuple[Outcome, Costs]:
    """latents_kernel alone, in cycles."""
    h, w = SIZES[size]
    order = build_order(h, w, model.shift, *options.tile)
    lanes = options.lanes or lanes_for_payload(model.payload * h * w / (32 * 48) / len(model.groups))
    costs = Costs(model, gpu, BANDS[band], code, options, lanes, order.tiles)
    useful = len(model.groups) * (1 + order.tiles)
    task = cache(costs.task)
    outcome = simulate(
        order, len(model.groups), cache(costs.step), task, lambda g: tuple(k for k, *_ in model.chain(g)),
        min(useful, gpu.multiprocessors), costs.news_delay, 3 * costs.l2 + 90 * gpu.clock, options.news,
    )  # fmt: skip
    # Weights to shared memory, the stream's start: once a group, while the others start as well.
    begin = sum(s * m * k * 512 for s, (m, k) in zip(costs.in_shared, costs.layers, strict=True)) / L2_BYTES
    outcome.total += begin + 4 * costs.l2
    outcome.parts["begin"] = begin + 4 * costs.l2
    return outcome, costs


def outside(model: Model, gpu: Gpu, size: str, band: str, code: dict) -> dict[str, float]:
    """Microseconds of the launches around it; the three convolutions of h_s are ours, also for mbt2018 (coarse)."""
    h, w = SIZES[size]
    scale = BANDS[band]
    costs = Costs(model, gpu, scale, code, Options(), 1, 1)
    us = 1e-3 / gpu.clock
    lanes = lanes_for_payload(model.z_payload * h * w / (32 * 48))
    symbols = -(-h // 4) * -(-w // 4) * model.hyper_channels
    positions = 8 * 12  # of z at 768 x 512
    z = -(-symbols // lanes) * costs.round(lanes, 8 * model.z_payload / (positions * model.hyper_channels)) * us
    planes = (h + 6) * (w + 6) * (model.channels + model.psi + 2 * model.cross_width * (len(model.groups) - 1))

    def dense(tiles: int, k_steps: int, m_tiles: int) -> float:
        turns = -(-m_tiles // WARPS)
        waves = -(-tiles // gpu.multiprocessors)
        return waves * turns * (k_steps * costs.of("dense", 3) + costs.of("later bytes 2", 3)) * us

    def tiles(i: int, j: int) -> int:
        return -(-i // TILE_ROWS) * -(-j // TILE_COLUMNS)

    p, n = model.psi, model.hyper_channels
    hs = dense(tiles(-(-h // 4), -(-w // 4)), -(-9 * n // 32), -(-p // 16))
    hs += dense(tiles(-(-h // 4), -(-w // 4)), -(-9 * p // 32), p // 4)
    hs += dense(tiles(-(-h // 2), -(-w // 2)), -(-9 * p // 32), p // 4)
    base = dense(tiles(h, w) * len(model.groups), -(-p // 32), -(-model.width // 16))
    return {
        "decode_z": z + LAUNCH * scale,
        "h_s": hs + 4 * LAUNCH * scale,
        "prepare": planes / DRAM_GBS / 1e3 + LAUNCH * scale,
        "base": base + LAUNCH * scale,
        "status": LAUNCH * scale + 2,
    }


# --- Results


def microseconds(cycles: float, gpu: Gpu) -> float:
    return cycles / gpu.clock / 1e3


def offset_in_steps(size: str, model: Model, tile: tuple[int, int] = (TILE_ROWS, TILE_COLUMNS), news: int = 2) -> int:
    """How many steps of one group lie between the starts of two, were dense tiles and announcements free."""
    h, w = SIZES[size]
    order = build_order(h, w, model.shift, *tile)
    chain = tuple(k for k, *_ in model.chain(1))
    free = simulate(order, 2, lambda *a: {"step": 1.0}, lambda *a: 0.0, lambda g: chain, 10**6, news=news)
    return round(free.starts[1] - free.starts[0]) if chain else 0


IMPROVEMENTS = {
    "32 lanes": {"lanes": 32},
    "16 lanes": {"lanes": 16},
    "epilogues of half the cycles": {"lean_epilogues": True},
    "rounds of half the cycles": {"lean_rounds": True},
    "dense tiles of 4 x 8": {"tile": (4, 8)},
    "dense tiles of 4 x 16": {"tile": (4, 16)},
    "progress announced every step": {"news": 1},
    "one flag a tile and claim": {"one_flag": True},
    "progress announced by another warp": {"quiet_news": True},
    "weights fill shared memory partly": {"partial": True},
    "cluster of 4 holds the weights": {"cluster": 4},
    "128 lanes, 4 warps a stream": {"lanes": 32, "stream_warps": 4},
}


def results(code: dict, source: str) -> dict:
    """Everything that the document shows."""
    nets = models()
    rows = []
    for size in SIZES:
        for name, model in nets.items():
            for gpu_name, gpu in GPUS.items():
                for lanes in (0, 32):
                    if lanes and rows[-1]["lanes"] == lanes and rows[-1]["gpu"] == gpu_name:
                        continue
                    row: dict = {"size": size, "model": name, "gpu": gpu_name}
                    for band in BANDS:
                        outcome, costs = predict(model, gpu, size, band, code[gpu_name][band], Options(lanes=lanes))
                        row["lanes"], row["in_shared"] = costs.lanes, costs.in_shared
                        row["lanes_chosen"] = not lanes
                        row[band] = {
                            "us": round(microseconds(outcome.total, gpu), 1),
                            "parts_us": {k: round(microseconds(v, gpu), 1) for k, v in outcome.parts.items()},
                            "starts_us": [round(microseconds(v, gpu), 1) for v in outcome.starts],
                            "dense_busy": round(outcome.dense_busy, 3),
                            "outside_us": {
                                k: round(v, 1) for k, v in outside(model, gpu, size, band, code[gpu_name][band]).items()
                            },
                        }
                    rows.append(row)
    better = []
    for name, size, gpu_name in (
        ("ccm-base", "768x512", "H100"), ("ccm-base", "1920x1080", "H100"), ("ccm-base", "768x512", "A100"),
        ("mbt2018", "768x512", "H100"),
    ):  # fmt: skip
        model, gpu = nets[name], GPUS[gpu_name]
        cases = {k: Options(**v) for k, v in IMPROVEMENTS.items()}
        together: dict = {"lanes": 32, "lean_epilogues": True}
        cases["32 lanes, epilogues of half the cycles"] = Options(**together)
        cases["the same, rounds of half the cycles"] = Options(lean_rounds=True, **together)
        cases["the same, 128 lanes"] = Options(lean_rounds=True, stream_warps=4, **together)
        entry: dict = {"model": name, "size": size, "gpu": gpu_name, "cases": {}}
        for case, options in {"as it is": Options(), **cases}.items():
            entry["cases"][case] = {
                band: round(
                    microseconds(predict(model, gpu, size, band, code[gpu_name][band], options)[0].total, gpu), 1
                )
                for band in BANDS
            }
        better.append(entry)
    offsets = {
        size: {
            "steps": build_order(*SIZES[size]).steps,
            "as it is": offset_in_steps(size, nets["ccm-base"]),
            "every step": offset_in_steps(size, nets["ccm-base"], news=1),
            "tiles of 4 x 8": offset_in_steps(size, nets["ccm-base"], (4, 8)),
            "tiles of 4 x 16": offset_in_steps(size, nets["ccm-base"], (4, 16)),
        }
        for size in SIZES
    }
    return {
        "prediction": "No GPU has run any of this.",
        "source": source,
        "assumptions": {
            "bands": BANDS, "gpus": {n: vars(g) for n, g in GPUS.items()}, "shuffle": SHUFFLE, "popc_flo": UNUSUAL,
            "barrier": BARRIER, "generic": GENERIC, "context_miss": CONTEXT_MISS, "entry_miss": ENTRY_MISS,
            "dense_miss": DENSE_MISS, "l2_bytes": L2_BYTES, "launch_us": LAUNCH,
            "payload_768x512": {n: round(m.payload) for n, m in nets.items()},
        },
        "cycles": code,
        "offsets": offsets,
        "predictions": rows,
        "improvements": better,
    }  # fmt: skip


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _band(low: float, high: float) -> str:
    return f"{low / 1000:.1f} to {high / 1000:.1f}"


def _row(found: dict, size: str, model: str, gpu: str, chosen: bool = True) -> dict:
    match = [r for r in found["predictions"] if (r["size"], r["model"], r["gpu"]) == (size, model, gpu)]
    return next(r for r in match if r["lanes_chosen"] == chosen) if chosen else match[-1]


def times(found: dict) -> str:
    """The whole of latents_kernel."""
    rows = []
    for size in SIZES:
        for model in found["assumptions"]["payload_768x512"]:
            cells, lanes = [], _row(found, size, model, "H100")["lanes"]
            for chosen in (True, False):
                for gpu in GPUS:
                    r = _row(found, size, model, gpu, chosen)
                    cells.append(_band(r["low"]["us"], r["high"]["us"]))
            rows.append([size, model, str(lanes), *cells])
    head = ["predicted, ms", "sizes of", "lanes chosen", *GPUS, *(f"{g}, 32 lanes" for g in GPUS)]
    return _table(head, rows)


GROUPED = {
    "rANS": ("rans",),
    "products": ("products",),
    "bases, requantization": ("requantize",),
    "rows, publishing": ("choose rows", "publish"),
    "barriers, news, looks": ("barriers", "news", "ready", "overhead", "begin"),
    "waiting for the group before": ("wait",),
}


def shares(found: dict) -> str:
    """Of the last group's time."""
    rows = []
    for size, model, chosen in (
        ("768x512", "ccm-small", True), ("768x512", "ccm-base", True), ("768x512", "ccm-base", False),
        ("1920x1080", "ccm-base", True), ("3840x2160", "ccm-base", True), ("768x512", "mbt2018", True),
    ):  # fmt: skip
        r = _row(found, size, model, "H100", chosen)
        parts, total = r["low"]["parts_us"], r["low"]["us"]
        cells = [f"{100 * sum(parts.get(p, 0) for p in names) / total:.0f} %" for names in GROUPED.values()]
        rows.append([size, model, str(r["lanes"]), *cells])
    return _table(["predicted, H100, low band", "sizes of", "lanes", *GROUPED], rows)


def targets(found: dict) -> str:
    """Targets of the project, and how far."""
    rows = []
    for size, aim in (("768x512", 1000), ("1920x1080", 3000)):
        for chosen in (True, False):
            r = _row(found, size, "ccm-base", "H100", chosen)
            low, high = r["low"]["us"], r["high"]["us"]
            verdict = (
                "met"
                if high <= aim
                else ("open" if low <= aim else f"missed {low / aim:.0f} to {high / aim:.0f} times")
            )
            rows.append([size, str(r["lanes"]), f"{aim / 1000:.0f} ms", f"{_band(low, high)} ms", verdict])
    return _table(["ccm-base, H100", "lanes", "target", "predicted", ""], rows)


def better(found: dict) -> str:
    """What changes would bring."""
    head = ["predicted, ms"] + [f"{e['model']} {e['size']} {e['gpu']}" for e in found["improvements"]]
    first = found["improvements"][0]["cases"]
    alone = sorted(IMPROVEMENTS, key=lambda k: first[k]["low"])
    last = [k for k in first if k not in IMPROVEMENTS and k != "as it is"]
    rows = []
    for case in ["as it is", *alone, *last]:
        rows.append([case, *(_band(e["cases"][case]["low"], e["cases"][case]["high"]) for e in found["improvements"])])
    return _table(head, rows)


def rounds(found: dict) -> str:
    """Cycles of a round of rANS."""
    code = found["cycles"]
    rows = []
    for lanes in LANES:
        cells = [str(lanes)]
        for gpu in GPUS:
            c = code[gpu]["low"]
            cells.append(f"{c[f'rans {lanes}']['lone']:.0f} ({c[f'rans {lanes} refill']['lone']:.0f})")
        c = code["H100"]["low"][f"rans {lanes}"]
        cells += [f"{c['issue']:.0f}", f"{code['H100']['low'][f'rans {lanes}']['lone'] / lanes:.0f}"]
        rows.append(cells)
    return _table(
        ["lanes", *(f"{g}, cycles a round" for g in GPUS), "instructions (sm_90)", "cycles a symbol, H100"], rows
    )


def pieces(found: dict) -> str:
    """Cycles of the rest of a step."""
    names = {
        "conv 2": "masked convolution: 32 bytes of k, 16 positions, weights in shared memory",
        "conv 2 L2": "the same, weights from L2",
        "rows 2": "1x1 layers: 32 bytes of k, 16 positions",
        "first bytes 2": "before and after it: bases, first loads, last product, requantization to bytes",
        "later bytes 2": "the same of a 1x1 layer",
        "later scale 2": "the same of the head (scales)",
        "choose": "rows of 32 channels of one position",
        "publish": "publishing of as many",
        "dense": "dense tile: 32 bytes of k, 16 positions",
    }
    code = found["cycles"]
    rows = [
        [text, *(f"{code[g]['low'][n]['lone']:.0f}" for g in GPUS), f"{code['H100']['low'][n]['issue']:.0f}"]
        for n, text in names.items()
    ]
    return _table(["a warp's cycles", *GPUS, "instructions (sm_90)"], rows)


def offsets(found: dict) -> str:
    """Steps between the starts of two groups."""
    rows = [[size, *(str(v) for v in o.values())] for size, o in found["offsets"].items()]
    head = ["", "steps of a group", "offset, as it is", "announced every step", "tiles of 4 x 8", "tiles of 4 x 16"]
    return _table(head, rows)


def around(found: dict) -> str:
    """Launches before and after."""
    rows = []
    for size in SIZES:
        for model in ("ccm-small", "ccm-base"):
            r = _row(found, size, model, "H100")
            low, high = r["low"]["outside_us"], r["high"]["outside_us"]
            rows.append([size, model, *(f"{low[k] / 1000:.2f} to {high[k] / 1000:.2f}" for k in low)])
    return _table(["predicted, H100, ms", "sizes of", *low], rows)


SECTIONS: dict[str, Callable[[dict], str]] = {
    "cost-times": times, "cost-shares": shares, "cost-targets": targets, "cost-better": better, "cost-rounds": rounds,
    "cost-pieces": pieces, "cost-offsets": offsets, "cost-around": around,
    "cost-source": lambda found: f"Machine code of commit {found['source']}.",
}  # fmt: skip


def fill(text: str, found: dict) -> str:
    """The document with its generated sections brought up to date."""
    for section, make in SECTIONS.items():
        pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- /{section} -->)", re.DOTALL)
        if not pattern.search(text):
            sys.exit(f"{DOCUMENT.name} has no section {section}")
        body = make(found)
        text = pattern.sub(lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text)
    return text


def source_commit() -> str:
    """Of the kernels; a plus for changes that are not committed."""
    git = ["git", "-C", str(ROOT)]
    paths = ["--", "csrc/cuda", "csrc/include"]
    commit = subprocess.run([*git, "log", "-1", "--format=%h", *paths], capture_output=True, text=True).stdout.strip()
    dirty = subprocess.run([*git, "status", "--short", *paths], capture_output=True, text=True).stdout.strip()
    return commit + ("+" if dirty else "")


def main() -> None:
    """Write the results and the document's tables, or compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine-code", type=Path, metavar="FOLDER")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        old = DOCUMENT.read_text(encoding="utf-8")
        sys.exit(0 if fill(old, json.loads(RESULT.read_text(encoding="utf-8"))) == old else f"{DOCUMENT.name} is stale")
    if args.machine_code:
        code = {}
        for name, gpu in GPUS.items():
            pieces = read_machine_code(args.machine_code, gpu.arch)
            code[name] = {band: machine_cycles(pieces, gpu, scale) for band, scale in BANDS.items()}
        source = source_commit()
    else:
        stored = json.loads(RESULT.read_text(encoding="utf-8"))
        code, source = stored["cycles"], stored["source"]
    found = results(code, source)
    RESULT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if DOCUMENT.exists():
        DOCUMENT.write_text(fill(DOCUMENT.read_text(encoding="utf-8"), found), encoding="utf-8")
    for row in found["predictions"]:
        print(
            f"{row['size']:10} {row['model']:10} {row['gpu']:9} {row['lanes']:2} lanes",
            row["low"]["us"],
            row["high"]["us"],
        )


if __name__ == "__main__":
    main()

"""What a step, a group and an image cost latents_kernel: predictions, see cuda_cost.py."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

from cuda_pieces import (
    BANDS,
    BARRIER,
    CHUNK,
    DENSE_MISS,
    DRAM_GBS,
    ENTRY_MISS,
    GENERIC,
    GPUS,
    L2_BYTES,
    LAUNCH,
    MAX_KNOWN,
    MOST_AHEAD,
    QUIET_ROUNDS,
    ROOT,
    SCHEDULERS,
    SLOW_ROUND,
    STEPS_PER_NEWS,
    TILE_COLUMNS,
    TILE_ROWS,
    TRIED,
    WARPS,
    Gpu,
)
from cuda_schedule import Outcome, build_order, chunk_order, simulate


def lanes_for_symbols(coded: float, payload: float, rounds: int = 2500, share: int = 200) -> int:
    """As csrc/format/rans.h; z has 100 rounds and a share of 10."""
    lanes = 1
    while lanes < 128 and coded > lanes * rounds and 2 * lanes * 9 * share <= 4 * payload:
        lanes *= 2
    return lanes


@dataclass(frozen=True)
class Stream:
    """A group's: lanes, coded symbols a position, bits of one, share of the rounds that a symbol makes slow.

    ``calm``: share of the rounds of most probable symbols alone of which none takes a word.
    """

    lanes: int
    coded: float
    bits: float
    slow: float
    calm: float = 0.0


# --- Models


@dataclass(frozen=True)
class Model:
    """Sizes that decide the cost. Convolutions of the dense part: (kernel, input channels, output channels)."""

    name: str
    groups: tuple[int, ...]
    taps: int
    width: int  # of the base
    hidden: tuple[int, ...]
    stacks: tuple[tuple[int, ...], ...]  # kernels, group by group
    cross_width: int
    psi: int
    hyper_channels: int
    # Of each group: coded a position, bits of one, slow with 32 lanes, calm with one.
    symbols: tuple[tuple[float, float, float, float], ...]
    z_payload: float  # bytes of z for 768 x 512
    fine_context: bool = True  # False: the last group has no context of its own, and is one step

    def streams(self, positions: int, lanes: int) -> list[Stream]:
        """Of every group; lanes 0: as the encoder chooses."""
        found = []
        for coded, bits, slow, calm in self.symbols:
            own = lanes or lanes_for_symbols(coded * positions, coded * positions * bits / 8)
            share = min(own, 32)
            found.append(Stream(own, coded, bits, 1 - (1 - slow) ** (share / 32), calm**share))
        return found

    @property
    def channels(self) -> int:
        return sum(self.groups)

    @property
    def shift(self) -> int:
        """Of the last layer's tiles, as DeviceGroup::shift: the most of all groups."""
        return max(sum(k // 2 for k in stack[1:]) for stack in self.stacks)

    def chain(self, g: int) -> list[tuple[int, int, int]]:
        before = sum(self.groups[:g])
        if not before:
            return []
        stack = self.stacks[g]
        dims = [before, *[self.cross_width] * (len(stack) - 1), self.width]
        return [(k, a, b) for k, (a, b) in zip(stack, pairwise(dims), strict=True)]


def photographs(quality: str = "4.0", picture: int | None = None) -> dict[str, Model]:
    """ccm-small and ccm-base with what streams hold at a quality (results/cuda_streams.json).

    The means of photographs, or one of them. With and without skipped symbols; with those, the fine group of ccm-small
    also in one step. ccm-base has no weights; its groups are taken for ccm-small's, channel by channel, the last for
    the last.
    """
    sys.path.insert(0, str(ROOT))
    from ccm_fast.models.config import PRESETS

    stored = json.loads((ROOT / "benchmarks" / "results" / "cuda_streams.json").read_text(encoding="utf-8"))
    own = PRESETS["ccm-small"].groups
    found = {}
    for name in ("ccm-small", "ccm-base"):
        for kind in ("all", "skipped"):
            c, known = PRESETS[name], stored["qualities"][quality][kind]
            if picture is not None:
                known = stored["pictures"][quality][kind][picture]
            which = [len(own) - 1 if g + 1 == len(c.groups) else min(g, len(own) - 2) for g in range(len(c.groups))]
            symbols = tuple(
                (known[k]["coded"] / own[k] * channels, known[k]["bits"], known[k]["slow_32"],
                 known[k]["calm"] ** (1 / min(known[k]["lanes"], 32)))
                for k, channels in zip(which, c.groups, strict=True)
            )  # fmt: skip
            label = name + (f", index > {stored['skip']}" if kind == "skipped" else "")
            found[label] = Model(
                label, c.groups, c.context_kernel**2 // 2, c.parameter_widths[0], c.parameter_widths[1:],
                tuple(c.stack_kernels(g) for g in range(len(c.groups))),
                c.cross_width, c.psi_channels, c.hyper_channels, symbols, 0.003 * 768 * 512 / 8,
            )  # fmt: skip
            if name == "ccm-small" and kind == "skipped":
                label += ", fine group in one step"
                found[label] = replace(found[f"ccm-small, index > {stored['skip']}"], name=label, fine_context=False)
    return found


def models() -> dict[str, Model]:
    """Those of photographs() at quality 4, and mbt2018 with N = M = 192."""
    found = photographs()
    # 94,610 bytes: the net of the drop-in's benchmark on one 768 x 512 photograph. Its z takes about a twentieth, and
    # no symbol lies outside its window: assumed.
    bits = 8 * 94610 / (32 * 48 * 192)
    symbols = ((192.0, bits, 0.0, 0.0),)
    found["mbt2018"] = Model("mbt2018", (192,), 12, 640, (512,), ((),), 0, 384, 192, symbols, 1700)
    return found


# Of the shipped weights: windows of 399 rows, neighbours of 95.
ROW_TABLES = 399 * 80 + 95 * 128
MEASURED_CHUNK = 32  # of the kernel that was measured

SIZES = {"768x512": (32, 48), "1920x1080": (68, 120), "3840x2160": (135, 240)}

# --- Costs, in cycles


@dataclass(frozen=True)
class Options:
    """What could be otherwise; the defaults are the kernel as it is."""

    lanes: int = 0  # 0: as the encoder chooses
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
    """Of one group of a model on one GPU, one band."""

    model: Model
    gpu: Gpu
    scale: float
    code: dict[str, dict]
    options: Options
    group: int
    stream: Stream
    tiles: int
    in_shared: list[float] = field(default_factory=list)  # share of each layer's weights

    def __post_init__(self) -> None:
        m, round16 = self.model, lambda n: -(-n // 16) * 16
        self.measured = "rans" not in self.code
        self.chunk = MEASURED_CHUNK if self.measured else CHUNK
        c, chunk = max(m.groups), self.chunk
        depth = max(-(-n // 32) for n in (m.width, *m.hidden))
        arena = 2 * round16(chunk * (depth * 32 + 16)) + sum(round16(k * chunk * c) for k in (2, 1))
        list_of = chunk * c + 127
        arena += 8 * (2 * list_of + 288) + 4 * chunk * -(-c // 32)  # symbols, targets, masks
        arena += 64 * 8 + 4 * chunk + 80 + 128 * 64 + 80 + 32
        if not self.measured:  # accumulators that are begun ahead
            arena += max(t for t in (0, *self.tiles_ahead) if t <= MOST_AHEAD) * 1024
        if not self.measured:  # most probable entries, words, larger decoders, windows and neighbours
            arena += 4 * (list_of + 288) + 4 * 512 + 128 * 16 + ROW_TABLES
        arena += round16(4 * self.tiles) if self.tiles <= MAX_KNOWN else 0
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
        m, c = self.model, self.model.groups[self.group]
        dims = [m.width, *m.hidden, 2 * c]
        first = (-(-m.width // 16), -(-(m.taps * (c + 3) // 4 * 4) // 32) if self.own_context else 0)
        return [first, *((-(-b // 16), -(-a // 32)) for a, b in pairwise(dims))]

    @property
    def own_context(self) -> bool:
        return self.model.fine_context or self.group + 1 < len(self.model.groups)

    @property
    def tiles_ahead(self) -> tuple[int, ...]:
        """Tiles of 16 channels of the group's sums of contexts."""
        return (-(-self.model.width // 16),)

    def ahead(self) -> tuple[int, float]:
        """Products of the first layer that other warps compute while the decoders work, and how long that takes.

        Those of all taps but the two that see the last step's latents, and the base.
        """
        m_tiles, k_steps = self.layers[0]
        if "ahead" not in self.code or m_tiles > MOST_AHEAD:
            return 0, 0.0
        taps = self.model.taps
        early = k_steps * (taps - 2) // taps
        warps = WARPS - max(1, self.stream.lanes // 32)
        turns, busy = -(-m_tiles // warps), -(-min(m_tiles, warps) // SCHEDULERS)
        share = self.in_shared[0]

        def mixed(piece: str) -> float:
            return share * self.of(piece, busy) + (1 - share) * self.of(f"{piece} L2", busy)

        products = max(turns * max(0, early - 1) * mixed("conv 2"), (1 - share) * m_tiles * early * 512 / L2_BYTES)
        return early, products + turns * mixed("ahead") + 2 * self.l2 + 2 * self.l1  # flags, positions

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
        """Products, and everything else of a layer for a chunk."""
        m_tiles, k_steps = self.layers[k]
        if k == 0:
            k_steps -= self.ahead()[0]
        m_tiles = -(-m_tiles // self.options.cluster)
        nt = 1 if self.measured and count <= 8 else 2
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
        straight = mixed(f"{'later' if k else 'first'} {kind} {nt}")
        if k == 0 and not self.measured and m_tiles > MOST_AHEAD:  # nothing was begun: the base
            straight += self.l2
        straight *= 0.5 if self.options.lean_epilogues else 1
        return max(turns * max(0, k_steps - 1) * once, streamed), turns * straight

    def round(self, stream: Stream) -> float:
        """A round of rANS: the mean of common and slow ones."""
        lanes = min(stream.lanes, 32)
        lean = 0.5 if self.options.lean_rounds else 1.0
        if not self.measured:
            once = self.of("rans")
            if stream.lanes <= 32 and QUIET_ROUNDS * stream.bits * lanes < 16:
                # As if rounds were calm independently of each other.
                rounds = sum(stream.calm**k for k in range(TRIED))
                right = stream.calm**TRIED
                once = (right * self.of("modes") + (1 - right) * self.of("modes failed")) / rounds
            return once * lean + stream.slow * max(0.0, self.of("slow"))
        # The kernel that was measured, where the 32nd word made a round slow, too.
        takes = 1 - (1 - min(1.0, stream.bits / 16)) ** lanes  # that some lane takes a word
        plain, refill = self.of(f"rans {lanes}"), self.of(f"rans {lanes} refill")
        slow = (stream.slow + lanes * stream.bits / 16 / 32) * SLOW_ROUND
        return (plain + takes * (refill - plain)) * lean + slow

    def rans(self, positions: int) -> float:
        """A chunk's symbols; a warp a sequence."""
        rounds = -(-positions * self.stream.coded // self.stream.lanes)
        start = 2 * self.shared + self.l1 + ENTRY_MISS * (self.l2 - self.l1) + 60  # decoder to registers, first window
        return start + rounds * self.round(self.stream)

    def step(self, count: int, news: bool) -> dict[str, float]:
        """A step, by part."""
        t: Counter = Counter()
        each = -(-self.model.groups[self.group] // 32)
        if self.group and any(self.model.stacks):  # two looks at the positions, the known tiles
            t["ready"] += 3 * self.l1 + 3 * self.shared + 2 * self.barrier + 60
        for at in range(0, count, self.chunk):
            n = min(self.chunk, count - at)
            t["overhead"] += 2 * self.l1 + self.shared + 40  # descriptors, positions
            for k in range(len(self.layers)):
                product, rest = self.layer(k, n)
                t["products"] += product
                t["requantize"] += rest
                t["overhead"] += 3 * self.l1  # descriptors of the layer
                t["barriers"] += self.barrier * (2 if self.options.cluster == 1 else 10)
            symbols_of_warp = -(-n // WARPS) * each
            t["choose rows"] += 2 * self.l1 + symbols_of_warp * self.of("choose", WARPS // SCHEDULERS)
            t["rans"] += max(self.rans(n), self.ahead()[1])
            t["publish"] += symbols_of_warp * self.of("publish", WARPS // SCHEDULERS)
            t["barriers"] += 4 * self.barrier
            if count > self.chunk and self.own_context:
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


def predict(
    model: Model, gpu: Gpu, size: str, band: str, code: dict, options: Options, streams: list[Stream] | None = None
) -> tuple[Outcome, list[Costs]]:
    """latents_kernel alone, in cycles, and the costs of its groups. ``streams``: of each group, else the model's."""
    h, w = SIZES[size]
    order = build_order(h, w, model.shift, *options.tile)
    streams = streams or model.streams(h * w, options.lanes)
    costs = [Costs(model, gpu, BANDS[band], code, options, g, s, order.tiles) for g, s in enumerate(streams)]
    useful = len(model.groups) * (1 + order.tiles)
    last = costs[-1]
    fine = None if model.fine_context else chunk_order(order, h, w, CHUNK, model.shift)
    outcome = simulate(
        order, len(model.groups), cache(lambda g, count, news: costs[g].step(count, news)), cache(last.task),
        lambda g: tuple(k for k, *_ in model.chain(g)), min(useful, gpu.multiprocessors), last.news_delay,
        3 * last.l2 + 90 * gpu.clock, options.news, fine,
    )  # fmt: skip
    # Weights to shared memory, the stream's start: once a group, while the others start as well.
    begin = sum(s * m * k * 512 for s, (m, k) in zip(last.in_shared, last.layers, strict=True)) / L2_BYTES
    outcome.total += begin + 4 * last.l2
    outcome.parts["begin"] = begin + 4 * last.l2
    return outcome, costs


def outside(model: Model, gpu: Gpu, size: str, band: str, code: dict) -> dict[str, float]:
    """Microseconds of the launches around it; the three convolutions of h_s are ours, also for mbt2018 (coarse)."""
    h, w = SIZES[size]
    scale = BANDS[band]
    us = 1e-3 / gpu.clock
    symbols = -(-h // 4) * -(-w // 4) * model.hyper_channels
    positions = 8 * 12  # of z at 768 x 512
    lanes = lanes_for_symbols(symbols, model.z_payload * h * w / (32 * 48), 100, 10)
    z_stream = Stream(lanes, 0, 8 * model.z_payload / (positions * model.hyper_channels), 0.0)
    costs = Costs(model, gpu, scale, code, Options(), 0, z_stream, 1)
    z = -(-symbols // lanes) * costs.round(z_stream) * us
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
    "64 lanes": {"lanes": 64},
    "128 lanes": {"lanes": 128},
}


def calibration(only: int | None = None) -> list[dict]:
    """The kernel that an H100 has run, predicted with the constants that were fitted to it, beside what it took.

    ``only``: one of the points.
    """
    stored = json.loads((ROOT / "benchmarks" / "results" / "cuda_calibration.json").read_text(encoding="utf-8"))
    low, high = stored["cycles"]["low"], stored["cycles"]["high"]
    # Cycles are linear in the latencies, but for which of two waits is the longer one.
    code = {name: {k: (low[name][k] + high[name][k]) / 2 for k in low[name]} for name in low}
    gpu, model = GPUS["H100"], models()["ccm-small"]
    found = []
    for point in stored["points"] if only is None else [stored["points"][only]]:
        streams = [Stream(**group) for group in point["groups"]]
        outcome, _ = predict(model, gpu, "768x512", "fitted", code, Options(), streams)
        ms = microseconds(outcome.total, gpu) / 1000
        found.append({**{k: point[k] for k in ("file", "quality", "measured_ms")}, "predicted_ms": round(ms, 2)})
    return found

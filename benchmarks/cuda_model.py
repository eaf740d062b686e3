"""What a group and an image cost latents_kernel, and the launches around it: predictions, see cuda_cost.py."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from cuda_crew import with_crews
from cuda_nets import LANES_OF_Z, SIZES, Model, lanes_for_symbols
from cuda_pieces import BANDS, CHUNK, DRAM_GBS, L2_BYTES, LAUNCH, TILE_COLUMNS, TILE_ROWS, WARPS, Gpu
from cuda_schedule import Order, Outcome, build_order, chunk_order, simulate
from cuda_steps import AS_IT_IS, Costs, Options


def costs_of(
    model: Model, gpu: Gpu, size: str, band: str, code: dict, options: Options, order: Order
) -> list[Costs]:  # fmt: skip
    """Of the groups of an image."""
    h, w = SIZES[size]
    return [
        Costs(model, gpu, BANDS[band], code, options, g, s, order.tiles, longest=max(order.counts))
        for g, s in enumerate(model.streams(h * w, options.lanes))
    ]


def predict(
    models: list[Model], gpu: Gpu, size: str, band: str, code: dict, options: Options = AS_IT_IS
) -> tuple[Outcome, list[Costs]]:
    """latents_kernel alone, in cycles, for a batch of images, and the costs of the first one's groups."""
    order = build_order(*SIZES[size], models[0].shift, *options.tile)
    costs = [costs_of(m, gpu, size, band, code, options, order) for m in models]
    taken = 0
    if options.crews and "crews" in code:
        spare = max(0, gpu.multiprocessors - len(models) * len(costs[0]))
        found = [with_crews(own, code["crews"], spare, len(models)) for own in costs]
        costs, taken = [own for own, _ in found], sum(n for _, n in found)
    return run(costs, order, SIZES[size], taken), costs[0]


def run(images: list[list[Costs]], order: Order, size: tuple[int, int], taken: int = 0) -> Outcome:
    """latents_kernel with these costs of each image's groups; so many blocks are ``taken`` by crews."""
    last = images[0][-1]
    model, gpu, options = last.model, last.gpu, last.options
    useful = len(images) * len(model.groups) * (1 + order.tiles)
    fine = None if model.fine_context else chunk_order(order, *size, CHUNK, model.shift)
    outcome = simulate(
        order, len(model.groups), cache(lambda k, g, count, news, begun: images[k][g].step(count, news, begun)),
        cache(last.task), lambda g: tuple(k for k, *_ in model.chain(g)), min(useful, gpu.multiprocessors - taken),
        last.news_delay, 3 * last.l2 + 90 * gpu.clock, options.news, fine, len(images),
    )  # fmt: skip
    # Tables and weights to shared memory, the stream's start: once a group, while the others start as well.
    begin = sum(s * m * k * 512 for s, (m, k) in zip(last.in_shared, last.layers, strict=True)) / L2_BYTES
    begin += 4 * last.l2 + (0 if last.measured else model.row_tables / L2_BYTES)
    outcome.total += begin
    outcome.parts["begin"] = begin
    return outcome


def outside(model: Model, gpu: Gpu, size: str, band: str, code: dict) -> dict[str, float]:
    """Microseconds of the launches around it; the three convolutions of h_s are ours, also for mbt2018 (coarse)."""
    h, w = SIZES[size]
    scale = BANDS[band]
    us = 1e-3 / gpu.clock
    symbols = h * w * model.z.coded
    times = h * w / (SIZES["768x512"][0] * SIZES["768x512"][1])
    lanes = model.z.lanes if times == 1 else lanes_for_symbols(symbols, symbols * model.z.bits / 8, LANES_OF_Z)
    costs = Costs(model, gpu, scale, code, Options(), 0, replace(model.z, lanes=lanes), 1)
    # In batches of 1024 symbols; before them the stream's head and the model, byte after byte and one after another.
    batches = -(-symbols // 1024)
    z = symbols / lanes * costs.round() + batches * (costs.rans(0) + 4 * costs.l2 + 3 * costs.barrier) + 8 * costs.l2
    z *= us
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
        # Latents and places read, values written.
        "restore": h * w * model.channels * 10 / DRAM_GBS / 1e3 + LAUNCH * scale,
    }


# --- Results


def microseconds(cycles: float, gpu: Gpu) -> float:
    return cycles / gpu.clock / 1e3


def offset_in_steps(size: str, model: Model, tile: tuple[int, int] = (TILE_ROWS, TILE_COLUMNS)) -> int:
    """How many steps of one group lie between the starts of two, were dense tiles and announcements free."""
    h, w = SIZES[size]
    order = build_order(h, w, model.shift, *tile)
    chain = tuple(k for k, *_ in model.chain(1))
    free = simulate(order, 2, lambda *a: {"step": 1.0}, lambda *a: 0.0, lambda g: chain, 10**6)
    return round(free.starts[1] - free.starts[0]) if chain else 0


IMPROVEMENTS = {
    "32 lanes": {"lanes": 32},
    "16 lanes": {"lanes": 16},
    "epilogues of half the cycles": {"lean_epilogues": True},
    "rounds of half the cycles": {"lean_rounds": True},
    "dense tiles of 4 x 8": {"tile": (4, 8)},
    "dense tiles of 4 x 16": {"tile": (4, 16)},
    "one flag a tile and claim": {"one_flag": True},
    "no crews": {"crews": False},
    "64 lanes": {"lanes": 64},
    "128 lanes": {"lanes": 128},
}

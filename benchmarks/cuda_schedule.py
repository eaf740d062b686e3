"""What the groups of latents_kernel wait for each other: its schedule as a simulation of events; see cuda_cost.py."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from cuda_pieces import STEPS_PER_NEWS, TILE_COLUMNS, TILE_ROWS


@dataclass(frozen=True)
class Order:
    steps: int
    counts: tuple[int, ...]  # positions of each step
    tiles_of_step: tuple[frozenset[int], ...]
    tiles_i: int
    tiles_j: int
    sequence: tuple[int, ...]
    needs: dict[int, tuple[int, ...]]  # radius -> of each tile
    rows: int  # of a tile
    columns: int

    @property
    def tiles(self) -> int:
        return self.tiles_i * self.tiles_j


@cache
def build_order(
    h: int, w: int, shift: int = 0, rows: int = TILE_ROWS, columns: int = TILE_COLUMNS, row_step: int = 3
) -> Order:
    """Wavefront: step = j + row_step * i; every step of it has positions.

    ``shift``: of the last layer's tiles, the most of all (tiles.h).
    """
    steps = row_step * (h - 1) + w
    tiles_i, tiles_j = -(-(h + shift) // rows), -(-(w + shift) // columns)
    counts, tiles = [0] * steps, [set() for _ in range(steps)]
    for i in range(h):
        for j in range(w):
            s = j + row_step * i
            counts[s] += 1
            tiles[s].add((i + shift) // rows * tiles_j + (j + shift) // columns)
    present = [s for s in range(steps) if counts[s]]
    number = {s: n + 1 for n, s in enumerate(present)}  # steps done after it
    needs = {}
    for r in range(4):
        needs[r] = tuple(
            number[
                row_step * (min(h, min(t // tiles_j * rows, h - 1) + rows + r) - 1)
                + min(w, min(t % tiles_j * columns, w - 1) + columns + r)
                - 1
            ]
            for t in range(tiles_i * tiles_j)
        )
    sequence = tuple(sorted(range(tiles_i * tiles_j), key=lambda t: needs[0][t]))
    return Order(
        len(present), tuple(counts[s] for s in present), tuple(frozenset(tiles[s]) for s in present),
        tiles_i, tiles_j, sequence, needs, rows, columns,
    )  # fmt: skip


def chunk_order(order: Order, h: int, w: int, chunk: int, shift: int) -> Order:
    """Of a last group that is one step, row by row: its chunks, each of which waits for its own tiles alone."""
    positions = [(i, j) for i in range(h) for j in range(w)]
    chunks = [positions[k : k + chunk] for k in range(0, len(positions), chunk)]
    tiles = tuple(
        frozenset((i + shift) // order.rows * order.tiles_j + (j + shift) // order.columns for i, j in part)
        for part in chunks
    )
    return replace(order, steps=len(chunks), counts=tuple(map(len, chunks)), tiles_of_step=tiles)


@dataclass
class Outcome:
    """Cycles; ``parts`` of the group that finishes last, ``starts`` and ``ends`` of all."""

    total: float
    parts: dict[str, float]
    starts: list[float]
    ends: list[float]
    tasks: int
    dense_busy: float  # share of the blocks' time that dense tiles take


def simulate(
    order: Order, groups: int, step_cost: Callable, task_cost: Callable, chain: Callable, blocks: int,
    news_delay: float = 0.0, notice: float = 0.0, news: int = STEPS_PER_NEWS, last_order: Order | None = None,
) -> Outcome:  # fmt: skip
    """Groups behind each other, tile by tile: what latents_kernel does, as events.

    ``step_cost(group, count, announces?)`` -> dict of cycles, ``task_cost(group, layer)`` -> cycles,
    ``chain(group)`` -> kernels of the dense layers. ``notice``: from a tile's or a step's being announced to a block's
    acting on it. ``news``: steps between announcements. ``last_order``: of the last group, where it has its own.
    """
    own = [order] * (groups - 1) + [last_order or order]
    steps_of_tile: list[dict[int, list[int]]] = [defaultdict(list) for _ in own]
    for o, steps in zip(own, steps_of_tile, strict=True):
        for s, tiles in enumerate(o.tiles_of_step):
            for t in tiles:
                steps[t].append(s)
    missing = [[len(t) if g and chain(g) else 0 for t in own[g].tiles_of_step] for g in range(groups)]

    @cache
    def before(tile: int, radius: int) -> list[int]:
        """Tiles of the layer before that a tile reads: grids are shifted, so none below and none to its right."""
        i, j = divmod(tile, order.tiles_j)
        up, left = -(-2 * radius // order.rows), -(-2 * radius // order.columns)
        return [a * order.tiles_j + b for a in range(max(0, i - up), i + 1) for b in range(max(0, j - left), j + 1)]

    flags = [[set() for _ in chain(g)] if g else [] for g in range(groups)]
    claims = [[0] * len(chain(g)) if g else [] for g in range(groups)]
    seen = [0] * groups  # steps done, as others see it
    at = [0] * groups
    busy_until: list[float | None] = [None] * groups  # None: waiting
    waiting_since = [0.0] * groups
    parts: list[Counter] = [Counter() for _ in range(groups)]
    starts, ends = [0.0] * groups, [0.0] * groups
    idle = max(1, blocks - groups)
    events: list = []
    number = tasks = 0
    dense_time = 0.0

    def push(time: float, kind: str, data: tuple) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (time, number, kind, data))

    def advance(g: int, now: float) -> None:
        s = at[g]
        if busy_until[g] is not None or s >= own[g].steps or missing[g][s]:
            return
        late = notice if g and now > waiting_since[g] else 0.0
        announces = (s + 1) % news == 0 or s + 1 == own[g].steps
        cost = step_cost(g, own[g].counts[s], announces)
        parts[g]["wait"] += now + late - waiting_since[g]
        parts[g].update(cost)
        if s == 0:
            starts[g] = now + late
        busy_until[g] = now + late + sum(cost.values())
        push(busy_until[g], "step", (g,))

    def ready(g: int, layer: int, tile: int) -> bool:
        kernels = chain(g)
        if layer == 0:
            return seen[g - 1] >= order.needs[min(3, kernels[0] // 2)][tile]
        return all(t in flags[g][layer - 1] for t in before(tile, kernels[layer] // 2))

    def hand_out(now: float) -> None:
        nonlocal idle, tasks, dense_time
        for g in range(1, groups):
            for layer in reversed(range(len(chain(g)))):
                while idle and claims[g][layer] < order.tiles:
                    tile = order.sequence[claims[g][layer]]
                    if not ready(g, layer, tile):
                        break
                    claims[g][layer] += 1
                    idle -= 1
                    tasks += 1
                    cost = task_cost(g, layer)
                    dense_time += cost
                    push(now + notice + cost, "tile", (g, layer, tile))

    for g in range(groups):
        advance(g, 0.0)
    while events:
        now, _, kind, data = heapq.heappop(events)
        if kind == "step":
            (g,) = data
            at[g] += 1
            busy_until[g] = None
            waiting_since[g] = ends[g] = now
            if at[g] % news == 0 or at[g] == own[g].steps:
                push(now + news_delay, "news", (g, at[g]))
            if at[g] == own[g].steps:
                idle += 1
            advance(g, now)
            if at[g] == own[g].steps:
                hand_out(now)
        elif kind == "news":
            g, done = data
            seen[g] = done
            hand_out(now)
        else:
            g, layer, tile = data
            idle += 1
            flags[g][layer].add(tile)
            if layer + 1 == len(chain(g)):
                for s in steps_of_tile[g][tile]:
                    missing[g][s] -= 1
                advance(g, now)
            hand_out(now)
    assert at == [o.steps for o in own], "the schedule hangs"
    last = max(range(groups), key=lambda g: ends[g])
    total = ends[last]
    return Outcome(total, dict(parts[last]), starts, ends, tasks, dense_time / (total * max(1, blocks - groups)))

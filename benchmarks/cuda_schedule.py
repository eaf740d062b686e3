"""What the groups of latents_kernel wait for each other: its schedule as a simulation of events; see cuda_cost.py."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
    """Cycles; ``parts`` of the group that finishes last, ``starts`` and ``ends`` of the first image's groups."""

    total: float
    parts: dict[str, float]
    starts: list[float]
    ends: list[float]
    tasks: int
    dense_busy: float  # share of the time that dense tiles would take of the blocks which have no group


@dataclass
class Unit:
    """A group of an image."""

    image: int
    group: int
    missing: list[int]  # tiles that each step still waits for
    known: list[float]  # since when a step's tiles are all there
    flags: list[set[int]]  # tiles that are done, of each dense layer
    claims: list[int]
    seen: int = 0  # steps done, as others see it
    at: int = 0
    active: bool = False  # a block has taken it
    waiting: bool = False  # that block does nothing
    since: float = 0.0  # when its block began to wait
    look: float = -1.0  # when the present step's other warps looked for the next one's base
    parts: Counter = field(default_factory=Counter)
    start: float = 0.0
    end: float = 0.0


class Simulation:
    """Groups behind each other, tile by tile: what latents_kernel does, as events; see simulate()."""

    def __init__(
        self, order, groups, step_cost, task_cost, chain, blocks, news_delay, notice, news, last_order, images
    ):  # fmt: skip
        self.order, self.groups, self.news_delay, self.notice, self.news = order, groups, news_delay, notice, news
        self.step_cost, self.task_cost = step_cost, task_cost
        self.chains = [chain(g) if g else () for g in range(groups)]
        self.own = [order] * (groups - 1) + [last_order or order]
        self.steps_of_tile: list[dict[int, list[int]]] = [defaultdict(list) for _ in self.own]
        for o, steps in zip(self.own, self.steps_of_tile, strict=True):
            for s, tiles in enumerate(o.tiles_of_step):
                for t in tiles:
                    steps[t].append(s)
        self.units = [self.unit(k, g) for k in range(images) for g in range(groups)]
        # Tickets: group after group over the images.
        self.tickets = sorted(self.units, key=lambda u: (u.group, u.image), reverse=True)
        self.idle = 0  # blocks without a group
        self.open: dict[int, Unit] = {}  # units of which a tile may be ready to be claimed
        self.events: list = []
        self.number = self.tasks = 0
        self.dense_time = 0.0
        self.before = cache(self.tiles_before)
        for _ in range(blocks if blocks < len(self.units) else len(self.units)):
            self.take_ticket(0.0)
        self.idle = max(0, blocks - len(self.units))

    def unit(self, image: int, g: int) -> Unit:
        tiles = self.own[g].tiles_of_step
        chain = self.chains[g]
        return Unit(image, g, [len(t) if chain else 0 for t in tiles], [-1.0] * len(tiles), [set() for _ in chain],
                    [0] * len(chain))  # fmt: skip

    def tiles_before(self, tile: int, radius: int) -> list[int]:
        """Tiles of the layer before that a tile reads: grids are shifted, so none below and none to its right."""
        order = self.order
        i, j = divmod(tile, order.tiles_j)
        up, left = -(-2 * radius // order.rows), -(-2 * radius // order.columns)
        return [a * order.tiles_j + b for a in range(max(0, i - up), i + 1) for b in range(max(0, j - left), j + 1)]

    def push(self, time: float, kind: str, *data) -> None:
        self.number += 1
        heapq.heappush(self.events, (time, self.number, kind, data))

    def take_ticket(self, now: float) -> None:
        """A block takes the next group, or is idle from now on."""
        if not self.tickets:
            self.idle += 1
            return
        u = self.tickets.pop()
        u.active = u.waiting = True
        u.since = now
        self.advance(u, now)

    def advance(self, u: Unit, now: float) -> None:
        """The block of a unit goes on, if it can: with the next step, else with a tile of its own."""
        if not u.active or not u.waiting:
            return
        s, own = u.at, self.own[u.group]
        if u.missing[s]:
            if (task := self.claim(u)) is not None:
                u.waiting = False
                self.run(u, *task, now, u)
            return
        late = self.notice if u.group and now > u.since else 0.0
        announces = (s + 1) % self.news == 0 or s + 1 == own.steps
        ahead = s > 0 and (not self.chains[u.group] or u.known[s] <= u.look)
        cost = self.step_cost(u.image, u.group, own.counts[s], announces, ahead)
        u.parts["wait"] += now + late - u.since
        u.parts.update(cost)
        if s == 0:
            u.start = now + late
        end = now + late + sum(cost.values())
        u.look = end - sum(cost.get(k, 0.0) for k in ("rans", "publish", "news"))
        u.waiting = False
        self.push(end, "step", u)

    def claim(self, u: Unit) -> tuple[int, int] | None:
        """A tile of a unit whose inputs are there: (layer, tile), the last layers' first."""
        chain, order = self.chains[u.group], self.order
        for layer in reversed(range(len(chain))):
            if u.claims[layer] >= order.tiles:
                continue
            tile = order.sequence[u.claims[layer]]
            radius = chain[layer] // 2
            if layer == 0:
                ready = self.units[u.image * self.groups + u.group - 1].seen >= order.needs[min(3, radius)][tile]
            else:
                ready = all(t in u.flags[layer - 1] for t in self.before(tile, radius))
            if ready:
                u.claims[layer] += 1
                return layer, tile
        return None

    def run(self, u: Unit, layer: int, tile: int, now: float, coder: Unit | None) -> None:
        """A block computes a tile: that of a group, or an idle one."""
        self.tasks += 1
        cost = self.task_cost(u.group, layer)
        self.dense_time += cost
        self.push(now + self.notice + cost, "tile", u, layer, tile, coder)

    def hand_out(self, now: float) -> None:
        """Idle blocks take what is ready."""
        for key in sorted(self.open):
            u = self.open[key]
            while self.idle and (task := self.claim(u)) is not None:
                self.idle -= 1
                self.run(u, *task, now, None)
            if not self.idle:
                return
            del self.open[key]

    def changed(self, u: Unit, now: float) -> None:
        """Tiles of a unit may have become ready."""
        if self.chains[u.group]:
            self.open[u.image * self.groups + u.group] = u
            self.advance(u, now)

    def after_step(self, u: Unit, now: float) -> None:
        u.at += 1
        u.since = u.end = now
        done = u.at == self.own[u.group].steps
        if u.at % self.news == 0 or done:
            self.push(now + self.news_delay, "news", u, u.at)
        if done:
            u.active = False
            self.take_ticket(now)
            self.hand_out(now)
        else:
            u.waiting = True
            self.advance(u, now)

    def after_tile(self, u: Unit, layer: int, tile: int, coder: Unit | None, now: float) -> None:
        u.flags[layer].add(tile)
        if layer + 1 == len(self.chains[u.group]):
            for s in self.steps_of_tile[u.group][tile]:
                u.missing[s] -= 1
                if not u.missing[s]:
                    u.known[s] = now
        if coder is None:
            self.idle += 1
        else:
            coder.waiting = True
        self.changed(u, now)
        self.hand_out(now)

    def outcome(self, blocks: int) -> Outcome:
        while self.events:
            now, _, kind, data = heapq.heappop(self.events)
            if kind == "step":
                self.after_step(*data, now)
            elif kind == "tile":
                self.after_tile(*data, now)
            else:
                u, done = data
                u.seen = done
                if u.group + 1 < self.groups:
                    self.changed(self.units[u.image * self.groups + u.group + 1], now)
                self.hand_out(now)
        assert all(u.at == self.own[u.group].steps for u in self.units), "the schedule hangs"
        last = max(self.units, key=lambda u: u.end)
        first = self.units[: self.groups]
        free = max(1, blocks - len(self.units))
        return Outcome(
            last.end, dict(last.parts), [u.start for u in first], [u.end for u in first], self.tasks,
            self.dense_time / (last.end * free),
        )  # fmt: skip


def simulate(
    order: Order, groups: int, step_cost: Callable, task_cost: Callable, chain: Callable, blocks: int,
    news_delay: float = 0.0, notice: float = 0.0, news: int = STEPS_PER_NEWS, last_order: Order | None = None,
    images: int = 1,
) -> Outcome:  # fmt: skip
    """What groups of a batch of equal images wait for each other.

    ``step_cost(image, group, count, announces?, begun?)`` -> dict of cycles; begun: the step's base was there when the
    step before looked ahead. ``task_cost(group, layer)`` -> cycles, ``chain(group)`` -> kernels of the dense layers.
    ``notice``: from a tile's or a step's being announced to a block's acting on it. ``news``: steps between
    announcements. ``last_order``: of the last group, where it has its own. Tickets go group after group over the
    images. A block whose group waits computes that group's tiles, one without a group those of all.
    """
    return Simulation(
        order, groups, step_cost, task_cost, chain, blocks, news_delay, notice, news, last_order, images
    ).outcome(blocks)

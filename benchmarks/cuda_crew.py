"""What a step costs where other blocks compute its network (crew.cuh): predictions, see cuda_cost.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

from cuda_pieces import (
    CHUNK,
    GATHERED,
    L2_BYTES,
    LEAST_PARTS,
    LONG_TABLE,
    MOST_PARTS,
    MOST_SLOTS,
    SCHEDULERS,
    SHUFFLE,
    WARPS,
)
from cuda_steps import Costs

AT_ONCE = 2  # sixteen bytes that a thread fetches at once: crew.cuh, fetch()


@dataclass
class CrewCosts(Costs):
    """Of a group whose network is computed by ``parts`` of each layer's channels and ``slots`` of a step's chunks."""

    parts: int = 1
    slots: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self.two_lists = self.longest > CHUNK
        self.member_share = self.shares(self.parts)

    def tiles_of(self, k: int, parts: int) -> int:
        """Tiles of 16 channels of a layer that a member has at most."""
        return -(-self.layers[k][0] // parts)

    def shares(self, parts: int) -> list[float]:
        """Of a member's weights of each layer: how much lies in shared memory."""
        room = self.gpu.shared - 1024 - self.arena - CHUNK * (self.layers[0][1] * 32 + 16) - LONG_TABLE
        room -= 1024 * self.tiles_of(0, parts)  # sums begun ahead
        room -= sum(self.tiles_of(k, parts) * 256 for k in range(len(self.layers)))  # channels' numbers
        found = [0.0] * len(self.layers)
        for k in reversed(range(len(self.layers))):
            tiles, size = self.tiles_of(k, parts), self.layers[k][1] * 512
            near = min(tiles, max(0, room) // size)
            found[k] = near / tiles
            room -= near * size
        return found

    @property
    def seen(self) -> float:
        """From one thread's announcement to what others have acquired: a fence, the flag's way through L2, and on
        average half of the time between two looks.
        """
        return self.gpu.fence * self.scale + 1.5 * self.l2

    def fetched(self, size: int) -> float:
        """Bytes from L2 to shared memory by the whole block."""
        return -(-size // (16 * 32 * WARPS * AT_ONCE)) * (self.l2 + self.shared) + 40

    def gathered(self, k_steps: int) -> float:
        """What so many products of the first layer read, by the whole block."""
        units = -(-k_steps * 8 // 32) * CHUNK
        turns = -(-units // (WARPS * GATHERED)) * GATHERED
        return turns * self.of("gather", WARPS // SCHEDULERS) + self.barrier

    def member_layer(self, k: int, k_steps: int, based: bool) -> float:
        """A layer's channels of one member."""
        tiles, share = self.tiles_of(k, self.parts), self.member_share[k]
        turns, busy = -(-tiles // WARPS), -(-min(tiles, WARPS) // SCHEDULERS)
        once = self.mixed("crew rows 2", busy, share)
        kind = "bytes" if k + 1 < len(self.layers) else "scale"
        straight = self.mixed(f"crew {'later' if k else 'first'} {kind} 2", busy, share)
        if k == 0 and not based:
            straight += self.l2
        if k:  # the layer's descriptor, before its channels' numbers
            straight += self.shared + 20
        again = self.mixed(f"crew {'later' if k else 'first'} again 2", busy, share) + self.shared
        streamed = (1 - share) * tiles * k_steps * 512 / L2_BYTES
        products = max(turns * max(0, k_steps - 1) * once, streamed)
        return products + turns * straight + (turns - 1) * again + self.barrier

    def member(self, begun: bool, based: bool) -> float:
        """A chunk's network, from positions that are loaded to its announcement."""
        early = self.early if begun else 0
        late = self.layers[0][1] - early
        t = self.gathered(late) + self.member_layer(0, late, based)
        for k in range(1, len(self.layers)):
            if self.parts > 1:
                t += self.seen + self.barrier + self.fetched(CHUNK * (self.layers[k][1] * 32 + 16)) + self.barrier
            t += self.member_layer(k, self.layers[k][1], True)
        return t

    @property
    def early(self) -> int:
        return min(self.layers[0][1], self.context_steps(self.model.taps - 2))

    def member_ahead(self) -> float:
        """What a member does for the next step before that may begin."""
        tiles, share = self.tiles_of(0, self.parts), self.member_share[0]
        turns, busy = -(-tiles // WARPS), -(-min(tiles, WARPS) // SCHEDULERS)
        t = self.l2 + 2 * self.l2 + 3 * self.barrier + self.gathered(self.early)  # positions, flags
        t += turns * (self.early * self.mixed("crew rows 2", busy, share) + self.mixed("crew ahead 2", busy, share))
        return t + self.l2  # the base

    def collected(self) -> float:
        """Means and scales of a chunk that are there, as the coder takes them."""
        c = self.model.groups[self.group]
        return self.l2 + SHUFFLE * self.scale + 2 * self.barrier + self.fetched(3 * CHUNK * c)

    def step(self, count: int, news: bool, begun: bool = True) -> dict[str, float]:
        """A step, by part; ``begun``: its bases were there when members looked ahead."""
        t: Counter[str] = Counter()
        if self.group and any(self.model.stacks) and not begun:  # else beside the decoders
            t["ready"] += self.l2 + 2 * self.l1 + 3 * self.shared + 2 * self.barrier + 60
        sizes = [min(CHUNK, count - at) for at in range(0, count, CHUNK)]
        asked = self.seen + 2 * self.barrier  # by one thread for its block
        there, longest = [], 0.0
        for k in range(len(sizes)):
            before = there[k - self.slots] if k >= self.slots else asked
            there.append(before + self.member(k < self.slots, begun))
        # A chunk's announcement is on its way while others of its slot are computed.
        there = [x + self.gpu.fence * self.scale + self.l2 for x in there]

        def listed(n: int, team: int) -> float:
            return self.collected() + self.listing(n, team) + self.barrier

        t["crew"] += there[0]
        t["choose rows"] += listed(sizes[0], WARPS)
        t["barriers"] += self.barrier
        now = t["crew"] + t["choose rows"] + t["barriers"]
        for k, n in enumerate(sizes):
            last = k + 1 == len(sizes)
            decoded = self.rans(n, float(last))
            done = now + decoded
            if not last:  # its list is written beside the decoders
                ready = max(now + self.skipped(n), there[k + 1])
                late = max(0.0, ready - done)
                t["crew"] += late
                after = ready + listed(sizes[k + 1], self.beside)
                t["choose rows"] += max(0.0, after - done - late)
                done = max(done, after)
            else:
                late = max(0.0, self.skipped(n) - decoded)
                t["publish"] += late
                done += late
            t["rans"] += decoded
            published = self.publishing(n)
            t["publish"] += published
            t["barriers"] += 2 * self.barrier
            now = done + published + 2 * self.barrier
        # Who has computed the last chunk looks ahead before the next step begins.
        longest = max(there) - self.gpu.fence * self.scale - self.l2 + self.member_ahead()
        t["crew"] += max(0.0, longest - now)
        return dict(t)


def with_crews(costs: list[Costs], code: dict, spare: int, batch: int) -> tuple[list[Costs], int]:
    """The costs of an image's groups where crews are formed, and how many blocks these take: plan_crew() of
    engine_cuda.cpp.
    """
    wanted: dict[int, int] = {}
    chunks = 1
    for g, own in enumerate(costs):
        if not own.own_context:
            continue
        own_chunks = -(-own.longest // CHUNK)
        chunks = max(chunks, own_chunks)
        crew = _crew(own, code, 1, 1)
        parts = 1
        while parts < MOST_PARTS and min(crew.shares(parts)) < 1:
            parts += 1
        parts = parts if parts >= LEAST_PARTS else 1
        if parts > 1 or own_chunks > 1:
            wanted[g] = parts
    if not wanted:
        return costs, 0
    parts, slots, each = max(wanted.values()), min(chunks, MOST_SLOTS), spare // (batch * len(wanted))
    least = min(parts, LEAST_PARTS)
    while slots > 1 and slots * parts > each:
        slots -= 1
    parts = min(parts, each)
    if parts < least or parts * slots < 2:
        return costs, 0
    found = [_crew(own, code, parts, slots) if g in wanted else _other(own, code) for g, own in enumerate(costs)]
    return found, parts * slots * len(wanted)


def _given(own: Costs, code: dict) -> dict:
    given = {f.name: getattr(own, f.name) for f in fields(Costs) if f.name not in ("in_shared", "arena", "two_lists")}
    return {**given, "code": code}


def _crew(own: Costs, code: dict, parts: int, slots: int) -> CrewCosts:
    return CrewCosts(**_given(own, code), parts=parts, slots=slots)


def _other(own: Costs, code: dict) -> Costs:
    """A group without, in the same kernel."""
    return Costs(**_given(own, code))

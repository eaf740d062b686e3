"""What a step of a group costs latents_kernel: predictions, see cuda_cost.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

from cuda_nets import Model, Stream
from cuda_pieces import (
    BARRIER,
    CHUNK,
    DENSE_MISS,
    ENTRY_MISS,
    GENERIC,
    L2_BYTES,
    LISTED,
    MAX_KNOWN,
    MOST_AHEAD,
    QUIET_ROUNDS,
    SCHEDULERS,
    SHUFFLE,
    SLOW_ROUND,
    STEPS_PER_NEWS,
    TILE_COLUMNS,
    TILE_ROWS,
    TRIED,
    WARPS,
    WORDS_AHEAD,
    Gpu,
)

MEASURED_CHUNK, MEASURED_NEWS = 32, 2  # of the kernel that was measured


@dataclass(frozen=True)
class Options:
    """What could be otherwise; the defaults are the kernel as it is."""

    lanes: int = 0  # 0: as the encoder chooses
    lean_rounds: bool = False  # half the cycles of a round, by whatever means
    lean_epilogues: bool = False  # half the cycles of everything between the products
    tile: tuple[int, int] = (TILE_ROWS, TILE_COLUMNS)
    news: int = STEPS_PER_NEWS  # steps between announcements
    one_flag: bool = False  # a claim reads its neighbours' flags at once
    crews: bool = True  # other blocks may compute a group's networks


AS_IT_IS = Options()


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
    slow_round: float = SLOW_ROUND  # of the kernel that was measured
    longest: int = 0  # positions of the longest step of groups with own context
    in_shared: list[float] = field(default_factory=list)  # share of each layer's weights
    arena: int = 0  # bytes of a block's shared memory, without tables and lists
    two_lists: bool = False  # a chunk's list is written while the one before is decoded

    def __post_init__(self) -> None:
        m, round16 = self.model, lambda n: -(-n // 16) * 16
        self.measured = "rans 1" in self.code
        self.chunk = MEASURED_CHUNK if self.measured else CHUNK
        c, chunk = max(m.groups), self.chunk
        depth = max(-(-n // 32) for n in (m.width, *m.hidden))
        arena = 2 * round16(chunk * (depth * 32 + 16)) + sum(round16(k * chunk * c) for k in (2, 1))
        list_of = chunk * (c if self.measured else m.groups[self.group]) + 127
        one_list = 8 * (2 * list_of + 288) + (0 if self.measured else 4 * (list_of + 288))  # symbols, targets, modes
        arena += 4 * chunk * -(-c // 32) if self.measured else 32  # masks; lengths of lists
        arena += 64 * 8 + 4 * chunk + 80 + 128 * 64 + 80 + 32
        if not self.measured:
            arena += max(t for t in (0, *self.tiles_ahead) if t <= MOST_AHEAD) * 1024  # accumulators begun ahead
            arena += 4 * 704 + 128 * 16  # words, larger decoders
        self.arena = arena + (round16(4 * self.tiles) if self.tiles <= MAX_KNOWN else 0)
        room = self.gpu.shared - 1024 - self.arena - one_list
        room -= 0 if self.measured else m.row_tables  # windows and neighbours
        # Behind its own list a group has a second one, where it can be of use.
        tiles = self.layers[0][0]
        of_use = not self.own_context or (self.longest > chunk and tiles < WARPS)
        room -= one_list if not self.measured and of_use else 0
        self.two_lists = not self.measured and of_use and (not self.own_context or tiles <= self.beside)
        self.in_shared = [0.0] * len(self.layers)
        if not self.measured:  # channels' numbers, places of the context's products
            room -= sum(m_tiles * 256 for m_tiles, _ in self.layers) + 32 * self.layers[0][1]
        for k in reversed(range(len(self.layers))):
            m_tiles, k_steps = self.layers[k]
            size = k_steps * 512  # of a tile
            tiles = min(m_tiles, int(max(0.0, room) // size)) if size else m_tiles
            if self.measured and tiles < m_tiles:  # whole layers
                tiles = 0
            self.in_shared[k] = tiles / m_tiles
            room -= tiles * size

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(m_tiles, k_steps) of the step's layers."""
        m, c = self.model, self.model.groups[self.group]
        dims = [m.width, *m.hidden, 2 * c]
        return [
            (-(-m.width // 16), self.context_steps(m.taps)),
            *((-(-b // 16), -(-a // 32)) for a, b in pairwise(dims)),
        ]

    def context_steps(self, taps: int) -> int:
        """Products of so many taps of the own context, each of whose channels fill words."""
        words = -(-self.model.groups[self.group] // 4)
        return -(-taps * words * 4 // 32) if self.own_context else 0

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
        early = min(k_steps, self.context_steps(self.model.taps - 2))
        warps = self.beside
        turns, busy = -(-m_tiles // warps), -(-min(m_tiles, warps) // SCHEDULERS)
        share = self.in_shared[0]
        products = max(
            turns * max(0, early - 1) * self.mixed("conv 2", busy, share),
            (1 - share) * m_tiles * early * 512 / L2_BYTES,
        )
        straight = turns * self.mixed("ahead", busy, share)
        return early, products + straight + 2 * self.l2 + 2 * self.l1  # flags, positions

    def of(self, name: str, warps: int = 1) -> float:
        return max(self.code[name]["lone"], warps * self.code[name]["issue"])

    def mixed(self, piece: str, warps: int, share: float) -> float:
        """With so large a share of the weights in shared memory."""
        return share * self.of(piece, warps) + (1 - share) * self.of(f"{piece} L2", warps)

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

    @property
    def beside(self) -> int:
        """Warps that do not decode."""
        return WARPS - max(1, self.stream.lanes // 32)

    def layer(self, k: int, count: int, begun: bool, team: int = WARPS) -> tuple[float, float]:
        """Products, and everything else of a layer for a chunk, by so many warps; ``begun``: others looked ahead."""
        m_tiles, k_steps = self.layers[k]
        if k == 0 and begun:
            k_steps -= self.ahead()[0]
        nt = 1 if self.measured and count <= 8 else 2
        units = m_tiles * (1 if count <= 16 else 2)
        turns, busy = -(-units // team), min(units, team)
        warps, share = -(-busy // SCHEDULERS), self.in_shared[k]
        once = self.mixed(f"{'rows' if k else 'conv'} {nt}", warps, share)
        streamed = (1 - share) * units * k_steps * 512 / L2_BYTES
        kind = "bytes" if k + 1 < len(self.layers) else "scale"
        # The first product's loads and the last one are in the straight piece.
        straight = self.mixed(f"{'later' if k else 'first'} {kind} {nt}", warps, share)
        if k == 0 and not self.measured:
            if not begun:  # the base
                straight += self.l2
            if not k_steps:
                straight -= once
        straight *= 0.5 if self.options.lean_epilogues else 1
        again = (
            0.0 if self.measured else self.mixed(f"{'later' if k else 'first'} again {nt}", warps, share) + self.shared
        )
        return max(turns * max(0, k_steps - 1) * once, streamed), turns * straight + (turns - 1) * again

    @property
    def quiet(self) -> bool:
        """Whether most probable symbols are tried: as if all chunks had the mean of words."""
        s = self.stream
        return not self.measured and s.lanes <= 32 and QUIET_ROUNDS * s.bits * s.lanes < 16

    def round(self, tried: bool = False) -> float:
        """A round of rANS: the mean of common and slow ones."""
        s, lanes = self.stream, min(self.stream.lanes, 32)
        lean = 0.5 if self.options.lean_rounds else 1.0
        words = lanes * s.bits / 16  # a round
        if self.measured:  # the 32nd word made a round slow, too
            takes = 1 - (1 - min(1.0, s.bits / 16)) ** lanes  # that some lane takes a word
            plain, refill = self.of(f"rans {lanes}"), self.of(f"rans {lanes} refill")
            return (plain + takes * (refill - plain)) * lean + (s.slow + words / 32) * self.slow_round
        once = self.of("rans")
        if tried:  # as if rounds were calm independently of each other
            rounds = sum(s.calm**k for k in range(TRIED))
            right = s.calm**TRIED
            once = (right * self.of("modes") + (1 - right) * self.of("modes failed")) / rounds
        # Beyond the neighbours: the row, its part's first entry, the entries, one after another.
        slow = s.slow * (self.of("slow") + s.far * 3 * self.l2) + min(1.0, words / WORDS_AHEAD) * self.of("staged")
        return once * lean + slow

    def rans(self, positions: int, ends: float = 1.0) -> float:
        """A chunk's symbols; a warp a sequence. ``ends``: share of such chunks that end a step.

        Others leave what does not fill rounds to the next chunk.
        """
        rounds = positions * self.stream.coded / self.stream.lanes * self.stream.tapered
        if self.measured:
            start = 2 * self.shared + self.l1 + ENTRY_MISS * (self.l2 - self.l1) + 60  # decoder, first window
            return start + -(-rounds // 1) * self.round()
        # Decoder, first symbols, their windows; where the next step's lanes begin.
        start = 3 * self.shared + 2 * SHUFFLE * self.scale + 80
        # Rounds go in pairs, and what is left of them one by one: half a round more on average, and one and a half that
        # nothing was loaded ahead for.
        alone = ends * min(-(-rounds // 1), 1.5)
        paired = max(0.0, rounds - ends)
        tried = max(0.0, paired - TRIED / 2) if self.quiet and rounds > TRIED else 0.0
        behind = max(0.0, self.of("rans alone") - self.of("rans"))
        return start + tried * self.round(True) + (paired - tried + alone) * self.round() + alone * behind

    def listing(self, n: int, team: int = WARPS) -> float:
        """Rows of a chunk's symbols, and the list of those that are coded, by so many warps."""
        channels, busy = self.model.groups[self.group], -(-team // SCHEDULERS)
        if self.measured:
            return 2 * self.l1 + -(-n // WARPS) * -(-channels // 32) * self.of("choose", busy)
        words = -(-n * channels // 32)
        own = -(-words // team)  # of a warp, LISTED at once
        turns = -(-own // LISTED) * LISTED
        cost = turns * self.of("choose", busy) + 20
        if self.model.skips:
            # All words' coded symbols, their sums.
            cost += -(-words // 32) * self.of("count", busy) + SHUFFLE * self.scale + 20
        return cost + 40  # what lies behind the list

    def skipped(self, n: int) -> float:
        """Latents of a chunk's symbols that are not coded, by the warps that do not decode."""
        left = n * (self.model.groups[self.group] - self.stream.coded)
        if self.measured or not left:
            return 0.0
        turns = -(-left // (32 * self.beside))
        return turns * self.of("publish", -(-self.beside // SCHEDULERS)) + self.shared

    def publishing(self, n: int) -> float:
        """Latents of a chunk's coded symbols to y and into the context."""
        if self.measured:
            turns = -(-n // WARPS) * -(-self.model.groups[self.group] // 32)
        else:
            turns = -(-n * self.stream.coded // (32 * WARPS))
        return turns * self.of("publish", WARPS // SCHEDULERS)

    def written(self, n: int, begun: bool, team: int = WARPS) -> Counter[str]:
        """The list of a chunk, by part: its positions' network, and what follows from it."""
        t: Counter[str] = Counter()
        t["overhead"] += 2 * self.l1 + self.shared + (40 if self.measured else 140)  # descriptors, positions
        for k in range(len(self.layers)):
            product, rest = self.layer(k, n, begun, team)
            t["products"] += product
            t["requantize"] += rest
            t["overhead"] += 3 * self.l1 if self.measured else 0  # descriptors of the layer
            t["barriers"] += self.barrier * (2 if self.measured else 1)
        t["choose rows"] += self.listing(n, team)
        t["barriers"] += self.barrier
        return t

    def step(self, count: int, news: bool, begun: bool = True) -> dict[str, float]:
        """A step, by part; ``begun``: its base was there when the step before looked ahead.

        A list that is written beside the decoders takes the time by which it is longer than they are.
        """
        t: Counter[str] = Counter()
        ready: Counter[str] = Counter()
        if self.group and any(self.model.stacks):  # two looks at the positions, the known tiles
            ready["ready"] += 3 * self.l1 + 3 * self.shared + 2 * self.barrier + 60
        before = 0.0  # what the chunk before is decoded in; of a group without own context: one like this
        for at in range(0, count, self.chunk):
            n = min(self.chunk, count - at)
            # Groups without own context have a row a step, three chunks at 768x512.
            ends = float(at + n == count) if self.own_context else 1 / 3
            decoded = self.rans(n, ends)
            if not self.two_lists or (self.own_context and at + n == count):  # what the other warps do
                decoded = max(decoded, self.skipped(n) + self.ahead()[1])
            if self.two_lists and (at or (begun and not self.own_context)):
                beside = self.written(n, False, self.beside)  # nothing was begun: instead of that, all of it is done
                beside["publish"] += self.skipped(n)
                # Its base is looked for by one warp.
                beside["ready"] += 2 * self.l1 + 4 * self.shared + 2 * self.barrier + 40
                longer = max(0.0, 1 - (before if at else decoded) / sum(beside.values()))
                t.update({k: v * longer for k, v in beside.items()})
            else:
                ahead = bool(begun or at) and self.ahead()[1] > 0
                t.update(self.written(n, ahead))
                # Who looked ahead has found the bases.
                t.update({} if (at if self.measured else ahead) else ready)
                t["barriers"] += self.barrier
            t["rans"] += decoded
            t["publish"] += self.publishing(n)
            t["barriers"] += 2 * self.barrier
            before = decoded
        if self.measured:
            t["barriers"] += self.barrier
        if news and self.own_context and self.measured:  # one thread's fence, then the failure flag
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

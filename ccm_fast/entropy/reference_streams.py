"""The oracle's entropy coder: symbols, escapes and rANS streams, in plain Python.

:mod:`ccm_fast.entropy.reference` codes latents with it. Section numbers are those of FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.entropy.plan import TableRows
from ccm_fast.errors import DamagedError, TruncatedError
from ccm_fast.stream.packet import LANES, MOST_LANES, Stream, lanes_of, may_taper
from ccm_fast.stream.varint import ByteReader, encode_varint

__all__ = ["Stream", "choose_lanes", "decode_stream", "encode", "encode_stream", "ideal_bits"]

SEQUENCE_LANES = 32
STATE_LOW, STATE_LONG, STATE_END = 1 << 24, 1 << 32, 1 << 40
STATE_SINGLE = 1 << 16  # where the encoder of a stream of version 1 with one lane starts
STATE_FIRST, STATE_LAST = 3 << 6, 3 << 23  # lanes of version 2 start at 3 * 2^k
STATE_BYTES = 5
#: Positions a lane towards the end of a stream, by its taper; 0: lanes stay to the end.
TAPERS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192)
TURN = 5  # lanes by which a step of version 2 begins beyond where the last one has ended
WORD = 1 << 16
NB_BITS = 5  # the escape's bit count is one of 2^5 equiprobable numbers
MAX_NB = 17


# ---------------------------------------------------------------------------------------------------------------------
# Section 4: symbols and escapes


def split_symbol(rows: TableRows, row: int, v: int) -> tuple[int, int | None]:
    """Table entry of the symbol v (already without its offset), and the escape value, or None."""
    lo, n = int(rows.lo[row]), int(rows.n[row])
    hi = lo + n - 2
    if lo <= v <= hi:
        return v - lo, None
    return n - 1, (2 * (v - hi - 1) if v > hi else 2 * (lo - 1 - v) + 1)


def join_symbol(rows: TableRows, row: int, entry: int, e: int | None) -> int:
    """The inverse of :func:`split_symbol`."""
    lo, n = int(rows.lo[row]), int(rows.n[row])
    if e is None:
        return lo + entry
    return lo - 1 - (e >> 1) if e & 1 else lo + n - 1 + (e >> 1)


def ideal_bits(rows: TableRows, row: np.ndarray, v: np.ndarray) -> float:
    """Code length in bits of symbols v (without offsets), with an ideal coder: -log2 of frequencies, and escapes."""
    bits = 0.0
    for r, symbol in zip(np.ravel(row).tolist(), np.ravel(v).tolist(), strict=True):
        entry, e = split_symbol(rows, r, symbol)
        cdf = rows.row(r)
        bits += 16 - np.log2(float(cdf[entry + 1] - cdf[entry]))
        if e is not None:
            bits += NB_BITS + max(0, e.bit_length() - 1)
    return bits


# ---------------------------------------------------------------------------------------------------------------------
# Section 5: rANS streams


class _Decoder:
    """The lanes of one sequence of words: of a stream of version 1, or of a part of one of version 2."""

    def __init__(self, data: bytes, lanes: int, version: int):
        self.version, self.turn, self.at = version, 0, 0
        self.end = STATE_SINGLE if lanes == 1 else STATE_LOW
        self.x, head = (_states_of_2 if version == 2 else _states)(data, lanes)
        if (len(data) - head) % 2:
            raise DamagedError("half a word follows the stream")
        self.words = np.frombuffer(data, "<u2", offset=head).tolist()
        least = 0 if version == 2 else self.end
        if min(self.x) < (STATE_LOW if self.words else least):
            raise DamagedError("an initial state is too small")

    def slot(self, lane: int) -> int:
        return self.x[lane] % WORD

    def advance(self, lane: int, start: int, freq: int) -> None:
        x = self.x[lane]
        x = freq * (x >> 16) + x % WORD - start
        if x < STATE_LOW and self.at < len(self.words):
            x = x * WORD + self.words[self.at]
            self.at += 1
        elif x < self.end and self.version == 1:
            raise TruncatedError("the stream ends before its last symbol")
        self.x[lane] = x

    def retire(self, lanes: int) -> None:
        """Only so many lanes are left, counted from the one whose turn it is; the others hand over what they hold."""
        x = self.x[self.turn :] + self.x[: self.turn]
        self.turn, self.x = 0, x[:lanes]
        for state in x[lanes:]:
            if state >> 32 != 1:
                raise DamagedError("a lane does not end as one that retires")
            self.words += [state >> 16 & (WORD - 1), state & (WORD - 1)]

    def uniform(self, lane: int, bits: int) -> int:
        """One of 2^bits equiprobable numbers."""
        value = self.slot(lane) >> (16 - bits)
        self.advance(lane, value << (16 - bits), 1 << (16 - bits))
        return value

    def end_step(self, symbols: int) -> None:
        if self.version == 2:
            self.turn = (self.turn + symbols + TURN) % len(self.x)

    def finish(self) -> None:
        if self.version == 2:
            good = all(STATE_FIRST <= x <= STATE_LAST and x == 3 * (x & -x) for x in self.x)
        else:
            good = all(x == self.end for x in self.x)
        if not good or self.at != len(self.words):
            raise DamagedError("the stream does not end in the coder's initial state")


def _states(data: bytes, lanes: int) -> tuple[list[int], int]:
    """Initial states of version 1, and how many bytes they take."""
    head = STATE_BYTES * lanes
    if len(data) < head:
        raise TruncatedError("the stream ends inside its initial states")
    return [int.from_bytes(data[k : k + STATE_BYTES], "little") for k in range(0, head, STATE_BYTES)], head


def _states_of_2(data: bytes, lanes: int) -> tuple[list[int], int]:
    """The same of a sequence of version 2."""
    if lanes == 1 and len(data) <= STATE_BYTES:
        state = int.from_bytes(data, "little") if data else STATE_FIRST
        if data and (data[-1] == 0 or state <= STATE_FIRST):
            raise DamagedError("a lone state that is not in its shortest form")
        return [state], len(data)
    at = 0
    if lanes == 1:
        sizes = [STATE_BYTES - 1 + len(data) % 2]
    else:
        at = max(1, lanes // 8)
        flags = int.from_bytes(data[:at], "little")
        if len(data) < at:
            raise TruncatedError("the stream ends before its initial states")
        if flags >> lanes:
            raise DamagedError("a flag of a lane that is not there")
        sizes = [STATE_BYTES - 1 + (flags >> k & 1) for k in range(lanes)]
    states = []
    for size in sizes:
        if at + size > len(data):
            raise TruncatedError("the stream ends inside its initial states")
        states.append(int.from_bytes(data[at : at + size], "little"))
        if states[-1] < (STATE_LONG if size == STATE_BYTES else STATE_FIRST):
            raise DamagedError("an initial state is too small for its length")
        at += size
    return states, at


def _sequences(data: bytes, count: int) -> list[bytes]:
    """The parts of a stream of version 2, of which all but the last say how long they are."""
    reader = ByteReader(data)
    sizes = [reader.varint("the lengths of the sequences") for _ in range(count - 1)]
    parts = [bytes(reader.take(size, "a sequence")) for size in sizes]
    return [*parts, bytes(reader.data[reader.position :])]


def _decode_symbols(decoder: _Decoder, rows: TableRows, row: list[int], offset: list[int]) -> list[int]:
    """The symbols y = v + offset of one step."""
    out = []
    lanes = len(decoder.x)
    for r in range(0, len(row), lanes):
        round_rows = row[r : r + lanes]
        turns = [(decoder.turn + k) % lanes for k in range(len(round_rows))]
        entries: list[int] = []
        escapes: list[int | None] = []
        for lane, k in zip(turns, round_rows, strict=True):  # phase 1
            cdf = rows.row(k)
            entry = int(np.searchsorted(cdf, decoder.slot(lane), side="right")) - 1
            decoder.advance(lane, int(cdf[entry]), int(cdf[entry + 1] - cdf[entry]))
            entries.append(entry)
            escapes.append(0 if entry == rows.n[k] - 1 else None)
        nb = [0] * len(round_rows)
        for i, e in enumerate(escapes):  # phase 2
            if e is not None:
                nb[i] = decoder.uniform(turns[i], NB_BITS)
                if nb[i] > MAX_NB:
                    raise DamagedError("an escape has too many bits")
                escapes[i] = min(nb[i], 1)
        for i, bits in enumerate(nb):  # phase 3
            if bits >= 2:
                escapes[i] = (1 << (bits - 1)) | decoder.uniform(turns[i], bits - 1)
        for i, k in enumerate(round_rows):
            y = join_symbol(rows, k, entries[i], escapes[i]) + offset[r + i]
            if abs(y) > SYMBOL_MAX:
                raise DamagedError("a symbol does not fit 16 bits")
            out.append(y)
    decoder.end_step(len(row))
    return out


def _blocks(symbols: int, q: int, count: int) -> np.ndarray:
    """Places in a step of the symbols that sequence q of ``count`` codes."""
    at = np.arange(symbols)
    return at[at // SEQUENCE_LANES % count == q] if count > 1 else at


def tapered_lanes(lanes: int, taper: int, left: int) -> int:
    """Lanes, of ``lanes`` at first, in a step before which ``left`` positions are not decoded yet."""
    while lanes > 1 and lanes * TAPERS[taper] > left:
        lanes //= 2
    return lanes


def decode_stream(
    stream: Stream, rows: TableRows, steps: Iterable[Callable], left: Sequence[int] | None = None
) -> None:
    """Decode one stream, step by step.

    Args:
        stream: data and lanes.
        rows: tables.
        steps: callables, one per step, each taking ``draw``; each must call ``draw(row, offset)`` once, with the rows
            and offsets of the step's symbols in coding order, and gets the symbols (an int64 array of that shape).
        left: positions that are not decoded before each step; None for streams that cannot have a taper.

    Raises:
        TruncatedError: a word is missing.
        DamagedError: an impossible value, unread words, or a wrong final state.
    """
    data, lanes, version = stream.data, stream.lanes, stream.version
    if lanes not in lanes_of(version):
        raise DamagedError(f"a stream of version {version} cannot have {lanes} lanes")
    count = max(1, lanes // SEQUENCE_LANES)
    decoders = [_Decoder(part, lanes // count, version) for part in _sequences(data, count)]
    tapers = may_taper(lanes) and left and tapered_lanes(lanes, stream.taper, left[0]) == lanes
    if stream.taper and not tapers:
        raise DamagedError("a taper that this stream cannot have")

    def draw(row: np.ndarray, offset: np.ndarray) -> np.ndarray:
        row, offset = np.asarray(row), np.asarray(offset)
        values = np.zeros(row.size, np.int64)
        for q, decoder in enumerate(decoders):
            own = _blocks(row.size, q, count)
            values[own] = _decode_symbols(decoder, rows, row.ravel()[own].tolist(), offset.ravel()[own].tolist())
        return values.reshape(row.shape)

    for k, step in enumerate(steps):
        if stream.taper and left and (now := tapered_lanes(lanes, stream.taper, left[k])) < lanes:
            decoders[0].retire(now)
            lanes = now
        step(draw)
    for decoder in decoders:
        decoder.finish()


def _step_events(rows: TableRows, row: list[int], v: list[int], lanes: int, turn: int) -> Iterable[Event]:
    """What the decoder will read in one step, in its order."""
    for r in range(0, len(row), lanes):
        escapes = []
        for i, (k, symbol) in enumerate(zip(row[r : r + lanes], v[r : r + lanes], strict=True)):
            entry, e = split_symbol(rows, k, symbol)
            cdf, lane = rows.row(k), (turn + i) % lanes
            yield Event(lane, int(cdf[entry]), int(cdf[entry + 1] - cdf[entry]))
            if e is not None:
                escapes.append((lane, e, e.bit_length()))
        for lane, _, nb in escapes:
            yield Event(lane, nb << (16 - NB_BITS), 1 << (16 - NB_BITS))
        for lane, e, nb in escapes:
            if nb >= 2:
                low = e - (1 << (nb - 1))
                yield Event(lane, low << (17 - nb), 1 << (17 - nb))


class Event(NamedTuple):
    """A cumulative range that a lane codes."""

    lane: int
    start: int
    freq: int

    def due(self, x: int) -> bool:
        """Whether a state x has to give away a word first, else the new state would reach 2^40."""
        return x >= self.freq << 24

    def after(self, x: int) -> int:
        """The state that codes it."""
        return ((x // self.freq) << 16) + x % self.freq + self.start


def _starts(events: list[Event], lanes: int) -> list[int]:
    """Where the lanes of version 2 start.

    All are at STATE_LOW when the first word is given away: a decoder, for whom it is the last one, refills the others
    until then.

    Args:
        events: of the sequence, last one first.
        lanes: of the sequence.
    """
    starts = [STATE_FIRST] * lanes
    while True:
        x, count = starts.copy(), 0
        for event in events:
            if event.due(x[event.lane]):
                break
            x[event.lane] = event.after(x[event.lane])
            count += 1
        low = [lane for lane in range(lanes) if x[lane] < STATE_LOW]
        if count == len(events) or not low:
            return starts
        for lane in low:
            own = [event for event in events[:count] if event.lane == lane]
            state = 0
            while state < STATE_LOW:
                starts[lane] *= 2
                state = starts[lane]
                for event in own:
                    state = event.after(state)


def _phases(
    rows: TableRows, steps: list[tuple[list[int], list[int]]], lanes: Sequence[int], version: int
) -> Iterator[tuple[int, int, list[Event]]]:
    """Lanes, the turn behind the last step, and what the lanes code, from one retirement of lanes to the next."""
    events, turn = [], 0
    for k, (row, v) in enumerate(steps):
        if k and lanes[k] != lanes[k - 1]:
            yield lanes[k - 1], turn, events
            events, turn = [], 0
        events += _step_events(rows, row, v, lanes[k], turn)
        turn = (turn + len(row) + TURN) % lanes[k] if version == 2 else 0
    yield lanes[-1], turn, events


def _encode_sequence(
    rows: TableRows, steps: list[tuple[list[int], list[int]]], each: Sequence[int], version: int
) -> bytes | None:
    """``each``: the lanes in every step. None: they cannot retire so."""
    words, taken, x = [], 0, []
    for lanes, turn, events in reversed(list(_phases(rows, steps, each, version))):
        events.reverse()  # rANS is last in, first out
        if not x:
            x = _starts(events, lanes) if version == 2 else [STATE_SINGLE if lanes == 1 else STATE_LOW] * lanes
        else:  # lanes join, with what others have given away first
            joining = lanes - len(x)
            if len(words) - taken < 2 * joining:
                return None
            own = [(1 << 32) + words[taken + 2 * k] + WORD * words[taken + 2 * k + 1] for k in range(joining)]
            taken += 2 * joining
            x += own[::-1]
            x = x[lanes - turn :] + x[: lanes - turn]  # the first one's turn it was next
        for event in events:
            state = x[event.lane]
            if event.due(state):
                words.append(state % WORD)
                state >>= 16
            x[event.lane] = event.after(state)
    words, lanes = words[taken:], len(x)
    if version == 1:
        states = b"".join(state.to_bytes(STATE_BYTES, "little") for state in x)
    elif lanes == 1 and not words:
        states = b"" if x[0] == STATE_FIRST else x[0].to_bytes(-(-x[0].bit_length() // 8), "little")
    else:
        long = [state >= STATE_LONG for state in x]
        flags = sum(bit << lane for lane, bit in enumerate(long))
        states = b"" if lanes == 1 else flags.to_bytes(max(1, lanes // 8), "little")
        states += b"".join(state.to_bytes(STATE_BYTES - 1 + bit, "little") for state, bit in zip(x, long, strict=True))
    return states + np.array(words[::-1], "<u2").tobytes()


def encode_stream(
    rows: TableRows, steps: Iterable[tuple[np.ndarray, np.ndarray]], lanes: int, version: int = 1
) -> bytes:
    """One stream of the given steps, each (row, v): int64 arrays in coding order, v without offsets."""
    stream = _encode(rows, [(np.ravel(row), np.ravel(v)) for row, v in steps], lanes, version, 0, None)
    assert stream is not None
    return stream


def _encode(
    rows: TableRows, steps: list, lanes: int, version: int, taper: int, left: Sequence[int] | None
) -> bytes | None:
    """The same with a taper, or None if that is not possible."""
    count = max(1, lanes // SEQUENCE_LANES)
    each = [lanes // count] * max(1, len(steps))
    if taper:
        each = [tapered_lanes(lanes, taper, n) for n in left or ()]
        # At most the last quarter of the positions has fewer lanes, and the last step a quarter of the lanes.
        if not left or 4 * lanes * TAPERS[taper] > left[0] or each[-1] == lanes or each[-1] > max(1, lanes // 4):
            return None
    parts = []
    for q in range(count):
        own = [_blocks(len(row), q, count) for row, _ in steps]
        mine = [(row[at].tolist(), v[at].tolist()) for (row, v), at in zip(steps, own, strict=True)]
        part = _encode_sequence(rows, mine, each, version)
        if part is None:
            return None
        parts.append(part)
    return b"".join([*(encode_varint(len(part)) for part in parts[:-1]), *parts])


def choose_lanes(payload_bytes: int) -> int:
    """The encoder's choice of lanes in version 1 (not normative): the most that cost at most 0.25 % of the payload.

    At least 1; files of 10 kB and more then stay within half a percent of their ideal length.
    ``payload_bytes`` is the length of the stream with one lane.
    """
    lanes = 1
    while lanes < LANES[-1] and 400 * STATE_BYTES * 2 * lanes <= payload_bytes:
        lanes *= 2
    return lanes


LANE_QUARTERS, TAPERED_QUARTERS = 9, 3  # bytes of a lane, in quarters, without and with a taper
#: Rounds, a share of the payload and quarters of a byte a lane: enough lanes for so many rounds, if they cost at most
#: one byte in ``share``.
LaneRule: TypeAlias = tuple[tuple[int, int, int], ...]
LANES_OF_Y: LaneRule = ((2500, 220, LANE_QUARTERS), (6000, 70, LANE_QUARTERS))
LANES_OF_Z: LaneRule = ((100, 10, LANE_QUARTERS),)
#: Of streams with a taper, beside the others.
LANES_WITH_TAPER: LaneRule = (*LANES_OF_Y, (400, 200, TAPERED_QUARTERS))


def lanes_for_symbols(symbols: int, payload_bytes: int, rule: LaneRule = LANES_OF_Y) -> int:
    """The same in version 2: as many as any limit of ``rule`` allows."""
    lanes = 1
    while lanes < MOST_LANES[-1] and any(
        symbols > rounds * lanes
        and 2 * lanes * quarters * share <= 4 * payload_bytes
        and (quarters == LANE_QUARTERS or may_taper(2 * lanes))
        for rounds, share, quarters in rule
    ):
        lanes *= 2
    return lanes


def encode(
    rows: TableRows,
    steps: list[tuple[np.ndarray, np.ndarray]],
    lanes: int,
    version: int = 1,
    rule: LaneRule = LANES_OF_Y,
    left: Sequence[int] | None = None,
) -> Stream:
    """The same as a :class:`Stream`; lanes 0: chosen from the payload. Raises ValueError for another number.

    ``left``: positions that are not decoded before each step, for a taper: the least that is possible.
    """
    most, has_steps = lanes, version == 2 and left is not None and len(left) > 1
    if lanes == 0:
        single = encode_stream(rows, steps, 1, version)
        symbols = sum(np.size(row) for row, _ in steps)
        lanes = choose_lanes(len(single)) if version == 1 else lanes_for_symbols(symbols, len(single), rule)
        most = lanes_for_symbols(symbols, len(single), LANES_WITH_TAPER) if has_steps else lanes
    elif lanes not in lanes_of(version):
        raise ValueError(f"lanes must be 0 (automatic) or one of {lanes_of(version)}, not {lanes}")
    flat = [(np.ravel(row), np.ravel(v)) for row, v in steps]
    while has_steps and may_taper(most) and most >= lanes:
        for taper in range(1, len(TAPERS)):
            data = _encode(rows, flat, most, version, taper, left)
            if data is not None:
                return Stream.of(data, most, version, taper)
        most //= 2
    return Stream.of(encode_stream(rows, steps, lanes, version), lanes, version)

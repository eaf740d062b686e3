"""The oracle's entropy coder: symbols, escapes and rANS streams, in plain Python.

:mod:`ccm_fast.entropy.reference` codes latents with it. Section numbers are those of FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.entropy.plan import TableRows
from ccm_fast.errors import DamagedError, TruncatedError

__all__ = ["Stream", "choose_lanes", "decode_stream", "encode", "encode_stream", "ideal_bits"]

LANES = (1, 2, 4, 8, 16, 32)
STATE_LOW, STATE_END = 1 << 24, 1 << 40
STATE_SINGLE = 1 << 16  # where the encoder of a stream with one lane starts
STATE_BYTES = 5
WORD = 1 << 16
NB_BITS = 5  # the escape's bit count is one of 2^5 equiprobable numbers
MAX_NB = 17


class Stream(NamedTuple):
    """One rANS stream: z, or one group of y."""

    data: bytes
    lanes: int


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
    """The lanes of one stream."""

    def __init__(self, data: bytes, lanes: int):
        if lanes not in LANES:
            raise DamagedError(f"a stream cannot have {lanes} lanes")
        head = STATE_BYTES * lanes
        if len(data) < head:
            raise TruncatedError("the stream ends inside its initial states")
        if (len(data) - head) % 2:
            raise DamagedError("half a word follows the stream")
        self.x = [int.from_bytes(data[STATE_BYTES * k : STATE_BYTES * (k + 1)], "little") for k in range(lanes)]
        self.words = np.frombuffer(data, "<u2", offset=head).tolist()
        self.at = 0
        self.end = STATE_SINGLE if lanes == 1 else STATE_LOW
        if min(self.x) < (STATE_LOW if self.words else self.end):
            raise DamagedError("an initial state is too small")

    def slot(self, lane: int) -> int:
        return self.x[lane] % WORD

    def advance(self, lane: int, start: int, freq: int) -> None:
        x = self.x[lane]
        x = freq * (x >> 16) + x % WORD - start
        if x < STATE_LOW and self.at < len(self.words):
            x = x * WORD + self.words[self.at]
            self.at += 1
        elif x < self.end:
            raise TruncatedError("the stream ends before its last symbol")
        self.x[lane] = x

    def uniform(self, lane: int, bits: int) -> int:
        """One of 2^bits equiprobable numbers."""
        value = self.slot(lane) >> (16 - bits)
        self.advance(lane, value << (16 - bits), 1 << (16 - bits))
        return value

    def finish(self) -> None:
        if any(x != self.end for x in self.x) or self.at != len(self.words):
            raise DamagedError("the stream does not end in the coder's initial state")


def _decode_step(decoder: _Decoder, rows: TableRows, row: list[int], offset: list[int]) -> list[int]:
    """The symbols y = v + offset of one step."""
    out = []
    lanes = len(decoder.x)
    for r in range(0, len(row), lanes):
        round_rows = row[r : r + lanes]
        entries: list[int] = []
        escapes: list[int | None] = []
        for lane, k in enumerate(round_rows):  # phase 1
            cdf = rows.row(k)
            entry = int(np.searchsorted(cdf, decoder.slot(lane), side="right")) - 1
            decoder.advance(lane, int(cdf[entry]), int(cdf[entry + 1] - cdf[entry]))
            entries.append(entry)
            escapes.append(0 if entry == rows.n[k] - 1 else None)
        nb = [0] * len(round_rows)
        for lane, e in enumerate(escapes):  # phase 2
            if e is not None:
                nb[lane] = decoder.uniform(lane, NB_BITS)
                if nb[lane] > MAX_NB:
                    raise DamagedError("an escape has too many bits")
                escapes[lane] = min(nb[lane], 1)
        for lane, bits in enumerate(nb):  # phase 3
            if bits >= 2:
                escapes[lane] = (1 << (bits - 1)) | decoder.uniform(lane, bits - 1)
        for lane, k in enumerate(round_rows):
            y = join_symbol(rows, k, entries[lane], escapes[lane]) + offset[r + lane]
            if abs(y) > SYMBOL_MAX:
                raise DamagedError("a symbol does not fit 16 bits")
            out.append(y)
    return out


def decode_stream(stream: Stream, rows: TableRows, steps: Iterable[Callable]) -> None:
    """Decode one stream, step by step.

    Args:
        stream: data and lanes.
        rows: tables.
        steps: callables, one per step, each taking ``draw``; each must call ``draw(row, offset)`` once, with the rows
            and offsets of the step's symbols in coding order, and gets the symbols (an int64 array of that shape).

    Raises:
        TruncatedError: a word is missing.
        DamagedError: an impossible value, unread words, or a wrong final state.
    """
    decoder = _Decoder(*stream)

    def draw(row: np.ndarray, offset: np.ndarray) -> np.ndarray:
        values = _decode_step(decoder, rows, row.ravel().tolist(), offset.ravel().tolist())
        return np.array(values, np.int64).reshape(row.shape)

    for step in steps:
        step(draw)
    decoder.finish()


def _step_events(rows: TableRows, row: list[int], v: list[int], lanes: int) -> Iterable[tuple[int, int, int]]:
    """What the decoder will read in one step: (lane, start, frequency), in its order."""
    for r in range(0, len(row), lanes):
        escapes = []
        for lane, (k, symbol) in enumerate(zip(row[r : r + lanes], v[r : r + lanes], strict=True)):
            entry, e = split_symbol(rows, k, symbol)
            cdf = rows.row(k)
            yield lane, int(cdf[entry]), int(cdf[entry + 1] - cdf[entry])
            if e is not None:
                escapes.append((lane, e, e.bit_length()))
        for lane, _, nb in escapes:
            yield lane, nb << (16 - NB_BITS), 1 << (16 - NB_BITS)
        for lane, e, nb in escapes:
            if nb >= 2:
                low = e - (1 << (nb - 1))
                yield lane, low << (17 - nb), 1 << (17 - nb)


def encode_stream(rows: TableRows, steps: Iterable[tuple[np.ndarray, np.ndarray]], lanes: int) -> bytes:
    """One stream of the given steps, each (row, v): int64 arrays in coding order, v without offsets."""
    events = [
        event for row, v in steps for event in _step_events(rows, np.ravel(row).tolist(), np.ravel(v).tolist(), lanes)
    ]
    x = [STATE_SINGLE if lanes == 1 else STATE_LOW] * lanes
    words = []
    for lane, start, freq in reversed(events):  # rANS is last in, first out
        if x[lane] >= freq << 24:  # else the new state would reach 2^40
            words.append(x[lane] % WORD)
            x[lane] >>= 16
        x[lane] = ((x[lane] // freq) << 16) + x[lane] % freq + start
    states = b"".join(state.to_bytes(STATE_BYTES, "little") for state in x)
    return states + np.array(words[::-1], "<u2").tobytes()


def choose_lanes(payload_bytes: int) -> int:
    """The encoder's choice of lanes (not normative): the most whose states cost at most 0.25 % of the payload.

    At least 1; files of 10 kB and more then stay within half a percent of their ideal length.
    ``payload_bytes`` is the length of the stream with one lane.
    """
    lanes = 1
    while lanes < LANES[-1] and 400 * STATE_BYTES * 2 * lanes <= payload_bytes:
        lanes *= 2
    return lanes


def encode(rows: TableRows, steps: list[tuple[np.ndarray, np.ndarray]], lanes: int) -> Stream:
    """The same as a :class:`Stream`; lanes 0: chosen from the payload. Raises ValueError for another number."""
    if lanes == 0:
        single = encode_stream(rows, steps, 1)
        lanes = choose_lanes(len(single))
        if lanes == 1:
            return Stream(single, 1)
    elif lanes not in LANES:
        raise ValueError(f"lanes must be 0 (automatic) or one of {LANES}, not {lanes}")
    return Stream(encode_stream(rows, steps, lanes), lanes)

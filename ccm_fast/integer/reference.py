"""The oracle: FORMAT.md in plain Python and NumPy, for reading and for testing the engines against.

Planes are int64 arrays [rows, columns, channels] of one image. Everything is exact integer arithmetic in 64 bits; speed
is no aim. Section numbers are those of FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from ccm_fast.errors import DamagedError, TruncatedError
from ccm_fast.integer.plan import ACCUMULATE, HEAD, LEAKY8, RELU8, GroupPlan, IntConv, Plan, TableRows

__all__ = [
    "Stream",
    "choose_lanes",
    "convolve",
    "decode_stream",
    "decode_y",
    "decode_z",
    "encode_stream",
    "encode_y",
    "encode_y_residual",
    "encode_z",
    "hyper",
    "ideal_bits",
    "parameters",
    "requantize",
]

LANES = (1, 2, 4, 8, 16, 32)
STATE_LOW, STATE_END = 1 << 24, 1 << 40
STATE_SINGLE = 1 << 16  # where the encoder of a stream with one lane starts
STATE_BYTES = 5
WORD = 1 << 16
NB_BITS = 5  # the escape's bit count is one of 2^5 equiprobable numbers
MAX_NB = 17
SYMBOL_MAX = 32767
#: Largest magnitude (in 1/256) of latents for a residual encoder. Up to it y_hat fits 16 bits whatever the means are:
#: it differs by at most half a symbol (128 / 256), and is in 1/16.
RESIDUAL_MAX = 16 * SYMBOL_MAX - 128


class Stream(NamedTuple):
    """One rANS stream: z, or one group of y."""

    data: bytes
    lanes: int


# ---------------------------------------------------------------------------------------------------------------------
# Section 1: integer arithmetic


def requantize(acc: np.ndarray, mult: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Multiply by mult / 2^shift, round half up, per channel (the last axis); int64."""
    mult, shift = mult.astype(np.int64), shift.astype(np.int64)
    return (acc.astype(np.int64) * mult + (np.int64(1) << (shift - 1))) >> shift


def clamp_latents(v: np.ndarray) -> np.ndarray:
    """Latents as convolutions see them."""
    return np.clip(v, -127, 127)


def context(plan: Plan, y: np.ndarray, first: int = 0) -> np.ndarray:
    """Channels ``first`` and following of y, as convolutions see them."""
    if plan.context_mult is not None:
        own = slice(first, first + y.shape[-1])
        y = requantize(y, plan.context_mult[own], plan.context_shift[own])
    return clamp_latents(y)


def rectify(part: IntConv | GroupPlan, acc: np.ndarray) -> np.ndarray:
    """The outputs ``relu8`` and ``leaky8``, without a zero point added."""
    if part.output == LEAKY8:
        value = requantize(acc, np.where(acc < 0, part.below, part.mult), part.shift)
        return np.clip(value, -part.zero, 255 - part.zero)
    assert part.output == RELU8
    return np.clip(requantize(acc, part.mult, part.shift), 0, 255)


def head(part: IntConv | GroupPlan, acc: np.ndarray, scale_codes: int) -> np.ndarray:
    """The output ``head``: mean codes, then scale codes."""
    out = requantize(acc, part.mult, part.shift)
    half = out.shape[-1] // 2
    return np.concatenate(
        [np.clip(out[..., :half], -32768, 32767), np.clip(out[..., half:], 0, scale_codes - 1)], axis=-1
    )


def convolve(conv: IntConv, x: np.ndarray, scale_codes: int | None = None) -> np.ndarray:
    """One convolution with its output stage and pixel shuffle.

    Args:
        conv: the layer.
        x: int64 [h, w, in]; values of an earlier layer (its zero point not added), or latents already clamped.
        scale_codes: S, needed by the output ``head``.

    Returns:
        int64 [h * upsample, w * upsample, channels].
    """
    h, w, _ = x.shape
    k = conv.kernel
    padded = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    acc = np.zeros((h, w, conv.outputs), np.int64) + conv.bias
    for u in range(k):
        for v in range(k):
            acc += padded[u : u + h, v : v + w] @ conv.weight[:, u, v, :].T.astype(np.int64)
    if conv.output == ACCUMULATE:
        out = requantize(acc, conv.mult, conv.shift)
    elif conv.output == HEAD:
        out = head(conv, acc, scale_codes)
    else:
        out = rectify(conv, acc)
    if conv.upsample == 2:
        # out[2i + a][2j + b][c] = in[i][j][4c + 2a + b]
        out = out.reshape(h, w, conv.channels, 2, 2).transpose(0, 3, 1, 4, 2).reshape(2 * h, 2 * w, conv.channels)
    return out


# ---------------------------------------------------------------------------------------------------------------------
# Section 2: schedules


def positions(plan: Plan, h: int, w: int) -> list[np.ndarray]:
    """Positions of each step in coding order, raster order within a step: int64 [n, 2] arrays of (i, j)."""
    step = plan.steps(h, w)
    return [np.argwhere(step == s) for s in np.unique(step)]


# ---------------------------------------------------------------------------------------------------------------------
# Section 3: the entropy network


def hyper(plan: Plan, z_hat: np.ndarray, h: int, w: int) -> np.ndarray:
    """psi, int64 [h, w, P] in 0..255 (the last layer's zero point added), of z_hat [ceil(h / 4), ceil(w / 4), N]."""
    x = clamp_latents(np.asarray(z_hat, np.int64))
    for conv in plan.hyper_synthesis:
        x = convolve(conv, x)
    return x[:h, :w] + plan.psi_zero


def base(plan: Plan, g: int, psi: np.ndarray, y_hat: np.ndarray) -> np.ndarray:
    """Everything of a group's first layer that does not depend on the group itself: int64 [h, w, D].

    ``y_hat`` [h, w, M]: only the channels of earlier groups are read.
    """
    group = plan.groups[g]
    earlier = context(plan, y_hat[..., : sum(plan.group_channels[:g])])
    out = convolve(group.hyper, psi - plan.psi_zero)
    if group.stack:
        x = earlier
        for conv in group.stack:
            x = convolve(conv, x)
        out = out + x
    if group.skip is not None:
        out = out + convolve(group.skip, earlier)
    return out


def spatial(group: GroupPlan, step: np.ndarray, own: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The spatial context at some positions, int64 [n, D].

    Args:
        group: the group.
        step: the step map [h, w].
        own: the group's latents as contexts see them [h, w, C]; those at steps not yet decoded may be anything.
        where: positions [n, 2].
    """
    h, w = step.shape
    out = np.zeros((len(where), len(group.weight)), np.int64)
    for t, offset in enumerate(group.taps.tolist()):
        i, j = (where + offset).T
        inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
        i, j = np.where(inside, i, 0), np.where(inside, j, 0)
        available = inside & (step[i, j] < step[where[:, 0], where[:, 1]])
        values = np.where(available[:, None], own[i, j], 0)
        out += values @ group.weight[:, t, :].T.astype(np.int64)
    return out


def codes(plan: Plan, g: int, pre: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean codes and scale codes, each int64 [n, C], from the sum of all contexts [n, D]."""
    group, S = plan.groups[g], len(plan.scale_table)
    if group.output == HEAD:
        out = head(group, pre, S)
    else:
        f = rectify(group, pre)[None]  # a plane of one row
        for conv in group.hidden:
            f = convolve(conv, f)
        out = convolve(group.head, f, S)[0]
    half = plan.group_channels[g]
    return out[:, :half], out[:, half:]


def offsets_and_rows(plan: Plan, m: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset and row of symbols from their mean codes (1/16) and scale codes; int64, any shape."""
    idx = plan.scale_table[s].astype(np.int64)
    b = plan.fraction_bits[idx].astype(np.int64)
    d = 4 - b
    rounded = (m + ((1 << d) >> 1)) >> d
    t = rounded + ((1 << b) >> 1)
    offset = np.zeros_like(t) if plan.residual else t >> b
    return offset, plan.first_row[idx] + (t & ((1 << b) - 1))


def parameters(plan: Plan, psi: np.ndarray, y_hat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Offset and row of every symbol given all of y_hat, each int64 [h, w, M]: all steps at once."""
    h, w, _ = psi.shape
    y_hat = np.asarray(y_hat, np.int64)
    step, everywhere = plan.steps(h, w), np.argwhere(np.ones((h, w), bool))
    out, start = [], 0
    for g, (group, channels) in enumerate(zip(plan.groups, plan.group_channels, strict=True)):
        own = context(plan, y_hat[..., start : start + channels], start)
        pre = base(plan, g, psi, y_hat).reshape(h * w, -1) + spatial(group, step, own, everywhere)
        out.append(offsets_and_rows(plan, *codes(plan, g, pre)))
        start += channels
    offset, row = (np.concatenate([o[k].reshape(h, w, -1) for o in out], axis=2) for k in (0, 1))
    return offset, row


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


def _encode(rows: TableRows, steps: list[tuple[np.ndarray, np.ndarray]], lanes: int) -> Stream:
    if lanes == 0:
        single = encode_stream(rows, steps, 1)
        lanes = choose_lanes(len(single))
        if lanes == 1:
            return Stream(single, 1)
    elif lanes not in LANES:
        raise ValueError(f"lanes must be 0 (automatic) or one of {LANES}, not {lanes}")
    return Stream(encode_stream(rows, steps, lanes), lanes)


def _check_latents(latents: np.ndarray, name: str) -> np.ndarray:
    latents = np.asarray(latents, np.int64)
    if latents.size and np.abs(latents).max() > SYMBOL_MAX:
        raise ValueError(f"{name} has values outside -{SYMBOL_MAX}..{SYMBOL_MAX}, which the format cannot carry")
    return latents


# ---------------------------------------------------------------------------------------------------------------------
# Whole latents


def encode_z(plan: Plan, z_hat: np.ndarray, lanes: int = 0) -> Stream:
    """The stream of z_hat [hz, wz, N], raster order, then channel, one step. lanes 0: chosen from the payload."""
    z_hat = _check_latents(z_hat, "z_hat")
    row = np.broadcast_to(np.arange(plan.hyper_channels), z_hat.shape)
    return _encode(plan.z_rows, [(row, z_hat)], lanes)


def decode_z(plan: Plan, stream: tuple[bytes, int], hz: int, wz: int) -> np.ndarray:
    """z_hat, int64 [hz, wz, N].

    Raises:
        TruncatedError, DamagedError: the stream is not what :func:`encode_z` writes.
    """
    z_hat = np.zeros((hz, wz, plan.hyper_channels), np.int64)

    def all_of_it(draw: Callable) -> None:
        row = np.broadcast_to(np.arange(plan.hyper_channels), z_hat.shape)
        z_hat[...] = draw(row, np.zeros_like(row))

    decode_stream(Stream(*stream), plan.z_rows, [all_of_it])
    return z_hat


def encode_y(plan: Plan, psi: np.ndarray, y_hat: np.ndarray, lanes: int = 0) -> list[Stream]:
    """The streams of y_hat [h, w, M], one per group. lanes 0: chosen from each group's payload.

    Raises:
        ValueError: a value that the format cannot carry, or a residual plan.
    """
    if plan.residual:
        raise ValueError("this model codes residuals: use encode_y_residual")
    y_hat = _check_latents(y_hat, "y_hat")
    offset, row = parameters(plan, psi, y_hat)
    v = y_hat - offset
    streams, start = [], 0
    for channels in plan.group_channels:
        own = slice(start, start + channels)
        steps = [(row[i, j, own], v[i, j, own]) for i, j in (p.T for p in positions(plan, *y_hat.shape[:2]))]
        streams.append(_encode(plan.y_rows, steps, lanes))
        start += channels
    return streams


def encode_y_residual(plan: Plan, psi: np.ndarray, y: np.ndarray, lanes: int = 0) -> tuple[list[Stream], np.ndarray]:
    """The streams of y, one per group, and y_hat, int64 [h, w, M] in 1/16, as a decoder will have it.

    Args:
        plan: a residual plan.
        psi: its features.
        y: integers [h, w, M] in 1/256. Each becomes its mean plus the nearest whole number, halves upwards.
        lanes: 0: chosen from each group's payload.

    Raises:
        ValueError: a value beyond RESIDUAL_MAX, or a plan that is not residual.
    """
    if not plan.residual:
        raise ValueError("this model does not code residuals: use encode_y")
    y = np.asarray(y, np.int64)
    if y.size and np.abs(y).max() > RESIDUAL_MAX:
        raise ValueError(f"y has values beyond {RESIDUAL_MAX} / 256, which the format cannot carry")
    y_hat = np.zeros(y.shape, np.int64)
    streams, start = [], 0
    for g, channels in enumerate(plan.group_channels):
        own, steps = y[..., start : start + channels], []

        def quantize(row, offset, mean, i, j, own=own, steps=steps):
            v = (own[i, j] - 16 * mean + 128) >> 8
            steps.append((row, v))
            return v

        for run in _steps(plan, g, psi, y_hat):
            run(quantize)
        streams.append(_encode(plan.y_rows, steps, lanes))
        start += channels
    return streams, y_hat


def _steps(plan: Plan, g: int, psi: np.ndarray, y_hat: np.ndarray) -> Iterable[Callable]:
    """The steps of one group, in order: each, called with ``choose``, fills its part of y_hat [h, w, M].

    ``choose(row, offset, mean code, i, j)`` gives the symbols (each argument and the result [n, C], i and j [n]).
    """
    h, w, _ = psi.shape
    step = plan.steps(h, w)
    start = sum(plan.group_channels[:g])
    own = y_hat[..., start : start + plan.group_channels[g]]
    dense = base(plan, g, psi, y_hat)

    def one(where: np.ndarray) -> Callable:
        def run(choose: Callable) -> None:
            i, j = where.T
            pre = dense[i, j] + spatial(plan.groups[g], step, context(plan, own, start), where)
            mean, scale = codes(plan, g, pre)
            offset, row = offsets_and_rows(plan, mean, scale)
            symbols = choose(row, offset, mean, i, j)
            own[i, j] = 16 * symbols + mean if plan.residual else symbols
            if np.abs(own[i, j]).max() > SYMBOL_MAX:
                raise DamagedError("a latent does not fit 16 bits")

        return run

    return (one(where) for where in positions(plan, h, w))


def group_steps(plan: Plan, g: int, psi: np.ndarray, y_hat: np.ndarray) -> Iterable[Callable]:
    """The steps of one group for :func:`decode_stream`; they fill the group's channels of y_hat [h, w, M]."""

    def drawing(run: Callable) -> Callable:
        return lambda draw: run(lambda row, offset, *_: draw(row, offset))

    return (drawing(run) for run in _steps(plan, g, psi, y_hat))


def decode_y(plan: Plan, psi: np.ndarray, streams: list[tuple[bytes, int]]) -> np.ndarray:
    """y_hat, int64 [h, w, M], of one stream per group; in 1/16 if the plan is residual.

    Raises:
        TruncatedError, DamagedError: a stream is not what :func:`encode_y` writes.
    """
    y_hat = np.zeros((*psi.shape[:2], plan.latent_channels), np.int64)
    for g, stream in enumerate(streams):
        decode_stream(Stream(*stream), plan.y_rows, group_steps(plan, g, psi, y_hat))
    return y_hat

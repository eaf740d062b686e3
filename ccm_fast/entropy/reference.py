"""The oracle: FORMAT.md in plain Python and NumPy, for reading and for testing the engines against.

The entropy network is here, symbols and streams are in :mod:`ccm_fast.entropy.reference_streams`.

Planes are int64 arrays [rows, columns, channels] of one image. Everything is exact integer arithmetic in 64 bits; speed
is no aim. Section numbers are those of FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.entropy.plan import ACCUMULATE, CODED, HEAD, LEAKY8, RELU8, GroupPlan, IntConv, Plan
from ccm_fast.entropy.reference_streams import LANES_OF_Z, Stream, decode_stream, encode
from ccm_fast.errors import DamagedError

__all__ = [
    "convolve",
    "decode_y",
    "decode_z",
    "encode_y",
    "encode_y_residual",
    "encode_z",
    "hyper",
    "parameters",
    "requantize",
    "settle",
]

#: Largest magnitude (in 1/256) of latents for a residual encoder. Up to it y_hat fits 16 bits whatever the means are:
#: it differs by at most half a symbol (128 / 256), and is in 1/16.
RESIDUAL_MAX = 16 * SYMBOL_MAX - 128


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


def positions(plan: Plan, g: int, h: int, w: int) -> list[np.ndarray]:
    """Positions of each step of a group in coding order, raster order within a step: int64 [n, 2] arrays of (i, j)."""
    step = plan.steps(h, w, g)
    return [np.argwhere(step == s) for s in np.unique(step)]


def positions_left(steps: list[np.ndarray]) -> list[int]:
    """How many positions are not decoded yet before each step of :func:`positions`."""
    return np.cumsum([len(p) for p in steps[::-1]])[::-1].tolist()


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
    everywhere = np.argwhere(np.ones((h, w), bool))
    out, start = [], 0
    for g, (group, channels) in enumerate(zip(plan.groups, plan.group_channels, strict=True)):
        own = context(plan, y_hat[..., start : start + channels], start)
        pre = base(plan, g, psi, y_hat).reshape(h * w, -1)
        pre += spatial(group, plan.steps(h, w, g), own, everywhere)
        out.append(offsets_and_rows(plan, *codes(plan, g, pre)))
        start += channels
    offset, row = (np.concatenate([o[k].reshape(h, w, -1) for o in out], axis=2) for k in (0, 1))
    return offset, row


# ---------------------------------------------------------------------------------------------------------------------
# Whole latents


def _check_latents(latents: np.ndarray, name: str) -> np.ndarray:
    latents = np.asarray(latents, np.int64)
    if latents.size and np.abs(latents).max() > SYMBOL_MAX:
        raise ValueError(f"{name} has values outside -{SYMBOL_MAX}..{SYMBOL_MAX}, which the format cannot carry")
    return latents


def encode_z(plan: Plan, z_hat: np.ndarray, lanes: int = 0, version: int = 1) -> Stream:
    """The stream of z_hat [hz, wz, N], raster order, then channel, one step. lanes 0: chosen from the payload."""
    z_hat = _check_latents(z_hat, "z_hat")
    if plan.z_values is not None:
        fixed = plan.z_values != CODED
        if (z_hat[..., fixed] != plan.z_values[fixed]).any():
            raise ValueError("a channel of z_hat that is not coded has another value")
    coded = plan.coded_channels
    row = np.broadcast_to(coded, (*z_hat.shape[:2], len(coded)))
    return encode(plan.z_rows, [(row, z_hat[..., coded])], lanes, version, LANES_OF_Z)


def decode_z(plan: Plan, stream: tuple[bytes, int], hz: int, wz: int) -> np.ndarray:
    """z_hat, int64 [hz, wz, N].

    Raises:
        TruncatedError, DamagedError: the stream is not what :func:`encode_z` writes.
    """
    z_hat = np.zeros((hz, wz, plan.hyper_channels), np.int64)
    if plan.z_values is not None:
        z_hat += plan.z_values

    def all_of_it(draw: Callable) -> None:
        coded = plan.coded_channels
        row = np.broadcast_to(coded, (hz, wz, len(coded)))
        z_hat[..., coded] = draw(row, np.zeros_like(row))

    decode_stream(Stream(*stream), plan.z_rows, [all_of_it])
    return z_hat


def encode_y(plan: Plan, psi: np.ndarray, y_hat: np.ndarray, lanes: int = 0, version: int = 1) -> list[Stream]:
    """The streams of y_hat [h, w, M], one per group. lanes 0: chosen from each group's payload.

    Raises:
        ValueError: a value that the format cannot carry, a symbol that is not coded and not its offset, or a residual
            plan.
    """
    if plan.residual:
        raise ValueError("this model codes residuals: use encode_y_residual")
    y_hat = _check_latents(y_hat, "y_hat")
    offset, row = parameters(plan, psi, y_hat)
    v, coded = y_hat - offset, row >= plan.skip_rows
    if v[~coded].any():
        raise ValueError("a symbol of y_hat that is not coded is not its mean's offset: see settle")
    streams, start = [], 0
    for g, channels in enumerate(plan.group_channels):
        own, steps, where = slice(start, start + channels), [], positions(plan, g, *y_hat.shape[:2])
        for i, j in (p.T for p in where):
            mask = coded[i, j, own]
            steps.append((row[i, j, own][mask], v[i, j, own][mask]))
        streams.append(encode(plan.y_rows, steps, lanes, version, left=positions_left(where)))
        start += channels
    return streams


def settle(plan: Plan, psi: np.ndarray, y_hat: np.ndarray) -> np.ndarray:
    """y_hat, int64 [h, w, M], as a decoder will have it: symbols that are not coded are their means' offsets."""
    y_hat = _check_latents(y_hat, "y_hat").copy()
    start = 0
    for g, channels in enumerate(plan.group_channels):
        own = y_hat[..., start : start + channels]

        def choose(row, offset, mean, i, j, own=own):
            return np.where(row >= plan.skip_rows, own[i, j], offset)

        for run in _steps(plan, g, psi, y_hat):
            run(choose)
        start += channels
    return y_hat


def encode_y_residual(
    plan: Plan, psi: np.ndarray, y: np.ndarray, lanes: int = 0, version: int = 1
) -> tuple[list[Stream], np.ndarray]:
    """The streams of y, one per group, and y_hat, int64 [h, w, M] in 1/16, as a decoder will have it.

    Args:
        plan: a residual plan.
        psi: its features.
        y: integers [h, w, M] in 1/256. Each becomes its mean plus the nearest whole number, halves upwards.
        lanes: 0: chosen from each group's payload.
        version: of the streams.

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
        left = positions_left(positions(plan, g, *y.shape[:2]))
        streams.append(encode(plan.y_rows, steps, lanes, version, left=left))
        start += channels
    return streams, y_hat


def _steps(plan: Plan, g: int, psi: np.ndarray, y_hat: np.ndarray) -> Iterable[Callable]:
    """The steps of one group, in order: each, called with ``choose``, fills its part of y_hat [h, w, M].

    ``choose(row, offset, mean code, i, j)`` gives the symbols (each argument and the result [n, C], i and j [n]).
    """
    h, w, _ = psi.shape
    step = plan.steps(h, w, g)
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

    return (one(where) for where in positions(plan, g, h, w))


def group_steps(plan: Plan, g: int, psi: np.ndarray, y_hat: np.ndarray) -> Iterable[Callable]:
    """The steps of one group for :func:`decode_stream`; they fill the group's channels of y_hat [h, w, M]."""

    def drawing(run: Callable) -> Callable:
        def drawn(draw: Callable) -> None:
            def choose(row: np.ndarray, offset: np.ndarray, *_) -> np.ndarray:
                out, coded = offset.copy(), row >= plan.skip_rows
                out[coded] = draw(row[coded], offset[coded])
                return out

            run(choose)

        return drawn

    return (drawing(run) for run in _steps(plan, g, psi, y_hat))


def decode_y(plan: Plan, psi: np.ndarray, streams: list[tuple[bytes, int]]) -> np.ndarray:
    """y_hat, int64 [h, w, M], of one stream per group; in 1/16 if the plan is residual.

    Raises:
        TruncatedError, DamagedError: a stream is not what :func:`encode_y` writes.
    """
    y_hat = np.zeros((*psi.shape[:2], plan.latent_channels), np.int64)
    for g, stream in enumerate(streams):
        left = positions_left(positions(plan, g, *psi.shape[:2]))
        decode_stream(Stream(*stream), plan.y_rows, group_steps(plan, g, psi, y_hat), left)
    return y_hat

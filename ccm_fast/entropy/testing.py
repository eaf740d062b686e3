"""Random plans and latents for tests and benchmarks: valid, of any sizes, with sensible symbol statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from ccm_fast.constants import SYMBOL_MAX
from ccm_fast.entropy import reference, reference_streams
from ccm_fast.entropy.plan import (
    ACCUMULATE,
    CODED,
    HEAD,
    LEAKY8,
    RELU8,
    GroupPlan,
    IntConv,
    Plan,
    TableRows,
    fixed_point,
    requantization_factor,
)
from ccm_fast.entropy.plan_checks import SIGNED_MAX, magnitude
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.entropy.tables import fraction_bits, gaussian_rows, quantize_probabilities

__all__ = ["random_plan", "sample_latents", "sample_y", "sample_z"]

# Assumed root mean square of a layer's inputs: unsigned bytes after a ReLU, and latents.
_UNSIGNED_RMS, _SIGNED_RMS = 80.0, 4.0
# Units of the accumulators that base parts and spatial context share, per unit of the byte that follows.
_FINE = 64.0


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.clip(np.rint(rng.normal(0, 40, shape)), -127, 127).astype(np.int8)


def _conv(
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    kernel: int,
    output: int,
    centre: np.ndarray | float,
    spread: np.ndarray | float,
    signed: bool = False,
    upsample: int = 1,
    leaky: bool = False,
    in_zero: int = 0,
) -> IntConv:
    """A layer whose requantized outputs have about the given mean and standard deviation."""
    weight = _weights(rng, (outputs, kernel, kernel, inputs))
    wide = weight.astype(np.float64)
    rms = _SIGNED_RMS if signed else _UNSIGNED_RMS
    acc_std = rms * np.sqrt((wide**2).sum(axis=(1, 2, 3))) + 1
    mean_input = 0.0 if signed else 0.7 * rms
    mult, shift = fixed_point(np.broadcast_to(spread, outputs) / acc_std)
    bias = np.broadcast_to(centre, outputs) / requantization_factor(mult, shift)
    bias = bias - mean_input * wide.sum(axis=(1, 2, 3)) + rng.normal(0, 0.3, outputs) * acc_std
    limit = (1 << 31) - 1 - np.abs(wide).sum(axis=(1, 2, 3)) * (SIGNED_MAX if signed else magnitude(in_zero))
    bias = np.clip(np.rint(bias), -limit, limit).astype(np.int32)
    if leaky and output == RELU8:
        return IntConv(weight, bias, mult, shift, LEAKY8, signed, upsample, *_leaky(rng, mult))
    return IntConv(weight, bias, mult, shift, output, signed, upsample)


def _leaky(rng: np.random.Generator, mult: np.ndarray) -> tuple[int, np.ndarray]:
    """A zero point, at the ends of its range more often than by chance, and slopes of 0, about 0.01, or 1."""
    zero = int(rng.choice([0, 255, *rng.integers(0, 256, 6)]))
    return zero, (mult * rng.choice([0.0, 0.01, 0.2, 1.0], mult.shape)).astype(np.int32)


def _z_rows(rng: np.random.Generator, channels: int) -> TableRows:
    lo, frequencies = [], []
    for _ in range(channels):
        scale = np.exp(rng.uniform(np.log(0.2), np.log(6)))
        low, high = -int(rng.integers(0, 4 * scale + 2)), int(rng.integers(0, 4 * scale + 2))
        p = np.exp(-np.abs(np.arange(low, high + 1) - rng.normal(0, 0.5)) / scale)
        lo.append(low)
        frequencies.append(quantize_probabilities(np.append(p / p.sum(), 0.01)))
    return TableRows.from_frequencies(lo, frequencies)


def random_plan(
    rng: np.random.Generator,
    groups: tuple[int, ...] = (6, 6),
    hyper_channels: int = 4,
    schedule: str | Schedule = "wavefront",
    kernel: int = 5,
    psi_channels: int = 8,
    hyper_layers: tuple[tuple[int, int], ...] = ((3, 1), (3, 2), (3, 2)),
    cross_kernels: tuple[int, ...] | list[tuple[int, ...]] = (3, 3),
    cross_width: int = 8,
    skip_kernel: int = 1,
    widths: tuple[int, ...] = (16, 12),
    scale_codes: int = 64,
    scale_centre: float = 20.0,
    leaky: bool = False,
    direct: bool = False,
    residual: bool = False,
    scaled: bool = False,
    skipped: int = -1,
    fixed: int = 0,
    schedules: Sequence[str | Schedule] | None = None,
) -> Plan:
    """A valid random plan.

    Args:
        rng: source of everything random.
        groups: channels of the groups.
        hyper_channels: N.
        schedule: name or :class:`Schedule`.
        kernel: spatial context kernel (3, 5 or 7).
        psi_channels: P, and the width of h_s.
        hyper_layers: (kernel, upsampling) of each layer of h_s.
        cross_kernels: kernels of the stack over the earlier groups; () for none; a list: of each group's.
        cross_width: channels inside it.
        skip_kernel: kernel of the linear path beside it; 0 for none.
        widths: D and the hidden widths.
        scale_codes: S.
        scale_centre: typical scale index, 0..63; 20 is sigma = 1.3.
        leaky: LEAKY8 outputs wherever they may be.
        direct: the sum of contexts is the head; of ``widths`` nothing is used.
        residual: a model of residuals.
        scaled: contexts see requantized latents.
        skipped: the last scale index of symbols that are not coded; -1: all are.
        fixed: channels of z that are not coded.
        schedules: names or :class:`Schedule`, of each group, instead of ``schedule``.
    """

    def named(given: str | Schedule) -> Schedule:
        return Schedule.from_name(given, kernel) if isinstance(given, str) else given

    schedule = named(schedule)
    own_schedules = schedules and tuple(map(named, schedules))

    hyper_synthesis, channels, zero = [], hyper_channels, 0
    for k, (size, up) in enumerate(hyper_layers):
        how = {"signed": k == 0, "upsample": up, "leaky": leaky, "in_zero": zero}
        hyper_synthesis.append(_conv(rng, channels, psi_channels * up * up, size, RELU8, 50, 70, **how))
        channels, zero = psi_channels, hyper_synthesis[-1].zero
    psi_zero = zero

    plans = []
    for g, own in enumerate(groups):
        before = sum(groups[:g])
        if own_schedules:
            schedule = own_schedules[g]
        taps = np.array(schedule.taps(kernel), np.int32).reshape(-1, 2)
        D = 2 * own if direct else widths[0]
        step = scale_codes / 64
        centre = np.concatenate([np.zeros(own), np.full(own, scale_centre * step)])
        spread = np.concatenate([np.full(own, 25.0), np.full(own, 6.0 * step)])
        spatial = _weights(rng, (D, len(taps), own))
        # One unit of pre is 1 / _FINE of a byte; the spatial context contributes about 40 bytes.
        unit = 40.0 / (_SIGNED_RMS * 40.0 * np.sqrt(max(1, len(taps) * own))) if len(taps) else 1 / _FINE
        base_centre, base_spread = 50 / unit, 40 / unit
        if direct:  # the same sizes, of what the head wants
            unit = unit / 40.0 * spread
            base_centre, base_spread = centre / unit, spread / unit
        mult, shift = fixed_point(np.broadcast_to(unit, D))
        stack, zero = [], 0
        kernels = cross_kernels[g] if isinstance(cross_kernels, list) else cross_kernels
        dims = [before, *[cross_width] * (len(kernels) - 1), D]
        if before:
            for k, size in enumerate(kernels):
                last = k == len(kernels) - 1
                how = (ACCUMULATE, 0, 0.75 * base_spread) if last else (RELU8, 50, 70)
                stack.append(_conv(rng, dims[k], dims[k + 1], size, *how, signed=k == 0, leaky=leaky, in_zero=zero))
                zero = stack[-1].zero
        skip = None
        if before and skip_kernel:
            skip = _conv(rng, before, D, skip_kernel, ACCUMULATE, 0, 0.5 * base_spread, signed=True)
        output = HEAD if direct else LEAKY8 if leaky else RELU8
        f_zero, below = _leaky(rng, mult) if output == LEAKY8 else (0, None)
        hidden, zero = [], f_zero
        for a, b in [] if direct else pairwise(widths):
            hidden.append(_conv(rng, a, b, 1, RELU8, 50, 70, leaky=leaky, in_zero=zero))
            zero = hidden[-1].zero
        plans.append(
            GroupPlan(
                taps,
                spatial,
                mult,
                shift,
                _conv(rng, psi_channels, D, 1, ACCUMULATE, base_centre, base_spread, in_zero=psi_zero),
                stack,
                skip,
                hidden,
                None if direct else _conv(rng, widths[-1], 2 * own, 1, HEAD, centre, spread, in_zero=zero),
                output,
                f_zero,
                below,
            )
        )
    scale_table = np.clip(np.rint(np.arange(scale_codes) / (scale_codes / 64)), 0, 63).astype(np.uint8)
    M = sum(groups)
    # Factors around 1 for whole numbers, around 1 / 16 for residual models.
    factor = fixed_point(np.exp(rng.uniform(-1, 1, M)) / (16 if residual else 1)) if scaled else (None, None)
    bits, y_rows = fraction_bits(), copy.deepcopy(gaussian_rows())  # the cached one is shared
    if residual:
        bits, y_rows = np.zeros_like(bits), _centred(y_rows, bits)
    z_values = None
    if fixed:
        z_values = np.full(hyper_channels, CODED, np.int32)
        z_values[rng.permutation(hyper_channels)[:fixed]] = rng.integers(-3, 4, fixed)
    first = own_schedules[0] if own_schedules else schedule
    return Plan(
        tuple(groups),
        hyper_channels,
        first.row_step,
        first.col_step,
        np.array(first.pattern, np.int32),
        hyper_synthesis,
        plans,
        scale_table,
        bits,
        y_rows,
        _z_rows(rng, hyper_channels),
        residual,
        *factor,
        skipped,
        z_values,
        own_schedules or None,
    )


def _centred(rows: TableRows, bits: np.ndarray) -> TableRows:
    """Of the rows of each scale index the one whose mean is 0."""
    count = 1 << bits.astype(np.int64)
    keep = np.cumsum(count) - count + count // 2
    return TableRows.from_frequencies(rows.lo[keep], [np.diff(rows.row(r)) for r in keep])


def _sampler(rng: np.random.Generator, rows: TableRows, escape: float) -> Callable:
    def draw(row: np.ndarray, offset: np.ndarray) -> np.ndarray:
        out = []
        for r, o in zip(row.ravel().tolist(), offset.ravel().tolist(), strict=True):
            cdf = rows.row(r)
            entry = int(np.searchsorted(cdf, rng.integers(1 << 16), side="right")) - 1
            if rng.random() < escape:
                entry = int(rows.n[r]) - 1
            e = int(rng.integers(0, 1 << rng.integers(0, 10))) if entry == rows.n[r] - 1 else None
            out.append(reference_streams.join_symbol(rows, r, entry, e) + o)
        return np.clip(out, -SYMBOL_MAX, SYMBOL_MAX).reshape(row.shape)

    return draw


def sample_z(rng: np.random.Generator, plan: Plan, hz: int, wz: int, escape: float = 0.002) -> np.ndarray:
    """z_hat, int64 [hz, wz, N], drawn from the tables; a share ``escape`` of it by escapes."""
    row = np.broadcast_to(np.arange(plan.hyper_channels), (hz, wz, plan.hyper_channels))
    z_hat = _sampler(rng, plan.z_rows, escape)(row, np.zeros_like(row))
    return z_hat if plan.z_values is None else np.where(plan.z_values == CODED, z_hat, plan.z_values)


def sample_y(rng: np.random.Generator, plan: Plan, psi: np.ndarray, escape: float = 0.002) -> np.ndarray:
    """y_hat, int64 [h, w, M], drawn from the model, step by step."""
    y_hat = np.zeros((*psi.shape[:2], plan.latent_channels), np.int64)
    draw = _sampler(rng, plan.y_rows, escape)
    for g in range(len(plan.groups)):
        for step in reference.group_steps(plan, g, psi, y_hat):
            step(draw)
    return y_hat


def sample_latents(
    rng: np.random.Generator, plan: Plan, h: int, w: int, escape: float = 0.002
) -> tuple[np.ndarray, np.ndarray]:
    """(z_hat, y_hat) of a random image with h x w latent positions."""
    z_hat = sample_z(rng, plan, -(-h // 4), -(-w // 4), escape)
    return z_hat, sample_y(rng, plan, reference.hyper(plan, z_hat, h, w), escape)

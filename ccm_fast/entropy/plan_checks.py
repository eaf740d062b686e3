"""What a plan must fulfil before it may code anything: its parts fit each other, and no input overflows 32 bits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ccm_fast.constants import MAX_GROUPS, SYMBOL_MAX
from ccm_fast.entropy.plan_parts import (
    ACCUMULATE,
    BYTES,
    CODED,
    HEAD,
    KERNELS,
    LEAKY8,
    MAX_CHANNELS,
    MAX_ENTRIES,
    MAX_LAYERS,
    MAX_TAP,
    NUM_INDEXES,
    RELU8,
    GroupPlan,
    IntConv,
    OverflowProofError,
    PlanData,
    TableRows,
    check,
    layers,
)

__all__ = ["prove", "validate"]

#: Largest magnitude of a convolution's input: signed inputs are clamped latents, unsigned ones are relu8 outputs
#: (:func:`magnitude` knows those of leaky8).
SIGNED_MAX, UNSIGNED_MAX = 127, 255
INT32_END = 1 << 31


def _check_array(a: np.ndarray, dtype: type, shape: tuple[int, ...], name: str) -> None:
    check(isinstance(a, np.ndarray) and a.dtype == dtype, f"{name} must be a NumPy array of {np.dtype(dtype)}")
    check(a.shape == shape, f"{name} has shape {a.shape}, not {shape}")


def _check_requantizer(mult: np.ndarray, shift: np.ndarray, outputs: int, name: str) -> None:
    _check_array(mult, np.int32, (outputs,), f"{name}: mult")
    _check_array(shift, np.int32, (outputs,), f"{name}: shift")
    check(bool((mult >= 0).all()), f"{name}: mult must not be negative")
    check(bool(((shift >= 16) & (shift <= 62)).all()), f"{name}: shift must lie in 16..62")


def _check_output(part: IntConv | GroupPlan, outputs: int, name: str) -> None:
    """The output code and what belongs to it."""
    check(part.output in (RELU8, ACCUMULATE, HEAD, LEAKY8), f"{name}: unknown output code {part.output}")
    if part.output != LEAKY8:
        check(part.zero == 0 and part.below is None, f"{name}: only leaky outputs have a zero point and below")
        return
    check(0 <= part.zero <= 255, f"{name}: the zero point {part.zero} is not in 0..255")
    _check_array(part.below, np.int32, (outputs,), f"{name}: below")
    check(bool((part.below >= 0).all()), f"{name}: below must not be negative")


def _check_conv(conv: IntConv, name: str) -> None:
    check(conv.weight.ndim == 4 and conv.weight.shape[1] == conv.weight.shape[2], f"{name}: bad weight shape")
    _check_array(conv.weight, np.int8, conv.weight.shape, f"{name}: weight")
    check(conv.kernel in KERNELS, f"{name}: kernel {conv.kernel} is none of {KERNELS}")
    check(1 <= conv.inputs <= MAX_CHANNELS and 1 <= conv.outputs <= MAX_CHANNELS, f"{name}: channels out of range")
    check(conv.upsample in (1, 2), f"{name}: upsampling must be 1 or 2")
    check(conv.outputs % conv.upsample**2 == 0, f"{name}: output channels not divisible by 4")
    _check_output(conv, conv.outputs, name)
    _check_array(conv.bias, np.int32, (conv.outputs,), f"{name}: bias")
    _check_requantizer(conv.mult, conv.shift, conv.outputs, name)


def _check_use(
    conv: IntConv, name: str, inputs: int, outputs: int | None, output: int | tuple[int, ...], signed: bool
) -> None:
    check(conv.inputs == inputs, f"{name}: reads {conv.inputs} channels where there are {inputs}")
    check(outputs is None or conv.outputs == outputs, f"{name}: yields {conv.outputs} channels, not {outputs}")
    allowed = output if isinstance(output, tuple) else (output,)
    check(conv.output in allowed, f"{name}: output code {conv.output}, not {' or '.join(map(str, allowed))}")
    check(conv.signed == signed, f"{name}: inputs must be {'signed' if signed else 'unsigned'}")


def _check_rows(rows: TableRows, count: int, name: str) -> None:
    _check_array(rows.n, np.int32, (count,), f"{name}: n")
    _check_array(rows.lo, np.int32, (count,), f"{name}: lo")
    check(bool(((rows.n >= 2) & (rows.n <= MAX_ENTRIES)).all()), f"{name}: a row must have 2..{MAX_ENTRIES} entries")
    # With lo >= -8192 the escape value of any symbol has at most 17 bits.
    check(bool(((rows.lo <= 0) & (rows.lo >= -MAX_ENTRIES)).all()), f"{name}: lo must lie in -{MAX_ENTRIES}..0")
    _check_array(rows.cdf, np.uint16, (int(rows.n.sum(dtype=np.int64)),), f"{name}: cdf")
    first = np.zeros(len(rows.cdf), bool)
    first[rows.start[:-1]] = True
    check(bool((rows.cdf[first] == 0).all()), f"{name}: a row does not begin with 0")
    rising = rows.cdf[1:].astype(np.int64) > rows.cdf[:-1]
    check(bool((rising | first[1:]).all()), f"{name}: a cumulative frequency does not rise")


def validate(plan: PlanData) -> None:
    """Check types, limits and that all parts fit each other.

    Raises:
        PlanError: naming the first part that does not.
    """
    C, G = plan.group_channels, len(plan.group_channels)
    check(1 <= G <= MAX_GROUPS and len(plan.groups) == G, f"a plan has 1..{MAX_GROUPS} groups")
    check(min(C) >= 1 and sum(C) <= MAX_CHANNELS, f"y must have 1..{MAX_CHANNELS} channels, no group empty")
    check(1 <= plan.hyper_channels <= MAX_CHANNELS, f"z must have 1..{MAX_CHANNELS} channels")

    check(plan.pattern.ndim == 2 and min(plan.pattern.shape) >= 1, "the schedule's pattern must be a matrix")
    ph, pw = plan.pattern.shape
    check(ph <= 8 and pw <= 8, "the schedule's pattern is larger than 8x8")
    numbers = [plan.row_step, plan.col_step, int(plan.pattern.min()), int(plan.pattern.max())]
    check(min(numbers) >= 0 and max(numbers) <= 255, "schedule numbers must lie in 0..255")
    if plan.schedules is not None:
        check(len(plan.schedules) == G, f"{len(plan.schedules)} schedules for {G} groups")
        first = replace(plan, schedules=None).schedule_of(0)
        check(plan.schedules[0] == first, "the first group's schedule is not the plan's")
    check(-1 <= plan.skip <= NUM_INDEXES - 2, f"the last scale index that is skipped lies in 0..{NUM_INDEXES - 2}")
    check(plan.skip < 0 or not plan.residual, "a residual model cannot skip symbols")
    if plan.z_values is not None:
        _check_array(plan.z_values, np.int32, (plan.hyper_channels,), "values of z")
        inside = (plan.z_values >= CODED) & (plan.z_values <= SYMBOL_MAX)
        check(bool(inside.all()), "a value of z does not fit 16 bits")

    for name, conv in layers(plan):
        _check_conv(conv, name)
        check(conv.upsample == 1 or name.startswith("h_s"), f"{name}: only h_s may upsample")

    check(1 <= len(plan.hyper_synthesis) <= MAX_LAYERS, f"h_s must have 1..{MAX_LAYERS} layers")
    channels, factor = plan.hyper_channels, 1
    for k, conv in enumerate(plan.hyper_synthesis):
        _check_use(conv, f"h_s.{k}", channels, None, BYTES, signed=k == 0)
        channels, factor = conv.channels, factor * conv.upsample
    check(factor == 4, f"h_s upsamples by {factor}, not 4")

    for g, group in enumerate(plan.groups):
        name, own, before = f"group {g}", C[g], sum(C[:g])
        check(group.taps.ndim == 2 and group.taps.shape[1] == 2, f"{name}: taps must be pairs")
        taps = [tuple(t) for t in group.taps.tolist()]
        check(all(max(map(abs, t)) <= MAX_TAP for t in taps), f"{name}: a tap lies outside +-{MAX_TAP}")
        check(taps == sorted(set(taps)), f"{name}: taps must be in raster order, each once")
        schedule = plan.schedule_of(g)
        pattern = np.array(schedule.pattern, np.int64)
        for di, dj in taps:
            there = np.roll(pattern, (-di, -dj), axis=(0, 1))
            readable = schedule.row_step * di + schedule.col_step * dj + there < pattern
            check(bool(readable.any()), f"{name}: no position may read the tap ({di}, {dj})")
        D = group.weight.shape[0]
        check(1 <= D <= MAX_CHANNELS, f"{name}: width of base out of range")
        _check_array(group.weight, np.int8, (D, len(taps), own), f"{name} spatial: weight")
        _check_requantizer(group.mult, group.shift, D, f"{name} spatial")
        _check_output(group, D, f"{name} spatial")
        check(group.output in (*BYTES, HEAD), f"{name} spatial: output code {group.output}, not 0, 2 or 3")

        _check_use(group.hyper, f"{name} hyper", plan.psi_channels, D, ACCUMULATE, signed=False)
        check(before > 0 or (not group.stack and group.skip is None), f"{name}: has no earlier groups to read")
        check(len(group.stack) <= MAX_LAYERS and len(group.hidden) <= MAX_LAYERS, f"{name}: too many layers")
        channels = before
        for k, conv in enumerate(group.stack):
            last = k == len(group.stack) - 1
            output = ACCUMULATE if last else BYTES
            _check_use(conv, f"{name} stack.{k}", channels, D if last else None, output, signed=k == 0)
            channels = conv.outputs
        if group.skip is not None:
            _check_use(group.skip, f"{name} skip", before, D, ACCUMULATE, signed=True)
        if group.output == HEAD:
            check(not group.hidden and group.head is None, f"{name}: layers follow a direct head")
            check(2 * own == D, f"{name}: a direct head of {D} channels, not {2 * own}")
            continue
        check(group.head is not None, f"{name}: the head is missing")
        channels = D
        for k, conv in enumerate(group.hidden):
            _check_use(conv, f"{name} hidden.{k}", channels, None, BYTES, signed=False)
            check(conv.kernel == 1, f"{name} hidden.{k}: kernel must be 1")
            channels = conv.outputs
        _check_use(group.head, f"{name} head", channels, 2 * own, HEAD, signed=False)
        check(group.head.kernel == 1, f"{name} head: kernel must be 1")

    check(plan.scale_table.ndim == 1 and 1 <= len(plan.scale_table) <= 65536, "the scale table has 1..65536 entries")
    _check_array(plan.scale_table, np.uint8, plan.scale_table.shape, "scale table")
    check(int(plan.scale_table.max()) < NUM_INDEXES, "an entry of the scale table exceeds 63")
    _check_array(plan.fraction_bits, np.uint8, (NUM_INDEXES,), "fraction bits")
    check(int(plan.fraction_bits.max()) <= 4, "more than 4 fraction bits")
    check(not plan.residual or int(plan.fraction_bits.max()) == 0, "a residual model cannot have fraction bits")
    check((plan.context_mult is None) == (plan.context_shift is None), "context_mult and context_shift go together")
    if plan.context_mult is not None:
        _check_requantizer(plan.context_mult, plan.context_shift, sum(C), "scaled context")
    _check_rows(plan.y_rows, int((1 << plan.fraction_bits.astype(np.int64)).sum()), "rows of y")
    _check_rows(plan.z_rows, plan.hyper_channels, "rows of z")


def _require(bound: np.ndarray, name: str, what: str) -> None:
    worst = int(bound.argmax())
    if bound[worst] >= INT32_END:
        raise OverflowProofError(f"{name}, channel {worst}: {what} may reach {int(bound[worst])}, beyond 32 bits")


def _requantized(bound: np.ndarray, part: IntConv | GroupPlan, name: str) -> np.ndarray:
    """Largest magnitude after requantization of values of magnitude <= bound < 2^31 (rounding included)."""
    mult, shift = part.mult.astype(np.int64), part.shift.astype(np.int64)
    if part.below is not None:
        mult = np.maximum(mult, part.below)
    out = (bound * mult + (np.int64(1) << (shift - 1))) >> shift
    _require(out, name, "the requantized value")
    return out


def magnitude(zero: int) -> int:
    """Largest magnitude of a byte with a zero point."""
    return max(zero, UNSIGNED_MAX - zero)


def _input_zeros(plan: PlanData) -> Iterable[int]:
    """The zero point of each layer's inputs, in the order of :func:`layers`; of signed inputs anything."""
    zero = 0
    for conv in plan.hyper_synthesis:
        yield zero
        zero = conv.zero
    for group in plan.groups:
        yield plan.psi_zero
        zero = 0
        for conv in group.stack:
            yield zero
            zero = conv.zero
        if group.skip is not None:
            yield 0
        zero = group.zero
        for conv in (*group.hidden, group.head):
            if conv is not None:
                yield zero
                zero = conv.zero


def _conv_bound(conv: IntConv, zero: int, name: str) -> np.ndarray:
    """Proven largest magnitude of each channel of a convolution's requantized output, before any clamp."""
    # int64: 4096 channels * 7 * 7 taps * 128 * 255 + 2^31 is far below 2^63.
    weights = np.abs(conv.weight.astype(np.int64)).sum(axis=(1, 2, 3))
    bound = weights * (SIGNED_MAX if conv.signed else magnitude(zero)) + np.abs(conv.bias.astype(np.int64))
    _require(bound, name, "the accumulator")
    return _requantized(bound, conv, name)


def prove(plan: PlanData) -> None:
    """Prove that no input whatsoever overflows 32 bits anywhere.

    For every output channel: sum |w| * max |x| + |bias| < 2^31 and the requantized value fits 32 bits; the same for the
    sum of a group's contexts (base parts and spatial context).

    Raises:
        OverflowProofError: naming the layer and the channel.
    """
    zeros = _input_zeros(plan)
    bounds = {name: _conv_bound(conv, zero, name) for (name, conv), zero in zip(layers(plan), zeros, strict=True)}
    for g, group in enumerate(plan.groups):
        name = f"group {g}"
        total = bounds[f"{name} hyper"].copy()
        if group.stack:
            total += bounds[f"{name} stack.{len(group.stack) - 1}"]
        if group.skip is not None:
            total += bounds[f"{name} skip"]
        _require(total, f"{name} base", "the sum of the parts")
        total += np.abs(group.weight.astype(np.int64)).sum(axis=(1, 2)) * SIGNED_MAX
        _require(total, f"{name} spatial", "the sum of all contexts")
        _requantized(total, group, f"{name} spatial")

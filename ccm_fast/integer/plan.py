"""The plan: the frozen entropy model as NumPy arrays, and as the bytes of FORMAT.md section 7.

Every number that decides which bytes stand for which latents is in here; nothing is recomputed on the decoding machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ccm_fast.errors import ModelError

__all__ = [
    "ACCUMULATE",
    "HEAD",
    "LEAKY8",
    "NUM_INDEXES",
    "RELU8",
    "GroupPlan",
    "IntConv",
    "OverflowProofError",
    "Plan",
    "PlanError",
    "TableRows",
    "fixed_point",
    "prove",
]

#: Output codes of a convolution.
RELU8, ACCUMULATE, HEAD, LEAKY8 = 0, 1, 2, 3
#: Outputs that are bytes, which the layers inside a chain have.
BYTES = (RELU8, LEAKY8)
#: Scale indexes: ``scale_table`` maps scale codes to 0..63.
NUM_INDEXES = 64
#: Largest magnitude of a convolution's input: signed inputs are clamped latents, unsigned ones are relu8 outputs
#: (:func:`magnitude` knows those of leaky8).
SIGNED_MAX, UNSIGNED_MAX = 127, 255

MAGIC = b"CCMP"
MAX_CHANNELS = 4096
MAX_GROUPS = 32
MAX_LAYERS = 8
MAX_TAP = 3
MAX_ENTRIES = 8192
KERNELS = (1, 3, 5, 7)
INT32_END = 1 << 31


class PlanError(ModelError):
    """The bytes are not a plan, or its parts do not fit each other; the message names the place."""


class OverflowProofError(PlanError):
    """Some input could overflow 32 bits; the message names the layer and the channel."""


def check(condition: bool, reason: str) -> None:
    """Raises PlanError with the reason unless the condition holds."""
    if not condition:
        raise PlanError(reason)


def fixed_point(factor: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Multipliers and shifts (int32) with ``mult / 2^shift`` nearest to the given factors >= 0.

    The largest shift up to 62 that keeps mult below 2^31: 30 significant bits, except for factors below 2^-32.

    Raises:
        PlanError: a factor of 2^14 or more, which no shift of at least 16 can express safely, or not a number.
    """
    factor = np.atleast_1d(np.asarray(factor, np.float64))
    check(bool(((factor >= 0) & (factor < 2.0**14)).all()), "a requantization factor is not in [0, 2^14)")
    exponent = np.frexp(factor)[1].astype(np.int64)  # factor < 2^exponent
    shift = np.clip(30 - exponent, 16, 62)
    return np.rint(np.ldexp(factor, shift)).astype(np.int32), shift.astype(np.int32)


@dataclass(eq=False)
class IntConv:
    """An integer convolution with requantization.

    Attributes:
        weight: int8 [out, k, k, in].
        bias: int32 [out], in units of the accumulator.
        mult: int32 [out], 0..2^31 - 1.
        shift: int32 [out], 16..62.
        output: RELU8, ACCUMULATE, HEAD or LEAKY8.
        signed: inputs are latents (clamped to +-127) instead of bytes of an earlier layer.
        upsample: 1, or 2: a pixel shuffle follows.
        zero: with LEAKY8, outputs lie in -zero..255 - zero; else 0.
        below: with LEAKY8, int32 [out], the multipliers of negative accumulators; else None.
    """

    weight: np.ndarray
    bias: np.ndarray
    mult: np.ndarray
    shift: np.ndarray
    output: int
    signed: bool = False
    upsample: int = 1
    zero: int = 0
    below: np.ndarray | None = None

    @property
    def inputs(self) -> int:
        """Input channels."""
        return self.weight.shape[3]

    @property
    def outputs(self) -> int:
        """Output channels, before the pixel shuffle."""
        return self.weight.shape[0]

    @property
    def kernel(self) -> int:
        """Side of the kernel."""
        return self.weight.shape[1]

    @property
    def channels(self) -> int:
        """Channels of the result, after the pixel shuffle."""
        return self.outputs // self.upsample**2


@dataclass(eq=False)
class GroupPlan:
    """One group's entropy network.

    Attributes:
        taps: int32 [T, 2], offsets (di, dj) in raster order; T = 0: no spatial context.
        weight: int8 [D, T, C], the spatial context.
        mult, shift: int32 [D], turn the sum of all contexts into the first hidden layer's bytes, or into the head.
        hyper: ACCUMULATE convolution of psi to D channels.
        stack: convolutions over the earlier groups, RELU8 or LEAKY8, the last one ACCUMULATE to D channels; may be
            empty.
        skip: ACCUMULATE convolution of the earlier groups to D channels, or None.
        hidden: 1x1 RELU8 or LEAKY8 convolutions.
        head: 1x1 HEAD convolution to 2 C channels; None with the output HEAD.
        output: what the sum of all contexts becomes: RELU8, LEAKY8, or HEAD (then D = 2 C and nothing is hidden).
        zero, below: as in :class:`IntConv`, with the output LEAKY8.
    """

    taps: np.ndarray
    weight: np.ndarray
    mult: np.ndarray
    shift: np.ndarray
    hyper: IntConv
    stack: list[IntConv]
    skip: IntConv | None
    hidden: list[IntConv]
    head: IntConv | None
    output: int = RELU8
    zero: int = 0
    below: np.ndarray | None = None


@dataclass(eq=False)
class TableRows:
    """Cumulative frequency tables.

    Attributes:
        lo: int32 [R], lowest symbol of each row, <= 0.
        n: int32 [R], entries of each row, the escape (the last one) included.
        cdf: uint16 [sum of n], cdf[0] = 0 .. cdf[n - 1] of each row after another; cdf[n] = 65536 is not stored.
    """

    lo: np.ndarray
    n: np.ndarray
    cdf: np.ndarray

    def __len__(self) -> int:
        return len(self.n)

    @cached_property
    def start(self) -> np.ndarray:
        """int64 [R + 1]: where each row begins in ``cdf``."""
        return np.concatenate([[0], np.cumsum(self.n, dtype=np.int64)])

    def row(self, r: int) -> np.ndarray:
        """cdf[0 .. n] of row r, int64 [n + 1], the final 65536 included."""
        return np.append(self.cdf[self.start[r] : self.start[r + 1]].astype(np.int64), 1 << 16)

    @classmethod
    def from_frequencies(cls, lo: Iterable[int], frequencies: Iterable[np.ndarray]) -> TableRows:
        """Rows from lowest symbols and lists of frequencies (each >= 1, sum 65536, the escape last)."""
        frequencies = [np.asarray(f, np.int64) for f in frequencies]
        for r, f in enumerate(frequencies):
            check(len(f) >= 2 and f.min() >= 1 and f.sum() == 1 << 16, f"bad frequencies in row {r}")
        cdf = np.concatenate([np.cumsum(f) - f for f in frequencies]).astype(np.uint16)
        return cls(np.asarray(list(lo), np.int32), np.array([len(f) for f in frequencies], np.int32), cdf)


@dataclass(eq=False)
class Plan:
    """A frozen entropy model.

    Attributes:
        group_channels: C_0 .. C_{G-1}; M is their sum.
        hyper_channels: N, the channels of z.
        row_step, col_step, pattern: the schedule, pattern int32 [ph, pw].
        hyper_synthesis: the layers of h_s, RELU8 or LEAKY8, upsampling 4 in all.
        groups: one :class:`GroupPlan` per group.
        scale_table: uint8 [S], scale code -> scale index 0..63.
        fraction_bits: uint8 [64], bits of the mean's fraction in the choice of a row, per scale index.
        y_rows, z_rows: tables.
        residual: y is in 1/16, a symbol plus its mean code; all fraction bits are 0.
        context_mult, context_shift: int32 [M], requantize y before contexts see it; or None, both.
    """

    group_channels: tuple[int, ...]
    hyper_channels: int
    row_step: int
    col_step: int
    pattern: np.ndarray
    hyper_synthesis: list[IntConv]
    groups: list[GroupPlan]
    scale_table: np.ndarray
    fraction_bits: np.ndarray
    y_rows: TableRows
    z_rows: TableRows
    residual: bool = False
    context_mult: np.ndarray | None = None
    context_shift: np.ndarray | None = None
    _bytes: bytes | None = field(default=None, repr=False)

    @property
    def version(self) -> int:
        """The least version of the format that has everything this plan needs: 1 or 2."""
        leaky = any(conv.output == LEAKY8 for _, conv in layers(self))
        other = any(group.output != RELU8 for group in self.groups)
        return 2 if leaky or other or self.residual or self.context_mult is not None else 1

    @property
    def latent_channels(self) -> int:
        """M, the channels of y."""
        return sum(self.group_channels)

    @property
    def psi_channels(self) -> int:
        """P, the channels of the hyperprior's features."""
        return self.hyper_synthesis[-1].channels

    @property
    def psi_zero(self) -> int:
        """What is added to psi to make bytes of it."""
        return self.hyper_synthesis[-1].zero

    @property
    def first_row(self) -> np.ndarray:
        """int64 [64]: the row of y_rows where each scale index begins."""
        rows = 1 << self.fraction_bits.astype(np.int64)
        return np.cumsum(rows) - rows

    @property
    def fingerprint(self) -> bytes:
        """The first 8 bytes of the SHA-256 of :meth:`to_bytes`; every stream carries them."""
        return hashlib.sha256(self.to_bytes()).digest()[:8]

    def steps(self, h: int, w: int) -> np.ndarray:
        """The step of every position, int64 [h, w]."""
        i, j = np.arange(h, dtype=np.int64)[:, None], np.arange(w, dtype=np.int64)[None, :]
        ph, pw = self.pattern.shape
        return self.row_step * i + self.col_step * j + self.pattern[i % ph, j % pw].astype(np.int64)

    def to_bytes(self) -> bytes:
        """The plan as bytes (FORMAT.md section 7); kept, so do not change a plan after its first use.

        Raises:
            PlanError: parts do not fit each other.
            OverflowProofError: some input could overflow.
        """
        from ccm_fast.integer.plan_bytes import write

        if self._bytes is None:
            validate(self)
            prove(self)
            self._bytes = write(self)
        return self._bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read, check and prove a plan.

        Raises:
            PlanError: truncated, damaged, outside the limits, or parts that do not fit each other.
            OverflowProofError: some input could overflow.
        """
        from ccm_fast.integer.plan_bytes import read

        data = bytes(data)
        plan = read(data)
        validate(plan)
        prove(plan)
        plan._bytes = data
        return plan


# ---------------------------------------------------------------------------------------------------------------------
# Names, checks, proof


def layers(plan: Plan) -> Iterable[tuple[str, IntConv]]:
    """Every convolution with a name for messages; a group's spatial context is not one of them."""
    for k, conv in enumerate(plan.hyper_synthesis):
        yield f"h_s.{k}", conv
    for g, group in enumerate(plan.groups):
        yield f"group {g} hyper", group.hyper
        for k, conv in enumerate(group.stack):
            yield f"group {g} stack.{k}", conv
        if group.skip is not None:
            yield f"group {g} skip", group.skip
        for k, conv in enumerate(group.hidden):
            yield f"group {g} hidden.{k}", conv
        if group.head is not None:
            yield f"group {g} head", group.head


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


def validate(plan: Plan) -> None:
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
        for di, dj in taps:
            there = np.roll(plan.pattern.astype(np.int64), (-di, -dj), axis=(0, 1))
            readable = plan.row_step * di + plan.col_step * dj + there < plan.pattern
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


def _input_zeros(plan: Plan) -> Iterable[int]:
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


def prove(plan: Plan) -> None:
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

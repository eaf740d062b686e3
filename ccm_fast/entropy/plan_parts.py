"""The parts of a plan: the frozen entropy model as NumPy arrays.

Every number that decides which bytes stand for which latents is in here; nothing is recomputed on the decoding machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ccm_fast.constants import NUM_SCALES
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.errors import ModelError

__all__ = [
    "ACCUMULATE",
    "BYTES",
    "CODED",
    "HEAD",
    "KERNELS",
    "LEAKY8",
    "MAGIC",
    "MAX_CHANNELS",
    "MAX_ENTRIES",
    "MAX_LAYERS",
    "MAX_TAP",
    "NUM_INDEXES",
    "RELU8",
    "GroupPlan",
    "IntConv",
    "OverflowProofError",
    "PlanData",
    "PlanError",
    "TableRows",
    "check",
    "fixed_point",
    "layers",
    "requantization_factor",
]

#: Output codes of a convolution.
RELU8, ACCUMULATE, HEAD, LEAKY8 = 0, 1, 2, 3
#: Outputs that are bytes, which the layers inside a chain have.
BYTES = (RELU8, LEAKY8)
#: Scale indexes: ``scale_table`` maps scale codes to 0..63.
NUM_INDEXES = NUM_SCALES

#: In a plan's z_values: this channel is coded.
CODED = -32768

MAGIC = b"CCMP"
MAX_CHANNELS = 4096
MAX_LAYERS = 8
MAX_TAP = 3
MAX_ENTRIES = 8192
KERNELS = (1, 3, 5, 7)


class PlanError(ModelError):
    """The bytes are not a plan, or its parts do not fit each other; the message names the place."""


class OverflowProofError(PlanError):
    """Some input could overflow 32 bits; the message names the layer and the channel.

    Plans that :func:`ccm_fast.freeze` and :func:`ccm_fast.accelerate` make choose their steps so that none can. Of a
    plan from elsewhere it says that the plan is not safe to run.
    """


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


def requantization_factor(mult: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The factors ``mult / 2^shift`` that multipliers and shifts (int32, one shape) express; float64 of that shape."""
    return np.ldexp(mult.astype(np.float64), -shift)


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
class PlanData:
    """A frozen entropy model as data; :class:`ccm_fast.entropy.plan.Plan` adds its bytes.

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
        skip: symbols of y with a scale index up to this one are not coded and are their means' offsets; -1: all are.
        z_values: int32 [N], what channels of z that are not coded are, and CODED for the others; None: all are coded.
        schedules: one for each group, the first of which is the one above; None: that one for all.
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
    skip: int = -1
    z_values: np.ndarray | None = None
    schedules: tuple[Schedule, ...] | None = None

    @property
    def version(self) -> int:
        """The least version of the format that has everything this plan needs: 1, 2 or 3."""
        if self.stream_version == 2:
            return 3
        return 1 if self.plain else 2

    @property
    def plain(self) -> bool:
        """Whether it has no leaky, direct, residual or scaled parts."""
        leaky = any(conv.output == LEAKY8 for _, conv in layers(self))
        other = any(group.output != RELU8 for group in self.groups)
        return not (leaky or other or self.residual or self.context_mult is not None)

    @property
    def stream_version(self) -> int:
        """The least version of its streams: 2 if not everything is coded, or groups have schedules of their own."""
        return 1 if self.skip < 0 and self.z_values is None and self.schedules is None else 2

    @property
    def skip_rows(self) -> int:
        """Symbols of y with a smaller row are not coded."""
        return int(self.first_row[self.skip + 1])

    @property
    def coded_channels(self) -> np.ndarray:
        """Channels of z that are coded, int64."""
        if self.z_values is None:
            return np.arange(self.hyper_channels)
        return np.flatnonzero(self.z_values == CODED)

    def schedule_of(self, g: int) -> Schedule:
        """The schedule of a group."""
        if self.schedules is not None:
            return self.schedules[g]
        return Schedule(self.row_step, self.col_step, tuple(map(tuple, self.pattern.tolist())))

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

    def steps(self, h: int, w: int, g: int = 0) -> np.ndarray:
        """The step of every position in a group, int64 [h, w]."""
        return self.schedule_of(g).steps(h, w).astype(np.int64)


def layers(plan: PlanData) -> Iterable[tuple[str, IntConv]]:
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

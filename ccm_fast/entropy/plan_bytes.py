"""Plan <-> bytes (FORMAT.md, section 7); reached through Plan.to_bytes and Plan.from_bytes, which also check."""

from __future__ import annotations

import numpy as np

from ccm_fast.constants import MAX_GROUPS
from ccm_fast.entropy.plan_parts import (
    HEAD,
    KERNELS,
    LEAKY8,
    MAGIC,
    MAX_CHANNELS,
    MAX_ENTRIES,
    MAX_LAYERS,
    MAX_TAP,
    NUM_INDEXES,
    RELU8,
    GroupPlan,
    IntConv,
    PlanData,
    TableRows,
    check,
)
from ccm_fast.entropy.schedule import Schedule

__all__ = ["read", "write"]


class _Writer:
    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def ints(self, *values: int | np.ndarray) -> None:
        for v in values:
            self.parts.append(np.asarray(v, np.int64).astype("<i4").tobytes())

    def array(self, a: np.ndarray) -> None:
        data = np.ascontiguousarray(a).astype(a.dtype.newbyteorder("<")).tobytes()
        self.parts.append(data + b"\0" * (-len(data) % 4))

    def conv(self, c: IntConv) -> None:
        self.ints(c.inputs, c.outputs, c.kernel, c.upsample, c.output, int(c.signed))
        self.array(c.weight)
        self.ints(c.bias, c.mult, c.shift)
        self.leaky(c)

    def leaky(self, part: IntConv | GroupPlan) -> None:
        if part.output == LEAKY8:
            self.ints(part.zero, part.below)

    def convs(self, cs: list[IntConv]) -> None:
        self.ints(len(cs))
        for c in cs:
            self.conv(c)

    def rows(self, r: TableRows) -> None:
        self.ints(len(r), r.lo, r.n, len(r.cdf))
        self.array(r.cdf)


def write(plan: PlanData) -> bytes:
    """The bytes of a plan that has been checked, in the least version that has all it needs."""
    w = _Writer()
    version = plan.version
    w.ints(plan.latent_channels, plan.hyper_channels, len(plan.groups), *plan.group_channels)
    if version >= 2:
        parts = (plan.residual, plan.context_mult is not None, plan.skip >= 0, plan.z_values is not None)
        w.ints(sum(part << k for k, part in enumerate((*parts, plan.schedules is not None))))
        if plan.context_mult is not None:
            w.ints(plan.context_mult, plan.context_shift)
        if plan.skip >= 0:
            w.ints(plan.skip)
        if plan.z_values is not None:
            w.ints(plan.z_values)
    for g in range(1 if plan.schedules is None else len(plan.groups)):
        schedule = plan.schedule_of(g)
        w.ints(schedule.row_step, schedule.col_step, *schedule.period, np.array(schedule.pattern))
    w.convs(plan.hyper_synthesis)
    for group in plan.groups:
        w.ints(len(group.taps), group.taps, len(group.weight))
        if version >= 2:
            w.ints(group.output)
        w.array(group.weight)
        w.ints(group.mult, group.shift)
        w.leaky(group)
        w.conv(group.hyper)
        w.convs(group.stack)
        w.convs([] if group.skip is None else [group.skip])
        if group.output != HEAD:
            w.convs(group.hidden)
            w.conv(group.head)
    w.ints(len(plan.scale_table))
    w.array(plan.scale_table)
    w.array(plan.fraction_bits)
    w.rows(plan.y_rows)
    w.rows(plan.z_rows)
    body = b"".join(w.parts)
    return MAGIC + np.array([version, len(body) + 12], "<i4").tobytes() + body


class _Reader:
    """Every read is checked against the end before anything is allocated."""

    def __init__(self, data: bytes):
        self.data, self.at, self.version = data, 0, 1

    def raw(self, size: int, what: str) -> bytes:
        check(0 <= size <= len(self.data) - self.at, f"the plan ends inside {what}")
        self.at += size
        return self.data[self.at - size : self.at]

    def ints(self, count: int, what: str) -> np.ndarray:
        return np.frombuffer(self.raw(4 * count, what), "<i4").astype(np.int32)

    def int(self, low: int, high: int, what: str) -> int:
        value = int(self.ints(1, what)[0])
        check(low <= value <= high, f"{what}: {value} is not in {low}..{high}")
        return value

    def array(self, dtype: str, shape: tuple[int, ...], what: str) -> np.ndarray:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = self.raw(size, what)
        check(not any(self.raw(-size % 4, what)), f"{what}: padding is not zero")
        return np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(shape)

    def schedule(self) -> Schedule:
        row_step, col_step = self.int(0, 255, "row step"), self.int(0, 255, "column step")
        ph, pw = self.int(1, 8, "pattern height"), self.int(1, 8, "pattern width")
        pattern = [[self.int(0, 255, "the pattern") for _ in range(pw)] for _ in range(ph)]
        return Schedule(row_step, col_step, tuple(map(tuple, pattern)))

    def conv(self, what: str) -> IntConv:
        inputs = self.int(1, MAX_CHANNELS, f"{what}: input channels")
        outputs = self.int(1, MAX_CHANNELS, f"{what}: output channels")
        kernel = self.int(1, max(KERNELS), f"{what}: kernel")
        upsample = self.int(1, 2, f"{what}: upsampling")
        output = self.int(RELU8, LEAKY8 if self.version >= 2 else HEAD, f"{what}: output code")
        signed = bool(self.int(0, 1, f"{what}: input sign"))
        weight = self.array("<i1", (outputs, kernel, kernel, inputs), f"{what}: weight")
        bias, mult, shift = (self.ints(outputs, f"{what}: {part}") for part in ("bias", "mult", "shift"))
        return IntConv(weight, bias, mult, shift, output, signed, upsample, *self.leaky(output, outputs, what))

    def leaky(self, output: int, outputs: int, what: str) -> tuple[int, np.ndarray | None]:
        """The zero point and the multipliers of negative accumulators, where there are any."""
        if output != LEAKY8:
            return 0, None
        return self.int(0, 255, f"{what}: zero point"), self.ints(outputs, f"{what}: below")

    def convs(self, most: int, what: str) -> list[IntConv]:
        return [self.conv(f"{what}.{k}") for k in range(self.int(0, most, f"number of layers of {what}"))]

    def rows(self, what: str) -> TableRows:
        count = self.int(1, MAX_CHANNELS, f"number of {what}")
        lo, n = self.ints(count, f"{what}: lo"), self.ints(count, f"{what}: n")
        total = self.int(2, count * MAX_ENTRIES, f"{what}: entries")
        return TableRows(lo, n, self.array("<u2", (total,), f"{what}: cdf"))


def read(data: bytes) -> PlanData:
    """The plan in some bytes; its parts are not yet checked against each other. Raises PlanError."""
    r = _Reader(data)
    check(r.raw(4, "its magic number") == MAGIC, "not a plan: it does not begin with CCMP")
    r.version = int(r.ints(1, "its version")[0])
    check(r.version in (1, 2, 3), f"plan version {r.version} is not known here")
    check(int(r.ints(1, "its length")[0]) == len(data), "the plan's length is not the one that it states")
    M = r.int(1, MAX_CHANNELS, "channels of y")
    N = r.int(1, MAX_CHANNELS, "channels of z")
    G = r.int(1, MAX_GROUPS, "number of groups")
    channels = tuple(r.int(1, MAX_CHANNELS, "channels of a group") for _ in range(G))
    check(sum(channels) == M, f"the groups have {sum(channels)} channels, y has {M}")
    flags = r.int(0, 3 if r.version == 2 else 31, "flags") if r.version >= 2 else 0
    context_mult = context_shift = None
    if flags & 2:
        context_mult, context_shift = r.ints(M, "scaled context: mult"), r.ints(M, "scaled context: shift")
    skipped = r.int(0, NUM_INDEXES - 2, "the last scale index that is skipped") if flags & 4 else -1
    z_values = r.ints(N, "values of z") if flags & 8 else None
    schedules = tuple(r.schedule() for _ in range(G if flags & 16 else 1))
    hyper_synthesis = r.convs(MAX_LAYERS, "h_s")
    groups = []
    for g in range(G):
        name = f"group {g}"
        T = r.int(0, (2 * MAX_TAP + 1) ** 2, f"{name}: number of taps")
        taps = r.ints(2 * T, f"{name}: taps").reshape(T, 2)
        D = r.int(1, MAX_CHANNELS, f"{name}: width of base")
        output = r.int(RELU8, LEAKY8, f"{name}: output code") if r.version >= 2 else RELU8
        weight = r.array("<i1", (D, T, channels[g]), f"{name}: spatial weight")
        mult, shift = r.ints(D, f"{name}: mult"), r.ints(D, f"{name}: shift")
        leaky = r.leaky(output, D, f"{name} spatial")
        hyper = r.conv(f"{name} hyper")
        stack = r.convs(MAX_LAYERS, f"{name} stack")
        skip = r.convs(1, f"{name} skip")
        hidden = r.convs(MAX_LAYERS, f"{name} hidden") if output != HEAD else []
        head = r.conv(f"{name} head") if output != HEAD else None
        first = skip[0] if skip else None
        groups.append(GroupPlan(taps, weight, mult, shift, hyper, stack, first, hidden, head, output, *leaky))
    S = r.int(1, 65536, "length of the scale table")
    scale_table = r.array("<u1", (S,), "the scale table")
    fraction_bits = r.array("<u1", (NUM_INDEXES,), "fraction bits")
    y_rows, z_rows = r.rows("rows of y"), r.rows("rows of z")
    check(r.at == len(data), f"{len(data) - r.at} bytes follow the plan")
    return PlanData(
        channels,
        N,
        schedules[0].row_step,
        schedules[0].col_step,
        np.array(schedules[0].pattern, np.int32),
        hyper_synthesis,
        groups,
        scale_table,
        fraction_bits,
        y_rows,
        z_rows,
        bool(flags & 1),
        context_mult,
        context_shift,
        skipped,
        z_values,
        schedules if flags & 16 else None,
    )

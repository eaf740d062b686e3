"""The CUDA kernels, compiled by g++ against the emulator: same latents and same bytes as the CPU engine.

Random plans of every kind and schedule, random orders of execution, from one resident block to many.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from ccm_fast import _backend
from ccm_fast.entropy import reference, tensors
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.plan import TableRows
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.models import Schedule
from ccm_fast.stream.container import parse_container
from ccm_fast.stream.packet import parse_file

sys.path.insert(0, str(Path(__file__).resolve().parent / "emu"))
from engine import EmulatedEngine, schedule

pytestmark = pytest.mark.slow

GOLDEN = json.loads((tiny.GOLDEN / "golden.json").read_text())

_backend.load()
ops = torch.ops.ccm_fast

# Arguments of random_plan, and the plane: sizes that are no multiple of anything.
CASES = {
    "ccm": ({"groups": (8, 4, 6)}, (7, 9)),
    "joint": ({"groups": (12,)}, (6, 5)),
    "deep": ({"groups": (20, 33), "widths": (40, 36, 24), "cross_width": 40, "psi_channels": 36}, (6, 7)),
    "3x3": ({"groups": (5, 3), "schedule": Schedule.wavefront(3), "kernel": 3}, (5, 8)),
    "channel-conditional": ({"groups": (4, 4, 4, 7), "schedule": Schedule.single()}, (5, 6)),
    "checkerboard": ({"groups": (3, 9), "schedule": Schedule.checkerboard()}, (6, 13)),
    "multistage4": ({"groups": (5, 2), "schedule": Schedule.multistage(4)}, (9, 6)),
    "no stack": ({"groups": (4, 5), "cross_kernels": ()}, (6, 6)),
    "no skip": ({"groups": (4, 5), "skip_kernel": 0, "cross_kernels": (5, 3, 3)}, (9, 19)),
    "alone": ({"groups": (4, 5), "skip_kernel": 0, "cross_kernels": ()}, (4, 7)),
    "fine": ({"groups": (4, 3, 11), "cross_kernels": [(), (5, 3, 3), (3, 3)]}, (8, 15)),
    "independent": ({"groups": (12, 3, 4), "cross_kernels": [(), (), (5, 3)], "skip_kernel": 0}, (11, 9)),
    "1x1": ({"groups": (8, 4)}, (1, 1)),
    "row": ({"groups": (8, 4)}, (1, 40)),
    "column": ({"groups": (8, 4)}, (33, 1)),
    "leaky": ({"groups": (8, 4, 6), "leaky": True}, (7, 9)),
    "direct": ({"groups": (6, 4), "direct": True}, (6, 8)),
    "residual": ({"groups": (5, 3), "residual": True}, (6, 7)),
    "scaled": ({"groups": (5, 7), "scaled": True, "leaky": True}, (6, 7)),
    "everything": ({"groups": (7, 4, 3), "scaled": True, "leaky": True, "residual": True, "direct": True}, (5, 11)),
    "elic": (
        {"groups": (3, 4, 5), "schedule": Schedule.checkerboard(), "cross_kernels": (5, 5, 5, 1), "skip_kernel": 0}
        | {"scaled": True, "leaky": True, "residual": True},
        (6, 8),
    ),
}
BATCH = 2


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_files(name):
    """The row of docs/machines.md: latents of the files in tests/golden."""
    frozen = (tiny.skipping() if GOLDEN[name].get("plan") == 3 else tiny.model()).frozen
    container = parse_container((tiny.GOLDEN / f"{name}.ccm").read_bytes())
    packet = parse_file(container.packet, len(frozen.plan.group_channels), None)
    emulated, cpu = EmulatedEngine(frozen.plan), torch.device("cpu")
    data, segments = tensors.joined([[packet.z_stream]], cpu)
    z, status = emulated.decode_z(data, segments[:, 0].contiguous(), *packet.z_shape)
    assert not status.any()
    psi = emulated.hyper(z, *packet.y_shape)
    y, status = emulated.decode_y(psi, *tensors.joined([packet.y_streams], cpu))
    assert not status.any()
    assert hashlib.sha256(y[0].numpy().astype("<i2").tobytes()).hexdigest() == GOLDEN[name]["sha256"]


class Case:
    def __init__(self, name, cases=CASES):
        kwargs, (self.h, self.w) = cases[name]
        rng = np.random.default_rng(sum(map(ord, name)))
        self.plan = random_plan(rng, **{"hyper_channels": 5, **kwargs})
        raw = torch.frombuffer(bytearray(self.plan.to_bytes()), dtype=torch.uint8)
        self.packed = ops.pack_plan(raw, "")
        drawn = [sample_latents(rng, self.plan, self.h, self.w, escape=0.02) for _ in range(BATCH)]
        self.z = torch.stack([torch.from_numpy(z.astype(np.int16)) for z, _ in drawn])
        self.y = torch.stack([torch.from_numpy(y.astype(np.int16)) for _, y in drawn])
        self.psi = ops.hyper(self.packed, self.z, self.h, self.w, 1)
        self.given = self.y
        if self.plan.residual:  # what an encoder is given: 1/256 near those
            noise = torch.from_numpy(rng.integers(-7, 8, self.y.shape, dtype=np.int32))
            self.given = self.y.int() * 16 + noise

    def encode_z(self, lanes):
        return ops.encode_z(self.packed, self.z, lanes, 1)

    def encode_y(self, lanes):
        """Streams, segments, and what a decoder finds."""
        if self.plan.residual:
            return ops.encode_y_residual(self.packed, self.psi, self.given, lanes, 1)
        if self.plan.skip >= 0:
            return ops.encode_settled(self.packed, self.psi, self.y, lanes, 1)
        return *ops.encode_y(self.packed, self.psi, self.given, lanes, 1), self.y


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


def split(data, segments):
    raw = data.numpy().tobytes()
    return [(raw[o : o + n], lanes) for o, n, lanes in segments.reshape(-1, 3).tolist()]


def fine(status):
    return status.tolist() == [0] * BATCH


@pytest.mark.thinned(3)
@pytest.mark.parametrize("lanes", [1, 4, 32])
def test_z(case, lanes):
    data, segments = case.encode_z(lanes)
    emulated = EmulatedEngine(case.plan)
    with schedule(seed=lanes):
        z, status = emulated.decode_z(data, segments, *case.z.shape[1:3])
        assert fine(status) and torch.equal(z, case.z)
        assert torch.equal(emulated.hyper(z, case.h, case.w), case.psi)
        assert split(*emulated.encode_z(case.z, lanes)) == split(data, segments)


# (seed, blocks, resident, threads, bytes of shared memory, lanes)
RUNS = [
    (0, 0, 0, 0, -1, 4),
    (1, 0, 0, 64, -1, 32),
    (2, 1, 1, 96, 4096, 1),
    (3, 9, 2, 128, 0, 2),
    (4, 40, 3, 64, 20000, 8),
    (5, 7, 0, 64, -1, 16),
]


@pytest.mark.thinned(6)
@pytest.mark.parametrize("run", RUNS, ids=lambda r: f"seed{r[0]}-blocks{r[1]}-resident{r[2]}")
def test_y(case, run):
    seed, blocks, resident, threads, shared, lanes = run
    data, segments, y_hat = case.encode_y(lanes)
    emulated = EmulatedEngine(case.plan, threads, blocks, shared)
    with schedule(seed=seed, resident=resident):
        y, status = emulated.decode_y(case.psi, data, segments)
        assert fine(status)
        assert torch.equal(y, y_hat)
        found, data2, segments2, status = emulated.encode_y(case.psi, case.given, lanes)
    assert fine(status)
    assert torch.equal(found, y_hat)
    assert split(data2, segments2) == split(data, segments)


VERSION_2 = 256  # csrc/format/rans.h


# (lanes, seed, blocks, resident, threads, bytes of shared memory)
@pytest.mark.thinned(6)
@pytest.mark.parametrize("run", [
    (1, 0, 0, 0, 64, -1), (2, 1, 3, 1, 96, 0), (4, 5, 9, 2, 64, -1), (8, 2, 9, 2, 128, 20000), (16, 6, 0, 0, 64, -1),
    (32, 3, 0, 0, 64, -1), (64, 4, 5, 3, 64, -1), (128, 7, 6, 0, 64, 0), (128, 8, 0, 2, 192, -1),
], ids=lambda r: f"lanes{r[0]}-seed{r[1]}")  # fmt: skip
def test_streams_of_version_2(case, run):
    lanes, seed, blocks, resident, threads, shared = run
    data, segments, y_hat = case.encode_y(VERSION_2 + lanes)
    z_data, z_segments = case.encode_z(VERSION_2 + lanes)
    emulated = EmulatedEngine(case.plan, threads, blocks, shared)
    with schedule(seed=seed, resident=resident):
        z, status = emulated.decode_z(z_data, z_segments, *case.z.shape[1:3])
        assert fine(status) and torch.equal(z, case.z)
        y, status = emulated.decode_y(case.psi, data, segments)
        assert fine(status) and torch.equal(y, y_hat)
        assert split(*emulated.encode_z(case.z, VERSION_2 + lanes)) == split(z_data, z_segments)
        found, *streams, status = emulated.encode_y(case.psi, case.given, VERSION_2 + lanes)
    assert fine(status) and torch.equal(found, y_hat)
    assert split(*streams) == split(data, segments)


def test_a_base_that_comes_after_it_was_looked_for():
    """Its list is not there then: a step of several chunks, whose bases come while the chunk before is decoded."""
    case = Case("checkerboard")
    data, segments, y_hat = case.encode_y(4)
    with schedule(seed=0):
        y, status = EmulatedEngine(case.plan).decode_y(case.psi, data, segments)
    assert fine(status) and torch.equal(y, y_hat)


@pytest.mark.parametrize("lanes", [1, VERSION_2 + 64])
def test_steps_of_a_wavefront_longer_than_a_chunk(lanes):
    """Taps reach no position of their own step: latents enter the context chunk by chunk."""
    case = Case("long", {"long": ({"groups": (5, 4)}, (18, 52))})
    assert np.bincount(case.plan.schedule_of(0).steps(case.h, case.w).ravel()).max() > 16
    data, segments, y_hat = case.encode_y(lanes)
    with schedule(seed=lanes, resident=3):
        y, status = EmulatedEngine(case.plan, 96, 5).decode_y(case.psi, data, segments)
    assert fine(status) and torch.equal(y, y_hat)


@pytest.mark.parametrize("lanes", [1, 4, 32, 128])
def test_symbols_far_from_their_windows(lanes):
    """Rows with hundreds of entries in a 128th of the range, and escapes beyond them."""
    rng = np.random.default_rng(lanes)
    tail = 900
    row = np.concatenate([np.ones(tail, np.int64), [40000], np.ones(tail, np.int64), [65536 - 40000 - 2 * tail]])
    plan = random_plan(rng, groups=(3,), hyper_channels=4)
    plan = replace(plan, z_rows=TableRows.from_frequencies([-tail] * 4, [row] * 4))
    z = torch.from_numpy(rng.integers(-tail - 9, tail + 10, (BATCH, 5, 9, 4)).astype(np.int16))
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), "")
    found, status = EmulatedEngine(plan, 64).decode_z(*ops.encode_z(packed, z, VERSION_2 + lanes, 1), 5, 9)
    assert fine(status) and torch.equal(found, z)


@pytest.mark.parametrize(
    ("lanes", "skip"),
    [(1, False), *((VERSION_2 + n, skip) for n in (1, 4, 32, 64) for skip in (False, True))],
)
def test_symbols_that_hardly_vary(lanes, skip):
    """Rounds of most probable symbols alone, which are tried eight at once, between others; damage among them."""
    rng = np.random.default_rng(lanes)
    calm = np.array([60, 65400, 60, 16])
    kinds = {"schedules": ("wavefront", "single"), "skipped": 18} if skip else {}
    plan = random_plan(rng, groups=(16, 40), hyper_channels=4, **kinds)
    plan = replace(
        plan, z_rows=TableRows.from_frequencies([-1] * 4, [calm] * 4),
        y_rows=TableRows.from_frequencies([-1] * len(plan.y_rows.n), [calm] * len(plan.y_rows.n)),
    )  # fmt: skip
    h, w = 10, 24
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), "")
    emulated = EmulatedEngine(plan, 64, 4)
    z = torch.from_numpy(rng.choice([-1, 0, 1, 7], (BATCH, 20, 24, 4), p=[0.004, 0.99, 0.005, 0.001]).astype(np.int16))
    found, status = emulated.decode_z(*ops.encode_z(packed, z, lanes, 1), 20, 24)
    assert fine(status) and torch.equal(found, z)
    drawn = [sample_latents(rng, plan, h, w) for _ in range(BATCH)]
    psi = ops.hyper(packed, torch.stack([torch.from_numpy(z.astype(np.int16)) for z, _ in drawn]), h, w, 1)
    y = torch.stack([torch.from_numpy(y.astype(np.int16)) for _, y in drawn])
    if skip:
        skipped = ops.parameters(packed, psi, y, 1)[1] < plan.skip_rows
        assert 0.05 < float(skipped.float().mean()) < 0.95
        data, segments, y = ops.encode_settled(packed, psi, y, lanes, 1)
    else:
        data, segments = ops.encode_y(packed, psi, y, lanes, 1)
    with schedule(seed=1, resident=2):
        found, status = emulated.decode_y(psi, data, segments)
        assert fine(status) and torch.equal(found, y)
        for i in range(6):
            broken = data.clone()
            offset, size, _ = segments[1, i % 2].tolist()
            broken[offset + size // 2 + i % 5] ^= 1 << i
            expected = ops.decode_y(packed, psi, broken, segments, 1)
            found, status = emulated.decode_y(psi, broken, segments)
            assert (status == 0).tolist() == (expected[1] == 0).tolist()
            for b in range(BATCH):
                assert status[b] or torch.equal(found[b], expected[0][b])


# Steps longer and shorter than a chunk, both kinds of arena.
@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name][0].get("residual")])
@pytest.mark.parametrize("shared", [-1, 0])
def test_what_symbols_stand_for(name, shared):
    case = Case(name)
    data, segments, y_hat = case.encode_y(4)
    frozen = FrozenEntropyModel(case.plan)
    reach = 2  # most symbols lie further out than that
    shifts = torch.randn(len(case.plan.y_rows.n), 2 * reach + 1)
    offset, row = (t.int() for t in frozen.parameters(case.psi, y_hat))
    column = (y_hat.int() - offset).clamp(-reach, reach) + reach
    with schedule(seed=3, resident=2):
        y, status, restored = EmulatedEngine(case.plan, 64, 5, shared).decode_y_restored(
            case.psi, data, segments, shifts
        )
    assert fine(status) and torch.equal(y, y_hat)
    assert torch.equal(restored, y_hat + shifts[row, column])
    segments[1, -1, 1] //= 2
    _, status, restored = EmulatedEngine(case.plan, 64).decode_y_restored(case.psi, data, segments, shifts)
    assert status[0] == 0 and status[1] != 0 and not restored[1].any()


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", ["ccm", "everything", "checkerboard"])
@pytest.mark.parametrize("lanes", [4, VERSION_2 + 1, VERSION_2 + 8, VERSION_2 + 64])
def test_damage_gives_the_same_status(name, lanes):
    """Truncated, flipped and random streams end, in every image of the batch, as they do on the CPU."""
    case = Case(name)
    data, segments, _ = case.encode_y(lanes)
    emulated = EmulatedEngine(case.plan, threads=64)
    rng = np.random.default_rng(3)
    seen = set()
    for i in range(24):
        broken, parts = data.clone(), segments.clone()
        image, group = rng.integers(BATCH), rng.integers(segments.shape[1])
        offset, size, _ = segments[image, group].tolist()
        if i % 3 == 0:
            parts[image, group, 1] = int(rng.integers(size))
        elif i % 3 == 1:
            broken[offset + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        else:
            broken[offset : offset + size] = torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8))
        y, expected = ops.decode_y(case.packed, case.psi, broken, parts, 1)
        with schedule(seed=i, resident=1 + i % 4):
            found, status = emulated.decode_y(case.psi, broken, parts)
        assert (status == 0).tolist() == (expected == 0).tolist(), i
        for b in range(BATCH):
            if expected[b] == 0:
                assert torch.equal(found[b], y[b])
        seen |= set(status.tolist())
    assert len(seen) > 1  # there was damage


@pytest.mark.parametrize(
    "bad",
    [(-1, 10, 1), (0, -1, 1), (1 << 40, 10, 1), (0, 1 << 40, 1), (0, 60, 3), (0, 60, 64), (0, 60, 256), (0, 60, 512)],
)
def test_impossible_segments_are_damage(bad):
    case = Case("ccm")
    data, segments, _ = case.encode_y(1)
    segments[1, 1] = torch.tensor(bad)
    _, status = EmulatedEngine(case.plan, threads=64).decode_y(case.psi, data, segments)
    assert status[0] == 0 and status[1] != 0
    data, segments = case.encode_z(1)
    segments[0] = torch.tensor(bad)
    _, status = EmulatedEngine(case.plan).decode_z(data, segments, *case.z.shape[1:3])
    assert status[1] == 0 and status[0] != 0


def test_latents_that_cannot_be_coded():
    case = Case("ccm")
    y = case.y.clone()
    y[1, 2, 3, 0] = -32768
    _, _, _, status = EmulatedEngine(case.plan, threads=64).encode_y(case.psi, y, 4)
    assert status[0] == 0 and status[1] != 0


def test_against_the_oracle():
    """Once without the CPU engine between."""
    case = Case("ccm")
    psi = reference.hyper(case.plan, case.z[0].numpy(), case.h, case.w)
    streams = reference.encode_y(case.plan, psi, case.y[0].numpy(), 2)
    data = torch.frombuffer(bytearray(b"".join(s[0] for s in streams)), dtype=torch.uint8)
    sizes = [len(s[0]) for s in streams]
    rows = [(sum(sizes[:g]), sizes[g], streams[g][1]) for g in range(len(streams))]
    y, status = EmulatedEngine(case.plan).decode_y(case.psi[:1], data, torch.tensor([rows], dtype=torch.int64))
    assert status.tolist() == [0] and torch.equal(y, case.y[:1])

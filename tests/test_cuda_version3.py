"""The emulated CUDA kernels with plans of version 3: skipped symbols, channels of z that are not coded, a schedule for
each group. Latents and what symbols stand for are the CPU engine's.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "emu"))
import test_version3
from engine import EmulatedEngine, schedule
from test_cuda_emulated import VERSION_2, Case, fine, ops, split

from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.models import Schedule

pytestmark = pytest.mark.slow

ROWS = Schedule(row_step=1)
SKIP = test_version3.SKIP

# Beside the CPU engine's: steps of several chunks, whose symbols fill no rounds, without and with taps; a group that
# reads none of those before it, between two that do.
CASES = test_version3.CASES | {
    "rows": ({"groups": (6, 5, 40), "fixed": 2, "schedules": ("wavefront", "checkerboard", ROWS), **SKIP}, (4, 71)),
    "long steps": ({"groups": (9, 33), "schedules": ("multistage2", "checkerboard"), **SKIP}, (11, 23)),
    "one step": ({"groups": (4, 37), "schedules": ("wavefront", "single"), **SKIP}, (9, 19)),
    "independent": (
        {"groups": (12, 3, 4), "cross_kernels": [(), (), (5, 3)], "skip_kernel": 0}
        | {"schedules": ("wavefront", "single", "multistage4"), **SKIP},
        (11, 9),
    ),
}

# (lanes, seed, blocks, resident, threads, bytes of shared memory)
RUNS = [
    (0, 0, 0, 0, 64, -1),
    (1, 1, 3, 1, 96, 0),
    (2, 2, 9, 2, 64, -1),
    (4, 3, 9, 2, 128, 20000),
    (8, 4, 5, 0, 64, -1),
    (16, 5, 0, 3, 64, -1),
    (32, 6, 4, 0, 96, -1),
    (64, 7, 5, 3, 64, -1),
    (128, 8, 6, 0, 128, 0),
]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param, CASES)


@pytest.mark.thinned(6)
@pytest.mark.parametrize("run", RUNS, ids=lambda r: f"lanes{r[0]}-seed{r[1]}")
def test_equal_to_the_cpu_engine(case, run):
    lanes, seed, blocks, resident, threads, shared = run
    z_data, z_segments = case.encode_z(VERSION_2 + lanes)
    data, segments, y_hat = case.encode_y(VERSION_2 + lanes)
    emulated = EmulatedEngine(case.plan, threads, blocks, shared)
    with schedule(seed=seed, resident=resident):
        z, status = emulated.decode_z(z_data, z_segments, *case.z.shape[1:3])
        assert fine(status) and torch.equal(z, case.z)
        assert torch.equal(emulated.hyper(z, case.h, case.w), case.psi)
        y, status = emulated.decode_y(case.psi, data, segments)
        assert fine(status) and torch.equal(y, y_hat)
        assert split(*emulated.encode_z(case.z, VERSION_2 + lanes)) == split(z_data, z_segments)
        found, *streams, status = emulated.encode_y(case.psi, case.given, VERSION_2 + lanes)
    assert fine(status) and torch.equal(found, y_hat)
    assert split(*streams) == split(data, segments)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("shared", [-1, 0])
def test_what_symbols_stand_for(case, shared):
    """Skipped ones, too; and of a damaged image nothing."""
    if case.plan.residual:
        pytest.skip("residual models have no such table")
    frozen, reach = FrozenEntropyModel(case.plan), 2
    shifts = torch.randn(len(case.plan.y_rows.n), 2 * reach + 1)
    for lanes in (1, 64):
        data, segments, y_hat = case.encode_y(VERSION_2 + lanes)
        offset, row = (t.int() for t in frozen.parameters(case.psi, y_hat))
        column = (y_hat.int() - offset).clamp(-reach, reach) + reach
        with schedule(seed=lanes, resident=2):
            emulated = EmulatedEngine(case.plan, 64, 5, shared)
            y, status, restored = emulated.decode_y_restored(case.psi, data, segments, shifts)
        assert fine(status) and torch.equal(y, y_hat)
        assert torch.equal(restored, y_hat + shifts[row, column])
    segments[1, 0, 2] = 3  # no number of lanes
    _, status, restored = emulated.decode_y_restored(case.psi, data, segments, shifts)
    assert status[0] == 0 and status[1] != 0 and not restored[1].any()


@pytest.mark.thinned(2)
@pytest.mark.parametrize("lanes", [8, 64])
def test_damage_gives_the_same_status(case, lanes):
    """Truncated, flipped and random streams end, in every image of the batch, as they do on the CPU."""
    data, segments, _ = case.encode_y(VERSION_2 + lanes)
    emulated = EmulatedEngine(case.plan, threads=64)
    rng = np.random.default_rng(lanes)
    for i in range(6):
        broken, parts = data.clone(), segments.clone()
        image, group = rng.integers(2), rng.integers(segments.shape[1])
        offset, size, _ = segments[image, group].tolist()
        if i % 3 == 0 and size:
            parts[image, group, 1] = int(rng.integers(size))
        elif i % 3 == 1 and size:
            broken[offset + int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        else:
            broken[offset : offset + size] = torch.from_numpy(rng.integers(0, 256, size, dtype=np.uint8))
        y, expected = ops.decode_y(case.packed, case.psi, broken, parts, 1)
        with schedule(seed=i, resident=1 + i % 4):
            found, status = emulated.decode_y(case.psi, broken, parts)
        assert (status == 0).tolist() == (expected == 0).tolist(), i
        for b in range(2):
            if expected[b] == 0:
                assert torch.equal(found[b], y[b])

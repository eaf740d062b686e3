"""Groups whose networks other blocks compute (csrc/entropy/cuda/crew.cuh), on the emulator: latents, streams and status
are the CPU engine's, whoever joins, whenever, in many orders of execution.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent / "emu"))
from engine import EmulatedEngine, schedule
from test_cuda_emulated import BATCH, VERSION_2, Case, fine, ops, split

from ccm_fast.models import Schedule

pytestmark = pytest.mark.slow

# Arguments of random_plan, and the plane.
CASES = {
    "chunks": ({"groups": (5, 4, 6), "skipped": 18}, (18, 52)),  # steps of one chunk and of two
    "wide": ({"groups": (37,), "widths": (70, 50, 40)}, (7, 9)),
    "two layers": ({"groups": (9, 5), "widths": (40,)}, (9, 20)),
    "direct": ({"groups": (12, 7), "direct": True, "leaky": True}, (6, 8)),
    "residual": ({"groups": (9, 6), "residual": True, "scaled": True}, (7, 20)),
    "checkerboard": ({"groups": (9, 6), "schedule": Schedule.checkerboard()}, (9, 9)),  # two steps of several chunks
    "fine": ({"groups": (8, 4, 11), "schedules": ("wavefront", "wavefront", "single"), "skipped": 18}, (9, 18)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param, CASES)


# (seed, blocks, resident, threads, parts, slots, lanes)
RUNS = [
    (0, 20, 0, 64, 2, 2, VERSION_2 + 64),
    (1, 20, 0, 96, 3, 1, 4),
    (2, 16, 5, 128, 1, 2, VERSION_2 + 8),
    (3, 9, 1, 64, 2, 1, 1),
    (4, 12, 7, 64, 4, 1, VERSION_2 + 32),
]


@pytest.mark.thinned(3)
@pytest.mark.parametrize("run", RUNS, ids=lambda r: f"seed{r[0]}-blocks{r[1]}-resident{r[2]}")
def test_y(case, run):
    seed, blocks, resident, threads, parts, slots, lanes = run
    data, segments, y_hat = case.encode_y(lanes)
    emulated = EmulatedEngine(case.plan, threads, blocks, crew=slots << 8 | parts)
    with schedule(seed=seed, resident=resident):
        y, status = emulated.decode_y(case.psi, data, segments)
        assert fine(status) and torch.equal(y, y_hat)
        found, *streams, status = emulated.encode_y(case.psi, case.given, lanes)
    assert fine(status) and torch.equal(found, y_hat)
    assert split(*streams) == split(data, segments)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("name", ["chunks", "wide"])
def test_damage_gives_the_same_status(name):
    """Whatever chunk of a step it is met in: members that compute the others are not left behind."""
    case = Case(name, CASES)
    data, segments, _ = case.encode_y(VERSION_2 + 4)
    emulated = EmulatedEngine(case.plan, threads=64, blocks=16, crew=2 << 8 | 2)
    rng = np.random.default_rng(5)
    seen = set()
    for i in range(6):
        broken = data.clone()
        offset, size, _ = segments[rng.integers(BATCH), rng.integers(segments.shape[1])].tolist()
        broken[offset + i * size // 6 : offset + size] = torch.from_numpy(
            rng.integers(0, 256, size - i * size // 6, dtype=np.uint8)
        )
        y, expected = ops.decode_y(case.packed, case.psi, broken, segments, 1)
        with schedule(seed=i, resident=0 if i % 2 else 9):
            found, status = emulated.decode_y(case.psi, broken, segments)
        assert (status == 0).tolist() == (expected == 0).tolist(), i
        for b in range(BATCH):
            assert expected[b] or torch.equal(found[b], y[b])
        seen |= set(status.tolist())
    assert len(seen) > 1


def test_crews_are_formed_for_long_steps():
    """As the engine chooses, on a device with multiprocessors to spare: 20 blocks are needed, not 2 for each group."""
    case = Case("chunks", CASES)
    data, segments, y_hat = case.encode_y(VERSION_2 + 8)
    with schedule(seed=1, sms=20):
        y, status = EmulatedEngine(case.plan, threads=64).decode_y(case.psi, data, segments)
    assert fine(status) and torch.equal(y, y_hat)

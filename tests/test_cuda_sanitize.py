"""The emulated kernels under AddressSanitizer, UBSan and ThreadSanitizer: clean as they are, and with faults planted
into their source (CCM_FAULT), which must be seen: a net that catches nothing proves nothing.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ccm_fast.entropy.testing import random_plan, sample_latents

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests/emu"))
import build  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.sanitized]

# Fault -> (flavour, what the report says, resident blocks).
FAULTS = {
    1: ("tsan", "data race", 0),  # no __syncthreads before progress is announced
    2: ("tsan", "data race", 0),  # a missing release
    3: ("tsan", "data race", 0),  # a missing __syncwarp
    4: ("asan", "AddressSanitizer: ", 0),  # an overrun
    5: ("plain", "livelock", 1),  # a block waits for one that has not started
    9: ("tsan", "data race", 0),  # no barrier among the warps beside the decoders
    10: ("tsan", "data race", 0),  # a coder lets its crew go without a release
    11: ("tsan", "data race", 0),  # parts of a crew do not wait for each other
    # What a CUDA graph cannot hold: waiting for the device, device memory, a copy to the host.
    6: ("plain", "cudaStreamSynchronize while work is captured", 0),
    7: ("plain", "cudaMalloc while work is captured", 0),
    8: ("plain", "cudaMemcpyAsync between host and device while work is captured", 0),
}
H, W = 5, 7
CREW = 1 << 8 | 2  # two parts of each layer
BESIDE = {9}  # where a list is written beside the decoders: in a step of several chunks
IN_CREW = {10, 11}
IN_LAUNCHES = {6, 7, 8}  # seen on the host: no kernel runs while one is captured
MARKED = {
    int(n) for p in (ROOT / "csrc/entropy/cuda").iterdir() for n in re.findall(r"CCM_FAULT [!=]= (\d+)", p.read_text())
}
EXIT = {"tsan": 66, "asan": 67, "plain": 3}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Folders of a plan and of latents for it, by schedule."""
    kinds = {
        "wavefront": {"schedule": "wavefront"},
        "checkerboard": {"schedule": "checkerboard"},
        # The last group's step is longer than a chunk.
        "version 3": {"schedules": ("wavefront", "multistage2", "single"), "skipped": 18, "fixed": 1},
    }
    folders = {}
    for name, kind in kinds.items():
        folders[name] = folder = tmp_path_factory.mktemp(name.replace(" ", ""))
        rng = np.random.default_rng(4)
        sizes = {"groups": (6, 4, 7), "hyper_channels": 3, "leaky": True, "scaled": True}
        plan = random_plan(rng, **sizes, **kind)
        z, y = sample_latents(rng, plan, H, W, escape=0.02)
        (folder / "plan").write_bytes(plan.to_bytes())
        (folder / "z").write_bytes(z.astype("<i2").tobytes())
        (folder / "y").write_bytes(y.astype("<i2").tobytes())
    return folders


def run(program, folder, blocks, lanes, fuzz, batch=1, shared=-1, crew=0, **env):
    options = {
        "TSAN_OPTIONS": "exitcode=66:halt_on_error=1",
        "ASAN_OPTIONS": "exitcode=67:detect_leaks=0",
        "UBSAN_OPTIONS": "exitcode=67",
        "CCM_EMU_PATIENCE": "300000",
        **{k: str(v) for k, v in env.items()},
    }
    command = [program, folder, H, W, batch, 64, blocks, shared, lanes, fuzz, crew]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=400, env={**os.environ, **options}
    )


@pytest.mark.parametrize("name", ["wavefront", "checkerboard", "version 3"])
@pytest.mark.parametrize("flavour", ["asan", "tsan"])
def test_kernels_are_clean(flavour, name, inputs):
    program = build.build_program(flavour)
    asan = flavour == "asan"
    first = 4 if name != "version 3" else 256 + 4  # its streams are of version 2
    # Of two warps both decode, or the other one adds up ahead.
    runs = [(0, 6, first, -1, 0), (1, 4, 256 + 64, 0, 0)] if asan else [(1, 5, 256 + 64, -1, 0), (2, 5, first, -1, 0)]
    runs.append((3, 12 if asan else 7, first, -1, CREW))
    for seed, blocks, lanes, shared, crew in runs:
        fuzz, batch = (12, 2) if asan else (2, 1)
        done = run(program, inputs[name], blocks, lanes, fuzz, batch, shared, crew, CCM_EMU_SEED=seed)
        assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stdout + done.stderr[-5000:]


def test_faults_are_marked():
    assert set(FAULTS) == MARKED


@pytest.mark.parametrize("fault", sorted(MARKED))
def test_planted_faults_are_seen(fault, inputs):
    flavour, message, resident = FAULTS[fault]
    program = build.build_program(flavour, fault)
    name, lanes = ("version 3", 256 + 4) if fault in BESIDE else ("wavefront", 4)
    crew = CREW if fault in IN_CREW else 0
    done = run(program, inputs[name], 7 if crew else 5, lanes, 0, crew=crew, CCM_EMU_RESIDENT=resident)
    assert done.returncode == EXIT[flavour], done.stdout + done.stderr[-3000:]
    assert message in done.stdout + done.stderr
    if fault not in IN_LAUNCHES:
        assert "csrc/entropy/cuda/" in done.stdout + done.stderr or " ccm::" in done.stderr  # and where

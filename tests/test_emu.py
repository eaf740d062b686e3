"""The CUDA emulator itself: intrinsics, fragment layouts, and faults planted to prove that each would be noticed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EMU = Path(__file__).resolve().parent / "emu"
sys.path.insert(0, str(EMU))
import build  # noqa: E402

pytestmark = pytest.mark.slow

# Numbers of enum Fault in micro.cu -> flavour, what the report says, environment.
SEEN = {
    1: ("tsan", "data race"),
    2: ("tsan", "data race"),
    3: ("tsan", "data race"),
    4: ("asan", "heap-buffer-overflow"),
    5: ("plain", "livelock, threads poll and nothing changes (3 blocks have not started)"),
    6: ("plain", "mask 0000ffff lacks the calling lane"),
    7: ("plain", "meet in different warp collectives"),
    8: ("plain", "__syncthreads diverges"),
    9: ("plain", "meet in different warp collectives"),
    10: ("asan", "use-after-poison"),
    11: ("asan", "misaligned address"),
    12: ("plain", "is met for 32 threads here, for 64 at"),
    13: ("asan", "heap-buffer-overflow"),
    14: ("plain", "livelock"),
}
EXIT = {"tsan": 66, "asan": 67, "plain": 3}


def run(flavour, *arguments, **env):
    options = {
        "TSAN_OPTIONS": "exitcode=66",
        "ASAN_OPTIONS": "exitcode=67:detect_leaks=0",
        "UBSAN_OPTIONS": "exitcode=67",
        "CCM_EMU_PATIENCE": "100000",
        **{k: str(v) for k, v in env.items()},
    }
    command = [str(build.build_micro(flavour)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env={**os.environ, **options})


def check(done):
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stdout + done.stderr[-3000:]


@pytest.mark.parametrize("seed", range(6))
def test_intrinsics(seed):
    check(run("plain", "intrinsics", CCM_EMU_SEED=seed))


def flavoured(flavour, *values):
    """Values of a test's parameters; what wants the emulator compiled with a sanitizer is left to those tests."""
    return pytest.param(*values, marks=[] if flavour == "plain" else [pytest.mark.slow, pytest.mark.sanitized])


@pytest.mark.parametrize("flavour, seed", [("plain", 7), flavoured("asan", "asan", 8)])
def test_products(flavour, seed):
    """Both tensor-core shapes and the decomposition of one into the other, all signs, against plain loops."""
    check(run(flavour, "products", seed))


@pytest.mark.parametrize("resident", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_pipeline(seed, resident):
    check(run("plain", "pipeline", 0, CCM_EMU_SEED=seed, CCM_EMU_RESIDENT=resident))


@pytest.mark.parametrize("flavour", [flavoured(flavour, flavour) for flavour in ("asan", "tsan")])
def test_sound_pipeline_is_clean(flavour):
    check(run(flavour, "pipeline", 0, CCM_EMU_SEED=1))
    check(run(flavour, "pipeline", 0, CCM_EMU_RESIDENT=2))


@pytest.mark.parametrize("fault", [flavoured(SEEN[fault][0], fault) for fault in SEEN])
def test_faults_are_seen(fault):
    flavour, message = SEEN[fault]
    done = run(flavour, "pipeline", fault, **({"CCM_EMU_RESIDENT": 2} if fault == 5 else {}))
    assert done.returncode == EXIT[flavour], done.stdout + done.stderr[-3000:]
    assert message in done.stdout + done.stderr
    assert "micro.cu:" in done.stdout + done.stderr  # and where

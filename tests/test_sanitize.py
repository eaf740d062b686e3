"""The C++ engine under AddressSanitizer + UBSan and under ThreadSanitizer, on good and on damaged input."""

import functools
import subprocess

import numpy as np
import pytest
import sanitized

from ccm_fast._backend import load
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.models import Schedule

pytestmark = [pytest.mark.slow, pytest.mark.sanitized]

ISAS = load().ops.isa_list().split(",")


@pytest.fixture(params=sanitized.FLAVOURS)
def program(request):
    """Gives a program of tests/cpp by its name, with one of the sanitizers."""
    return functools.partial(sanitized.program, flavour=request.param)


# Of the second version of plans: everything, and everything with direct heads.
NEW = {"leaky": True, "residual": True, "scaled": True}


@pytest.mark.parametrize(
    ("schedule", "features"),
    [
        ("wavefront", {}),
        ("checkerboard", {}),
        ("single", {}),
        ("wavefront", NEW),
        ("checkerboard", {"leaky": True, "scaled": True}),
        ("wavefront", {**NEW, "direct": True}),
    ],
)
def test_sanitized(program, schedule, features, tmp_path):
    for h, w in ((9, 14), (14, 9)):
        check_engine(program, schedule, features, tmp_path, h, w)


def check_engine(program, schedule, features, tmp_path, h, w):
    rng = np.random.default_rng(8)
    plan = random_plan(rng, groups=(6, 4, 7), hyper_channels=3, schedule=Schedule.from_name(schedule), **features)
    z, y = sample_latents(rng, plan, h, w, escape=0.02)
    (tmp_path / "plan").write_bytes(plan.to_bytes())
    (tmp_path / "z").write_bytes(z.astype("<i2").tobytes())
    (tmp_path / "y").write_bytes(y.astype("<i2").tobytes())
    # Under ThreadSanitizer a damaged stream costs three times as much, and finds races alone.
    damaged = {"address": "150", "thread": "30"}[program.keywords["flavour"]]
    command = [str(program("engine")), str(tmp_path), str(h), str(w), "4", damaged]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    names = result.stdout.split()
    assert names[:2] == ["ok", "scalar"]
    if "avx2" in ISAS:
        assert names == ["ok", "scalar", "avx2", "avxvnni"]


def test_sanitized_transforms(program):
    command = [str(program("transform")), "3"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == ["ok", "2" if "avx2" in ISAS else "1"]


def test_sanitized_integer_winograd(program):
    result = subprocess.run([str(program("winograd_int"))], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == ["ok", "10" if "avx2" in ISAS else "0"]


def test_sanitized_threads(program):
    result = subprocess.run([str(program("threads")), "60"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split()[0] == "ok"

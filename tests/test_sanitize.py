"""The C++ engine under AddressSanitizer + UBSan and under ThreadSanitizer, on good and on damaged input."""

import os
import shutil
import subprocess
from pathlib import Path

import ccm_sources
import numpy as np
import pytest

from ccm_fast._backend import load
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.models import Schedule

pytestmark = pytest.mark.slow

ISAS = load().ops.isa_list().split(",")
ROOT = Path(__file__).parent.parent
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


@pytest.fixture(scope="module", params=SANITIZERS)
def programs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    # Threads help each other in every step, not in long ones alone.
    flags = ["-std=c++17", "-O1", "-g", "-pthread", "-DCCM_SHARE_ALL", *SANITIZERS[request.param]]
    includes = [f"-I{ROOT / 'csrc'}"]
    objects = []
    # The VNNI kernels with their one instruction emulated: layout and bias of byte planes are then tested everywhere.
    checks = [ROOT / f"tests/cpp/{name}_check.cpp" for name in ("engine", "threads", "transform", "winograd_int")]
    isas = ("_avx2", "_avxvnni", "_fma") if ccm_sources.X86 else ()
    define = [*ccm_sources.isa_macros(isas), "-DCCM_EMULATE_VNNI"] if isas else []
    for source in [*ccm_sources.core_sources(isas=isas), *checks]:
        own = [flag for flag in ccm_sources.isa_flags(source) if flag != "-mavxvnni"]
        objects.append(folder / f"{source.stem}.o")
        command = [CXX, *flags, *define, *includes, *own, "-c", str(source), "-o", str(objects[-1])]
        subprocess.run(command, check=True)
    found = {}
    for check in checks:
        mine = [o for o in objects if o.stem == check.stem or not o.stem.endswith("_check")]
        found[check.stem] = folder / check.stem
        wrap = ["-Wl,--wrap=_ZN3ccm11avx2_roundsEi"] if check.stem == "engine_check" and isas else []
        subprocess.run([CXX, *flags, *map(str, mine), *wrap, "-o", str(found[check.stem])], check=True)
    return found


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
def test_sanitized(programs, schedule, features, tmp_path):
    for h, w in ((9, 14), (14, 9)):
        check_engine(programs, schedule, features, tmp_path, h, w)


def check_engine(programs, schedule, features, tmp_path, h, w):
    rng = np.random.default_rng(8)
    plan = random_plan(rng, groups=(6, 4, 7), hyper_channels=3, schedule=Schedule.from_name(schedule), **features)
    z, y = sample_latents(rng, plan, h, w, escape=0.02)
    (tmp_path / "plan").write_bytes(plan.to_bytes())
    (tmp_path / "z").write_bytes(z.astype("<i2").tobytes())
    (tmp_path / "y").write_bytes(y.astype("<i2").tobytes())
    command = [str(programs["engine_check"]), str(tmp_path), str(h), str(w), "4", "150"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    names = result.stdout.split()
    assert names[:2] == ["ok", "scalar"]
    if "avx2" in ISAS:
        assert names == ["ok", "scalar", "avx2", "avxvnni"]


def test_sanitized_transforms(programs):
    command = [str(programs["transform_check"]), "3"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == ["ok", "2" if "avx2" in ISAS else "1"]


def test_sanitized_integer_winograd(programs):
    result = subprocess.run([str(programs["winograd_int_check"])], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split() == ["ok", "10" if "avx2" in ISAS else "0"]


def test_sanitized_threads(programs):
    result = subprocess.run([str(programs["threads_check"]), "60"], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.split()[0] == "ok"

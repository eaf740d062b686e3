"""Every small allocation of the native code fails once: an error or the right result, and no end of the process."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import out_of_memory
import pytest

HERE = Path(__file__).resolve().parent
CXX = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
#: 1: every allocation (`make fuzz`); else a sample.
STRIDE = int(os.environ.get("CCM_FUZZ_STRIDE", "19"))

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="preloads a library")


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    path = tmp_path_factory.mktemp("shim") / "failing_malloc.so"
    command = [CXX, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    subprocess.run([*command, str(HERE / "failing_malloc.cpp"), "-o", str(path)], check=True)
    return path


def sweep(shim, names, threads):
    """Runs operations in one process, each from its first allocation to its last."""
    command = [sys.executable, str(HERE / "out_of_memory.py"), str(threads), str(STRIDE), *names]
    env = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=1800)
    last = done.stdout.splitlines()[-1:]
    how = signal.Signals(-done.returncode).name if done.returncode < 0 else f"code {done.returncode}"
    assert done.returncode == 0, f"{how} after {last}:\n{done.stderr[-3000:]}"
    failed = dict(line.split()[1:] for line in done.stdout.splitlines() if line.startswith("done"))
    assert set(failed) == set(names) and all(int(count) > 0 for count in failed.values())


@pytest.mark.parametrize("threads", [1, 3])
def test_codec(shim, threads):
    sweep(shim, out_of_memory.CODEC, threads)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 3])
def test_operators(shim, threads):
    sweep(shim, out_of_memory.OPERATORS, threads)

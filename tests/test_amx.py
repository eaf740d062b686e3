"""Kernels on AMX tiles: shapes, and what the system has to grant."""

import ctypes
import mmap
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from ccm_fast import _backend
from ccm_fast.entropy.testing import random_plan
from ccm_fast.models import Schedule

ops = _backend.load().ops
ISAS = ops.isa_list().split(",")
CPUINFO = Path("/proc/cpuinfo")


def system_has_tiles() -> bool:
    """Whether the processor has tiles of bytes and the system can grant them (arch_prctl, ARCH_GET_XCOMP_SUPP)."""
    if platform.machine() != "x86_64" or not CPUINFO.exists() or "amx_int8" not in CPUINFO.read_text().split():
        return False
    known = ctypes.c_uint64()
    return ctypes.CDLL(None).syscall(158, 0x1021, ctypes.byref(known)) == 0 and known.value >> 18 & 1 == 1


needs_amx = pytest.mark.skipif(not system_has_tiles(), reason="no AMX tiles of bytes here")


@needs_amx
def test_it_is_the_best_one():
    assert ISAS[0] == "avx512amx"


# Rows: of one tile and of several, and a rest. Columns of x: less than a tile's, tiles and a rest.
@pytest.mark.parametrize("isa", ISAS[:-1])
@pytest.mark.parametrize("k", [4, 60, 64, 68, 192, 252])
def test_products(isa, k):
    rng = np.random.default_rng(k)
    for n in (1, 32, 40, 64, 100):
        w = rng.choice([-127, -1, 0, 3, 127], (n, k)).astype(np.int8)
        for m in (1, 2, 3, 15, 16, 17, 33, 48, 70):
            x = rng.choice([0, 1, 7, 255], (m, k)).astype(np.uint8)
            got = ops.int8_product(torch.from_numpy(x), torch.from_numpy(w), isa, 1)
            assert np.array_equal(got.numpy(), x.astype(np.int32) @ w.T.astype(np.int32)), (n, m)


@pytest.fixture(scope="module", params=["wavefront", "checkerboard"])
def wide(request):
    """A plan whose layers take whole tiles and rests of them, latents, and what the scalar kernels make of them."""
    h, w = 20, 33
    rng = np.random.default_rng(3)
    plan = random_plan(
        rng,
        groups=(64, 40),
        hyper_channels=12,
        psi_channels=70,
        cross_width=66,
        widths=(100, 76, 128),
        schedule=Schedule.from_name(request.param),
    )
    plan = torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8)
    z = torch.from_numpy(rng.integers(-3, 4, (2, 5, 9, 12)).astype(np.int16))
    y = torch.from_numpy(rng.integers(-200, 201, (2, h, w, 104)).astype(np.int16))
    return plan, z, y, results(ops.pack_plan(plan, "scalar"), z, y, 2)


def results(packed, z, y, threads):
    h, w = y.shape[1:3]
    psi = ops.hyper(packed, z, h, w, threads)
    return psi, *ops.parameters(packed, psi, y, threads), *ops.encode_y(packed, psi, y, 4, threads)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS[:-1])
def test_wide_layers(wide, isa, threads):
    plan, z, y, want = wide
    packed = ops.pack_plan(plan, isa)
    assert all(torch.equal(a, b) for a, b in zip(results(packed, z, y, threads), want, strict=True))
    psi, _, _, data, segments = want
    decoded, status = ops.decode_y(packed, psi, data, segments, threads)
    assert status.tolist() == [0, 0] and torch.equal(decoded, y)


def test_long_steps():
    """Steps that threads share, and contexts that are added for several steps at once: as with every other kernel."""
    h, w = 13, 48
    rng = np.random.default_rng(4)
    plan = random_plan(rng, groups=(192,), hyper_channels=8, psi_channels=32, widths=(330,))
    plan = torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8)
    z = torch.from_numpy(rng.integers(-3, 4, (1, 4, 12, 8)).astype(np.int16))
    y = torch.from_numpy(rng.integers(-9, 10, (1, h, w, 192)).astype(np.int16))
    want = results(ops.pack_plan(plan, ISAS[-2]), z, y, 1)
    for isa in ISAS[:-1]:
        packed = ops.pack_plan(plan, isa)
        for threads in (1, 3):
            decoded, status = ops.decode_y(packed, want[0], *want[3:], threads)
            assert status.tolist() == [0] and torch.equal(decoded, y), (isa, threads)


@needs_amx
def test_tiles_are_given_back(wide):
    """The processor says that this thread's tiles are unused: nobody has to save them."""
    code = bytes.fromhex("b901000000 0f01d0 c3")  # mov ecx, 1; xgetbv; ret
    with mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as memory:
        memory.write(code)
        in_use = ctypes.CFUNCTYPE(ctypes.c_uint32)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
        plan, z, y, want = wide
        assert torch.equal(results(ops.pack_plan(plan, "avx512amx"), z, y, 1)[3], want[3])
        found = in_use()
        del in_use
    assert found & 1 << 18 == 0


# What a process was granted (arch_prctl, ARCH_GET_XCOMP_PERM), its instruction sets, and a hash of a golden file.
CHILD = """
import ctypes, hashlib, os, pathlib, sys
golden = pathlib.Path({golden!r})
libc = ctypes.CDLL(None, use_errno=True)
{before}
from ccm_fast import _backend, native
assert "torch" not in sys.modules
def report():
    codec = native.Codec.load(golden / "tiny.safetensors")
    picture = codec.decode((golden / "colour.ccm").read_bytes())
    granted = ctypes.c_uint64()
    libc.syscall(158, 0x1022, ctypes.byref(granted))
    print(granted.value >> 18 & 1, _backend.native().isa_list(), hashlib.sha256(picture.tobytes()).hexdigest())
report()
{after}
"""


def child(before="", after="", **environment):
    code = CHILD.format(golden=str(tiny.GOLDEN), before=before, after=after)
    environment = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.split() for line in done.stdout.splitlines()]


# The system grants no tiles to a process one of whose threads has a stack for signals that is too small for them.
SMALL_STACK = """
class Stack(ctypes.Structure):
    _fields_ = [("memory", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(9000)
assert libc.sigaltstack(ctypes.byref(Stack(ctypes.addressof(memory), 0, 9000)), None) == 0
"""
FORK = """
sys.stdout.flush()
child = os.fork()
if not child:
    report()
    sys.stdout.flush()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@needs_amx
def test_what_the_system_grants():
    ((granted, isas, picture),) = child()
    assert granted == "1" and isas.split(",") == ISAS
    others = ",".join(ISAS[1:])
    assert child(before=SMALL_STACK) == [["0", others, picture]], "refused"
    assert child(CCM_FAST_ISA="avx512vnni") == [["0", others, picture]], "not asked for"
    assert child(after=FORK) == [["1", ",".join(ISAS), picture]] * 2, "a forked child"

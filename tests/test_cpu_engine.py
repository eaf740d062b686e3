"""The C++ engine against the oracle: same bytes, same latents, for every schedule, lane count, thread count and ISA."""

import os
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ccm_fast import _backend
from ccm_fast.entropy import reference
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.models import Schedule
from ccm_fast.stream.packet import stream_code

_backend.load()
ops = torch.ops.ccm_fast
ISAS = ops.isa_list().split(",")
LANES = (0, 1, 4, 32)

# (groups, N, schedule, plane): sizes that are no multiple of anything, several groups, one group, one position.
CASES = {
    "ccm": ((8, 4, 6), 5, Schedule.wavefront(5), (7, 9)),
    "joint": ((12,), 4, Schedule.wavefront(5), (6, 5)),
    "3x3": ((5, 3), 3, Schedule.wavefront(3), (5, 8)),
    "channel-conditional": ((4, 4, 4, 7), 4, Schedule.single(), (5, 6)),
    "checkerboard": ((3, 9), 4, Schedule.checkerboard(), (6, 7)),
    "multistage2": ((6, 2), 4, Schedule.multistage(2), (5, 7)),
    "multistage4": ((5,), 4, Schedule.multistage(4), (9, 6)),
    "1x1": ((8, 4), 4, Schedule.wavefront(5), (1, 1)),
    "row": ((8, 4), 4, Schedule.wavefront(5), (1, 40)),
    "column": ((8, 4), 4, Schedule.wavefront(5), (33, 1)),
}


def tensors(streams, groups):
    """[(bytes, lanes)] of one image -> data, segments [1, groups, 3]."""
    data, rows = b"", []
    for s in streams:
        rows.append((len(data), len(s[0]), s[1]))
        data += s[0]
    segments = torch.tensor(rows, dtype=torch.int64).reshape(1, groups, 3)
    return torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8), segments


def split(data, segments):
    raw = data.numpy().tobytes()
    return [(raw[o : o + n], lanes) for o, n, lanes in segments.reshape(-1, 3).tolist()]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    groups, hyper_channels, schedule, (h, w) = CASES[request.param]
    rng = np.random.default_rng(sum(map(ord, request.param)))
    plan = random_plan(rng, groups=groups, hyper_channels=hyper_channels, schedule=schedule)
    z, y = sample_latents(rng, plan, h, w, escape=0.02)
    psi = reference.hyper(plan, z, h, w)
    return plan, torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), z, psi, y


@pytest.fixture(scope="module")
def oracle(case):
    """Offsets and rows of the oracle, and by numbers of lanes its streams of z and of y; y is decoded from the last."""
    plan, _, z, psi, y = case
    streams = {
        lanes: ([reference.encode_z(plan, z, lanes)], reference.encode_y(plan, psi, y, lanes)) for lanes in LANES
    }
    assert np.array_equal(reference.decode_y(plan, psi, streams[LANES[-1]][1]), y)
    return reference.parameters(plan, psi, y), streams


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("isa", ISAS)
def test_engine_equals_oracle(case, oracle, isa, threads):
    _, plan_bytes, z, psi, y = case
    h, w, _ = y.shape
    (expected_offset, expected_row), streams = oracle
    packed = ops.pack_plan(plan_bytes, isa)
    z_t = torch.from_numpy(z.astype(np.int16))[None]
    y_t = torch.from_numpy(y.astype(np.int16))[None]
    psi_t = ops.hyper(packed, z_t, h, w, threads)
    assert np.array_equal(psi_t[0].numpy(), psi)

    offset, row = ops.parameters(packed, psi_t, y_t, threads)
    assert np.array_equal(offset[0].numpy(), expected_offset)
    assert np.array_equal(row[0].numpy(), expected_row)

    for lanes, (z_streams, y_streams) in streams.items():
        data, segments = ops.encode_z(packed, z_t, lanes, threads)
        assert split(data, segments) == [tuple(s) for s in z_streams]
        decoded, status = ops.decode_z(packed, data, segments, z.shape[0], z.shape[1], threads)
        assert status.tolist() == [0]
        assert torch.equal(decoded, z_t)

        data, segments = ops.encode_y(packed, psi_t, y_t, lanes, threads)
        assert split(data, segments) == [tuple(s) for s in y_streams]
        decoded, status = ops.decode_y(packed, psi_t, data, segments, threads)
        assert status.tolist() == [0]
        assert torch.equal(decoded, y_t)


def test_batch_equals_single(case):
    plan, plan_bytes, _, _, y = case
    h, w, _ = y.shape
    rng = np.random.default_rng(5)
    packed = ops.pack_plan(plan_bytes, "")
    images = [sample_latents(rng, plan, h, w) for _ in range(3)]
    psi = torch.from_numpy(np.stack([reference.hyper(plan, z, h, w) for z, _ in images]).astype(np.uint8))
    latents = torch.from_numpy(np.stack([y for _, y in images]).astype(np.int16))
    data, segments = ops.encode_y(packed, psi, latents, 0, 2)
    for threads in (1, 2, 4):
        decoded, status = ops.decode_y(packed, psi, data, segments, threads)
        assert status.tolist() == [0, 0, 0]
        assert torch.equal(decoded, latents)
    # A bad image leaves its neighbours alone.
    broken = data.clone()
    broken[segments[1, 0, 0] + 2] ^= 255
    decoded, status = ops.decode_y(packed, psi, broken, segments, 2)
    assert status.tolist()[0] == status.tolist()[2] == 0
    assert status.tolist()[1] != 0
    assert torch.equal(decoded[0], latents[0])
    assert torch.equal(decoded[2], latents[2])


def test_damage_is_reported_at_every_byte(case):
    """A flipped bit is reported, or the bytes are the valid stream of other latents (which the CRC then tells apart).

    The raw bits of an escape are an example: each of their values leaves the same state behind.
    """
    _, plan_bytes, _, psi, y = case
    packed = ops.pack_plan(plan_bytes, "")
    psi_t = torch.from_numpy(psi.astype(np.uint8))[None]
    y_t = torch.from_numpy(y.astype(np.int16))[None]
    data, segments = ops.encode_y(packed, psi_t, y_t, 2, 1)
    accepted = 0
    for i in range(0, data.numel(), max(1, data.numel() // 200)):
        broken = data.clone()
        broken[i] ^= 1 << (i % 8)
        decoded, status = ops.decode_y(packed, psi_t, broken, segments, 1)
        if status.item() == 0:
            assert torch.equal(ops.encode_y(packed, psi_t, decoded, 2, 1)[0], broken), f"byte {i}"
            accepted += 1
    assert accepted <= data.numel() // 50
    last = segments[0, -1]
    for cut in range(1, int(last[1])):
        shorter = segments.clone()
        shorter[0, -1, 1] -= cut
        _, status = ops.decode_y(packed, psi_t, data, shorter, 1)
        assert status.item() != 0, f"cut {cut}"


def test_bad_arguments(case):
    _, plan_bytes, z, psi, y = case
    packed = ops.pack_plan(plan_bytes, "")
    psi_t = torch.from_numpy(psi.astype(np.uint8))[None]
    y_t = torch.from_numpy(y.astype(np.int16))[None]
    with pytest.raises(RuntimeError, match="not a packed model"):
        ops.hyper(plan_bytes, torch.from_numpy(z.astype(np.int16))[None], *y.shape[:2], 1)
    with pytest.raises(RuntimeError, match="dtype"):
        ops.parameters(packed, psi_t, y_t.int(), 1)
    with pytest.raises(RuntimeError, match="dimension"):
        ops.parameters(packed, psi_t, y_t[0], 1)
    with pytest.raises(RuntimeError, match="contiguous"):
        ops.parameters(packed, psi_t, y_t.repeat(1, 1, 1, 2)[..., ::2], 1)
    with pytest.raises(RuntimeError, match="instruction set"):
        ops.pack_plan(plan_bytes, "z80")
    with pytest.raises(RuntimeError, match="-32768"):
        ops.encode_y(packed, psi_t, torch.full_like(y_t, -32768), 0, 1)
    with pytest.raises(RuntimeError, match="65536x65536 latents"):
        ops.decode_z(packed, torch.zeros(9, dtype=torch.uint8), torch.tensor([[0, 9, 1]]), 1 << 16, 1 << 16, 1)
    data, segments = ops.encode_y(packed, psi_t, y_t, 0, 1)
    for bad in ((0, data.numel() + 1, 1), (-1, 1, 1), (data.numel(), 1, 1), (2**62, 2**62, 1), (0, 1, 3), (0, 1, 64)):
        wrong = segments.clone()
        wrong[0, 0] = torch.tensor(bad)
        with pytest.raises(RuntimeError, match=r"segment|lanes"):
            ops.decode_y(packed, psi_t, data, wrong, 1)


def test_every_damaged_plan_is_refused_or_harmless(case):
    """Flipped plan bytes either raise or give a model that decodes (to something) without crashing."""
    plan, plan_bytes, _, _, y = case
    h, w, _ = y.shape
    rng = np.random.default_rng(3)
    data = torch.from_numpy(rng.integers(0, 256, 200, dtype=np.uint8))
    z = torch.zeros((1, -(-h // 4), -(-w // 4), plan.hyper_channels), dtype=torch.int16)
    refused = 0
    for i in rng.integers(0, plan_bytes.numel(), 300):
        broken = plan_bytes.clone()
        broken[i] ^= 1 << int(rng.integers(8))
        try:
            packed = ops.pack_plan(broken, "")
        except RuntimeError:
            refused += 1
            continue
        psi_t = ops.hyper(packed, z, h, w, 1)
        segments = torch.tensor([[[0, 200, 1]] * len(plan.groups)], dtype=torch.int64)
        ops.decode_y(packed, psi_t, data, segments, 1)
    with pytest.raises(RuntimeError):
        ops.pack_plan(plan_bytes[:-4], "")
    assert refused < 300


def test_int8_product():
    x = torch.randint(0, 256, (50, 64), dtype=torch.uint8)
    w = torch.randint(-127, 128, (37, 64), dtype=torch.int8)
    for isa in ISAS:
        assert torch.equal(ops.int8_product(x, w, isa, 1), x.int() @ w.int().T)


@pytest.mark.parametrize("width", [115, 120])
@pytest.mark.parametrize("isa", ISAS)
def test_sums_at_the_limit_of_winograd(isa, width):
    """With 115 channels of extreme bytes and weights sums just fit the 26 bits that Winograd's way leaves; then not."""
    rng = np.random.default_rng(width)
    plan = random_plan(rng, (4,), 4, psi_channels=width, hyper_layers=((1, 2), (3, 2)))
    first, second = plan.hyper_synthesis
    tenth = {"mult": np.full_like(first.mult, 2**30), "shift": np.full_like(first.shift, 40)}  # acc >> 10
    # Bytes of 255, whatever z is.
    first = replace(first, weight=np.zeros_like(first.weight), bias=np.full_like(first.bias, 2**30), **tenth)
    # Inside of the plane all terms of a sum have one sign, and with its bias 0 to 199 steps remain.
    largest = width * 9 * 127 * 255
    assert (largest < 2**25) == (width == 115)
    channel = np.arange(second.outputs)
    sign, steps = np.where(channel % 2, -1, 1), channel % 200
    weight = np.broadcast_to(127 * sign[:, None, None, None], second.weight.shape).astype(np.int8)
    second = replace(second, weight=weight, bias=(steps * 2**10 - sign * largest).astype(np.int32), **tenth)
    plan = replace(plan, hyper_synthesis=[first, second])
    z = np.zeros((4, 5, 4), np.int32)
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), isa)
    psi = ops.hyper(packed, torch.from_numpy(z.astype(np.int16))[None], 16, 20, 1)[0].numpy()
    assert np.array_equal(psi[4, 4], steps.reshape(-1, 4)[:, 0])
    assert np.array_equal(psi, reference.hyper(plan, z, 16, 20))


@pytest.mark.parametrize(
    "schedule", [Schedule.wavefront(5), Schedule.checkerboard()], ids=["wavefront", "checkerboard"]
)
@pytest.mark.parametrize("size", [(280, 250), (4, 16500)], ids=["high", "wide"])
def test_planes_of_many_tasks(size, schedule):
    """Planes whose dense part is not computed at once, whose rows are cleared when they are needed and given back."""
    rng = np.random.default_rng(3)
    plan = random_plan(rng, groups=(3, 2, 2), schedule=schedule)
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), "")
    psi = torch.from_numpy(rng.integers(0, 256, (1, *size, plan.psi_channels)).astype(np.uint8))
    y = torch.from_numpy(rng.integers(-2, 3, (1, *size, 7)).astype(np.int16))
    data, segments = ops.encode_y(packed, psi, y, 0, 2)  # all steps at once
    for threads in (1, 2, 3):
        decoded, status = ops.decode_y(packed, psi, data, segments, threads)
        assert status.tolist() == [0] and torch.equal(decoded, y)


def grown(work):
    """How many MB more than before a call has taken at its peak."""

    def size(key):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before = size("VmRSS")
    work()
    return size("VmHWM") - before


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no peaks of memory to be read here")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(837, 837), (11, 1 << 16), (1 << 16, 11)], ids=["square", "wide", "tall"])
@pytest.mark.parametrize("isa", ["", "avx2"])
@pytest.mark.parametrize("version", [1, 2])
def test_memory_follows_what_streams_hold(threads, size, isa, version):
    """The largest picture that is decoded by default, of a model like the shipped one, whose streams end at once."""
    if isa not in ("", *ISAS):
        pytest.skip("no such instruction set")
    options = {"cross_kernels": (5, 3, 3), "cross_width": 64, "widths": (128, 96)}
    plan = random_plan(np.random.default_rng(4), groups=(48, 48, 48, 48), **options)
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), isa)
    psi = torch.zeros(1, *size, plan.psi_channels, dtype=torch.uint8)
    data, segments = tensors([(bytes([0, 0, 0, 0, 1, 2, 3]), stream_code(1, version))] * 4, 4)
    found = []
    assert grown(lambda: found.append(ops.decode_y(packed, psi, data, segments, threads)[1])) < 100
    assert found[0].tolist() == [version]  # version 2 cannot tell a stream that ends from a damaged one


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no peaks of memory to be read here")
@pytest.mark.parametrize("size", [(11, 1 << 16), (1 << 16, 11)], ids=["wide", "tall"])
@pytest.mark.parametrize("isa", ["", "avx2"])
def test_memory_of_h_s(size, isa):
    """psi of the largest picture has 46 MB; its last layer's plane would have up to 150 more."""
    if isa not in ("", *ISAS):
        pytest.skip("no such instruction set")
    plan = random_plan(np.random.default_rng(4), groups=(4,), psi_channels=64)
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), isa)
    z = torch.zeros(1, -(-size[0] // 4), -(-size[1] // 4), plan.hyper_channels, dtype=torch.int16)
    assert grown(lambda: ops.hyper(packed, z, *size, 2)) < 175


@pytest.mark.parametrize("isa", ["", "avx2"])
def test_h_s_in_pieces(isa):
    """Planes that are computed piece by piece are what their parts are, each computed at once."""
    if isa not in ("", *ISAS):
        pytest.skip("no such instruction set")
    rng = np.random.default_rng(5)
    plan = random_plan(rng, groups=(2,), psi_channels=16)
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), isa)
    hz, wz, halo = 5000, 9, 4
    z = torch.from_numpy(rng.integers(-9, 10, (1, hz, wz, plan.hyper_channels)).astype(np.int16))
    psi = ops.hyper(packed, z, 4 * hz - 3, 4 * wz - 1, 2)
    for first in range(0, hz, 1000):
        top, bottom = max(0, first - halo), min(hz, first + 1000 + halo)
        last = min(4 * (first + 1000), 4 * hz - 3)
        part = ops.hyper(packed, z[:, top:bottom].contiguous(), 4 * (bottom - top), 4 * wz - 1, 1)
        assert torch.equal(psi[:, 4 * first : last], part[:, 4 * (first - top) : last - 4 * top])


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no peaks of memory to be read here")
@pytest.mark.parametrize("data, lanes, version", [(bytes([1, 0, 0, 0, 1] * 4), 4, 1), (b"\1\2\3", 1, 2)])
def test_a_stream_that_ends_ends_the_loop(data, lanes, version):
    plan = random_plan(np.random.default_rng(4), groups=(4, 4))
    packed = ops.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), "")
    data, segments = tensors([(data, stream_code(lanes, version))], 1)
    found, start = [], time.process_time()
    assert grown(lambda: found.append(ops.decode_z(packed, data, segments[0], 1 << 14, 1 << 13, 1)[1])) < 50
    assert found[0].tolist() == [version] and time.process_time() - start < 1


def test_products_without_end():
    x, w = torch.ones(1, 4, dtype=torch.uint8), torch.ones(1, 4, dtype=torch.int8)
    for repeats in (-1, 2**40):
        with pytest.raises(RuntimeError, match="repeats"):
            ops.int8_product(x, w, "", repeats)

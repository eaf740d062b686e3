"""The oracle: every schedule there and back, escapes, damage, overhead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccm_fast.entropy import reference, reference_streams
from ccm_fast.entropy.plan import HEAD, RELU8, IntConv
from ccm_fast.entropy.testing import random_plan, sample_latents, sample_z
from ccm_fast.errors import BitstreamError, DamagedError, TruncatedError

SCHEDULES = ["wavefront", "checkerboard", "single", "multistage2", "multistage4"]


def round_trip(plan, z_hat, y_hat, lanes):
    h, w = y_hat.shape[:2]
    z_stream = reference.encode_z(plan, z_hat, lanes)
    assert np.array_equal(reference.decode_z(plan, z_stream, *z_hat.shape[:2]), z_hat)
    psi = reference.hyper(plan, z_hat, h, w)
    assert psi.shape == (h, w, plan.psi_channels) and psi.min() >= 0 and psi.max() <= 255
    streams = reference.encode_y(plan, psi, y_hat, lanes)
    assert np.array_equal(reference.decode_y(plan, psi, streams), y_hat)
    return z_stream, streams


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("groups", [(4,), (5, 1, 7)])
@pytest.mark.parametrize("lanes", [1, 8])
def test_round_trip(schedule, groups, lanes):
    rng = np.random.default_rng(5)
    plan = random_plan(rng, groups, schedule=schedule, scale_codes=256 if lanes == 8 else 64)
    round_trip(plan, *sample_latents(rng, plan, 7, 10), lanes)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    schedule=st.sampled_from(SCHEDULES),
    kernel=st.sampled_from([3, 5, 7]),
    stack=st.sampled_from([(), (3,), (5, 3), (1, 3, 1)]),
    skip=st.sampled_from([0, 1, 3]),
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    lanes=st.sampled_from([0, 1, 2, 4, 16, 32]),
)
def test_round_trip_of_random_plans(seed, groups, schedule, kernel, stack, skip, widths, size, lanes):
    rng = np.random.default_rng(seed)
    plan = random_plan(
        rng, groups, 3, schedule, kernel, cross_kernels=stack, skip_kernel=skip, widths=widths, psi_channels=4
    )
    round_trip(plan, *sample_latents(rng, plan, *size, escape=0.05), lanes)


@pytest.mark.parametrize("lanes", [1, 32])
def test_escapes_to_the_limits(lanes):
    rng = np.random.default_rng(2)
    plan = random_plan(rng, (3, 3))
    z_hat, y_hat = sample_latents(rng, plan, 5, 6)
    for plane in (z_hat, y_hat):
        flat = plane.reshape(-1)
        flat[:8] = [32767, -32767, 32766, -32766, 128, -128, 1000, -1000]
        flat[-1] = -32767
    round_trip(plan, z_hat, y_hat, lanes)


def test_every_escape_value_is_one_symbol():
    rows = random_plan(np.random.default_rng(0)).z_rows
    for v in range(-300, 300):
        entry, e = reference_streams.split_symbol(rows, 1, v)
        assert reference_streams.join_symbol(rows, 1, entry, e) == v
        assert (e is None) == (entry < rows.n[1] - 1)


def test_encoder_refuses_what_does_not_fit():
    plan = random_plan(np.random.default_rng(0))
    z_hat = np.zeros((1, 1, plan.hyper_channels), np.int64)
    z_hat[0, 0, 0] = -32768
    with pytest.raises(ValueError, match="cannot carry"):
        reference.encode_z(plan, z_hat)
    with pytest.raises(ValueError, match="lanes"):
        reference.encode_z(plan, z_hat * 0, 3)


def test_causality():
    """A symbol's parameters do not depend on symbols at the same or later steps, nor on later groups."""
    rng = np.random.default_rng(4)
    for schedule in SCHEDULES:
        plan = random_plan(rng, (2, 2), schedule=schedule)
        _, y_hat = sample_latents(rng, plan, 8, 8)
        psi = rng.integers(0, 256, (8, 8, plan.psi_channels))
        before = reference.parameters(plan, psi, y_hat)
        step = plan.steps(8, 8)
        changed = y_hat.copy()
        changed[4, 4] += rng.integers(1, 9, 4) * np.array([0, 0, 1, 1])  # the second group, one position
        after = reference.parameters(plan, psi, changed)
        for a, b in zip(before, after, strict=True):
            moved = (a != b).any(axis=2)
            assert (a[..., :2] == b[..., :2]).all()
            assert not moved[step <= step[4, 4]].any()


def test_truncation():
    rng = np.random.default_rng(7)
    plan = random_plan(rng, (3,))
    z_hat, y_hat = sample_latents(rng, plan, 6, 6)
    psi = reference.hyper(plan, z_hat, 6, 6)
    ((data, lanes),) = reference.encode_y(plan, psi, y_hat, 2)
    for end in range(len(data)):
        with pytest.raises(BitstreamError) as caught:
            reference.decode_y(plan, psi, [(data[:end], lanes)])
        if end >= 10 and (end - 10) % 2 == 0:
            assert caught.type is TruncatedError
    with pytest.raises(DamagedError):
        reference.decode_y(plan, psi, [(data + b"\0\0", lanes)])
    with pytest.raises(DamagedError):
        reference.decode_y(plan, psi, [(data + b"\0", lanes)])
    with pytest.raises(DamagedError, match="3 lanes"):
        reference.decode_y(plan, psi, [(data, 3)])


def test_damage_is_detected_or_visible():
    rng = np.random.default_rng(8)
    plan = random_plan(rng, hyper_channels=5)
    z_hat = sample_z(rng, plan, 4, 5)
    data, lanes = reference.encode_z(plan, z_hat, 4)
    detected = 0
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        try:
            assert not np.array_equal(reference.decode_z(plan, (bytes(damaged), lanes), 4, 5), z_hat)
        except BitstreamError:
            detected += 1
    # The final states catch nearly all; the packet's CRC-32C the rest.
    assert detected >= 0.98 * 8 * len(data)


def test_overhead():
    rng = np.random.default_rng(9)
    plan = random_plan(rng, (12,), schedule="checkerboard", scale_centre=30, kernel=3, widths=(8,))
    z_hat, y_hat = sample_latents(rng, plan, 32, 32)
    psi = reference.hyper(plan, z_hat, 32, 32)
    offset, row = reference.parameters(plan, psi, y_hat)
    ideal = reference_streams.ideal_bits(plan.y_rows, row, y_hat - offset) / 8
    for lanes in (1, 4):
        (stream,) = reference.encode_y(plan, psi, y_hat, lanes)
        # Each state carries 24 bits when empty: 3 of its 5 bytes are overhead, and half a word on average.
        assert ideal < len(stream.data) < 1.0001 * ideal + 5 * lanes
    (stream,) = reference.encode_y(plan, psi, y_hat)
    assert stream.lanes == reference_streams.choose_lanes(int(ideal)) and len(stream.data) < 1.003 * ideal + 5


def test_choose_lanes():
    payloads = (0, 100, 3999, 4000, 8000, 64000, 10**7)
    assert [reference_streams.choose_lanes(n) for n in payloads] == [1, 1, 1, 2, 4, 32, 32]


def test_requantize_rounds_half_up():
    mult, shift = np.array([1 << 15], np.int32), np.array([16], np.int32)
    acc = np.array([-3, -2, -1, 0, 1, 2, 3])[:, None]
    assert reference.requantize(acc, mult, shift).ravel().tolist() == [-1, -1, 0, 0, 1, 1, 2]


def test_convolve_by_hand():
    conv = IntConv(
        np.arange(-4, 5, dtype=np.int8).reshape(1, 3, 3, 1),
        np.array([10], np.int32),
        np.array([1 << 16], np.int32),
        np.array([16], np.int32),
        RELU8,
    )
    x = np.array([[1, 2], [3, 4]])[..., None]
    #      taps: -4 -3 -2 / -1 0 1 / 2 3 4
    assert reference.convolve(conv, x)[..., 0].tolist() == [
        [10 + 2 * 1 + 3 * 3 + 4 * 4, 10 - 1 * 1 + 2 * 3 + 3 * 4],
        [10 - 3 * 1 - 2 * 2 + 1 * 4, 0],  # 10 - 4 * 1 - 3 * 2 - 1 * 3 = -3, below the ReLU
    ]
    conv = IntConv(
        np.full((4, 1, 1, 1), 100, np.int8), np.zeros(4, np.int32), *np.int32([[1 << 30] * 4, [16] * 4]), HEAD
    )
    assert reference.convolve(conv, np.array([[[255]]]), 17)[0, 0].tolist() == [32767, 32767, 16, 16]


def test_pixel_shuffle():
    conv = IntConv(
        np.zeros((8, 1, 1, 1), np.int8),
        np.arange(8, dtype=np.int32),
        np.full(8, 1 << 16, np.int32),
        np.full(8, 16, np.int32),
        RELU8,
        upsample=2,
    )
    out = reference.convolve(conv, np.zeros((1, 1, 1), np.int64))
    assert out[..., 0].tolist() == [[0, 1], [2, 3]] and out[..., 1].tolist() == [[4, 5], [6, 7]]

"""Plans of version 2 (leaky outputs, direct heads, residual models, scaled contexts): bytes, oracle, CPU engine."""

import numpy as np
import pytest
import torch

from ccm_fast import _backend
from ccm_fast.entropy import reference, reference_streams
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.plan import HEAD, LEAKY8, RELU8, IntConv, OverflowProofError, Plan, PlanError, layers
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.errors import DamagedError

ops = _backend.load().ops
ISAS = ops.isa_list().split(",")
EVERYTHING = {"leaky": True, "residual": True, "scaled": True}

# Arguments of random_plan, and the plane.
CASES = {
    "leaky": ({"groups": (8, 4, 6), "leaky": True}, (7, 9)),
    "direct": ({"groups": (5, 3), "direct": True}, (6, 7)),
    "residual": ({"groups": (5, 3), "residual": True}, (6, 7)),
    "scaled": ({"groups": (6, 3), "scaled": True}, (6, 7)),
    "wavefront": ({"groups": (5, 3), **EVERYTHING}, (7, 9)),
    "checkerboard": ({"groups": (5, 3), "schedule": "checkerboard", **EVERYTHING}, (5, 8)),
    # elic2022: a channel context of four layers, no skip.
    "elic": (
        {
            "groups": (2, 3, 4),
            "schedule": "checkerboard",
            "cross_kernels": (5, 5, 5, 1),
            "skip_kernel": 0,
            **EVERYTHING,
        },
        (5, 6),
    ),
    "single": ({"groups": (4, 3, 6), "schedule": "single", **EVERYTHING}, (5, 6)),
    "multistage4": ({"groups": (5,), "schedule": "multistage4", **EVERYTHING}, (9, 6)),
    # mbt2018-mean: one group, no context, the hyperprior's last layer is linear and its output the head.
    "hyperprior": ({"groups": (9,), "schedule": "single", "direct": True, **EVERYTHING}, (5, 6)),
    "direct wavefront": ({"groups": (4, 3), "direct": True, **EVERYTHING}, (6, 5)),
    "1x1": ({"groups": (4, 3), **EVERYTHING}, (1, 1)),
}


def plan_bytes(plan):
    return torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8)


def wanted_latents(rng, y_hat):
    """Latents in 1/256 near those drawn from the model: a residual encoder's input."""
    return np.clip(16 * y_hat + rng.integers(-150, 151, y_hat.shape), -reference.RESIDUAL_MAX, reference.RESIDUAL_MAX)


class Case:
    """A plan, an image, and what the oracle makes of them."""

    def __init__(self, name):
        kwargs, (h, w) = CASES[name]
        rng = np.random.default_rng(sum(map(ord, name)))
        self.plan = plan = random_plan(rng, **kwargs)
        self.data = plan_bytes(plan)
        self.z, y = sample_latents(rng, plan, h, w, escape=0.02)
        self.psi = reference.hyper(plan, self.z, h, w)
        self.wanted = wanted_latents(rng, y)
        self.expected = {}
        for lanes in (0, 4):
            if plan.residual:
                self.expected[lanes], y = reference.encode_y_residual(plan, self.psi, self.wanted, lanes)
            else:
                self.expected[lanes] = reference.encode_y(plan, self.psi, y, lanes)
        self.y = y
        self.parameters = reference.parameters(plan, self.psi, y)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


def coded(streams):
    return [(bytes(data), lanes) for data, lanes in streams]


def split(data, segments):
    raw = data.numpy().tobytes()
    return [(raw[o : o + n], lanes) for o, n, lanes in segments.reshape(-1, 3).tolist()]


def test_bytes_and_back(case):
    plan, data = case.plan, case.data
    raw = data.numpy().tobytes()
    assert plan.version == 2 and raw[4] == 2
    again = Plan.from_bytes(raw)
    for (name, a), (_, b) in zip(layers(plan), layers(again), strict=True):
        assert (a.output, a.zero) == (b.output, b.zero), name
        assert np.array_equal(a.below, b.below) if a.output == LEAKY8 else b.below is None, name
    again._bytes = None
    assert again.to_bytes() == raw


def test_oracle_decodes_what_it_encodes(case):
    assert np.array_equal(reference.decode_y(case.plan, case.psi, case.expected[0]), case.y)
    if case.plan.residual:
        assert np.abs(16 * case.y - case.wanted).max() <= 128


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("isa", ISAS)
def test_engine_equals_oracle(case, isa, threads):
    h, w, _ = case.y.shape
    packed = ops.pack_plan(case.data, isa)
    z, y = (torch.from_numpy(v.astype(np.int16))[None] for v in (case.z, case.y))
    psi = ops.hyper(packed, z, h, w, threads)
    assert np.array_equal(psi[0].numpy(), case.psi)
    for found, expected in zip(ops.parameters(packed, psi, y, threads), case.parameters, strict=True):
        assert np.array_equal(found[0].numpy(), expected)
    for lanes, expected in case.expected.items():
        if case.plan.residual:
            wanted = torch.from_numpy(case.wanted.astype(np.int32))[None]
            data, segments, y_hat = ops.encode_y_residual(packed, psi, wanted, lanes, threads)
            assert torch.equal(y_hat, y)
        else:
            data, segments = ops.encode_y(packed, psi, y, lanes, threads)
        assert split(data, segments) == coded(expected)
        decoded, status = ops.decode_y(packed, psi, data, segments, threads)
        assert status.tolist() == [0] and torch.equal(decoded, y)


@pytest.mark.parametrize("name", [name for name, (kwargs, _) in CASES.items() if "residual" in kwargs])
def test_batch_of_residuals_equals_single(name):
    case = Case(name)
    rng = np.random.default_rng(1)
    packed = ops.pack_plan(case.data, "")
    wanted = torch.from_numpy(np.stack([wanted_latents(rng, case.y // 16) for _ in range(3)]).astype(np.int32))
    psi = torch.from_numpy(case.psi.astype(np.uint8)).expand(3, -1, -1, -1).contiguous()
    single = [ops.encode_y_residual(packed, psi[:1], v[None], 2, 1) for v in wanted]
    for threads in (1, 2, 4):
        data, segments, y_hat = ops.encode_y_residual(packed, psi, wanted, 2, threads)
        for k, one in enumerate(single):
            assert split(data, segments[k]) == split(*one[:2]) and torch.equal(y_hat[k], one[2][0])
        decoded, status = ops.decode_y(packed, psi, data, segments, threads)
        assert status.tolist() == [0, 0, 0] and torch.equal(decoded, y_hat)


def test_symbols_only_just_fit():
    """At both ends of the encoder's range y_hat fits, and a stream whose y_hat does not is damage."""
    rng = np.random.default_rng(4)
    plan = random_plan(rng, (3, 2), **EVERYTHING)
    z, y = sample_latents(rng, plan, 4, 5)
    psi = reference.hyper(plan, z, 4, 5)
    frozen = FrozenEntropyModel(plan)
    psi_t = torch.from_numpy(psi.astype(np.uint8))[None]
    limit = reference.RESIDUAL_MAX
    wanted = rng.choice([-limit, limit], y.shape).astype(np.int32)
    streams, y_hat = frozen.encode_y_residual(psi_t, torch.from_numpy(wanted)[None])
    expected, oracle = reference.encode_y_residual(plan, psi, wanted)
    assert coded(streams[0]) == coded(expected) and np.array_equal(y_hat[0], oracle)
    assert torch.equal(frozen.decode_y(psi_t, streams), y_hat) and np.abs(oracle).max() > 32700
    # The same symbols one whole number further out.
    steps = []
    for run in reference._steps(plan, 0, psi, np.zeros(y.shape, np.int64)):

        def far(row, offset, mean, i, j):
            steps.append((row, (32767 - mean) // 16 + (len(steps) == 2)))
            return np.minimum(steps[-1][1], (32767 - mean) // 16)

        run(far)
    bad = reference_streams.Stream(reference_streams.encode_stream(plan.y_rows, steps, 1), 1)
    for engine in ("cpu", "reference"):
        with pytest.raises(DamagedError):
            frozen.decode_y(psi_t, [[bad, streams[0][1]]], engine=engine)


def test_frozen_model_of_residuals():
    rng = np.random.default_rng(5)
    plan = random_plan(rng, (4, 2), **EVERYTHING)
    frozen = FrozenEntropyModel(plan)
    assert frozen.residual and frozen.y_unit == 1 / 16
    z, _ = sample_latents(rng, plan, 6, 5)
    psi = frozen.hyper(torch.from_numpy(z.astype(np.int16))[None], 6, 5)
    y = torch.randn(1, 6, 5, 6, generator=torch.manual_seed(0)) * 5
    streams, y_hat = frozen.encode_y_residual(psi, y)
    assert ((y_hat * frozen.y_unit - y).abs() <= 0.5 + 1 / 512).all()
    assert torch.equal(frozen.decode_y(psi, streams, threads=2), y_hat)
    exact = torch.floor(y.double() * 256 + 0.5).int()
    for engine in ("cpu", "reference"):
        again, same = frozen.encode_y_residual(psi, exact, engine=engine, lanes=streams[0][0].lanes)
        assert again == streams and torch.equal(same, y_hat)
    for value in (float("nan"), float("inf"), -float("inf")):
        bad = y.clone()
        bad[0, 1, 2, 3] = value
        with pytest.raises(ValueError, match="NaN"):
            frozen.encode_y_residual(psi, bad)
    for bad in (torch.full_like(y, 2047.45), torch.full_like(y, -3e38), torch.full_like(exact, -(2**31))):
        for engine in ("cpu", "reference"):
            with pytest.raises(ValueError, match=r"2047\.4375"):
                frozen.encode_y_residual(psi, bad, engine=engine)
    frozen.encode_y_residual(psi, torch.full_like(y, -2047.4375))
    with pytest.raises(ValueError, match="belong together"):
        frozen.encode_y_residual(psi, y[:, :5])
    with pytest.raises(ValueError, match="lanes"):
        frozen.encode_y_residual(psi, y, lanes=3)
    with pytest.raises(TypeError):
        frozen.encode_y_residual(psi, y.to(torch.int64))


def test_each_encoder_refuses_the_other_kind_of_model():
    rng = np.random.default_rng(6)
    for residual in (False, True):
        plan = random_plan(rng, (3,), residual=residual)
        frozen = FrozenEntropyModel(plan)
        z, y = sample_latents(rng, plan, 3, 3)
        psi = frozen.hyper(torch.from_numpy(z.astype(np.int16))[None], 3, 3)
        y_t = torch.from_numpy(y)[None]
        packed = frozen.packed()
        if residual:
            for engine in ("cpu", "reference"):
                with pytest.raises(ValueError, match="encode_y_residual"):
                    frozen.encode_y(psi, y_t.short(), engine=engine)
            with pytest.raises(ValueError, match="encode_y_residual"):
                reference.encode_y(plan, psi[0].numpy(), y)
            with pytest.raises(RuntimeError, match="encode_y_residual"):
                ops.encode_y(packed, psi, y_t.short(), 0, 1)
            with pytest.raises(RuntimeError, match="524144"):
                ops.encode_y_residual(packed, psi, torch.full_like(y_t, 524145).int(), 0, 1)
        else:
            assert frozen.y_unit == 1 and not frozen.residual
            with pytest.raises(ValueError, match="use encode_y"):
                frozen.encode_y_residual(psi, y_t.float())
            with pytest.raises(ValueError, match="use encode_y"):
                reference.encode_y_residual(plan, psi[0].numpy(), y)
            with pytest.raises(RuntimeError, match="use encode_y"):
                ops.encode_y_residual(packed, psi, y_t.int(), 0, 1)


def test_leaky_by_hand():
    one = np.array([1 << 16], np.int32)
    conv = IntConv(
        np.ones((1, 1, 1, 1), np.int8), np.zeros(1, np.int32), one, np.array([16], np.int32), LEAKY8,
        zero=3, below=one >> 1,
    )  # fmt: skip
    x = np.array([-100, -7, -3, -2, -1, 0, 1, 252, 253])
    found = reference.convolve(conv, x[None, :, None])[0, :, 0]
    assert found.tolist() == [-3, -3, -1, -1, 0, 0, 1, 252, 252]  # halves upwards


def test_scaled_context_by_hand():
    plan = random_plan(np.random.default_rng(0), (2,), scaled=True)
    plan.context_mult[:], plan.context_shift[:] = (1 << 14, 3 << 16), (16, 16)
    assert reference.context(plan, np.array([6, 6])).tolist() == [2, 18]
    assert reference.context(plan, np.array([-32767, 43])).tolist() == [-127, 127]
    assert reference.context(plan, np.array([-5]), 1).tolist() == [-15]


def test_version_1_where_it_is_enough():
    rng = np.random.default_rng(1)
    plan = random_plan(rng)
    data = plan.to_bytes()
    assert plan.version == 1 and data[4] == 1
    for _, conv in layers(plan):
        assert conv.output != LEAKY8
    # What is in a plan is read by its version, not guessed.
    marked = bytearray(random_plan(np.random.default_rng(1), leaky=True).to_bytes())
    assert marked[4] == 2
    marked[4] = 1
    with pytest.raises(PlanError):
        Plan.from_bytes(bytes(marked))
    with pytest.raises(RuntimeError):
        ops.pack_plan(torch.frombuffer(marked, dtype=torch.uint8), "")


def refused(plan, match):
    with pytest.raises(PlanError, match=match):
        plan.to_bytes()


def test_bad_plans_are_refused():
    def make(**kwargs):
        return random_plan(np.random.default_rng(2), **{**EVERYTHING, **kwargs})

    plan = make()
    plan.hyper_synthesis[0].zero = 256
    refused(plan, r"h_s\.0: the zero point 256")
    plan = make()
    plan.groups[1].stack[0].below = None
    refused(plan, r"group 1 stack\.0: below")
    plan = make()
    plan.groups[0].below[1] = -1
    refused(plan, "group 0 spatial: below")
    plan = make(leaky=False)
    plan.groups[0].hidden[0].zero = 4
    refused(plan, r"group 0 hidden\.0: only leaky")
    plan = make()
    plan.groups[0].head.output = LEAKY8
    plan.groups[0].head.below = plan.groups[0].head.mult
    refused(plan, "group 0 head: output code 3")
    plan = make()
    plan.fraction_bits[3] = 1
    refused(plan, "residual")
    plan = make()
    plan.context_shift = None
    refused(plan, "go together")
    plan = make()
    plan.context_mult[0] = -1
    refused(plan, "scaled context: mult")
    plan = make(direct=True)
    plan.groups[0].output = RELU8
    refused(plan, "head is missing")
    plan = make()
    plan.groups[0].output, plan.groups[0].zero, plan.groups[0].below = HEAD, 0, None
    refused(plan, "layers follow a direct head")
    plan = make(leaky=False)
    plan.groups[0].output = 1
    refused(plan, "group 0 spatial: output code 1")


def test_overflow_proof_knows_zero_points_and_both_slopes():
    plan = random_plan(np.random.default_rng(2), leaky=True)
    conv = plan.groups[0].hidden[0]
    conv.below[1], conv.shift[1], conv.bias[1] = (1 << 31) - 1, 16, 1 << 20
    with pytest.raises(OverflowProofError, match=r"group 0 hidden\.0, channel 1"):
        plan.to_bytes()
    # With inputs of magnitude 128 at most this bias is possible, with 255 it is not.
    for zero in (128, 0):
        plan = random_plan(np.random.default_rng(2), leaky=True)
        plan.hyper_synthesis[0].zero = zero
        conv = plan.hyper_synthesis[1]
        conv.bias[2] = (1 << 31) - 1 - 128 * int(np.abs(conv.weight[2].astype(np.int64)).sum())
        conv.mult[2], conv.below[2] = min(conv.mult[2], 1 << 16), min(conv.below[2], 1 << 16)
        conv.shift[2] = 40
        if zero:
            data = plan_bytes(plan)
            for isa in ISAS:
                ops.pack_plan(data, isa)
        else:
            with pytest.raises(OverflowProofError, match=r"h_s\.1, channel 2"):
                plan.to_bytes()


@pytest.mark.parametrize("name", ["wavefront", "direct wavefront"])
def test_damaged_plans_are_refused_or_harmless(name):
    """Both readers agree on what is a plan; what they take runs without crashing."""
    case = Case(name)
    plan, data = case.plan, case.data
    h, w, _ = case.y.shape
    rng = np.random.default_rng(3)
    noise = torch.from_numpy(rng.integers(0, 256, 200, dtype=np.uint8))
    z = torch.zeros((1, -(-h // 4), -(-w // 4), plan.hyper_channels), dtype=torch.int16)
    count = 0
    for i in [*range(4, 80, 4), *rng.integers(0, min(8000, data.numel()), 80)]:
        broken = data.clone()
        broken[i] ^= 1 << int(rng.integers(8))
        try:
            packed = ops.pack_plan(broken, "")
        except RuntimeError:
            with pytest.raises(PlanError):
                Plan.from_bytes(broken.numpy().tobytes())
            count += 1
            continue
        Plan.from_bytes(broken.numpy().tobytes())
        segments = torch.tensor([[[0, 200, 1]] * len(plan.groups)], dtype=torch.int64)
        ops.decode_y(packed, ops.hyper(packed, z, h, w, 1), noise, segments, 1)
    assert count > 10
    for end in rng.integers(0, data.numel(), 20):
        with pytest.raises(PlanError):
            Plan.from_bytes(data[:end].numpy().tobytes())
        with pytest.raises(RuntimeError):
            ops.pack_plan(data[: max(1, end)].clone(), "")

"""Tapers: lanes of a stream that retire towards its end. FORMAT.md, sections 5 and 6."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch

from ccm_fast import _backend, errors, files
from ccm_fast.entropy import reference, reference_streams, tensors
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.stream.container import parse_container
from ccm_fast.stream.crc32c import crc32c
from ccm_fast.stream.packet import Stream, may_taper, parse_file, stream_code

sys.path.insert(0, str(Path(__file__).resolve().parent / "emu"))
from engine import EmulatedEngine, schedule

ops = _backend.load().ops
ISAS = ops.isa_list().split(",")
LANES = (2, 4, 16, 32, 64)

CASES = {
    "wavefront": ({"groups": (24, 9)}, (16, 14)),
    "skipping": ({"groups": (20, 12), "skipped": 18, "schedules": ("wavefront", "checkerboard")}, (15, 17)),
    "residual": ({"groups": (30,), "residual": True}, (12, 20)),
}


class Case:
    """A plan, and its streams with every number of lanes as the oracle writes them."""

    def __init__(self, name):
        kwargs, (h, w) = CASES[name]
        rng = np.random.default_rng(sum(map(ord, name)))
        self.plan = plan = random_plan(rng, **kwargs)
        self.frozen = FrozenEntropyModel(plan)
        z, self.y = sample_latents(rng, plan, h, w, escape=0.01)
        self.psi = reference.hyper(plan, z, h, w)
        wanted = 16 * self.y + rng.integers(-150, 151, self.y.shape)
        self.streams = {}
        for lanes in LANES:
            if plan.residual:
                self.streams[lanes], self.y = reference.encode_y_residual(plan, self.psi, wanted, lanes, 2)
            else:
                self.streams[lanes] = reference.encode_y(plan, self.psi, self.y, lanes, 2)
        self.wanted = torch.from_numpy(wanted.astype(np.int32))[None]
        self.tensors = [torch.from_numpy(v).to(t)[None] for v, t in ((self.psi, torch.uint8), (self.y, torch.int16))]

    def decode(self, streams, engine):
        """The latents, or the error's type."""
        try:
            if engine == "reference":
                return reference.decode_y(self.plan, self.psi, streams)
            return self.frozen.decode_y(self.tensors[0], [streams])[0].numpy()
        except errors.BitstreamError as error:
            return type(error)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


def test_the_oracle_reads_what_it_writes(case):
    for streams in case.streams.values():
        assert np.array_equal(reference.decode_y(case.plan, case.psi, streams), case.y)
    assert all(case.streams[lanes][0].taper for lanes in (2, 4))
    assert not any(s.taper for s in case.streams[64])
    assert len({s.taper for streams in case.streams.values() for s in streams}) > 1


@pytest.mark.parametrize("isa", ISAS)
def test_engines_agree(case, isa):
    psi, y = case.tensors
    for lanes, expected in case.streams.items():
        assert torch.equal(case.frozen.decode_y(psi, [expected], isa=isa), y)
        if case.plan.residual:
            (found,), _ = case.frozen.encode_y_residual(psi, case.wanted, lanes=lanes, version=2, isa=isa)
        else:
            (found,) = case.frozen.encode_y(psi, y, lanes=lanes, version=2, isa=isa)
        assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("lanes", LANES)
def test_the_cuda_engine_agrees(case, lanes):
    psi, y = case.tensors
    emulated = EmulatedEngine(case.plan)
    data, segments = tensors.joined([case.streams[lanes]], torch.device("cpu"))
    for seed, blocks in ((0, 1), (1, 4)):
        emulated.blocks = blocks
        with schedule(seed=seed):
            found, status = emulated.decode_y(psi, data, segments)
        assert not status.any() and torch.equal(found, y)
    _, raw, rows, _ = emulated.encode_y(psi, case.wanted if case.plan.residual else y, stream_code(lanes, 2))
    raw = raw.numpy().tobytes()
    assert [Stream(raw[o : o + n], code) for o, n, code in rows.reshape(-1, 3).tolist()] == case.streams[lanes]
    rng = np.random.default_rng(lanes)
    for _ in range(6):
        bad = damaged(rng, case.streams[lanes])
        found, status = emulated.decode_y(psi, *tensors.joined([bad], torch.device("cpu")))
        wanted = case.decode(bad, "cpu")
        kinds = {errors.TruncatedError: 1, errors.DamagedError: 2}
        if isinstance(wanted, type):
            assert status.tolist() == [kinds[wanted]]
        else:
            assert not status.any() and np.array_equal(found[0].numpy(), wanted)


def damaged(rng, streams):
    """Streams one of which has flipped bits, other bytes at its end, or another taper."""
    out, k = list(streams), int(rng.integers(len(streams)))
    data, code = bytearray(out[k].data), out[k].code
    what = rng.integers(4)
    if what == 0:
        code = stream_code(out[k].lanes, 2, int(rng.integers(16)) if may_taper(out[k].lanes) else 0)
    elif what == 1:
        data = data[: int(rng.integers(len(data)))]
    else:  # near the end, where lanes retire, or anywhere
        at = rng.integers(max(0, len(data) - 60), len(data)) if what == 2 else rng.integers(len(data))
        data[int(at)] ^= 1 << int(rng.integers(8))
    out[k] = Stream(bytes(data), code)
    return out


def test_damage_is_noticed(case):
    """By the oracle and the engine alike; what decodes is what was coded."""
    rng = np.random.default_rng(5)
    seen = {}
    for i in range(60):
        bad = damaged(rng, case.streams[LANES[i % len(LANES)]])
        found = case.decode(bad, "reference")
        other = case.decode(bad, "cpu")
        if isinstance(found, type):
            assert found is other
            seen[found] = seen.get(found, 0) + 1
        else:
            assert np.array_equal(found, other) and np.array_equal(found, case.y)
    assert seen[errors.DamagedError] > 20 and seen[errors.TruncatedError]


def test_a_taper_needs_steps(case):
    """z is one step; what reads it refuses a taper."""
    plan = random_plan(np.random.default_rng(0), groups=(4,))
    z = np.zeros((4, 5, plan.hyper_channels), np.int64)
    data, code = reference.encode_z(plan, z, 2, 2)
    for taper in (0, 1):
        stream = Stream(data, code + (taper << 12))
        found = []
        for engine in ("reference", "cpu"):
            try:
                frozen = FrozenEntropyModel(plan)
                found.append(frozen.decode_z([stream], 4, 5, engine=engine).any().item())
            except errors.DamagedError:
                found.append("damaged")
        assert found == [["damaged"] * 2, [False] * 2][taper == 0]


def test_what_a_lane_costs():
    """A third of what it costs without a taper."""
    rng = np.random.default_rng(0)
    plan = random_plan(rng, groups=(48,))
    rows = plan.y_rows
    steps, left = [], []
    positions = [10] * 56 + [8, 4, 2, 1]  # a wavefront ends so
    for k, count in enumerate(positions):
        row = rng.integers(0, len(rows.n), 48 * count)
        lo, n = rows.lo[row], rows.n[row]
        steps.append((row, lo + rng.integers(0, n - 1)))
        left.append(sum(positions[k:]))
    sizes = {}
    for lanes in (1, 16, 32):
        plain = len(reference_streams.encode_stream(rows, steps, lanes, 2))
        tapered = reference_streams.encode(rows, steps, lanes, 2, left=left)
        assert (tapered.taper > 0) == (lanes > 1)
        sizes[lanes] = plain, len(tapered.data)
    for lanes in (16, 32):
        assert 1.8 < (sizes[lanes][0] - sizes[1][0]) / (lanes - 1) < 2.6
        assert 0.4 < (sizes[lanes][1] - sizes[1][1]) / (lanes - 1) < 0.85


def test_headers():
    """What a packet may say of tapers, and what not: both readers."""
    data = (tiny.GOLDEN / "taper2.ccm").read_bytes()
    model = str(tiny.GOLDEN / "tiny.safetensors")
    container = parse_container(data)
    packet = parse_file(container.packet, 3)
    assert packet.tapers == (0, 1, 1, 0) and [s.taper for s in packet.y_streams] == [1, 1, 0]
    head = bytes(container.packet)
    size = len(packet.header())
    lanes_at = 1 + 8 + 1 + 1 + 1  # behind flags, fingerprint, sides of one byte each, and the quality

    def with_header(change):
        header = bytearray(head[: size - 4])
        change(header)
        crc = crc32c(head[size:], crc32c(bytes(header)))
        return data[:4] + bytes(header) + crc.to_bytes(4, "little") + head[size:]

    def spare(header):
        header[lanes_at + 3] |= 0x10

    def none(header):
        header[lanes_at + 2 : lanes_at + 4] = bytes(2)

    def version_1(header):
        header[0] &= ~4

    for change in (spare, none, version_1):
        bad = with_header(change)
        for known in (model, tiny.model()):
            with pytest.raises(errors.BitstreamError):
                files.decode_bytes(bad, known)
    for tapers in ((1, 0, 0, 0), (0, 16, 0, 0), (0, -1, 0, 0), (0, 1)):
        with pytest.raises(ValueError):
            packet._replace(tapers=tapers).header()
    with pytest.raises(ValueError, match="taper"):
        packet._replace(lanes=(4, 1, 4, 4)).header()

"""Plans of version 3 (skipped symbols, channels of z that are not coded, a schedule for each group), streams of 2."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from ccm_fast import _backend, compress, decompress
from ccm_fast.decoding import decode_packets, parse_packets
from ccm_fast.entropy import reference
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.plan import CODED, Plan, PlanError, TableRows
from ccm_fast.entropy.schedule import Schedule
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.errors import BitstreamError, DamagedError
from ccm_fast.freezing.skipping import leave_out
from ccm_fast.models.quality import lagrange_multiplier

ops = _backend.load().ops
ISAS = ops.isa_list().split(",")
SKIP = {"skipped": 18}  # of the scale index around which random plans' are

# Arguments of random_plan, and the plane.
CASES = {
    "skip": ({"groups": (6, 4, 9), **SKIP}, (9, 7)),
    "everything skipped": ({"groups": (5, 3), "skipped": 62}, (6, 5)),
    "z": ({"groups": (5, 3), "hyper_channels": 6, "fixed": 4}, (9, 7)),
    "all of z": ({"groups": (5, 3), "hyper_channels": 4, "fixed": 4}, (9, 7)),
    "schedules": ({"groups": (6, 4, 9), "schedules": ("wavefront", "checkerboard", "single")}, (9, 7)),
    "leaky": ({"groups": (6, 3), "leaky": True, "scaled": True, **SKIP}, (6, 7)),
    "residual": ({"groups": (5, 9), "residual": True, "schedules": ("wavefront", "single")}, (6, 7)),
    "all": (
        {"groups": (6, 8, 20), "fixed": 3, "schedules": ("wavefront", "multistage2", "single"), **SKIP},
        (11, 13),
    ),
    "1x1": ({"groups": (4, 3), "fixed": 1, "schedules": ("single", "wavefront"), **SKIP}, (1, 1)),
}


class Case:
    """A plan, an image, and what the oracle makes of them."""

    def __init__(self, name):
        kwargs, (h, w) = CASES[name]
        rng = np.random.default_rng(sum(map(ord, name)))
        self.plan = plan = random_plan(rng, **kwargs)
        self.frozen = FrozenEntropyModel(plan)
        self.z, self.y = sample_latents(rng, plan, h, w, escape=0.02)
        self.psi = reference.hyper(plan, self.z, h, w)
        self.wanted = 16 * self.y + rng.integers(-150, 151, self.y.shape)
        self.streams = {}
        for lanes in (0, 4, 64):
            if plan.residual:
                self.streams[lanes], self.y = reference.encode_y_residual(plan, self.psi, self.wanted, lanes, 2)
            else:
                self.streams[lanes] = reference.encode_y(plan, self.psi, self.y, lanes, 2)
        self.z_streams = {lanes: reference.encode_z(plan, self.z, lanes, 2) for lanes in (0, 4, 64)}

    def tensors(self):
        """z_hat, psi and y_hat as batches of one."""
        types = (torch.int16, torch.uint8, torch.int16)
        return [torch.from_numpy(v).to(t)[None] for v, t in zip((self.z, self.psi, self.y), types, strict=True)]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return Case(request.param)


def test_bytes_and_back(case):
    raw = case.plan.to_bytes()
    assert case.plan.version == 3 and raw[4] == 3
    again = Plan.from_bytes(raw)
    assert (again.skip, again.schedules) == (case.plan.skip, case.plan.schedules)
    assert np.array_equal(again.coded_channels, case.plan.coded_channels)
    assert replace(again).to_bytes() == raw
    for cut in range(0, len(raw), 97):
        with pytest.raises(PlanError):
            Plan.from_bytes(raw[:cut])
        with pytest.raises(RuntimeError):
            ops.pack_plan(torch.frombuffer(bytearray(raw[:cut] or b"x"), dtype=torch.uint8), "")


def test_oracle_decodes_what_it_encodes(case):
    h, w = -(-case.y.shape[0] // 4), -(-case.y.shape[1] // 4)
    for lanes, streams in case.streams.items():
        assert np.array_equal(reference.decode_y(case.plan, case.psi, streams), case.y)
        assert np.array_equal(reference.decode_z(case.plan, case.z_streams[lanes], h, w), case.z)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", ISAS)
def test_engine_equals_oracle(case, isa, threads):
    z, psi, y = case.tensors()
    options, frozen = {"isa": isa, "threads": threads}, case.frozen
    assert torch.equal(frozen.hyper(z, *y.shape[1:3], **options), psi)
    offset, row = reference.parameters(case.plan, case.psi, case.y)
    found = frozen.parameters(psi, y, **options)
    assert np.array_equal(found[0][0].numpy(), offset) and np.array_equal(found[1][0].numpy(), row)
    for lanes, expected in case.streams.items():
        if case.plan.residual:
            wanted = torch.from_numpy(case.wanted.astype(np.int32))[None]
            (streams,), y_hat = frozen.encode_y_residual(psi, wanted, lanes=lanes, version=2, **options)
            assert torch.equal(y_hat, y)
        else:
            (streams,) = frozen.encode_y(psi, y, lanes=lanes, version=2, **options)
        assert streams == expected
        assert torch.equal(frozen.decode_y(psi, [streams], **options), y)
        (stream,) = frozen.encode_z(z, lanes=lanes, version=2, **options)
        assert stream == case.z_streams[lanes]
        assert torch.equal(frozen.decode_z([stream], *z.shape[1:3], **options), z)


@pytest.mark.parametrize("name", ["skip", "all", "everything skipped", "schedules", "leaky"])
def test_any_latents_settle(name):
    """Symbols that are not coded become their offsets, others stay; encoders and decoders agree on that."""
    case = Case(name)
    _, psi, y = case.tensors()
    rng = np.random.default_rng(1)
    wild = y + torch.from_numpy(rng.integers(-2, 3, y.shape)).short()
    settled, offset, row = case.frozen.settle(psi, wild, threads=2)
    for found, expected in zip((settled, offset, row), case.frozen.settle(psi, wild, engine="reference"), strict=True):
        assert torch.equal(found, expected)
    skipped = row < case.plan.skip_rows
    assert torch.equal(settled[skipped], offset[skipped]) and torch.equal(settled[~skipped], wild[~skipped])
    streams, again = case.frozen.encode_settled(psi, wild)
    assert torch.equal(again, settled)
    assert torch.equal(case.frozen.decode_y(psi, streams), settled)
    assert case.frozen.encode_settled(psi, wild, engine="reference")[0] == streams
    assert torch.equal(case.frozen.settle(psi, settled)[0], settled)
    if case.plan.skip >= 0:
        assert bool(skipped.any()) and not torch.equal(settled, wild)
        for engine in ("cpu", "reference"):
            with pytest.raises(ValueError, match="not coded"):
                case.frozen.encode_y(psi, wild, version=2, engine=engine)


def test_z_that_is_not_coded():
    case = Case("z")
    z, _, _ = case.tensors()
    fixed = case.plan.z_values != CODED
    assert fixed.sum() == 4 and case.plan.coded_channels.tolist() == np.flatnonzero(~fixed).tolist()
    wild = z + 1
    assert torch.equal(case.frozen.fix_z(wild)[..., ~fixed], wild[..., ~fixed])
    assert torch.equal(case.frozen.fix_z(wild)[..., fixed], z[..., fixed])
    with pytest.raises(RuntimeError, match="not coded"):
        case.frozen.encode_z(wild, version=2)
    with pytest.raises(ValueError, match="not coded"):
        case.frozen.encode_z(wild, version=2, engine="reference")
    fewer = case.frozen.encode_z(z, version=2)[0].data
    assert len(fewer) < len(FrozenEntropyModel(replace(case.plan, z_values=None)).encode_z(z, version=2)[0].data)


def test_skipping_saves_symbols():
    case = Case("skip")
    coded = reference.parameters(case.plan, case.psi, case.y)[1] >= case.plan.skip_rows
    assert 0.2 < coded.mean() < 0.8
    _, psi, y = case.tensors()
    everything = FrozenEntropyModel(replace(case.plan, skip=-1))
    longer = sum(len(s.data) for s in everything.encode_y(psi, y, lanes=1, version=2)[0])
    assert sum(len(s.data) for s in case.frozen.encode_y(psi, y, lanes=1, version=2)[0]) < longer


def test_streams_of_version_1_are_refused():
    case = Case("all")
    z, psi, y = case.tensors()
    for engine in ("cpu", "reference"):
        with pytest.raises(ValueError, match="version 2"):
            case.frozen.encode_z(z, engine=engine)
        with pytest.raises(ValueError, match="version 2"):
            case.frozen.encode_y(psi, y, version=1, engine=engine)


@pytest.fixture(scope="module")
def skipping():
    """The tiny model with a plan of everything that version 3 has: half of its symbols are not coded."""
    model = copy.deepcopy(tiny.model())
    plan = model.frozen.plan
    x = torch.from_numpy(tiny.photo(64, 80)).permute(2, 0, 1)[None] / 255
    packet = parse_packets(model.frozen, compress(model, x)["strings"], None)[0]
    row = decode_packets(model.frozen, [packet]).parameters[1]
    skip = int(np.searchsorted(plan.first_row, float(row.float().median()), side="right")) - 1
    z_hat = model.frozen.decode_z([packet.z_stream], *packet.z_shape)
    values = np.full(plan.hyper_channels, CODED, np.int32)
    values[::2] = z_hat[0, 0, 0, ::2]
    model.frozen = FrozenEntropyModel(replace(plan, skip=skip, z_values=values), model.frozen.shifts)
    return model, x


@pytest.mark.parametrize("effort", [1, 2, 3, 4, 5])
def test_every_effort_codes_what_is_decoded(skipping, effort):
    model, x = skipping
    out = compress(model, x, 5, effort=effort)
    packet = parse_packets(model.frozen, out["strings"], out["shape"])[0]
    assert packet.version == 2
    decoded, plain = (decode_packets(model.frozen, [packet], engine=engine) for engine in ("cpu", "reference"))
    assert torch.equal(decoded.y_hat, plain.y_hat)
    offset, row = decoded.parameters
    skipped = row < model.frozen.plan.skip_rows
    assert 0.2 < skipped.float().mean() < 0.95
    assert torch.equal(decoded.y_hat[skipped], offset[skipped])
    # What g_s reads comes out of the decoder as it comes out of the parameters.
    restored = decode_packets(model.frozen, [packet], restore=True).restored
    assert torch.equal(restored, model.frozen.centroids(decoded.y_hat, offset, row))
    values = model.frozen.plan.z_values
    z_hat = model.frozen.decode_z([packet.z_stream], *packet.z_shape)
    assert (z_hat.numpy() == values)[..., values != CODED].all()
    old = packet._replace(version=1, lanes=(1,) * 4, streams=(bytes(5),) * 4)
    with pytest.raises(DamagedError, match="version 1"):
        decompress(model, [[old.to_strings()[0]], [old.to_strings()[1]]])


def test_efforts_still_find_something(skipping):
    """What a search gains it gains of what a file holds, with the symbols that are not coded."""
    model, x = skipping
    price = float(lagrange_multiplier(torch.tensor(5.0))) * 255**2 * x.numel() / 3
    cost = {}
    for effort in (1, 3, 5):
        out = compress(model, x, 5, effort=effort)
        error = float((decompress(model, **out)["x_hat"] - x).square().mean())
        cost[effort] = 8 * sum(len(s[0]) for s in out["strings"]) + price * error
    assert cost[5] <= cost[3] * 1.001 and cost[5] < cost[1]


def test_freezing_leaves_out_what_never_varies():
    plan = random_plan(np.random.default_rng(4), groups=(3,), hyper_channels=3)
    certain, likely = np.array([1, 65531, 2, 2]), np.array([9, 65518, 8, 1])
    rows = TableRows.from_frequencies([-1] * 3, [certain, likely, certain])
    plan, zeros = replace(plan, z_rows=rows), torch.zeros(2, 3, 4, 4)
    seen = zeros.clone()
    seen[1, 0, 2, 2] = 1
    assert leave_out(plan, 0, [zeros]).z_values.tolist() == [0, CODED, 0]
    assert leave_out(plan, 0, [zeros, seen]).z_values.tolist() == [CODED, CODED, 0]
    assert leave_out(plan, 0, [seen, 1 + zeros]).z_values is None
    assert leave_out(plan, 5, [zeros]).skip == 5
    assert leave_out(plan, -1, [1 + zeros]).version == 1


@pytest.mark.parametrize(
    "change, message",
    [
        ({"skip": 63}, "0..62"),
        ({"skip": 5, "residual": True, "fraction_bits": np.zeros(64, np.uint8)}, "residual"),
        ({"z_values": np.full(3, CODED, np.int32)}, "values of z"),
        ({"z_values": np.full(8, 40000, np.int32)}, "16 bits"),
        ({"schedules": (Schedule(),)}, "1 schedules for 2"),
        ({"schedules": (Schedule(), Schedule())}, "first group"),
        ({"schedules": (Schedule(3, 1), Schedule())}, "no position may read"),
    ],
)
def test_bad_plans(change, message):
    plan = random_plan(np.random.default_rng(2), groups=(4, 3), hyper_channels=8)
    with pytest.raises(PlanError, match=message):
        replace(plan, **change).to_bytes()


def test_damage(case):
    """Every truncation, and flips: refused, or other latents of the same kind; never a crash. The oracle agrees."""
    _, psi, _ = case.tensors()
    streams, rng = case.streams[4], np.random.default_rng(3)
    group = len(streams) - 1
    for cut in range(len(streams[group].data)):
        bad = [*streams[:-1], (streams[group].data[:cut], streams[group].code)]
        with pytest.raises(BitstreamError):
            case.frozen.decode_y(psi, [bad])
    accepted = 0
    for k in range(150):
        data = bytearray(streams[group].data)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        bad = [*streams[:-1], (bytes(data), streams[group].code)]
        kinds = []
        for engine in ("cpu", "reference") if k < 10 else ("cpu",):
            try:
                kinds.append(case.frozen.decode_y(psi, [bad], engine=engine).tolist())
            except BitstreamError as error:
                kinds.append(type(error))
        accepted += isinstance(kinds[0], list)
        assert all(kind == kinds[0] for kind in kinds)
    assert accepted <= 3

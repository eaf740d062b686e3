"""Capturing the whole decoding in a CUDA graph, on machines without a GPU.

Three halves of a proof: the operators' launches, captured and replayed by the emulator, which refuses whatever a driver
refuses during capture; the Python around them, on fake CUDA tensors, watched for copies between host and GPU and for
values that the host asks for; `ccm-fast profile` with both. (Faults planted into the launches: test_cuda_sanitize.py.)
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from watching import watched

from ccm_fast import _backend, codec
from ccm_fast.bench import stages
from ccm_fast.bench.timing import DeviceError
from ccm_fast.command import profile as profiler
from ccm_fast.decoding import decoding_gain, parse_packets
from ccm_fast.entropy import tensors
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.tensors import DeviceStreams
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.errors import DamagedError, TruncatedError
from ccm_fast.files import encode_file
from ccm_fast.picture_filter import PictureFilter

pytestmark = pytest.mark.slow

H, W = 6, 9
ANY = torch.zeros(1)


@pytest.fixture
def emulated(emulated_ops, monkeypatch):
    """The emulator's operators, which stand for all."""
    rans = _backend.load().rans
    monkeypatch.setattr(_backend, "load", lambda: SimpleNamespace(ops=emulated_ops, rans=rans))
    return emulated_ops


def material(seed, images=2, count=2):
    """A model and, `count` times, the streams and latents of a batch."""
    rng = np.random.default_rng(seed)
    plan = random_plan(rng, groups=(5, 6), hyper_channels=3)
    model, native = FrozenEntropyModel(plan), _backend.load().ops
    packed = native.pack_plan(torch.frombuffer(bytearray(plan.to_bytes()), dtype=torch.uint8), "")
    batches = []
    for lanes in (4, 32, 1)[:count]:
        drawn = zip(*[sample_latents(rng, plan, H, W) for _ in range(images)], strict=True)
        z, y = (torch.from_numpy(np.stack(v)).to(torch.int16) for v in drawn)
        z_streams = [s[0] for s in tensors.split(*native.encode_z(packed, z, lanes, 1))]
        psi = native.hyper(packed, z, H, W, 1)
        batches.append((z_streams, tensors.split(*native.encode_y(packed, psi, y, lanes, 1)), y))
    return model, batches


def test_a_captured_decoding_decodes_other_streams(request):
    model, batches = material(1, count=3)
    ops = request.getfixturevalue("emulated")
    sizes = [[sum(len(s.data) for s in z), sum(len(s.data) for i in y for s in i)] for z, y, _ in batches]
    streams = model.upload(*batches[0][:2], "cuda", np.max(sizes, 0))
    ops.graph_capture(ANY)
    with pytest.raises(RuntimeError, match="run once first"):
        model.decode_queued(streams, (H, W))
    ops.graph_end(ANY)
    _, y_hat, _, status = model.decode_queued(streams, (H, W))
    model.check(status)
    assert torch.equal(y_hat, batches[0][2])

    ops.graph_capture(ANY)
    _, y_hat, _, status = model.decode_queued(streams, (H, W))
    graph = ops.graph_end(ANY)
    for z_streams, y_streams, expected in [*batches, *batches[::-1]]:
        streams.fill(z_streams, y_streams)
        for t in (y_hat, *status):
            t.fill_(99)
        ops.graph_replay(graph)
        model.check(status)
        assert torch.equal(y_hat, expected)

    # Damage, after which the graph is as good as before.
    z_streams, y_streams, expected = batches[1]
    data, lanes = y_streams[1][0]
    streams.fill(z_streams, [y_streams[0], [(data[: len(data) // 2], lanes), *y_streams[1][1:]]])
    ops.graph_replay(graph)
    with pytest.raises((TruncatedError, DamagedError), match="image 1: a stream of y"):
        model.check(status)
    streams.fill(z_streams, y_streams)
    ops.graph_replay(graph)
    model.check(status)
    assert torch.equal(y_hat, expected)
    with pytest.raises(ValueError, match="there is room for"):
        streams.fill(z_streams, [[(bytes(5000), 1)] * 2] * 2)
    with pytest.raises(ValueError, match="2 groups and 2 images"):
        streams.fill(z_streams[:1], y_streams[:1])


def test_what_a_graph_has_captured_stays(request):
    """More models and sizes than are kept on the GPU come by; the graph is replayed afterwards."""
    model, (batch,) = material(2, images=1, count=1)
    others = [random_plan(np.random.default_rng(k), groups=(2,), hyper_channels=1) for k in range(70)]
    ops = request.getfixturevalue("emulated")
    streams = model.upload(*batch[:2])
    model.decode_queued(streams, (H, W))
    ops.graph_capture(ANY)
    _, y_hat, _, status = model.decode_queued(streams, (H, W))
    graph = ops.graph_end(ANY)
    for plan in others:
        other = FrozenEntropyModel(plan)
        psi = other.hyper(torch.zeros(1, 1, 1, 1, dtype=torch.int16), 1, 1, engine="cuda")
        other.encode_y(psi, torch.zeros(1, 1, 1, 2, dtype=torch.int16), engine="cuda")
    y_hat.fill_(99)
    ops.graph_replay(graph)
    model.check(status)
    assert torch.equal(y_hat, batch[2])


class Shapes:
    """The operators, as far as their results' shapes go."""

    def decode_z(self, packed, data, segments, hz, wz, threads):
        z_hat = data.new_empty(len(segments), hz, wz, tiny.CONFIG.hyper_channels, dtype=torch.int16)
        return z_hat, data.new_empty(len(segments), dtype=torch.int32)

    def hyper(self, packed, z_hat, h, w, threads):
        return z_hat.new_empty(len(z_hat), h, w, tiny.CONFIG.psi_channels, dtype=torch.uint8)

    def decode_y(self, packed, psi, data, segments, threads):
        y_hat = psi.new_empty(*psi.shape[:3], sum(tiny.CONFIG.groups), dtype=torch.int16)
        return y_hat, psi.new_empty(len(psi), dtype=torch.int32)

    def decode_y_restored(self, packed, psi, data, segments, shifts, threads):
        assert shifts.device == psi.device
        y_hat, status = self.decode_y(packed, psi, data, segments, threads)
        return y_hat, status, torch.empty_like(y_hat, dtype=torch.float32)

    def picture_filter(self, pixels, records, out):
        assert pixels.device == records.device == out.device and pixels.shape == out.shape


@pytest.mark.parametrize("grey, reconstruction", [(False, "integer"), (True, "centroid")])
def test_from_streams_to_pixels_the_host_waits_for_nothing(grey, reconstruction, monkeypatch):
    model = tiny.make()
    image = torch.from_numpy(tiny.photo(70, 90)).permute(2, 0, 1)[None] / 255
    packets = parse_packets(model.frozen, **codec.compress(model, image))
    packets[0] = packets[0]._replace(grey=grey)
    monkeypatch.setattr(FrozenEntropyModel, "packed_for", lambda *_: None)
    monkeypatch.setattr(_backend, "load", lambda: SimpleNamespace(ops=Shapes()))
    decoder = stages.Decoder.__new__(stages.Decoder)
    decoder.model, decoder.frozen, decoder.engine = model, model.frozen, "cuda"
    decoder.device, decoder.threads = torch.device("meta"), 1
    colours = 1 if grey else 3
    decoder.filter = PictureFilter((300,), torch.ones(2, colours, 6 * colours))
    model.to("meta")
    shapes = [((900,), torch.uint8), ((1, 3), torch.int64), ((2000,), torch.uint8), ((1, 3, 3), torch.int64)]
    streams = DeviceStreams(*(torch.empty(s, dtype=d, device="meta") for s, d in shapes))
    with torch.inference_mode():
        gain, records = decoding_gain(model, packets), decoder.records()
        model.config = replace(model.config, reconstruction=reconstruction)
        decoder.queued(streams, packets[0], stages.HostClock())  # the first call makes tables
        with watched():  # what is captured
            decoded = decoder.queued(streams, packets[0], stages.HostClock())
            pixels = decoder.picture(packets[0], decoded, stages.HostClock(), gain, records)
        status, y_hat = decoded.status, decoded.y_hat
        assert (decoded.restored is None) == (reconstruction == "integer")
        assert pixels.shape == (70, 90, 3) and pixels.device.type == status[0].device.type == "meta"
        # The net catches: what the gain is made of, an index of Python numbers, a look at the status, a mask.
        for waits in (
            lambda: decoding_gain(model, packets),
            lambda: y_hat[[0]],
            lambda: model.frozen.check(status),
            lambda: bool(status[0].any()),
            lambda: y_hat[y_hat > 0],
        ):
            # torch itself has no values to give of a meta tensor, and says so.
            refused = "makes the host wait|no data|nonzero"
            with watched(), pytest.raises((AssertionError, NotImplementedError), match=refused):
                waits()


def test_profile_with_the_cuda_engine(request, monkeypatch, tmp_path):
    """Stages by the emulator, timed by the host's clock, and the same picture as by the CPU engine."""
    photo, coded = tmp_path / "photo.png", tmp_path / "photo.ccm"
    Image.fromarray(tiny.photo(40, 56, 1)).save(photo)
    model = tiny.model()
    encode_file(photo, coded, model=model, lanes=32)
    by_cpu = stages.Decoder(str(coded), model, torch.device("cpu"), 1, None)
    by_cpu.run()
    request.getfixturevalue("emulated")
    monkeypatch.setattr(stages, "engine_for", lambda *_: "cuda")
    decoder = stages.Decoder(str(coded), model, torch.device("cpu"), 1, None)
    names = [s.name for s in decoder.run()]
    assert names[:5] == ["parse", "upload", "z", "h_s", "entropy"] and names[-1] == "download"
    decoder.run()  # compares
    assert all(torch.equal(a, b) for a, b in zip(decoder.expected, by_cpu.expected, strict=True))


@pytest.mark.parametrize("reconstruction", ["integer", "centroid"])
def test_decompress_checks_at_its_end(request, reconstruction, monkeypatch):
    """With the engine "cuda", g_s is queued before anybody looks at the status; damage is an error all the same. What
    symbols stand for comes from the kernels: the network of parameters does not run again.
    """
    model = tiny.make()
    model.config = replace(model.config, reconstruction=reconstruction)
    strings = codec.compress(model, torch.rand(2, 3, 33, 50))
    expected = codec.decompress(model, **strings)["x_hat"]
    request.getfixturevalue("emulated")
    for name in ("parameters", "parameters_on"):
        monkeypatch.setattr(FrozenEntropyModel, name, lambda *_: pytest.fail("the network runs a second time"))
    assert torch.equal(codec.decompress(model, **strings, engine="cuda")["x_hat"], expected)
    packets = parse_packets(model.frozen, **strings)
    data = bytearray(packets[1].streams[2])
    data[-3] ^= 1
    damaged = packets[1]._replace(streams=(*packets[1].streams[:2], bytes(data), *packets[1].streams[3:]))
    strings["strings"] = [list(v) for v in zip(packets[0].to_strings(), damaged.to_strings(), strict=True)]
    with pytest.raises((DamagedError, TruncatedError), match="image 1: a stream of y"):
        codec.decompress(model, **strings, engine="cuda")


def test_a_graph_without_kernels_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(profiler, "device_for", torch.device)
    monkeypatch.setattr(profiler, "engine_for", lambda *_: "cpu")
    with pytest.raises(DeviceError, match="CCM_CUDA=1"):
        profiler.profile([tmp_path], device="cuda", graph=True)

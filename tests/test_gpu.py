"""The CUDA engine on a real GPU: the operators on CUDA tensors against those on CPU tensors, and what only a GPU shows.

Skipped, with the reason, where there is no GPU; `make gpu-check` runs it, under compute-sanitizer too where that is.
"""

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tiny
from test_cuda_emulated import CASES, VERSION_2, Case, split
from test_cuda_filter import by_torch, check, grain, made
from test_cuda_graph import H, W, material
from test_cuda_version3 import CASES as CASES_3

import ccm_fast
from ccm_fast import Codec, _backend, encode_batch
from ccm_fast.command.profile import profile
from ccm_fast.effort.levels import LEVELS
from ccm_fast.files import decode_bytes
from ccm_fast.picture_filter import filter_on_gpu, records_of
from ccm_fast.queued_encoding import queue_images
from ccm_fast.stream.container import FILTER, parse_container

ops = _backend.load().ops


def missing():
    if not _backend.build_info().get("cuda"):
        return "this build of ccm_fast has no CUDA kernels"
    if not torch.version.cuda:
        return "this torch is a CPU build"
    if not torch.cuda.is_available():
        return "no GPU"
    major, minor = torch.cuda.get_device_capability()
    return "" if (major, minor) >= (7, 5) else f"the GPU is sm_{major}{minor}; 7.5 is needed"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=f"needs a GPU: {missing()}")]
DEVICES = [f"cuda:{i}" for i in range(torch.cuda.device_count() if torch.version.cuda else 0)] or ["cuda:0"]


@pytest.fixture(scope="module", params=CASES)
def case(request):
    c = Case(request.param)
    c.on_gpu = ops.pack_plan_cuda(torch.frombuffer(bytearray(c.plan.to_bytes()), dtype=torch.uint8))
    return c


def decoded(case, data, segments, device="cuda"):
    y, status = ops.decode_y(case.on_gpu, case.psi.to(device), data.to(device), segments.to(device), 1)
    return y.cpu(), status.cpu()


@pytest.mark.parametrize("lanes", [1, 4, 32])
def test_z_and_psi(case, lanes):
    data, segments = case.encode_z(lanes)
    z, status = ops.decode_z(case.on_gpu, data.cuda(), segments.cuda(), *case.z.shape[1:3], 1)
    assert not status.any() and torch.equal(z.cpu(), case.z)
    assert torch.equal(ops.hyper(case.on_gpu, z, case.h, case.w, 1).cpu(), case.psi)
    again = ops.encode_z(case.on_gpu, case.z.cuda(), lanes, 1)
    assert split(*(t.cpu() for t in again)) == split(data, segments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lanes", [1, 2, 8, 16, 32])
def test_y(case, lanes, device):
    data, segments, y_hat = case.encode_y(lanes)
    for _ in range(3):
        y, status = decoded(case, data, segments, device)
        assert not status.any() and torch.equal(y, y_hat)
    psi, given = case.psi.to(device), case.given.to(device)
    if case.plan.residual:
        found, parts, hat = ops.encode_y_residual(case.on_gpu, psi, given, lanes, 1)
        assert torch.equal(hat.cpu(), y_hat)
    else:
        found, parts = ops.encode_y(case.on_gpu, psi, given, lanes, 1)
    assert split(found.cpu(), parts.cpu()) == split(data, segments)


@pytest.mark.parametrize("name", CASES_3)
def test_plans_of_version_3(name):
    case = Case(name, CASES_3)
    packed = ops.pack_plan_cuda(torch.frombuffer(bytearray(case.plan.to_bytes()), dtype=torch.uint8))
    for lanes in (0, 1, 32, 128):
        z_data, z_parts = case.encode_z(VERSION_2 + lanes)
        z, status = ops.decode_z(packed, z_data.cuda(), z_parts.cuda(), *case.z.shape[1:3], 1)
        assert not status.any() and torch.equal(z.cpu(), case.z)
        data, segments, y_hat = case.encode_y(VERSION_2 + lanes)
        y, status = ops.decode_y(packed, case.psi.cuda(), data.cuda(), segments.cuda(), 1)
        assert not status.any() and torch.equal(y.cpu(), y_hat)


def test_damage_leaves_the_context_alive(case):
    data, segments, y_hat = case.encode_y(4)
    rng = np.random.default_rng(1)
    for _ in range(40):
        broken = torch.from_numpy(rng.integers(0, 256, data.numel(), dtype=np.uint8))
        _, status = decoded(case, broken, segments)
        _, expected = ops.decode_y(case.packed, case.psi, broken, segments, 1)
        assert (status == 0).tolist() == (expected == 0).tolist()
    y, status = decoded(case, data, segments)
    assert not status.any() and torch.equal(y, y_hat)


def test_streams_and_graphs():
    """On a stream that is not the default, captured into a graph and replayed on other input."""
    case = Case("ccm")
    packed = ops.pack_plan_cuda(torch.frombuffer(bytearray(case.plan.to_bytes()), dtype=torch.uint8))
    data, segments, y_hat = case.encode_y(8)
    psi, bytes_, parts = case.psi.cuda(), data.cuda(), segments.cuda()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        y, _ = ops.decode_y(packed, psi, bytes_, parts, 1)  # uploads the model and the order, which a graph cannot
    stream.synchronize()
    assert torch.equal(y.cpu(), y_hat)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, status = ops.decode_y(packed, psi, bytes_, parts, 1)
    for _ in range(5):
        y.fill_(99)
        graph.replay()
        assert torch.equal(y.cpu(), y_hat) and not status.any()
    bytes_.fill_(255)
    graph.replay()
    assert status.cpu().all()
    bytes_.copy_(data)
    graph.replay()
    assert torch.equal(y.cpu(), y_hat)


def test_the_whole_decoding_as_a_graph():
    """From streams to y_hat, captured once and replayed on other streams (as in test_cuda_graph.py)."""
    model, batches = material(1, count=3)
    room = np.max([[sum(len(s.data) for s in z), sum(len(s.data) for i in y for s in i)] for z, y, _ in batches], 0)
    streams = model.upload(*batches[0][:2], "cuda", room)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        model.check(model.decode_queued(streams, (H, W)).status)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _, y_hat, _, status = model.decode_queued(streams, (H, W))
    for z_streams, y_streams, expected in [*batches, *batches[::-1]]:
        streams.fill(z_streams, y_streams)
        y_hat.fill_(99)
        graph.replay()
        model.check(status)
        assert torch.equal(y_hat.cpu(), expected)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")  # torch says so when the error leaves the capture
@pytest.mark.parametrize("effort", [1, 2, 3])
def test_encoding_waits_once(effort):
    """The CPU's decisions for the same y, by a device that nobody waits for before the end."""
    model = ccm_fast.load("ccm-small").cuda()
    x = torch.stack([torch.from_numpy(tiny.photo(256, 384, seed)) for seed in (1, 2)]).permute(0, 3, 1, 2) / 255
    x, size = x.cuda(), (256, 384)
    expected = ccm_fast.compress(model, x, effort=effort, engine="cpu")
    assert ccm_fast.compress(model, x, effort=effort, engine="cuda") == expected
    quality = torch.full((2,), 4.0, device="cuda")
    options = {"tune": "psnr", "grey": False, "lanes": 0, "tile_pixels": 1 << 26, "filtered": effort > 1}
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        queued = queue_images(model, lambda i, j: x[..., i, j], size, quality, LEVELS[effort], **options)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    z_streams, y_streams = queued.streams()
    assert len(z_streams) == len(y_streams) == 2


@pytest.mark.parametrize("size", [(1, 1), (35, 131), (512, 768)])
def test_picture_filters_and_their_graph(size):
    """A batch of different filters, as torch's operators apply them; then as a graph, replayed with another batch."""
    rng = np.random.default_rng(8)
    filters = [made(rng, 3, 8), None, made(rng, 1, 4), made(rng, 3, 1)]
    given = [(grain(rng, 4, *size).cuda(), some) for some in (filters, filters[::-1])]
    pixels, records = given[0][0].clone(), torch.from_numpy(records_of(filters)).cuda()
    out = torch.zeros(4, 3, *size, dtype=torch.uint8, device="cuda")
    filter_on_gpu(pixels, records, out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        filter_on_gpu(pixels, records, out)
    for x, some in given[::-1]:
        pixels.copy_(x)
        records.copy_(torch.from_numpy(records_of(some)))
        graph.replay()
        for samples, wanted, found in zip(out.cpu(), x.cpu(), some, strict=True):
            check(samples, wanted.mul(255).round() if found is None else by_torch(wanted, found)[0])


def test_files_with_filters():
    """The golden one through batches, single files and the graph of a profile; then one that the GPU has encoded."""
    model, data = copy.deepcopy(tiny.model()).cuda(), (tiny.GOLDEN / "filter2.ccm").read_bytes()
    expected = torch.from_numpy(Codec.load(tiny.GOLDEN / "tiny.safetensors").decode(data)).permute(2, 0, 1)
    (batch,) = ccm_fast.decode_batch([data], model=model)
    # g_s has other last bits here.
    assert (batch.cpu().int() - expected.int()).abs().max() <= 2
    single = torch.from_numpy(decode_bytes(data, model).picture.pixels).permute(2, 0, 1)
    assert (batch.cpu().int() - single.int()).abs().max() <= 1
    picture = tiny.photo(256, 256, 5)
    (file,) = encode_batch([picture], 6.0, model=copy.deepcopy(ccm_fast.load("ccm-small")).cuda())
    by_cpu = Codec.load("ccm-small").encode(np.asarray(picture), quality=6.0)
    found, wanted = (len(parse_container(f).chunks[FILTER]) for f in (file, by_cpu))
    assert abs(found - wanted) <= 10


def test_a_new_model_cannot_be_captured():
    model, (batch,) = material(7, count=1)
    streams = model.upload(*batch[:2])
    with pytest.raises(RuntimeError, match="run once first"), torch.cuda.graph(torch.cuda.CUDAGraph()):
        model.decode_queued(streams, (H, W))
    _, y_hat, _, status = model.decode_queued(streams, (H, W))
    model.check(status)
    assert torch.equal(y_hat.cpu(), batch[2])


def test_profile_with_a_graph(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(tiny.photo(40, 56, 1)).save(path)
    weights = str(tiny.GOLDEN / "tiny.safetensors")
    (file,) = profile([path], weights, device="cuda", repeats=2, graph=True)["files"]
    assert {"upload", "entropy", "download"} < set(file["stages"]) and file["graph"]["median"] > 0


def test_many_at_once():
    """Several streams at a time: blocks of different launches share the GPU, and each makes progress."""
    case = Case("deep")
    packed = ops.pack_plan_cuda(torch.frombuffer(bytearray(case.plan.to_bytes()), dtype=torch.uint8))
    data, segments, y_hat = case.encode_y(4)
    psi, bytes_, parts = case.psi.cuda(), data.cuda(), segments.cuda()
    ops.decode_y(packed, psi, bytes_, parts, 1)
    torch.cuda.synchronize()
    results = []
    for stream in [torch.cuda.Stream() for _ in range(8)]:
        with torch.cuda.stream(stream):
            results += [ops.decode_y(packed, psi, bytes_, parts, 1)[0] for _ in range(10)]
    torch.cuda.synchronize()
    assert all(torch.equal(r.cpu(), y_hat) for r in results)


def test_a_net_of_compressai_moves_to_the_gpu():
    """Accelerated on the CPU, decoded on the GPU: the picture up to the last bits of g_s, and back again."""
    import compressai_nets as nets

    net = nets.make("mbt2018")
    fast = ccm_fast.accelerate(net, nets.photos(4, 64, 64, seed=9), steps=0)
    x = nets.photos(2, 64, 128)
    out = fast.compress(x)
    expected = fast.decompress(**out)["x_hat"]
    net.cuda()
    found = fast.decompress(**out)["x_hat"]
    assert found.is_cuda and (found.cpu() - expected).abs().max() < 0.01
    assert fast.decompress(**fast.compress(x.cuda()))["x_hat"].is_cuda
    net.cpu()
    assert torch.equal(fast.decompress(**out)["x_hat"], expected)


def test_a_step_of_training_is_replayed(tmp_path, monkeypatch):
    """The recorded graph, and the same work launched anew for each step: the same training, up to atomics and noise."""
    from test_train import config, losses

    from ccm_fast.train import resident
    from ccm_fast.train.loop import train

    Image.fromarray(tiny.photo(96, 96, 1)).save(tmp_path / "a.png")
    options = {"stages": "joint=200", "lr": 1e-3, "resident": True, "device": "cuda", "rdoq": True, "crop": 64}
    recorded = train(config(tmp_path / "graph", tmp_path / "a.png", **options), progress=False)

    def launch(self, *inputs):
        return self.function(*(t.to(self.device) for t in inputs))

    monkeypatch.setattr(resident.Replay, "__call__", launch)
    launched = train(config(tmp_path / "plain", tmp_path / "a.png", **options), progress=False)
    a, b = (losses(path.parent) for path in (recorded, launched))
    assert a[-1] < a[0] and a == pytest.approx(b, rel=0.1)

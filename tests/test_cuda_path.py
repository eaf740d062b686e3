"""What Python does around the CUDA operators, with the emulator's in their place."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import ccm_fast
from ccm_fast import _backend, engine_times, engines
from ccm_fast.decoding import decode_latents
from ccm_fast.engine_times import Gpu
from ccm_fast.engines import engine_for
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.errors import BuildError, DamagedError, TruncatedError
from ccm_fast.stream.packet import Stream

pytestmark = pytest.mark.slow


@pytest.fixture
def emulated(emulated_ops, monkeypatch):
    """A function: whether the operators are the emulator's, from now on."""
    native = _backend.load()

    def use(ops):
        monkeypatch.setattr(_backend, "load", lambda: SimpleNamespace(ops=ops, rans=native.rans))

    return lambda yes: use(emulated_ops if yes else native.ops)


def both(emulated, call):
    """The results of a call of the engines "cpu" and "cuda"."""
    emulated(False)
    expected = call("cpu")
    emulated(True)
    return expected, call("cuda")


@pytest.mark.parametrize("residual", [False, True])
def test_cuda_engine_is_the_cpu_engine(emulated, residual):
    rng = np.random.default_rng(3)
    plan = random_plan(rng, groups=(5, 6), residual=residual, leaky=residual, scaled=residual)
    model, (h, w) = FrozenEntropyModel(plan), (6, 9)
    z_hat, y_hat = (
        torch.from_numpy(np.stack(v)).to(torch.int16) for v in zip(*[sample_latents(rng, plan, h, w) for _ in range(3)])
    )
    z_streams, other = both(emulated, lambda engine: model.encode_z(z_hat, engine=engine))
    assert z_streams == other
    psi, other = both(emulated, lambda engine: model.hyper(z_hat, h, w, engine=engine))
    assert torch.equal(psi, other)
    if residual:
        y = torch.randn(3, h, w, 11, generator=torch.Generator().manual_seed(0)) * 3
        (y_streams, y_hat), (others, y_other) = both(
            emulated, lambda engine: model.encode_y_residual(psi, y, engine=engine)
        )
        assert y_streams == others and torch.equal(y_hat, y_other)
    else:
        y_streams, others = both(emulated, lambda engine: model.encode_y(psi, y_hat, engine=engine, lanes=8))
        assert y_streams == others
    for decoded in both(emulated, lambda engine: model.decode_y(psi, y_streams, engine=engine)):
        assert torch.equal(decoded, y_hat)
    for decoded in both(emulated, lambda engine: model.decode_z(z_streams, -(-h // 4), -(-w // 4), engine=engine)):
        assert torch.equal(decoded, z_hat)

    # From the bytes on, and what damage does.
    assert torch.equal(model.decode(z_streams, y_streams, (h, w)), y_hat)
    packets = [
        SimpleNamespace(version=1, z_stream=z, y_streams=y, z_shape=(-(-h // 4), -(-w // 4)), y_shape=(h, w))
        for z, y in zip(z_streams, y_streams, strict=True)
    ]
    assert torch.equal(decode_latents(model, packets, engine="cuda"), y_hat)
    data, lanes = y_streams[1][1]
    y_streams[1][1] = (data[:-2], lanes)
    with pytest.raises(TruncatedError, match="image 1: a stream of y"):
        model.decode(z_streams, y_streams, (h, w))
    data, lanes = z_streams[2]
    z_streams[2] = (bytes([data[0] ^ 64]) + data[1:], lanes)
    with pytest.raises((DamagedError, TruncatedError), match="image 2: a stream of z"):
        model.decode(z_streams, y_streams, (h, w))
    with pytest.raises(ValueError, match="one stream for each of 2 groups"):
        model.decode(z_streams, y_streams[:2], (h, w))


def test_models_that_do_not_code_everything(emulated):
    rng = np.random.default_rng(6)
    schedules = ("wavefront", "single")
    plan = random_plan(rng, groups=(5, 6), hyper_channels=6, skipped=18, fixed=4, schedules=schedules)
    model, (h, w) = FrozenEntropyModel(plan), (6, 9)
    z_hat, y_hat = (
        torch.from_numpy(np.stack(v)).to(torch.int16) for v in zip(*[sample_latents(rng, plan, h, w) for _ in range(2)])
    )
    emulated(False)
    z_streams, psi = model.encode_z(z_hat, version=2), model.hyper(z_hat, h, w)
    y_streams, y_hat = model.encode_settled(psi, y_hat)
    restored = model.centroids(y_hat, *model.parameters(psi, y_hat))
    for decoded in both(emulated, lambda engine: model.decode_z(z_streams, 2, 3, engine=engine)):
        assert torch.equal(decoded, z_hat)
    for decoded in both(emulated, lambda engine: model.decode_y(psi, y_streams, engine=engine)):
        assert torch.equal(decoded, y_hat)
    assert torch.equal(model.decode(z_streams, y_streams, (h, w)), y_hat)
    queued = model.decode_queued(model.upload(z_streams, y_streams), (h, w), restore=True)
    model.check(queued.status)
    assert torch.equal(queued.y_hat, y_hat) and torch.equal(queued.restored, restored)
    for other in both(emulated, lambda engine: model.encode_z(z_hat, version=2, engine=engine)):
        assert other == z_streams
    for other in both(emulated, lambda engine: model.encode_y(psi, y_hat, version=2, engine=engine)):
        assert other == y_streams
    wild = y_hat + torch.from_numpy(rng.integers(-2, 3, y_hat.shape)).short()
    (streams, settled), (others, same) = both(emulated, lambda engine: model.encode_settled(psi, wild, engine=engine))
    assert streams == others and torch.equal(settled, same) and not torch.equal(settled, wild)
    with pytest.raises(ValueError, match="not coded"):
        model.encode_y(psi, wild, version=2, engine="cuda")
    with pytest.raises(ValueError, match="not coded"):
        model.encode_z(z_hat + 1, version=2, engine="cuda")
    with pytest.raises(ValueError, match="version 2"):
        model.encode_z(z_hat, version=1, engine="cuda")
    ops, packed = torch.ops.ccm_fast_emu, model.packed_for("cuda", None)
    for call in (
        lambda: ops.encode_z(packed, z_hat, 0, 64),
        lambda: ops.encode_settled(packed, psi, y_hat, 32, 64),
        lambda: ops.encode_y(packed, psi, y_hat, 256, 64),
    ):
        with pytest.raises(RuntimeError, match=r"version 2|encode_settled"):
            call()
    # A value that its channel does not have gives an empty stream, which no decoder accepts.
    data, segments = ops.encode_z(packed, z_hat + 1, 256 + 1, 64)
    assert segments[:, 1].tolist() == [0, 0] and ops.decode_z(packed, data, segments, 2, 3, 64)[1].all()


def test_cuda_operators_check_their_arguments(emulated):
    plan = random_plan(np.random.default_rng(4))
    model = FrozenEntropyModel(plan)
    emulated(True)
    ops, packed = torch.ops.ccm_fast_emu, model.packed_for("cuda", None)
    z = torch.zeros(1, 1, 1, 4, dtype=torch.int16)
    psi = ops.hyper(packed, z, 2, 3, 64)
    data, segments = ops.encode_y(packed, psi, torch.zeros(1, 2, 3, 12, dtype=torch.int16), 0, 64)
    for call in (
        lambda: ops.hyper(packed, z, 9, 9, 64),
        lambda: ops.hyper(packed[:-1].clone(), z, 2, 3, 64),
        lambda: ops.hyper(packed, z.to(torch.int32), 2, 3, 64),
        lambda: ops.decode_y(packed, psi[..., :-1].contiguous(), data, segments, 64),
        lambda: ops.decode_y(packed, psi, data, segments[:, :1].contiguous(), 64),
        lambda: ops.encode_y(packed, psi, torch.zeros(1, 2, 3, 11, dtype=torch.int16), 0, 64),
        lambda: ops.encode_y(packed, psi, torch.zeros(1, 2, 3, 12, dtype=torch.int16), 3, 64),
        lambda: ops.encode_y_residual(packed, psi, torch.zeros(1, 2, 3, 12, dtype=torch.int32), 0, 64),
        lambda: ops.encode_z(packed, z.expand(1, 1, 2, 4), 0, 64),
        lambda: ops.decode_y_restored(packed, psi, data, segments, torch.zeros(len(plan.y_rows.n) - 1, 49), 64),
        lambda: ops.decode_y_restored(packed, psi, data, segments, torch.zeros(len(plan.y_rows.n), 48), 64),
    ):
        with pytest.raises(RuntimeError):
            call()
    # Segments lie in device memory, where only the kernel can look at them: a bad one is damage.
    for bad in ([-1, 5, 1], [0, 1 << 40, 1], [0, 5, 3], [0, -5, 1]):
        wrong = segments.clone()
        wrong[0, 1] = torch.tensor(bad)
        assert ops.decode_y(packed, psi, data, wrong, 64)[1].item() != 0
    # A value that no decoder accepts gives an empty stream.
    assert ops.encode_z(packed, torch.full_like(z, -32768), 0, 64)[1][0, 1] == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_the_engine_says_what_is_missing(monkeypatch):
    model = FrozenEntropyModel(random_plan(np.random.default_rng(0)))
    z = torch.zeros(1, 1, 1, 4, dtype=torch.int16)
    monkeypatch.setattr(_backend, "has_cuda", lambda: False)
    with pytest.raises(BuildError, match="CCM_CUDA=1"):
        model.hyper(z, 1, 1, engine="cuda")
    monkeypatch.setattr(_backend, "has_cuda", lambda: True)
    with pytest.raises(ValueError, match="no CUDA device"):
        model.encode_z(z, engine="cuda")


@pytest.fixture(scope="module")
def shipped_plan():
    return ccm_fast.load("ccm-small").frozen.plan


# Of ccm-small, with as many bytes a stream as photographs have at quality 4.
PHOTOGRAPH = {
    "shape": (32, 48),
    "images": 1,
    "lanes": 16,
    "threads": 1,
    "isa": "avx512vnni",
    "gpu": Gpu(),
    "size": 6000,
}


@pytest.mark.parametrize("change, gpu", [
    ({}, True), ({"lanes": 1}, False), ({"images": 64, "lanes": 1}, True), ({"lanes": 1, "isa": "avx2"}, True),
    ({"images": 8, "threads": 8}, True), ({"images": 256, "threads": 256}, False), ({"size": 200, "lanes": 1}, True),
    ({"shape": (4, 4), "size": 50}, False), ({"gpu": Gpu(10, 0.4), "images": 16, "threads": 4}, False),
    ({"shape": (68, 120), "lanes": 32, "size": 30000}, True),
])  # fmt: skip
def test_the_engine_that_is_predicted_to_be_faster_is_chosen(monkeypatch, shipped_plan, change, gpu):
    """By lanes, images, threads, kernels of the processor, bytes, sizes, and the GPU."""
    case = {**PHOTOGRAPH, **change}
    monkeypatch.setattr(engines, "has_cuda", lambda: True)
    monkeypatch.setattr(engines, "gpu_of", lambda device: case["gpu"])
    monkeypatch.setattr(engine_times, "native", lambda: SimpleNamespace(isa_list=lambda: f"{case['isa']},scalar"))
    streams = [Stream(bytes(case["size"]), 256 + case["lanes"])] * 5
    packets = [SimpleNamespace(y_shape=case["shape"], y_streams=streams)] * case["images"]

    def choose(engine, device, plan=shipped_plan):
        frozen = SimpleNamespace(plan=plan)
        return engines.decoding_engine(engine, torch.device(device), frozen, packets, case["threads"])

    assert choose(None, "cuda") == ("cuda" if gpu else "cpu")
    assert choose("cuda", "cuda") == "cuda" and choose("cpu", "cuda") == choose(None, "cpu") == "cpu"


def test_what_a_driver_says_of_a_gpu(monkeypatch):
    """The fields of torch's record; clocks in kHz."""
    said = SimpleNamespace(multi_processor_count=108, clock_rate=1_410_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: said)
    assert engine_times.gpu_of(torch.device("cuda")) == Gpu(108, pytest.approx(0.712, abs=1e-3))


def test_engine_follows_the_device(monkeypatch):
    for built in (True, False):
        monkeypatch.setattr(engines, "has_cuda", lambda built=built: built)
        assert engine_for(None, torch.device("cpu")) == "cpu"
        assert engine_for(None, torch.device("cuda", 1)) == ("cuda" if built else "cpu")
        assert engine_for("cuda", torch.device("cuda")) == "cuda"
        assert engine_for("reference", torch.device("cuda")) == "reference"

"""Encoding on a GPU without the host in between, on machines without one: the same bytes as by the CPU engine (the
emulator's kernels, and torch's operators, which are a GPU's on CPU tensors), and nothing that waits for the device
before the end (torch's meta device, which has no values to give).
"""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from watching import watched

from ccm_fast import _backend, batches, codec, encode_batch, encoding, queued_encoding
from ccm_fast.effort import correction, search
from ccm_fast.effort.levels import LEVELS
from ccm_fast.effort.rate import tables_of
from ccm_fast.effort.search import stays_on_device
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.entropy.testing import random_plan, sample_latents
from ccm_fast.errors import EncodeError, PictureWarning
from ccm_fast.files import encode_picture
from ccm_fast.images import Picture
from ccm_fast.queued_encoding import queue_images

pytestmark = pytest.mark.slow

# By the net, or by torch itself, which has no values to give of a meta tensor.
REFUSED = r"makes the host wait|no data|meta"


@pytest.fixture
def emulated(emulated_ops, monkeypatch):
    """From now on the operators are the emulator's."""
    native = _backend.load()
    return lambda: monkeypatch.setattr(_backend, "load", lambda: SimpleNamespace(ops=emulated_ops, rans=native.rans))


def photographs(height=70, width=90):
    pictures = np.stack([tiny.photo(height, width, seed) for seed in (1, 2)])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def altered(model, reconstruction="centroid", sensitivities=True):
    model = copy.deepcopy(model)
    model.config = replace(model.config, reconstruction=reconstruction)
    if sensitivities:
        torch.manual_seed(3)
        model.sensitivities = 0.02 * torch.rand(2, model.config.latent_channels)
    return model


def test_the_operators_wait_for_nothing(emulated_ops, emulated):
    """A driver refuses to capture what waits, and so does the emulator; what was captured codes other symbols, too."""
    rng, (h, w) = np.random.default_rng(5), (6, 9)
    model = FrozenEntropyModel(random_plan(rng, groups=(5, 6), hyper_channels=6, skipped=18, fixed=2))
    drawn = [sample_latents(rng, model.plan, h, w) for _ in range(4)]
    z, y = (torch.from_numpy(np.stack(v)).to(torch.int16) for v in zip(*drawn, strict=True))
    expected = []
    for part in (slice(0, 2), slice(2, 4)):
        psi = model.hyper(z[part], h, w)
        settled = model.settle(psi, y[part])[0]
        streams = model.encode_z(z[part], version=2), model.encode_settled(psi, y[part])[0]
        expected.append((psi, settled, streams))
    emulated()
    given = z[:2].clone(), y[:2].clone(), expected[0][0].clone()

    def queue():
        # Parameters are torch's own work, which the emulator does not capture.
        settled = emulated_ops.settled(model.packed_for("cuda", None), given[2], given[1], 64)
        return settled, model.encode_queued(given[0], given[2], given[1])

    queue()
    emulated_ops.graph_capture(torch.zeros(1))
    settled, (coded, same) = queue()
    graph = emulated_ops.graph_end(torch.zeros(1))
    for k in (1, 0):
        for there, here in zip(given, (z[2 * k : 2 * k + 2], y[2 * k : 2 * k + 2], expected[k][0]), strict=True):
            there.copy_(here)
        emulated_ops.graph_replay(graph)
        assert torch.equal(settled, expected[k][1]) and torch.equal(same, settled)
        assert model.fetch(coded)[:2] == expected[k][2]


def test_large_batches_in_parts(emulated, monkeypatch):
    """As many images at a time as may be together; all parts are queued before anybody waits for the first."""
    model, x = altered(tiny.skipping()), torch.cat([photographs(40, 56), photographs(40, 56)[:1]])
    expected = codec.compress(model, x, engine="cpu")
    monkeypatch.setattr(codec, "TILE_PIXELS", 40 * 56)
    monkeypatch.setattr(codec, "QUEUE_PIXELS", 2 * 40 * 56)
    done = []
    queue, fetch = encoding.queue_images, FrozenEntropyModel.fetch
    monkeypatch.setattr(encoding, "queue_images", lambda *a, **k: done.append(len(a[3])) or queue(*a, **k))
    monkeypatch.setattr(FrozenEntropyModel, "fetch", staticmethod(lambda *a: done.append("fetch") or fetch(*a)))
    emulated()
    assert codec.compress(model, x, engine="cuda") == expected
    assert done == [2, 1, "fetch", "fetch"]


@pytest.mark.parametrize("kind, reconstruction, tune", [
    ("model", "centroid", "psnr"), ("skipping", "centroid", "psnr"), ("skipping", "integer", "ms-ssim"),
])  # fmt: skip
def test_bytes_are_those_of_the_cpu_engine(emulated, monkeypatch, kind, reconstruction, tune):
    monkeypatch.setattr(correction, "_LARGEST", 1e9)  # random transforms are no inverses
    model, x = altered(getattr(tiny, kind)(), reconstruction), photographs()
    calls = [{"effort": effort, "quality": [2.0, 6.5], "tune": tune} for effort in (1, 2, 3)]
    expected = [codec.compress(model, x, engine="cpu", **call) for call in calls]
    # Each level does something: their files differ.
    assert len({str(e["strings"]) for e in expected}) == 3
    emulated()
    timings = {}
    for call, same in zip(calls, expected, strict=True):
        assert codec.compress(model, x, engine="cuda", timings=timings, **call) == same
    assert set(timings) == {"entropy"}  # nothing took another way


def test_what_stays_on_the_device(monkeypatch):
    monkeypatch.setattr("ccm_fast.entropy.tensors.device_for", lambda engine, device=None: torch.device("cpu"))
    model = tiny.skipping()
    assert [stays_on_device(model, LEVELS[effort]) for effort in (1, 2, 3, 4, 9)] == [True, True, True, False, False]
    leaky = copy.deepcopy(model)
    leaky.frozen = FrozenEntropyModel(random_plan(np.random.default_rng(0), leaky=True))
    assert not stays_on_device(leaky, LEVELS[3])
    # An engine that is elsewhere than the model: latents go there as they always did.
    assert queued_encoding.queues(model, LEVELS[3], "cuda") and not queued_encoding.queues(model, LEVELS[3], "cpu")
    monkeypatch.setattr("ccm_fast.entropy.tensors.device_for", lambda engine, device=None: torch.device("meta"))
    assert not queued_encoding.queues(model, LEVELS[3], "cuda")


def test_latents_that_cannot_be_coded(emulated):
    model, x = altered(tiny.model()), photographs(40, 40)
    codec.compress(model, x)  # packs the transforms, for which the emulator has no operators
    emulated()
    for value in (40.0, float("nan")):
        model.log_gain.data.fill_(value)
        with pytest.raises(EncodeError, match="y leaves the range"):
            codec.compress(model, x, engine="cuda")


def test_rounding_and_prices_of_all_symbols_at_once():
    """What a GPU does with all symbols is what the CPU does with those beside their means, escapes among them."""
    model = tiny.skipping()
    plan, rng = model.frozen.plan, np.random.default_rng(4)
    shape = (2, 5, 6, plan.latent_channels)
    row = torch.from_numpy(rng.integers(plan.skip_rows, len(plan.y_rows), shape)).to(torch.int16)
    offset = torch.from_numpy(rng.integers(-3, 4, shape)).to(torch.int16)
    wide = rng.integers(-(1 << rng.integers(1, 13, shape)), 1 << rng.integers(1, 13, shape))
    y_hat = torch.from_numpy(wide).int() + offset
    y = y_hat + torch.from_numpy(rng.uniform(-0.5, 0.5, shape)).float()
    weight = torch.from_numpy(rng.uniform(0, 1, (2, 1, 1, shape[3]))).float()
    found = []
    for waits in (True, False):
        bits = tables_of(model.frozen, waits=waits)[0]
        numbers = (y, y_hat, offset, row, bits, weight, model.frozen.centroids)
        found.append((bits(row, y_hat - offset), search.round_towards_mean(*numbers, waits)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    moved = (found[0][1] != y_hat).float().mean()
    assert 0.02 < moved < 0.98 and found[0][0].max() > 20


def test_pictures_of_many_sizes_in_one_call(emulated, monkeypatch):
    """Colour, grey and 16 bits, two of one size, and one that cannot be coded: the files of one after the other."""
    model = altered(tiny.skipping())
    arrays = [tiny.photo(40, 56, 1), tiny.photo(33, 47, 2), tiny.photo(40, 56, 3), tiny.photo(40, 56, 4)[..., 0]]
    arrays.append(tiny.photo(20, 30, 5).astype(np.uint16) * 257 + 9)
    qualities = [2.0, 4.0, 6.5, 3.0, 5.0]
    expected = [encode_picture(Picture(a), q, model, engine="cpu") for a, q in zip(arrays, qualities, strict=True)]
    monkeypatch.setattr(queued_encoding, "engine_for", lambda *_: "cuda")
    monkeypatch.setattr(batches, "_encoded", lambda *_: pytest.fail("one by one"))
    emulated()
    assert encode_batch(arrays, qualities, model=model) == expected
    model.log_gain.data[7] = 40.0
    with pytest.warns(PictureWarning, match="picture 2: y leaves the range"):
        found = encode_batch(arrays, [2.0, 4.0, 8.0, 3.0, 5.0], model=model, errors="none")
    assert found == [*expected[:2], None, *expected[3:]]


class Shapes:
    """The operators, as far as their results' shapes go."""

    def hyper(self, packed, z_hat, h, w, threads):
        return z_hat.new_empty(len(z_hat), h, w, tiny.CONFIG.psi_channels, dtype=torch.uint8)

    def settled(self, packed, psi, y_hat, threads):
        assert psi.device == y_hat.device
        return torch.empty_like(y_hat)

    def encode_z(self, packed, z_hat, lanes, threads):
        return z_hat.new_empty(900, dtype=torch.uint8), z_hat.new_empty(len(z_hat), 3, dtype=torch.int64)

    def encode_settled(self, packed, psi, y_hat, lanes, threads):
        segments = psi.new_empty(len(psi), len(tiny.CONFIG.groups), 3, dtype=torch.int64)
        return psi.new_empty(9000, dtype=torch.uint8), segments, torch.empty_like(y_hat)


@pytest.mark.parametrize("grey, tune", [(False, "psnr"), (True, "ms-ssim")])
@pytest.mark.parametrize("effort", [1, 2, 3])
def test_from_pixels_to_streams_the_host_waits_for_nothing(monkeypatch, effort, grey, tune):
    model = altered(tiny.skipping())
    monkeypatch.setattr(FrozenEntropyModel, "packed_for", lambda *_: None)
    monkeypatch.setattr(_backend, "load", lambda: SimpleNamespace(ops=Shapes()))
    monkeypatch.setattr("ccm_fast.entropy.tensors.device_for", lambda engine, device=None: torch.device("meta"))
    sensitivities = model.sensitivities
    model.to("meta")
    assert model.sensitivities is sensitivities  # on the CPU: copied once
    x, quality = torch.empty(2, 3, 80, 96, device="meta"), torch.empty(2, device="meta")
    options = {"tune": tune, "grey": grey, "lanes": 0, "tile_pixels": 1 << 20, "filtered": True}

    def queue():
        return queue_images(
            model, lambda rows, columns: x[..., rows, columns], (80, 96), quality, LEVELS[effort], **options
        )

    queue()  # the first call makes tables
    with watched():
        queued = queue()
    assert queued.coded.y_segments.device.type == queued.sums.device.type == "meta"
    assert queued.sums.shape == (2, 16, *((6, 7) if grey else (18, 21)))
    with watched(), pytest.raises((AssertionError, NotImplementedError), match=REFUSED):
        queued.streams()
    # The net catches what the CPU's way does.
    monkeypatch.setattr(search, "round_towards_mean", lambda *a, rounded=search.round_towards_mean: rounded(*a[:-1]))
    if effort > 1:
        with watched(), pytest.raises((AssertionError, NotImplementedError), match=REFUSED):
            queue()

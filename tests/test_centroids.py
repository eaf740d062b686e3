"""What g_s reads: expected values of y in the symbols' intervals."""

import io
import weakref
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from ccm_fast import codec, decoding, encode_file, files, tensor_files
from ccm_fast.entropy.centroids import Centroids
from ccm_fast.entropy.likelihood import centroid
from ccm_fast.entropy.network import offsets_and_rows
from ccm_fast.entropy.tables import scales
from ccm_fast.models import CCMConfig, CrossChannelContextModel
from ccm_fast.oracle import reference_decompress


@pytest.fixture
def model():
    model = tiny.make(3)
    model.config = replace(model.config, reconstruction="centroid")
    return model


def test_centroid_is_the_expected_value_in_the_interval():
    rng = np.random.default_rng(0)
    y = torch.from_numpy(rng.integers(-6, 7, 3000)).double()
    mean = torch.from_numpy(rng.normal(0, 3, 3000))
    scale = torch.from_numpy(np.exp(rng.normal(-0.5, 1, 3000)) + 0.11)
    points = y[:, None] + torch.linspace(-0.5, 0.5, 2001, dtype=torch.float64)
    weights = torch.softmax(-0.5 * ((points - mean[:, None]) / scale[:, None]).square(), 1)
    weights[:, [0, -1]] /= 2  # trapezia
    expected = (weights * points).sum(1) / weights.sum(1)
    near = ((y - mean).abs() - 0.5) / scale < 9  # beyond, the interval has no probability in fp32
    assert near.sum() > 2000 and (~near).sum() > 100
    for found in (centroid(y, mean, scale), centroid(y.float(), mean.float(), scale.float()).double()):
        assert (found - expected)[near].abs().max() < 2e-3
        assert ((found - y).abs() <= 0.5 + 1e-5).all()  # inside its interval, however unlikely that is
        assert (found - expected).abs().max() < 0.11


def test_table_of_a_plan_is_the_centroid_of_its_gaussians():
    plan = tiny.model().frozen.plan
    rng = np.random.default_rng(1)
    mean, code = rng.integers(-300, 300, 4000), rng.integers(0, len(plan.scale_table), 4000)
    sigma = torch.from_numpy(scales()[plan.scale_table[code]])
    offset, row = offsets_and_rows(plan, *(torch.from_numpy(v).double() for v in (mean, code)))
    y = (torch.from_numpy(mean / 16) + sigma * torch.from_numpy(rng.normal(size=4000))).round()
    found = Centroids(plan)(y.to(torch.int16), offset, row)
    # Rows of large scales have coarser means.
    assert (found - centroid(y, torch.from_numpy(mean / 16), sigma)).abs().max() < 0.02
    assert found.dtype == torch.float32


def test_centroids_restore_gaussians_better_than_integers():
    generator = torch.Generator().manual_seed(2)
    mean, scale = torch.rand(20000, generator=generator) * 4, torch.rand(20000, generator=generator) + 0.11
    y = mean + scale * torch.randn(20000, generator=generator)
    error = (centroid(y.round(), mean, scale) - y).square().mean()
    assert error < 0.8 * (y.round() - y).square().mean()


@pytest.mark.parametrize("shape", [(1, 1), (5, 7)])
def test_parameters_by_torch_are_the_engines(model, shape):
    rng = np.random.default_rng(4)
    plan = model.frozen.plan
    y_hat = torch.from_numpy(rng.integers(-9, 10, (2, *shape, plan.latent_channels)).astype(np.int16))
    psi = torch.from_numpy(rng.integers(0, 256, (2, *shape, plan.psi_channels)).astype(np.uint8))
    expected = model.frozen.parameters(psi, y_hat)
    for _ in range(2):  # the second call takes what the first one has made
        for found, wanted in zip(model.frozen.parameters_on(psi, y_hat), expected, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.usefixtures("float_transforms")
def test_decoders_agree_and_read_centroids(model):
    x = torch.from_numpy(tiny.photo(50, 70)).permute(2, 0, 1)[None] / 255
    out = codec.compress(model, x, 5.0)
    x_hat = codec.decompress(model, **out)["x_hat"]
    assert (
        reference_decompress(model, **out)["x_hat"] - x_hat
    ).abs().max() < 1e-5  # g_s as it stands, and its fast copy
    assert torch.equal(codec.decompress(model, **out, engine="reference")["x_hat"], x_hat)
    model.config = replace(model.config, reconstruction="integer")
    assert not torch.equal(codec.decompress(model, **out)["x_hat"], x_hat)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_decoders_hand_out_the_parameters_that_they_used(model, engine, threads):
    x = torch.from_numpy(np.stack([tiny.photo(90, 70, k) for k in range(2)])).permute(0, 3, 1, 2) / 255
    packets = decoding.parse_packets(model.frozen, **codec.compress(model, x, 6.0))
    decoded = decoding.decode_packets(model.frozen, packets, threads=threads, engine=engine)
    assert torch.equal(decoded.y_hat, decoding.decode_latents(model.frozen, packets))
    decoded.reconstruct(model)  # the oracle's parameters are computed when they are asked for
    for found, wanted in zip(decoded.parameters, model.frozen.parameters(decoded.psi, decoded.y_hat), strict=True):
        assert torch.equal(found, wanted)


def test_streams_do_not_depend_on_the_reconstruction(model):
    x = torch.from_numpy(tiny.photo(33, 47)).permute(2, 0, 1)[None] / 255
    strings = codec.compress(model, x, effort=1)["strings"]  # higher efforts count the errors of what g_s reads
    model.config = replace(model.config, reconstruction="integer")
    assert codec.compress(model, x, effort=1)["strings"] == strings


@pytest.mark.parametrize("wanted", [False, True])
def test_latents_that_nobody_wants_are_gone_before_pixels_come(model, monkeypatch, wanted):
    """Of the largest picture they take half a gigabyte beside what the synthesis transform reads."""
    data = io.BytesIO()
    encode_file(Image.fromarray(tiny.photo(64, 96)), data, 6, model, effort=1)
    of_y, alive, render = [], [], tensor_files.render

    def decode(*arguments, **options):
        decoded = decoding.decode_packets(*arguments, **options)
        of_y.append(weakref.ref(decoded.y_hat.untyped_storage()))
        return decoded

    def watched(*arguments):
        alive.append(of_y[0]() is not None)
        return render(*arguments)

    monkeypatch.setattr(tensor_files, "decode_packets", decode)
    monkeypatch.setattr(tensor_files, "render", watched)
    decoded = files.decode_bytes(data.getvalue(), model, latents=wanted)
    assert (decoded.latents is not None) == wanted and alive == [wanted]


def test_training_reads_centroids_and_sends_gradients_to_y_alone():
    torch.manual_seed(0)
    model = CrossChannelContextModel(replace(tiny.CONFIG, reconstruction="centroid"))
    y = torch.randn(1, 9, 3, 3, requires_grad=True)
    mean = torch.zeros(1, 9, 3, 3, requires_grad=True)
    found = model.reconstruct(y.round() + (y - y.detach()), mean, torch.ones_like(mean))
    assert (found - y.round()).abs().max() > 0.01
    found.sum().backward()
    assert torch.equal(y.grad, torch.ones_like(y)) and mean.grad is None


def test_wrong_uses_are_refused():
    with pytest.raises(ValueError, match="integer or centroid"):
        CCMConfig(reconstruction="nearest")
    with pytest.raises(ValueError, match="residual"):
        Centroids(replace(tiny.model().frozen.plan, residual=True))

"""Pictures of 1/2, 1/4 and 1/8 of the sides: from g_s, through Pillow, on the command line."""

import io

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image

import ccm_fast
import ccm_fast.interop.pillow
from ccm_fast import errors, files
from ccm_fast.command.info import describe
from ccm_fast.command.main import main
from ccm_fast.decoding import decoding_gain
from ccm_fast.freezing.fitting import Latents
from ccm_fast.freezing.reduced import fit_reduced, fitted_inputs
from ccm_fast.models.transforms import main_path
from ccm_fast.psnr import psnr

WEIGHTS = tiny.GOLDEN / "tiny.safetensors"


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(tiny.photo(75, 90), 5, effort=1, lanes=4)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """The tiny model with short ways to smaller pictures, as a module and as a codec."""
    model = tiny.make()
    generator = torch.Generator().manual_seed(0)
    shape = 1, model.config.latent_channels, 8, 8
    crops = [Latents(torch.randn(shape, generator=generator), None, None, 1.0 + k, (128, 128)) for k in range(3)]
    model.reduced = fit_reduced(model, crops)
    path = tmp_path_factory.mktemp("weights") / "fitted.safetensors"
    ccm_fast.weights.save(model, path)
    return ccm_fast.load(path), ccm_fast.Codec.load(path)


@torch.no_grad()
def by_torch(model, codec, data, factor):
    """The same from torch's modules: uint8 [H, W, 3]."""
    whole = files.decode_bytes(data, codec)
    packet, frozen, config = whole.packet, model.frozen, model.config
    y_hat = torch.from_numpy(whole.latents)[None]
    psi = frozen.hyper(frozen.decode_z([packet.z_stream], *packet.z_shape), *packet.y_shape)
    centroid = config.reconstruction == "centroid"
    values = frozen.centroids(y_hat, *frozen.parameters(psi, y_hat)) if centroid else y_hat.float()
    x = (values.permute(0, 3, 1, 2) * decoding_gain(model, [packet]))[:, : config.coarse_channels]
    _, b8, b16 = config.synthesis_blocks or config.blocks
    path = torch.nn.Sequential(*main_path(model.g_s))
    rows = model.reduced.get(factor)
    if rows is None:
        pixels = F.avg_pool2d(path(x), factor)
    else:
        x = path[: 3 + b16 + b8](x) if factor == 4 else x
        rows = rows.float()
        pixels = F.pixel_shuffle(F.conv2d(x, rows[:, :-1].view(12, -1, 3, 3), rows[:, -1], padding=1), 2)
    height, width = -(-packet.height // factor), -(-packet.width // factor)
    pixels = (pixels[0, :, :height, :width] * 0.25 + 0.5).clamp(0, 1)
    if packet.grey:
        pixels = pixels.mean(0, keepdim=True)
    return pixels.mul(255).round().byte().permute(1, 2, 0).numpy()


def check(found, want, share=2e-3):
    """Pixels may differ in a last bit, where a float lies next to a half: in so many, with 16-bit sums in more."""
    assert found.shape == want.shape and np.abs(found.astype(int) - want).max() <= 1
    assert np.mean(found != want) < share


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_pixels_are_those_of_the_definition(codec, data, fitted, factor):
    check(codec.decode(data, reduce=factor), by_torch(tiny.model(), codec, data, factor))
    model, other = fitted
    assert set(model.reduced) == {4, 8}
    own = other.encode(tiny.photo(75, 90), 5, effort=1)
    check(other.decode(own, reduce=factor), by_torch(model, other, own, factor))
    grey = codec.encode(tiny.photo(33, 17)[..., 1].copy(), 5, effort=1)
    check(codec.decode(grey, reduce=factor)[..., None], by_torch(tiny.model(), codec, grey, factor))


@pytest.mark.parametrize("factor, least", [(2, 45), (4, 42), (8, 38)])
def test_they_are_what_whole_pictures_are_scaled_to(factor, least):
    codec = ccm_fast.Codec.load("ccm-small")
    photo = (tiny.photographs(160, 240)[0].permute(1, 2, 0) * 255).round().byte().numpy()
    data = codec.encode(photo, 5)
    whole = Image.fromarray(codec.decode(data)).reduce(factor)
    found = codec.decode(data, reduce=factor)
    assert psnr(np.asarray(whole), found) > least
    check(found, by_torch(ccm_fast.load("ccm-small"), codec, data, factor), 0.06)
    # The fine group is neither read nor computed: without its bytes the pixels are the same.
    part = data[: describe(data)["previews"][-2]]
    assert np.array_equal(codec.decode(part, groups=codec.groups - 1, reduce=factor), found)
    assert np.array_equal(codec.decode(data, reduce=factor, threads=3), found)


@pytest.mark.slow
def test_tiles_leave_no_seams(codec):
    data = codec.encode(np.tile(tiny.photo(512, 512), (5, 7, 1)), 4, effort=1)  # 9 megapixels: two tiles
    check(codec.decode(data, reduce=2), by_torch(tiny.model(), codec, data, 2))


def test_files_and_16_bits(codec, data, tmp_path):
    path = tmp_path / "a.ccm"
    path.write_bytes(data)
    image = files.decode_file(path, None, codec, reduce=4)
    assert np.array_equal(np.asarray(image), codec.decode(data, reduce=4)) and image.size == (23, 19)
    fine = files.decode_bytes(data, codec, depth=16, reduce=4, latents=False).picture.pixels
    assert fine.dtype == np.uint16 and np.abs(fine / 257 - np.asarray(image)).max() < 0.6


def test_arguments(codec, data):
    for wrong in (0, 3, 16, -2):
        with pytest.raises(ValueError, match="reduce must be"):
            codec.decode(data, reduce=wrong)
        with pytest.raises(ValueError, match="reduce must be"):
            files.decode_bytes(data, codec, reduce=wrong)
    with pytest.raises(ValueError, match="without latents"):
        files.decode_bytes(data, codec, reduce=2)
    with pytest.raises(ValueError, match="reduced pictures"):
        files.decode_bytes(data, tiny.model(), reduce=2)
    damaged = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(errors.DamagedError):
        codec.decode(damaged, reduce=8)


def test_pillow(codec, data, monkeypatch):
    monkeypatch.setattr(ccm_fast.interop.pillow.CcmImageFile, "model", codec)
    image = Image.open(io.BytesIO(data))
    assert image.draft(None, (40, 35)) == ("RGB", (0, 0, 45, 37.5))
    assert image.size == (45, 38) and image.draft(None, (1, 1)) is None  # a second call changes nothing
    assert np.array_equal(np.asarray(image), codec.decode(data, reduce=2)) and image.draft(None, (1, 1)) is None
    for size, want in (((90, 75), 1), ((45, 37), 2), ((22, 18), 4), ((11, 9), 8), ((1, 1), 8), ((0, 0), 8)):
        image = Image.open(io.BytesIO(data))
        assert (image.draft("L", size) is None) == (want == 1)
        assert np.array_equal(np.asarray(image), codec.decode(data, reduce=want)) and image.mode == "RGB"
    image = Image.open(io.BytesIO(data))
    image.thumbnail((12, 12))
    assert image.size == (12, 10)
    want = Image.fromarray(codec.decode(data, reduce=2)).resize((12, 10), box=(0, 0, 45, 37.5), reducing_gap=2)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(want)).max() <= 1
    image = Image.open(io.BytesIO(data))
    image.thumbnail((1000, 9))  # as large as (11, 9) would make it, and made of as few pixels
    assert image.size == (11, 9)
    want = Image.fromarray(codec.decode(data, reduce=4)).resize((11, 9), box=(0, 0, 22.5, 18.75), reducing_gap=2)
    assert np.array_equal(np.asarray(image), np.asarray(want))
    monkeypatch.setattr(ccm_fast.interop.pillow.CcmImageFile, "model", tiny.model())
    image = Image.open(io.BytesIO(data))
    assert image.draft(None, (1, 1)) is None and image.size == (90, 75)
    assert image.load() is not None


def test_alpha_is_scaled_too(codec, monkeypatch):
    monkeypatch.setattr(ccm_fast.interop.pillow.CcmImageFile, "model", codec)
    picture = Image.fromarray(tiny.photo(75, 90))
    alpha = Image.linear_gradient("L").resize(picture.size)
    picture.putalpha(alpha)
    out = io.BytesIO()
    picture.save(out, "CCM", model=codec, effort=1)
    image = Image.open(out)
    image.draft(None, (20, 18))
    assert image.size == (23, 19) and image.mode == "RGBA"
    assert image.getchannel("A").tobytes() == alpha.reduce(4).tobytes()


def test_the_command_makes_thumbnails_of_them(data, tmp_path, monkeypatch):
    reductions = []
    decode = ccm_fast.Codec.decode_buffers
    monkeypatch.setattr(ccm_fast.Codec, "decode_buffers", lambda *given: reductions.append(given[-2]) or decode(*given))
    path, out = tmp_path / "a.ccm", tmp_path / "out.png"
    path.write_bytes(data)
    assert main(["decode", "--quiet", "-m", str(WEIGHTS), "--thumbnail", "9", str(path), str(out)]) == 0
    with Image.open(out) as image:
        assert max(image.size) == 9 and reductions == [4]


def test_weights_keep_them(fitted, tmp_path):
    model, _ = fitted
    path = tmp_path / "again.safetensors"
    ccm_fast.weights.save(model, path)
    for factor, rows in ccm_fast.load(path).reduced.items():
        assert torch.equal(rows, model.reduced[factor]) and rows.shape == (12, fitted_inputs(model.config, factor))
    for wrong in (model.reduced[8][:, 1:], model.reduced[8].float(), model.reduced[8] / 0):
        model.reduced[8], kept = wrong, model.reduced[8]
        ccm_fast.weights.save(model, path)
        model.reduced[8] = kept
        for load in (ccm_fast.load, ccm_fast.Codec.load):
            with pytest.raises(errors.ModelError, match=r"reduced\.8"):
                load(path)

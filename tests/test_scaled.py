"""Pictures decoded at an eighth of their sides: by the codec, by Pillow's draft and thumbnail."""

import io

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import ccm_fast
import ccm_fast.interop.pillow as plugin
from ccm_fast import Codec, files
from ccm_fast.psnr import psnr

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = {"tiny": tiny.GOLDEN / "tiny.safetensors", "ccm-small": "ccm-small"}


def photograph(height, width):
    """A piece of a colour photograph, uint8 [height, width, 3]."""
    import skimage.data

    return skimage.data.astronaut()[:height, :width]


def scaled(codec, data, depth=8, threads=1):
    ((pixels, _, _),) = codec.decode_buffers([codec.open_file(data)], threads, depth, latents=False, scale=8)
    return np.asarray(pixels)


def means(pixels):
    """Of 8x8, where they are whole."""
    H, W = (n // 8 * 8 for n in pixels.shape[:2])
    return pixels[:H, :W].reshape(H // 8, 8, W // 8, 8, -1).mean((1, 3))


@torch.inference_mode()
def by_modules(model, y):
    """What g_s makes of y without its residual blocks at a quarter of the sides, as means of 8x8, [h, w, 3]."""
    merge = model.g_s[0] if model.config.fine else None
    layers = list(merge.coarse if merge else model.g_s[:-1])
    last = max(k for k, layer in enumerate(layers) if isinstance(layer, nn.PixelShuffle))
    left_out = set(range(last + 1, len(layers) - 1))
    coarse = nn.Sequential(*(layer for k, layer in enumerate(layers) if k not in left_out))
    assert len(left_out) == 1
    z = coarse(y[:, : merge.channels]) + merge.fine(y[:, merge.channels :]) if merge else coarse(y)
    cells = z.unflatten(1, (3, 16)).mean(2) * 0.25 + 0.5
    return F.avg_pool2d(cells, 2)[0].clamp(0, 1).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", MODELS)
def test_it_is_g_s_without_its_last_blocks(name):
    codec, model = Codec.load(MODELS[name], precision="float32"), ccm_fast.load(MODELS[name])
    pixels = photograph(100, 150)
    data = codec.encode(pixels, 5.0)
    seen = []
    hook = model.g_s.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone()))
    files.decode_bytes(data, model, latents=False)
    hook.remove()
    found = scaled(codec, data)
    assert found.shape == (13, 19, 3)
    want = 255 * by_modules(model, seen[0])[1:12, 1:18]  # beyond the picture's edge the two differ
    assert np.abs(found[1:12, 1:18] - want).max() < 0.51
    fine = scaled(codec, data, depth=16)
    assert fine.dtype == np.uint16 and np.abs(fine / 257.0 - found).max() < 0.51


def test_it_is_about_the_picture():
    codec = Codec.load()
    pixels = photograph(500, 510)
    for picture in (pixels, pixels[..., 1]):
        data = codec.encode(picture, 4.0)
        found = scaled(codec, data)
        assert found.shape == (63, 64, *picture.shape[2:])
        want = means(codec.decode(data))[..., : found[..., None].shape[-1] if found.ndim == 2 else 3]
        assert psnr(want.squeeze().round().astype(np.uint8), found[:62, :63]) > 36
        np.testing.assert_array_equal(scaled(codec, data, threads=2), found)


@pytest.mark.slow
def test_tiles_fit_together():
    """More latents than a tile takes."""
    codec = Codec.load()
    data = codec.encode(np.tile(photograph(512, 512), (5, 9, 1))[:2100, :4500], 2.0, effort=1)
    want = means(codec.decode(data)).round().astype(np.uint8)
    found = scaled(codec, data)[: want.shape[0]]
    error = np.square(found.astype(float) - want).mean(-1)
    rows, columns = (error.mean(axis) for axis in (1, 0))
    assert psnr(want, found[:, : want.shape[1]]) > 36 and max(rows.max(), columns.max()) < 6 * error.mean()


def test_pillow_decodes_thumbnails_scaled(monkeypatch):
    data = Codec.load().encode(photograph(480, 510), 4.0)
    scales = []
    inner = files.decode_bytes
    monkeypatch.setattr(files, "decode_bytes", lambda *a, **o: scales.append(o["scale"]) or inner(*a, **o))

    def opened():
        return Image.open(io.BytesIO(data))

    image = opened()
    assert image.draft(None, (64, 48)) is None and image.size == (510, 480)
    assert image.draft("RGB", (63, 60)) == ("RGB", (0, 0, 63.75, 60)) and image.size == (64, 60)
    assert image.draft(None, (1, 1)) == ("RGB", (0, 0, 63.75, 60))  # there is no smaller one
    assert image.getpixel((3, 4)) and image.size == (64, 60)
    whole, small = opened(), opened()
    whole.load()
    for picture in (whole, small):
        picture.thumbnail((28, 1000))
    assert scales == [8, 1, 8]
    assert whole.size == small.size == (28, 26) and psnr(np.asarray(whole), np.asarray(small)) > 36
    large = opened()
    large.thumbnail((100, 100))
    large.thumbnail((2000, 2000))
    assert large.size == (100, 94) and scales[3:] == [1]


def test_what_has_one_size_only():
    rgba = np.dstack([photograph(160, 160), np.full((160, 160), 200, np.uint8)])
    out = io.BytesIO()
    Image.fromarray(rgba).save(out, "CCM", effort=1)
    with Image.open(out) as image:
        assert image.draft(None, (10, 10)) is None and image.size == (160, 160)
        image.thumbnail((10, 10))
        assert image.size == (10, 10) and image.mode == "RGBA"
    with pytest.raises(ValueError, match="alpha"):
        files.decode_bytes(out.getvalue(), scale=8)
    model = tiny.model()
    data = files.encode_picture(ccm_fast.images.Picture(photograph(160, 160)), 4.0, model)
    with pytest.raises(ValueError, match="engine 'cpu'"):
        files.decode_bytes(data, model, scale=8)
    image = Image.open(io.BytesIO(data))
    image.model = model
    assert image.draft(None, (10, 10)) is None and plugin.SCALE == 8
    codec = Codec.load(MODELS["tiny"])
    with pytest.raises(ValueError, match="scale must be 1 or 8"):
        codec.decode_buffers([codec.open_file(data)], scale=4)

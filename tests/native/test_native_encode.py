"""The encoder without torch beside the one of torch's modules: the same bytes."""

import copy

import numpy as np
import pytest
import tiny
import torch

import ccm_fast
from ccm_fast import errors, files, weights
from ccm_fast.images import Picture
from ccm_fast.stream.container import parse_container
from ccm_fast.stream.packet import parse_file
from ccm_fast.tiles import TILE_PIXELS

WEIGHTS = tiny.GOLDEN / "tiny.safetensors"


@pytest.fixture(scope="module")
def small():
    return ccm_fast.Codec.load("ccm-small"), ccm_fast.load("ccm-small")


@pytest.fixture(scope="module")
def little():
    return ccm_fast.Codec.load(WEIGHTS), tiny.model()


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("effort", [1, 2, 3, None])
@pytest.mark.parametrize("size, quality", [((1, 1), 8), ((33, 17), 1), ((150, 216), 4.34375)])
def test_bytes_are_those_of_the_modules(small, size, quality, effort, grey):
    codec, model = small
    pixels = tiny.photo(*size)
    picture = Picture(np.ascontiguousarray(pixels[..., 0]) if grey else pixels)
    assert codec.encodes(effort)
    want = files.encode_picture(picture, quality, model, effort=effort)
    for threads in (1, 3):
        assert codec.encode(picture.pixels, quality, effort=effort, threads=threads) == want


def test_sixteen_bits_lanes_and_chunks(little):
    codec, model = little
    values = (np.arange(600).reshape(20, 30) * 100).astype(np.uint16)
    for pixels in (values, np.stack([values, values // 2, values // 3], -1)):
        chunks = {"I": b"a profile", "X": b"exif" * 50}
        got = codec.encode(pixels, 6, effort=1, lanes=8, chunks=chunks)
        if pixels.ndim == 2:
            assert got == files.encode_picture(Picture(pixels, chunks), 6, model, effort=1, lanes=8)
        assert parse_container(got).chunks == chunks
        assert set(parse_file(parse_container(got).packet, 3).lanes) == {8}
        assert codec.decode(got).shape == pixels.shape


@pytest.mark.slow
def test_more_than_a_tile(little):
    codec, model = little
    pixels = tiny.photo(2703, 3210)
    assert pixels.shape[0] * pixels.shape[1] > TILE_PIXELS
    assert codec.encode(pixels, 4, effort=1) == files.encode_picture(Picture(pixels), 4, model, effort=1)


def test_floats_instead_of_integers(float_transforms, small):
    codec, model = ccm_fast.Codec.load("ccm-small"), small[1]
    pixels = tiny.photo(60, 90)
    data = codec.encode(pixels, 5)
    assert data == files.encode_picture(Picture(pixels), 5, model)


def test_what_goes_to_torch(small, little):
    assert small[0].encodes() and small[0].encodes(3, "psnr") and not small[0].encodes(4)
    assert not small[0].encodes(2, "ms-ssim") and not small[0].encodes(True)
    assert little[0].encodes(1) and not little[0].encodes(2)  # its file has no sensitivities
    picture = Picture(tiny.photo(40, 50))
    assert files.encode_picture(picture, 4, WEIGHTS, effort=2) == files.encode_picture(picture, 4, little[1], effort=2)


def test_refusals(small, little, tmp_path):
    codec = small[0]
    pixels = tiny.photo(20, 30)
    for bad in (pixels.astype(np.float32), pixels[..., :2], pixels[None], np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(ValueError):
            codec.encode(bad)
    with pytest.raises(TypeError, match="NumPy"):
        codec.encode(pixels.tolist())
    for options in ({"effort": 4}, {"lanes": 3}, {"quality": 0.9}, {"threads": 0}):
        with pytest.raises(ValueError):
            codec.encode(pixels, **options)
    with pytest.raises(ValueError, match="sensitivities"):
        little[0].encode(pixels, effort=2)


def test_latents_that_cannot_be_coded(tmp_path):
    model = tiny.make()
    model.log_gain += 11.0  # in half precision, still finite
    weights.save(model, tmp_path / "loud.safetensors")
    pixels = tiny.photo(40, 50)
    with pytest.raises(errors.EncodeError, match="16-bit"):
        ccm_fast.Codec.load(tmp_path / "loud.safetensors").encode(pixels, effort=1)
    with pytest.raises(errors.EncodeError, match="16-bit"):
        files.encode_picture(Picture(pixels), 4, model)


@pytest.mark.parametrize("effort", [1, 2, 3])
def test_symbols_that_are_not_coded(effort, tmp_path):
    """A plan of version 3: some symbols of y and channels of z have no place in the streams."""
    model = copy.deepcopy(tiny.skipping())
    model.sensitivities = torch.rand(2, model.config.latent_channels) + 0.1
    weights.save(model, tmp_path / "skipping.safetensors")
    codec, model = (
        ccm_fast.Codec.load(tmp_path / "skipping.safetensors"),
        weights.load(tmp_path / "skipping.safetensors"),
    )
    for grey in (False, True):
        pixels = tiny.photo(60, 90)
        pixels = np.ascontiguousarray(pixels[..., 0]) if grey else pixels
        data = codec.encode(pixels, 6, effort=effort, threads=2)
        assert data == files.encode_picture(Picture(pixels), 6, model, effort=effort)
        assert np.array_equal(codec.decode(data), files.decode_bytes(data, model).picture.pixels)

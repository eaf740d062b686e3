"""Picture filters of files that a GPU encodes: what they are fitted to, by torch, and that they gain what others do."""

import numpy as np
import pytest
import torch
from tiny import photo

import ccm_fast
from ccm_fast import _native, batches, encode_batch, queued_encoding
from ccm_fast.entropy import tensors
from ccm_fast.entropy.frozen import FrozenEntropyModel
from ccm_fast.files import decode_bytes, encode_picture
from ccm_fast.filter_fitting import filter_sums
from ccm_fast.images import Picture
from ccm_fast.picture_filter import WHITE, PictureFilter, added_by_filter, levels_of
from ccm_fast.stream.container import FILTER, parse_container


@pytest.fixture(scope="module")
def model():
    return ccm_fast.load("ccm-small")


@pytest.fixture
def queued(monkeypatch):
    """The engine "cuda" is this machine's: what a GPU does is done by the CPU's operators, and nothing one by one."""
    monkeypatch.setattr(tensors, "device_for", lambda engine, device=None: torch.device("cpu"))
    monkeypatch.setattr(queued_encoding, "engine_for", lambda *_: "cuda")
    monkeypatch.setattr(FrozenEntropyModel, "packed_for", lambda self, engine, isa: self.packed(isa))
    monkeypatch.setattr(batches, "_encoded", lambda *_: pytest.fail("one by one"))


def fitted(levels, original, code, threads=1):
    """The chunk by the native codec's sums, and by torch's."""
    chunk = _native.fit_filter(original, levels.numpy(), code, threads)
    pixels = torch.from_numpy(original.astype(np.float32)).div(np.iinfo(original.dtype).max)
    pixels = pixels[None] if original.ndim == 2 else pixels.permute(2, 0, 1)
    (found,) = _native.fit_filters(filter_sums(levels, pixels)[None].numpy(), [code], threads)
    return chunk, found


@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_sums_are_those_of_the_native_codec(grey, dtype):
    """In floats, whose order is another one: chunks are as long, to a few bits, and are not empty."""
    rng = np.random.default_rng(2)
    original = np.asarray(photo(150, 170, 5)).astype(dtype) * (257 if dtype == np.uint16 else 1)
    original = np.ascontiguousarray(original[..., 1] if grey else original)
    pixels = torch.from_numpy(original.astype(np.float32)).reshape(150, 170, -1).permute(2, 0, 1)
    pixels = pixels / np.iinfo(dtype).max
    blurred = torch.nn.functional.avg_pool2d(pixels[None], 3, 1, 1, count_include_pad=False)[0]
    noise = torch.from_numpy(rng.normal(0, 20, blurred.shape)).float()
    levels = (blurred * WHITE + noise).round().clamp(0, WHITE).to(torch.int16)
    chunk, found = fitted(levels, original, 160)
    assert len(chunk) > 20 and abs(len(chunk) - len(found)) <= 3


@pytest.mark.parametrize("grey", [False, True])
def test_what_a_filter_adds_is_what_decoders_do(grey):
    original = np.asarray(photo(150, 170, 5))
    original = np.ascontiguousarray(original[..., 1] if grey else original)
    pixels = torch.from_numpy(original.astype(np.float32) / 255).reshape(150, 170, -1).permute(2, 0, 1)
    levels = levels_of(torch.nn.functional.avg_pool2d(pixels[None], 3, 1, 1, count_include_pad=False)[0])
    added = added_by_filter(levels, original, 160, 1)
    assert torch.equal(added, added_by_filter(levels, original, 160, 2))
    chunk = _native.fit_filter(original, levels.contiguous().numpy(), 160, 1)
    found = PictureFilter.of({FILTER: chunk}, grey)
    for rows, behind in found.bands(levels):
        # Rounded by both, after sums in another order.
        assert ((levels + added)[:, rows] - behind * WHITE).abs().max() < 1.1
    assert (pixels * WHITE - levels - added).square().mean() < 0.8 * (pixels * WHITE - levels).square().mean()
    exact = levels_of(pixels)
    assert added_by_filter(exact, original, 96, 1) is None
    for wrong in (levels.float(), levels[:, ::2], levels[0], torch.cat([levels, levels])):
        with pytest.raises(ValueError, match="levels must be"):
            _native.apply_filter(wrong.numpy(), chunk, 1)


def test_no_filter_for_what_needs_none():
    original = np.ascontiguousarray(photo(40, 50, 1))
    levels = torch.from_numpy(original.astype(np.int16) * 32).permute(2, 0, 1).contiguous()
    assert fitted(levels, original, 96) == (b"", b"")


def test_sums_of_another_shape_are_refused():
    for shape in ((1, 16, 18, 20), (2, 16, 18, 21), (1, 15, 6, 7)):
        with pytest.raises(ValueError, match="sums must be"):
            _native.fit_filters(np.zeros(shape), [96], 1)
    with pytest.raises(ValueError, match="sums must be"):
        _native.fit_filters(np.zeros((1, 16, 6, 7), np.float32), [96], 1)


def test_batches_have_filters_that_gain_as_much(model, request, one_thread):
    """Colour, grey and 16 bits: PSNR of the files that are encoded one by one, and of the same latents."""
    arrays = [np.asarray(photo(192, 256, k)) for k in (5, 6)]
    arrays += [arrays[0][..., 1].copy(), arrays[1].astype(np.uint16) * 257]
    qualities = [6.0, 3.0, 6.0, 6.0]
    expected = [encode_picture(Picture(a), q, model, threads=1) for a, q in zip(arrays, qualities, strict=True)]
    request.getfixturevalue("queued")
    with_filters = 0
    for a, file, other in zip(arrays, encode_batch(arrays, qualities, model=model), expected, strict=True):
        chunks, wanted = (parse_container(f).chunks for f in (file, other))
        assert (FILTER in chunks) == (FILTER in wanted)
        with_filters += FILTER in chunks
        errors = []
        for f in (file, other):
            decoded = decode_bytes(f, model, depth=16, threads=1).picture.pixels / 65535
            errors.append(np.square(decoded - a / np.iinfo(a.dtype).max).mean())
        assert errors[0] == pytest.approx(errors[1], rel=0.002)
        assert abs(len(file) - len(other)) <= 4
    assert with_filters >= 3
    # Another file's filter goes, and these send none of their own.
    old = Picture(arrays[0], {FILTER: b"\0"})
    for options in ({"effort": 1}, {"tune": "ms-ssim"}):
        (file,) = encode_batch([old], 6.0, model=model, **options)
        assert FILTER not in parse_container(file).chunks

"""The Pillow plugin."""

import copy
import io
import pickle

import numpy as np
import pytest
import tiny
from PIL import Image, ImageOps, UnidentifiedImageError

import ccm_fast.interop.pillow as plugin
from ccm_fast import errors, files, registry
from ccm_fast import shipped as shipped_models

PROFILE = bytes(36) + b"acsp" + bytes(88)


@pytest.fixture(autouse=True)
def shipped(monkeypatch):
    """The tiny model ships, for the length of a test."""
    monkeypatch.setattr("ccm_fast.shipped.FOLDER", tiny.GOLDEN)
    monkeypatch.setattr(registry, "DEFAULT_MODEL", "tiny")
    shipped_models.shipped_fingerprints.cache_clear()
    yield
    shipped_models.shipped_fingerprints.cache_clear()


@pytest.fixture
def image():
    return Image.fromarray(tiny.photo(30, 50))


def test_save_and_open(tmp_path, image):
    image.save(tmp_path / "a.ccm", quality=5, lanes=1)
    with Image.open(tmp_path / "a.ccm") as back:
        assert (back.format, back.mode, back.size) == ("CCM", "RGB", (50, 30))
        assert back.info["quality"] == 5.0 and back.get_format_mimetype() == "image/x-ccm"
        assert back._file is not None  # not decoded yet
        want = files.decode_bytes((tmp_path / "a.ccm").read_bytes()).picture.pixels
        assert (np.asarray(back) == want).all()
        assert back.resize((25, 15)).size == (25, 15)
        assert back.load() is not None
        back.convert("L").save(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as other:
        assert other.mode == "L"


def test_buffers_copies_and_threads(image):
    out = io.BytesIO()
    image.save(out, "CCM", quality=2, threads=1)
    out.seek(0)
    opened = Image.open(out)
    assert opened.copy().tobytes() == opened.tobytes()
    assert out.tell() > 0 and not out.closed  # not ours to close


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "1", "P"])
def test_modes(mode, image):
    source = image.quantize(8) if mode == "P" else image.convert("RGBA").convert(mode)
    if mode in ("LA", "RGBA"):
        source.putalpha(Image.linear_gradient("L").resize((50, 30)))
    out = io.BytesIO()
    source.save(out, "CCM")
    back = Image.open(io.BytesIO(out.getvalue()))
    assert back.mode == {"1": "L", "P": "RGB"}.get(mode, mode)
    back.load()
    if "A" in mode:
        assert back.getchannel("A").tobytes() == source.getchannel("A").tobytes()


def test_metadata(image):
    exif = Image.Exif()
    exif[0x0112] = 6
    image.info.update(exif=exif.tobytes(), icc_profile=PROFILE)
    out = io.BytesIO()
    image.save(out, "CCM")
    back = Image.open(io.BytesIO(out.getvalue()))
    assert back.info["icc_profile"] == PROFILE and back.getexif()[0x0112] == 6
    assert ImageOps.exif_transpose(back).size == (30, 50)
    out = io.BytesIO()
    exif[0x0112] = 3
    image.save(out, "CCM", exif=exif, icc_profile=None, xmp="<x/>")
    back = Image.open(io.BytesIO(out.getvalue()))
    assert back.info["xmp"] == b"<x/>" and "icc_profile" not in back.info and back.getexif()[0x0112] == 3


def test_bad_files(tmp_path, image, monkeypatch):
    out = io.BytesIO()
    image.save(out, "CCM")
    data = out.getvalue()
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"nothing of the kind"))
    for cut in (data[:7], b"CCM", b"CCM is no magic for a text", data[:3] + b"\x0f" + data[4:]):
        with pytest.raises(UnidentifiedImageError):
            Image.open(io.BytesIO(cut))
    with pytest.raises(errors.DamagedError):
        Image.open(io.BytesIO(data[:-1] + bytes([data[-1] ^ 1]))).load()
    for quality in (0.5, 101, -3):
        with pytest.raises(ValueError, match="quality"):
            image.save(tmp_path / "x.ccm", quality=quality)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


def test_images_are_pickled_and_copied(image):
    out = io.BytesIO()
    image.save(out, "CCM")
    opened = Image.open(out)
    for loaded in (False, True):
        if loaded:
            opened.load()
        for other in (copy.deepcopy(opened), pickle.loads(pickle.dumps(opened))):
            assert other.tobytes() == opened.tobytes() and other.getpixel((3, 4)) == opened.getpixel((3, 4))


def test_verify_checks_checksums(image):
    out = io.BytesIO()
    image.save(out, "CCM")
    data = bytearray(out.getvalue())
    Image.open(io.BytesIO(data)).verify()
    data[-3] ^= 4
    with pytest.raises(errors.DamagedError), Image.open(io.BytesIO(data)) as damaged:
        damaged.verify()


def test_quality_on_the_scale_of_jpeg(image):
    anchors = plugin._JPEG_QUALITIES
    assert len(anchors) == 8 and anchors == sorted(set(anchors)) and anchors[0] > 8
    assert [plugin.quality_of(q) for q in anchors] == list(range(1, 9))
    assert [plugin.quality_of(q) for q in (0, 1, 4.5, 8, 9, 100, 101)] == [0, 1, 4.5, 8, 1, 8, 101]
    out = io.BytesIO()
    image.save(out, "CCM", quality=75)
    assert Image.open(out).info["quality"] == pytest.approx(plugin.quality_of(75), abs=1 / 32)


def test_there_is_no_lossless_mode(image):
    with pytest.raises(ValueError, match="use PNG, lossless WebP or JPEG XL"):
        image.save(io.BytesIO(), "CCM", lossless=True)
    image.save(io.BytesIO(), "CCM", lossless=False)


def test_registering_again_is_harmless(image):
    plugin.register()
    assert Image.registered_extensions()[".ccm"] == "CCM"

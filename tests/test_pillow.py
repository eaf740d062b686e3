"""The Pillow plugin."""

import io

import numpy as np
import pytest
import tiny
from PIL import Image, ImageOps, UnidentifiedImageError

import ccm_fast.interop.pillow as plugin
from ccm_fast import errors, files


@pytest.fixture(autouse=True)
def shipped(monkeypatch):
    """The tiny model ships, for the length of a test."""
    monkeypatch.setattr("ccm_fast.shipped.FOLDER", tiny.GOLDEN)
    monkeypatch.setattr(files, "DEFAULT_MODEL", "tiny")
    files.shipped_fingerprints.cache_clear()
    yield
    files.shipped_fingerprints.cache_clear()


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
    image.info.update(exif=exif.tobytes(), icc_profile=b"abc")
    out = io.BytesIO()
    image.save(out, "CCM")
    back = Image.open(io.BytesIO(out.getvalue()))
    assert back.info["icc_profile"] == b"abc" and back.getexif()[0x0112] == 6
    assert ImageOps.exif_transpose(back).size == (30, 50)
    out = io.BytesIO()
    exif[0x0112] = 3
    image.save(out, "CCM", exif=exif, icc_profile=None)
    back = Image.open(io.BytesIO(out.getvalue()))
    assert "icc_profile" not in back.info and back.getexif()[0x0112] == 3


def test_bad_files(tmp_path, image, monkeypatch):
    out = io.BytesIO()
    image.save(out, "CCM")
    data = out.getvalue()
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"nothing of the kind"))
    with pytest.raises(errors.TruncatedError):
        Image.open(io.BytesIO(data[:7]))
    with pytest.raises(errors.DamagedError):
        Image.open(io.BytesIO(data[:-1] + bytes([data[-1] ^ 1]))).load()
    with pytest.raises(ValueError, match="quality"):
        image.save(tmp_path / "x.ccm", quality=75)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


def test_registering_again_is_harmless(image):
    plugin.register()
    assert Image.registered_extensions()[".ccm"] == "CCM"

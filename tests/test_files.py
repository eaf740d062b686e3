"""Pictures into .ccm files and back: modes, metadata, formats, and what is refused."""

import io
import sys

import numpy as np
import pytest
import tiny
from PIL import Image

from ccm_fast import decode_file, encode_file, errors, files, images, reading, shipped
from ccm_fast.stream.container import parse_container


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def picture(mode):
    rgb = Image.fromarray(tiny.photo(20, 30))
    alpha = Image.fromarray((np.mgrid[:20, :30].sum(0) * 5).astype(np.uint8))
    if mode == "RGBA":
        rgb.putalpha(alpha)
        return rgb
    if mode == "LA":
        grey = rgb.convert("L")
        grey.putalpha(alpha)
        return grey
    if mode == "I;16":
        return Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    if mode == "P-transparent":
        image = rgb.quantize(16)
        image.info["transparency"] = 3
        return image
    return rgb.quantize(16) if mode == "P" else rgb.convert(mode)


@pytest.mark.parametrize(
    "mode, decoded",
    [
        ("RGB", "RGB"),
        ("L", "L"),
        ("1", "L"),
        ("I;16", "L"),
        ("I", "L"),
        ("P", "RGB"),
        ("P-transparent", "RGBA"),
        ("RGBA", "RGBA"),
        ("LA", "LA"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("HSV", "RGB"),
    ],
)
def test_modes(model, mode, decoded):
    image = picture(mode)
    out = io.BytesIO()
    report = encode_file(image, out, 6, model)
    assert report["bytes"] == len(out.getvalue()) and (report["width"], report["height"]) == (30, 20)
    back = decode_file(io.BytesIO(out.getvalue()), model=model)
    assert (back.mode, back.size) == (decoded, (30, 20))
    if decoded in ("LA", "RGBA"):
        want = image.convert("RGBA") if mode.startswith("P") else image
        assert back.getchannel("A").tobytes() == want.getchannel("A").tobytes()


def test_refused_modes(model):
    for mode in ("F", "LAB"):
        image = Image.new(mode, (4, 4))
        with pytest.raises(errors.ImageError, match=mode):
            encode_file(image, io.BytesIO(), model=model)
    with pytest.raises(errors.ImageError, match="65535"):
        encode_file(Image.new("I", (4, 4), 70000), io.BytesIO(), model=model)


def test_grey16_keeps_its_bits_into_the_encoder():
    values = (np.arange(600).reshape(20, 30) * 100).astype(np.uint16)
    assert images.from_pillow(Image.fromarray(values)).pixels.dtype == np.uint16
    out = io.BytesIO()
    Image.fromarray(values).save(out, "PNG")
    taken = images.open_picture(io.BytesIO(out.getvalue()), None)
    assert taken.grey and (taken.pixels == values).all()


def test_an_opaque_alpha_channel_is_not_stored():
    image = picture("RGB")
    image.putalpha(255)
    assert images.from_pillow(image).chunks == {}


def test_animations_are_refused(model, tmp_path):
    frames = [Image.fromarray(tiny.photo(8, 8, s)) for s in range(3)]
    for name in ("a.gif", "a.png", "a.webp", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(errors.ImageError, match="3 frames"):
            encode_file(tmp_path / name, tmp_path / "out.ccm", model=model)
    assert not (tmp_path / "out.ccm").exists()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
def test_exif_and_icc_survive(model, tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: carried, not applied
    exif[0x010F] = "maker"
    exif.get_ifd(0x8769)[0x829A] = 0.5
    options = {"exif": exif.tobytes(), "icc_profile": b"profile" * 20}
    picture("RGB").save(tmp_path / f"in{suffix}", **options)
    encode_file(tmp_path / f"in{suffix}", tmp_path / "a.ccm", model=model)
    chunks = parse_container((tmp_path / "a.ccm").read_bytes()).chunks
    assert set(chunks) == {"X", "I"} and chunks["X"][:2] in (b"II", b"MM")
    for target in (".png", ".jpg", ".webp", ".tif"):
        decode_file(tmp_path / "a.ccm", tmp_path / f"out{target}", model)
        with Image.open(tmp_path / f"out{target}") as image:
            found = image.getexif()
            assert image.info["icc_profile"] == options["icc_profile"]
            assert found[0x010F] == "maker"
            assert float(found.get_ifd(0x8769)[0x829A]) == 0.5
            # Pillow, alone among readers, turns TIFF files upright while it loads them.
            assert found.get(0x0112, 1) == (1 if suffix == ".tif" else 6)
            assert image.size == ((30, 20) if suffix != ".tif" and target != ".tif" else (20, 30))


def test_formats_of_plugins(tmp_path, monkeypatch):
    """A plugin is imported when its suffix is asked for; without it the error has the package's name."""
    Image.init()
    monkeypatch.setattr(Image, "EXTENSION", {k: v for k, v in Image.EXTENSION.items() if k != ".jxl"})
    monkeypatch.setattr(Image, "SAVE", dict(Image.SAVE))
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)  # an import that fails
    with pytest.raises(errors.ImageError, match=r"'.JXL'; it needs the package pillow-jxl-plugin"):
        images.output_format(".JXL")
    monkeypatch.delitem(sys.modules, "pillow_jxl")
    teach = "from PIL import Image\nImage.register_extension('JXL', '.jxl')\nImage.register_save('JXL', print)\n"
    (tmp_path / "pillow_jxl.py").write_text(teach)
    monkeypatch.syspath_prepend(tmp_path)
    assert images.output_format(".jxl") == "JXL"
    del sys.modules["pillow_jxl"]


def test_output_formats(model, tmp_path):
    encode_file(picture("RGBA"), tmp_path / "a.ccm", model=model)
    with pytest.raises(errors.ImageError, match="transparency"):
        decode_file(tmp_path / "a.ccm", tmp_path / "a.jpg", model)
    with pytest.raises(errors.ImageError, match="suffix"):
        decode_file(tmp_path / "a.ccm", tmp_path / "a.xyz", model)
    decode_file(tmp_path / "a.ccm", tmp_path / "nosuffix", model)
    assert (tmp_path / "nosuffix").read_bytes()[:4] == b"\x89PNG"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ccm", "nosuffix"]  # no halves left behind
    encode_file(picture("RGB"), tmp_path / "b.ccm", model=model)
    decode_file(tmp_path / "b.ccm", tmp_path / "low.jpg", model, quality=5)
    decode_file(tmp_path / "b.ccm", tmp_path / "high.jpg", model, quality=95)
    assert (tmp_path / "low.jpg").stat().st_size < (tmp_path / "high.jpg").stat().st_size


def test_not_images(tmp_path, model):
    for name, data in (("empty.png", b""), ("text.jpg", b"hello"), ("cut.png", b"\x89PNG\r\n\x1a\n" + bytes(9))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(errors.ImageError):
            encode_file(tmp_path / name, tmp_path / "x.ccm", model=model)
    with pytest.raises(FileNotFoundError):
        encode_file(tmp_path / "nothing.png", tmp_path / "x.ccm", model=model)
    with pytest.raises(errors.LimitError):
        out = io.BytesIO()
        picture("RGB").save(out, "PNG")
        encode_file(io.BytesIO(out.getvalue()), tmp_path / "x.ccm", model=model, max_pixels=599)


def test_models_are_found(model, tmp_path, monkeypatch):
    data = (tiny.GOLDEN / "colour.ccm").read_bytes()
    with pytest.raises(errors.WrongModelError, match=model.frozen.fingerprint.hex()):
        files.decode_bytes(data)
    assert files.decode_bytes(data, tiny.GOLDEN / "tiny.safetensors").picture.size == (37, 53)
    monkeypatch.setattr("ccm_fast.shipped.FOLDER", tiny.GOLDEN)
    shipped.shipped_fingerprints.cache_clear()
    try:
        assert shipped.shipped_fingerprints() == {model.frozen.fingerprint: ("tiny", 3)}
        assert files.decode_bytes(data).picture.size == (37, 53)
    finally:
        shipped.shipped_fingerprints.cache_clear()
    with pytest.raises(FileNotFoundError, match="no-such"):
        files.decode_bytes(data, "no-such-model")


def test_huge_files_are_not_read():
    class Endless(io.RawIOBase):
        def read(self, n):
            assert n <= 1 << 24  # what a file claims is taken as it comes
            return self.start + bytes(n - 3)

    Endless.start = b"CCM"
    with pytest.raises(errors.LimitError):
        reading.read_bytes(Endless(), max_pixels=1000)
    for limit in (1000, None):  # what is no .ccm file is not read on
        Endless.start = b"\0\0\0"
        with pytest.raises(errors.NotCcmError):
            reading.read_bytes(Endless(), max_pixels=limit)
    assert reading.read_bytes(tiny.GOLDEN / "grey.ccm", None) == (tiny.GOLDEN / "grey.ccm").read_bytes()


def test_files_without_buffering(model):
    """Reads may give fewer bytes than asked for: pipes, sockets."""

    class Drops(io.RawIOBase):
        def __init__(self, data):
            self.rest = data

        def readable(self):
            return True

        def read(self, n=-1):
            part, self.rest = self.rest[:1], self.rest[1:]
            return part

    data = (tiny.GOLDEN / "alpha.ccm").read_bytes()
    assert decode_file(Drops(data), None, model).size == (53, 37)
    with pytest.raises(errors.NotCcmError):
        reading.read_bytes(Drops(b"CAM" + data[3:]))
    with pytest.raises(errors.TruncatedError):
        decode_file(Drops(b"C"), None, model)


def test_files_that_cannot_go_back(model, tmp_path):
    """TIFF and PDF are written with jumps; a pipe takes them all the same."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = b""

        def writable(self):
            return True

        def write(self, part):
            self.data += bytes(part)
            return len(part)

    for file_format, start in (("TIFF", b"II*\0"), ("PDF", b"%PDF"), ("PNG", b"\x89PNG")):
        pipe = Pipe()
        decode_file(tiny.GOLDEN / "colour.ccm", pipe, model, file_format=file_format)
        assert pipe.data.startswith(start)


def test_wrong_arguments_are_noticed_before_the_work(model, tmp_path):
    coded = tiny.GOLDEN / "grey.ccm"
    for call, said in (
        (lambda: encode_file(picture("L"), None, model=model), "write to"),
        (lambda: encode_file(picture("L"), [1], model=model), "write to"),
        (lambda: encode_file(picture("L"), b"name.ccm", model=model), "write to"),
        (lambda: decode_file(coded, [1], model), "write to"),
        (lambda: decode_file(coded, io.BytesIO(), model, file_format=5), "file_format"),
    ):
        with pytest.raises(TypeError, match=said):
            call()
    for limit in (float("nan"), -1):
        with pytest.raises(ValueError, match="max_pixels"):
            encode_file(picture("L"), io.BytesIO(), model=model, max_pixels=limit)
        with pytest.raises(ValueError, match="max_pixels"):
            decode_file(coded, None, model, max_pixels=limit)

"""EXIF, XMP and IPTC of strangers: carried, or left out with a warning; never an error, never a picture's layout."""

import io
import struct
import warnings

import numpy as np
import pytest
import tiny
from PIL import Image, ImageFile, IptcImagePlugin, PngImagePlugin, TiffImagePlugin

from ccm_fast import decode_file, encode_file, errors, images
from ccm_fast.command.info import describe
from ccm_fast.images import exif
from ccm_fast.stream.container import EXIF, IPTC, XMP

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "BMP", "PPM", "GIF")
PIXELS = tiny.photo(24, 40)


def block(*entries, order="<"):
    """A block of tags (number, type, count, four bytes)."""
    head = b"II*\0\x08\0\0\0" if order == "<" else b"MM\0*\0\0\0\x08"
    body = b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in entries)
    return head + struct.pack(order + "H", len(entries)) + body + bytes(4)


def long(tag, value):
    return tag, 4, 1, struct.pack("<I", value)


def opened(data, **options):
    image = Image.new("RGB", (2, 2)) if data is None else Image.open(io.BytesIO(data), **options)
    image.load()
    return image


def saved(chunks, file_format, pixels=PIXELS, **options):
    out = io.BytesIO()
    images.save_picture(images.Picture(pixels, chunks), out, file_format, **options)
    return out.getvalue()


def reread(data):
    return images.open_picture(io.BytesIO(data), None)


def with_exif(data, file_format="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, file_format, exif=b"Exif\0\0" + data, **options)
    return out.getvalue()


# Tags that describe the layout of a TIFF file: from ImageWidth to SampleFormat.
LAYOUT = (
    0x100,
    0x101,
    0x102,
    0x103,
    0x106,
    0x10A,
    0x111,
    0x115,
    0x116,
    0x117,
    0x11C,
    0x13D,
    0x140,
    0x152,
    0x153,
    0x144,
)


@pytest.mark.parametrize("tag", LAYOUT)
def test_exif_never_describes_the_layout_of_a_tiff(tag):
    for value in (2, 6, 5000):
        image = opened(saved({EXIF: block(long(tag, value))}, "TIFF"))
        assert image.size == (40, 24) and (np.asarray(image) == PIXELS).all()


def test_exif_is_no_memory_bomb():
    claims = block(long(0x101, 1 << 30), long(0x116, 1))
    assert len(saved({EXIF: claims}, "TIFF", PIXELS[:1, :1])) < 400
    # 5,000 tags that share their 60 kB of data
    shared = block(*((0x9C00 + k, 7, 60_000, struct.pack("<I", 8)) for k in range(5000)))
    assert not exif.is_exif(shared) and not exif.parse(shared).exif


ODD = {
    "garbage": b"garbage, no TIFF header at all",
    "cut off": block(long(0x101, 3))[:15],
    "empty directory": b"II*\0\x08\0\0\0",
    "orientation in ASCII": block((0x112, 2, 4, b"six\0")),
    "orientation 77": block((0x112, 3, 1, struct.pack("<I", 77))),
    "make as a rational number": block((0x10F, 5, 1, struct.pack("<I", 8))),
    "no denominator": block((0x11A, 5, 1, struct.pack("<I", 26))) + bytes(8),
    "a directory outside": block(long(0x8769, 1 << 31)),
    "a directory that is a word": block((0x8769, 2, 4, b"exi\0")),
    "a directory in itself": block(long(0x8769, 8), long(0x8825, 8)),
    "unknown type": block((0x10E, 99, 1, bytes(4))),
    "data outside": block((0x10E, 2, 100, struct.pack("<I", 1 << 30))),
    "big TIFF": b"II+\0\x08\0\0\0" + bytes(16),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.filterwarnings("ignore::ccm_fast.errors.PictureWarning", "ignore::UserWarning:PIL")
def test_odd_exif_is_carried_or_left_out(name):
    for file_format in FORMATS:
        data = saved({EXIF: ODD[name]}, file_format)
        assert sorted(opened(data).size) == [24, 40]
    assert reread(with_exif(ODD[name])).size == (24, 40)


def test_what_cannot_be_carried_is_named():
    with pytest.warns(errors.PictureWarning, match="EXIF that cannot be parsed"):
        assert reread(with_exif(ODD["garbage"])).chunks == {}
    with pytest.warns(errors.PictureWarning, match="0x0112"):
        saved({EXIF: ODD["orientation in ASCII"]}, "AVIF")
    with pytest.warns(errors.PictureWarning, match="BMP holds no EXIF and no XMP"):
        saved({EXIF: block((0x10E, 2, 4, b"abc\0")), XMP: b"<x/>"}, "BMP")


def test_one_odd_picture_leaves_the_others_alone(tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff({0x10F: 0.5}, {0x10F: 5}))
    with pytest.warns(errors.PictureWarning, match="0x010f"):
        encode_file(tmp_path / "a.tif", tmp_path / "a.ccm", model=tiny.model())
    decode_file(tmp_path / "a.ccm", tmp_path / "b.tif", tiny.model())


def tiff(tags, types=None, pixels=PIXELS):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        if types and tag in types:
            info.tagtype[tag] = types[tag]
        info[tag] = value
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "TIFF", tiffinfo=info)
    return out.getvalue()


def test_compressed_tiff_keeps_what_pillow_writes():
    tags = Image.Exif()
    tags[0x10F] = "maker"
    tags.get_ifd(0x8769)[0x829A] = 0.5
    with pytest.warns(errors.PictureWarning, match="compressed TIFF"):
        data = saved({EXIF: exif.strip_header(tags.tobytes()), XMP: b"<x/>"}, "TIFF", compression="tiff_lzw")
    image = opened(data)
    assert image.getexif()[0x10F] == "maker" and image.info["xmp"] == b"<x/>"


def test_text_of_tiff_keeps_its_bytes():
    text = "© 2026 Ünï".encode()
    picture = reread(tiff({0x8298: text}))
    for file_format in ("TIFF", "PNG", "JPEG"):
        assert text + b"\0" in saved(picture.chunks, file_format)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("file_format", ["BMP", "PPM", "PNG", "TIFF"])
def test_pictures_stand_upright_in_every_format(orientation, file_format):
    upright = np.asarray(opened(saved({}, file_format)))
    turned = images.Picture(PIXELS, {EXIF: block((0x112, 3, 1, struct.pack("<I", orientation)))})
    lying = np.asarray(Image.fromarray(PIXELS).transpose(UNDO[orientation]) if orientation in UNDO else None)
    data = saved(turned.chunks, file_format, np.ascontiguousarray(lying))
    image = opened(data)
    if file_format == "PNG":
        assert image.getexif()[0x112] == orientation
    else:
        assert (np.asarray(image) == upright).all()


# What makes an upright picture lie as the orientation says.
T = Image.Transpose
UNDO = {2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90}
UNDO |= {7: T.TRANSVERSE, 8: T.ROTATE_270}


def test_orientation_outside_exif():
    info = PngImagePlugin.PngInfo()
    digits = (b"Exif\0\0" + block((0x112, 3, 1, struct.pack("<I", 6)))).hex()
    info.add_text("Raw profile type exif", f"\nexif\n{len(digits) // 2:8d}\n{digits}\n")
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG", pnginfo=info)
    assert exif.orientation_of(reread(out.getvalue()).chunks[EXIF]) == 6
    packet = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "JPEG", xmp=packet)
    picture = reread(out.getvalue())
    assert exif.orientation_of(picture.chunks[EXIF]) == 8 and picture.chunks[XMP] == packet
    with pytest.warns(errors.PictureWarning, match="extension of XMP"):
        Image.fromarray(PIXELS).save(out := io.BytesIO(), "JPEG", xmp=b'<x xmpNote:HasExtendedXMP="0"/>')
        reread(out.getvalue())
    with pytest.warns(errors.PictureWarning, match="BMP holds no XMP"):
        assert opened(saved(picture.chunks, "BMP")).size == (24, 40)


def test_xmp_and_iptc_survive():
    packet = "<x:xmpmeta xmlns:x='adobe:ns:meta/'>ü</x:xmpmeta>".encode()
    iptc = b"\x1c\x02\x78\0\x07caption"
    for source in ("JPEG", "PNG", "TIFF"):
        chunks = reread(saved({XMP: packet, IPTC: iptc}, source)).chunks
        assert chunks[XMP] == packet and chunks[IPTC] == iptc, source
    image = opened(saved({IPTC: iptc}, "JPEG"))
    assert IptcImagePlugin.getiptcinfo(image)[(2, 0x78)] == b"caption"
    for target in ("WEBP", "AVIF"):
        assert opened(saved({XMP: packet}, target)).info["xmp"] == packet
    with pytest.warns(errors.PictureWarning, match="no IPTC"):
        saved({IPTC: iptc}, "WEBP")
    out = io.BytesIO()
    encode_file(io.BytesIO(saved({XMP: packet, IPTC: iptc}, "PNG")), out, model=tiny.model())
    decode_file(io.BytesIO(out.getvalue()), again := io.BytesIO(), tiny.model(), file_format="JPEG")
    chunks = reread(again.getvalue()).chunks
    assert chunks[XMP] == packet and chunks[IPTC] == iptc


def test_info_names_the_chunks():
    encode_file(
        io.BytesIO(saved({XMP: b"<x/>", IPTC: b"\x1c\x02\x78\0\1a"}, "PNG")), out := io.BytesIO(), model=tiny.model()
    )
    assert describe(out.getvalue())["chunks"] == {"xmp": 4, "iptc": 6}


@pytest.mark.parametrize("file_format", ["JPEG", "GIF", "PNG"])
def test_comments_and_texts_are_named(file_format):
    """What no chunk holds; not what programs write into every file, nor what is carried."""

    def read(comment, text=()):
        info = PngImagePlugin.PngInfo()
        for name, value in text:
            info.add_text(name, value)
        options = {"pnginfo": info} if file_format == "PNG" else {"comment": comment}
        out = io.BytesIO()
        Image.fromarray(PIXELS).save(out, file_format, **options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            images.open_picture(out, None)
        return [str(one.message) for one in caught if one.category is errors.PictureWarning]

    if file_format == "PNG":
        text = [("Title", "Anna"), ("Software", "GIMP"), ("date:create", "2020"), ("Author", "B"), ("Warning", "")]
        assert read("", text) == ["PNG text (Title, Author) cannot be kept and is left out"]
        assert read("", text[1:3]) == [] and len(read("", [(f"{k}", "x") for k in range(20)])[0]) < 100
    else:
        assert read(b"Anna, 3 years old\0") == ["the comment 'Anna, 3 years old' cannot be kept and is left out"]
        assert read(b"x" * 300)[0].count("x") == 40
        assert read(b"") == read(b"Created with GIMP") == read(b"\0 ") == []


def test_long_metadata_in_jpeg():
    tags = Image.Exif()
    tags[0x10F], tags[0x112] = "maker", 6
    tags.get_ifd(0x8769)[0x927C] = bytes(70_000)
    chunks = {EXIF: exif.strip_header(tags.tobytes()), XMP: b"<x>" + b" " * 70_000, IPTC: bytes(70_000)}
    with pytest.warns(errors.PictureWarning) as notes:
        image = opened(saved(chunks, "JPEG"))
    assert image.getexif()[0x10F] == "maker" and image.getexif()[0x112] == 6
    assert [str(n.message).split()[0] for n in notes] == ["XMP", "EXIF", "IPTC"]
    tags[0x10E] = "x" * 70_000
    tags.get_ifd(0x8769)[0x829A] = 0.5
    with pytest.warns(errors.PictureWarning, match="0x010e, 0x927c|0x927c, 0x010e"):
        image = opened(saved({EXIF: exif.strip_header(tags.tobytes())}, "JPEG"))
    assert image.getexif()[0x10F] == "maker" and image.getexif()[0x112] == 6
    assert dict(image.getexif().get_ifd(0x8769)) == {0x829A: 0.5}


def test_metadata_is_stripped_and_replaced():
    lying = {EXIF: block((0x112, 3, 1, struct.pack("<I", 6))), XMP: b"<x/>"}
    source = saved(lying, "PNG", np.dstack([PIXELS, PIXELS[..., :1]])[..., :3])
    out = io.BytesIO()
    assert encode_file(io.BytesIO(source), out, model=tiny.model(), strip=True)["width"] == 24
    back = decode_file(io.BytesIO(out.getvalue()), model=tiny.model())
    assert back.size == (24, 40) and not {"exif", "xmp"} & back.info.keys()
    own, profile = block((0x10E, 2, 4, b"abc\0")), bytes(36) + b"acsp" + bytes(88)
    out = io.BytesIO()
    encode_file(io.BytesIO(source), out, model=tiny.model(), exif=b"Exif\0\0" + own, icc=profile)
    back = decode_file(io.BytesIO(out.getvalue()), model=tiny.model())
    assert back.info["exif"] == b"Exif\0\0" + own and back.info["icc_profile"] == profile
    for wrong in ({"exif": b"abc"}, {"icc": b"abc"}):
        with pytest.raises(errors.ImageError):
            encode_file(io.BytesIO(source), out, model=tiny.model(), **wrong)


def test_a_plugin_that_raises_anything_fails_one_file(monkeypatch):
    class Wild(RuntimeError):
        pass

    def fail(*arguments, **options):
        raise Wild("of its own kind")

    source = saved({}, "PNG")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    with pytest.raises(errors.ImageError, match="of its own kind"):
        reread(source)
    monkeypatch.setattr(ImageFile, "_save", fail)
    with pytest.raises(errors.ImageError, match="of its own kind"):
        saved({}, "TIFF")

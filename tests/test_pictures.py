"""Pictures of every kind in: formats, transparency keys, depths, pages, colour; and what lossy formats get."""

import io
import struct
import zlib

import numpy as np
import pytest
import tiny
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from ccm_fast import decode_file, encode_file, errors, files, images
from ccm_fast.images import alpha, colour, formats, icc
from ccm_fast.stream.container import ALPHA, ICC
from ccm_fast.suffixes import IMAGE_SUFFIXES

PIXELS = tiny.photo(24, 40)
GREY = PIXELS[..., 0]


def png(rows, depth, kind, *chunks):
    """A PNG of packed rows (bytes), of a bit depth and colour type, with further chunks."""
    width = len(rows[0]) * 8 // (depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind])

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(row) for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*c) for c in chunks) + body + chunk(b"IEND", b"")


def read(data):
    return images.open_picture(io.BytesIO(data), None)


def alpha_of(picture):
    return alpha.decode_alpha(picture.chunks[ALPHA], picture.size)


def test_only_named_formats_are_opened(tmp_path):
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n{} loop\n"
    icon = io.BytesIO()
    Image.fromarray(PIXELS).save(icon, "ICO", sizes=[(16, 16)])
    for data in (postscript, icon.getvalue(), b"8BPS" + bytes(40)):
        (tmp_path / "photo.png").write_bytes(data)
        with pytest.raises(errors.ImageError, match="format that is read here"):
            encode_file(tmp_path / "photo.png", tmp_path / "x.ccm", model=tiny.model())


def test_pipes_are_read():
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG")

    class Pipe(io.RawIOBase):
        def read(self, n=-1):
            return out.getvalue()

    assert (images.open_picture(Pipe(), None).pixels == PIXELS).all()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_transparency_keys_of_grey(depth):
    values = np.arange(64).reshape(4, 16) % 4 % (1 << depth)
    key = 1
    bits = (values[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(4, -1).astype(np.uint8), axis=1)
    picture = read(png(rows, depth, 0, (b"tRNS", struct.pack(">H", key))))
    assert picture.grey and (alpha_of(picture) == np.where(values == key, 0, 255)).all()
    top = np.iinfo(picture.pixels.dtype).max
    seen = values != key
    assert (picture.pixels[seen] == values[seen] * (top // ((1 << depth) - 1))).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_transparency_keys_of_colour(depth):
    kind = {8: ">u1", 16: ">u2"}[depth]
    values = (np.arange(96).reshape(4, 8, 3) * (1 if depth == 8 else 517)).astype(kind)
    values[2, 3] = values[0, 1]
    picture = read(png([r.tobytes() for r in values], depth, 2, (b"tRNS", struct.pack(">3H", *values[0, 1].tolist()))))
    want = np.full((4, 8), 255)
    want[2, 3] = want[0, 1] = 0
    assert (alpha_of(picture) == want).all()
    assert (picture.pixels[want > 0] == values[want > 0]).all()


def test_transparency_of_palettes():
    rows = np.packbits(np.arange(64).reshape(4, 16) % 3 % 2, axis=1)
    palette = (b"PLTE", bytes((255, 0, 0, 0, 0, 255)))
    picture = read(png(rows, 1, 3, palette, (b"tRNS", bytes((128, 255)))))
    assert set(np.unique(alpha_of(picture))) == {128, 255} and picture.pixels.shape == (4, 16, 3)


SIXTEEN = [(name, *kind) for kind in ((0, 1), (2, 3), (4, 2), (6, 4)) for name in ("PNG", "TIFF")]
SIXTEEN.remove(("TIFF", 4, 2))  # Pillow reads none


@pytest.mark.parametrize("file_format, kind, channels", SIXTEEN)
def test_sixteen_bits_reach_the_encoder(file_format, kind, channels):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 65536, (6, 8, channels)).astype(np.uint16)
    if channels in (2, 4):
        values[..., -1] = rng.integers(1, 256, (6, 8)) * 257
    if file_format == "PNG":
        data = png([r.astype(">u2").tobytes() for r in values], 16, kind)
    else:
        data = tiff16(values)
    picture = read(data)
    assert picture.pixels.dtype == np.uint16 and picture.grey == (channels < 3)
    colours = picture.pixels[..., None] if picture.grey else picture.pixels
    assert (colours == values[..., : colours.shape[-1]]).all()
    if channels in (2, 4):
        assert (alpha_of(picture) == values[..., -1] // 257).all()


def tiff16(values, photometric=None, **tags):
    """A TIFF of one strip; uint16 [H, W, C]."""
    H, W, C = values.shape
    entries = {256: W, 257: H, 258: (16,) * C, 259: 1, 262: (1 if C < 3 else 2) if photometric is None else photometric}
    entries |= {277: C, 278: H, 279: values.nbytes} | ({338: 2} if C in (2, 4) else {})
    ifd = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    for tag, value in entries.items():
        ifd[tag] = value
    ifd[273] = 0  # Pillow adds the length of what lies before
    return b"II*\0\x08\0\0\0" + ifd.tobytes(8) + values.astype("<u2").tobytes()


@pytest.mark.parametrize("top", [65535, 1023, 300])
def test_ppm_of_more_than_8_bits(top):
    values = np.random.default_rng(0).integers(0, top + 1, (5, 7, 3))
    data = b"P6\n7 5\n%d\n" % top + values.astype(">u2").tobytes()
    assert abs(read(data).pixels - values * (65535 / top)).max() <= 0.5
    with pytest.raises(errors.ImageError):
        read(data[:-1])


def test_depths_that_are_lost_are_named():
    samples = np.random.default_rng(0).integers(0, 65536, (3, 5, 7)).astype(">u2")
    sgi = struct.pack(">HBBHHHH", 474, 0, 2, 3, 7, 5, 3) + bytes(500) + samples.tobytes()
    with pytest.warns(errors.PictureWarning, match="16 bits"):
        assert read(sgi).pixels.dtype == np.uint8
    for file_format, mark, offset in (("AVIF", b"pixi", 9), ("JPEG2000", b"\xff\x4f\xff\x51", 42)):
        Image.fromarray(PIXELS).save(out := io.BytesIO(), file_format)
        head = bytearray(out.getvalue())
        assert formats.sample_bits(file_format, bytes(head)) == 8
        head[head.index(mark) + offset] += 4
        assert formats.sample_bits(file_format, bytes(head)) == 12


def test_white_is_zero_with_16_bits():
    values = (GREY.astype(np.uint16) * 257)[..., None]
    assert (read(tiff16(65535 - values, photometric=0)).pixels == values[..., 0]).all()
    assert (read(tiff16(values)).pixels == values[..., 0]).all()


def test_grey_with_alpha_of_16_bits_is_grey():
    values = np.dstack([GREY, np.full_like(GREY, 200)]).astype(np.uint16) * 257
    data = png([r.astype(">u2").tobytes() for r in values], 16, 4)
    assert read(data).grey
    picture = images.from_pillow(Image.open(io.BytesIO(data)))  # Pillow has 8 bits of it
    assert picture.grey and (picture.pixels == GREY).all() and (alpha_of(picture) == 200).all()


def test_the_main_page_of_a_tiff(tmp_path):
    full, small = Image.fromarray(PIXELS), Image.fromarray(PIXELS[::2, ::2].copy())
    for pages in ((full, small), (small, full)):
        out = io.BytesIO()
        for image in pages:
            image.encoderinfo = {"tiffinfo": {254: int(image is small)}}
        pages[0].save(out, "TIFF", save_all=True, append_images=[pages[1]], tiffinfo={254: int(pages[0] is small)})
        assert (read(out.getvalue()).pixels == PIXELS).all()
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "TIFF", save_all=True, append_images=[Image.fromarray(PIXELS)])
    with pytest.raises(errors.ImageError, match="2 frames"):
        read(out.getvalue())


def with_chunks(*chunks, grey=False):
    info = PngImagePlugin.PngInfo()
    for name, data in chunks:
        info.add(name, data)
    out = io.BytesIO()
    Image.fromarray(GREY if grey else PIXELS).save(out, "PNG", pnginfo=info)
    return out.getvalue()


def shown(profile, values):
    """What a colour managed viewer shows: sRGB of pixels uint8 [..., 3] or [...]."""
    pixels = np.array(values, np.uint8)[None]
    image = colour.to_srgb(Image.fromarray(pixels), profile)
    return np.asarray(image)[0].astype(int)


def srgb(linear):
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_gamma_becomes_a_profile():
    linear = (b"gAMA", struct.pack(">I", 100_000))
    for grey in (False, True):
        picture = read(with_chunks(linear, grey=grey))
        assert icc.colour_space(picture.chunks[ICC]) == ("GRAY" if grey else "RGB")
        levels = [10, 60, 128, 200, 255]
        got = shown(picture.chunks[ICC], levels if grey else [[v] * 3 for v in levels])
        want = srgb(np.array(levels) / 255)
        assert abs(got - (want if grey else want[:, None])).max() <= 2
    for same in ((b"gAMA", struct.pack(">I", 45455)), (b"sRGB", b"\0")):
        assert ICC not in read(with_chunks(same)).chunks
    assert ICC not in read(with_chunks((b"sRGB", b"\0"), linear)).chunks
    with pytest.warns(errors.PictureWarning, match="gAMA"):
        assert ICC not in read(with_chunks((b"gAMA", bytes(4)))).chunks


@pytest.mark.parametrize("chunk", ["cHRM", "cICP"])
def test_display_p3_becomes_a_profile(chunk):
    points = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    data = {"cHRM": struct.pack(">8I", *points), "cICP": bytes((12, 13, 0, 1))}[chunk]
    profile = read(with_chunks((chunk.encode(), data))).chunks[ICC]
    got = shown(profile, [[200, 100, 50], [128, 128, 128]])
    # By the matrix from P3 to sRGB of CSS Color 4.
    matrix = np.array([[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]])
    v = np.array([[200, 100, 50], [128, 128, 128]]) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    assert abs(got - srgb(linear @ matrix.T)).max() <= 2


def test_code_points_of_avif():
    Image.fromarray(PIXELS).save(out := io.BytesIO(), "AVIF")
    assert ICC not in read(out.getvalue()).chunks
    data = bytearray(out.getvalue())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", 12, 13)
    profile = read(bytes(data)).chunks[ICC]
    p3 = read(with_chunks((b"cICP", bytes((12, 13, 0, 1))))).chunks[ICC]
    assert profile == p3


@pytest.mark.parametrize("transfer, name, white", [(16, "PQ", 148), (18, "HLG", 191)])
def test_hdr_has_a_profile_and_is_named(transfer, name, white):
    with pytest.warns(errors.PictureWarning, match=name):
        profile = read(with_chunks((b"cICP", bytes((9, transfer, 0, 1))))).chunks[ICC]
    assert bytes((9, transfer, 0, 1)) in profile and ImageCms.ImageCmsProfile(io.BytesIO(profile))
    levels = shown(profile, [[0, 0, 0], [white // 2] * 3, [white] * 3, [255] * 3])[:, 0]
    assert levels[0] == 0 and 0 < levels[1] < 180 and abs(levels[2] - 254) <= 2 and levels[3] == 255


def test_unknown_colour_is_named():
    with pytest.warns(errors.PictureWarning, match="CICP 9/77"):
        assert ICC not in read(with_chunks((b"cICP", bytes((9, 77, 0, 1))))).chunks
    with pytest.warns(errors.PictureWarning, match="colour space"):
        read(with_chunks((b"cHRM", bytes(32))))


def test_profiles_fit_the_pixels():
    grey_profile = icc.make_profile("grey", icc.gamma_curve(1.0), grey=True)
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG", icc_profile=grey_profile)
    with pytest.warns(errors.PictureWarning, match="GRAY"):
        assert ICC not in read(out.getvalue()).chunks
    picture = images.Picture(GREY, {ICC: grey_profile})
    out = io.BytesIO()
    images.save_picture(picture, out, "WEBP", lossless=True)
    image = Image.open(out)
    assert "icc_profile" not in image.info and abs(np.asarray(image)[..., 0] - srgb(GREY / 255)).max() <= 2
    images.save_picture(picture, out := io.BytesIO(), "PNG")
    assert Image.open(out).info["icc_profile"] == grey_profile


def test_formats_without_profiles_get_srgb():
    linear = icc.make_profile("linear", icc.gamma_curve(1.0))
    for file_format in ("BMP", "PPM"):
        images.save_picture(images.Picture(PIXELS, {ICC: linear}), out := io.BytesIO(), file_format)
        assert abs(np.asarray(Image.open(out)) - srgb(PIXELS / 255)).max() <= 2
    with pytest.warns(errors.PictureWarning, match="profile"):
        images.save_picture(images.Picture(PIXELS, {ICC: b"no profile at all"}), io.BytesIO(), "BMP")


def test_invisible_colours_cost_nothing():
    hidden = np.hypot(*(np.mgrid[:64, :96] - np.array([32, 48])[:, None, None])) > 25
    visible = tiny.photo(64, 96)
    noise = np.random.default_rng(1).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    opacity = np.where(hidden, 0, 255).astype(np.uint8)
    sizes, found = set(), []
    for unseen in (visible, noise, np.zeros_like(noise)):
        image = Image.fromarray(np.dstack([np.where(hidden[..., None], unseen, visible), opacity]))
        picture = images.from_pillow(image)
        assert (picture.pixels[~hidden] == visible[~hidden]).all()
        found.append(picture.pixels)
        sizes.add(encode_file(image, io.BytesIO(), 4, tiny.model())["bytes"])
    assert len(sizes) == 1 and all((pixels == found[0]).all() for pixels in found)
    nothing = alpha.fill_invisible(visible, np.zeros_like(opacity))
    assert (nothing == nothing[0, 0]).all()
    grey = alpha.fill_invisible((GREY.astype(np.uint16) * 257), np.where(GREY > 99, 255, 0).astype(np.uint8))
    assert grey.dtype == np.uint16 and grey.min() >= 99 * 257


@pytest.mark.parametrize("file_format, least", [("JPEG", 40), ("WEBP", 36), ("AVIF", 40)])
def test_lossy_formats_lose_little_by_default(file_format, least):
    image = np.asarray(Image.fromarray(tiny.photo(96, 128)).resize((256, 192), Image.Resampling.BICUBIC))

    def error(**options):
        images.save_picture(images.Picture(image), out := io.BytesIO(), file_format, **options)
        return 20 * np.log10(255 / np.sqrt(np.square(np.asarray(Image.open(out)) - image.astype(float)).mean()))

    assert error() > max(least, error(quality=75) + 2)


@pytest.mark.parametrize("grey, transparent", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("suffix", ["png", "ppm"])
def test_sixteen_bits_are_decoded(tmp_path, grey, transparent, suffix):
    planes = tiny.photo(70, 50).mean(-1).astype(np.uint8) if grey else tiny.photo(70, 50)
    source = Image.fromarray(planes)
    if transparent:
        source.putalpha(Image.linear_gradient("L").resize((50, 70)))
    source.info["exif"] = b"Exif\0\0" + struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 0x112, 3, 1, 6) + bytes(4)
    encode_file(source, out := io.BytesIO(), 6, tiny.model())
    target = tmp_path / f"x.{suffix}"
    if suffix == "ppm" and transparent:
        with pytest.raises(errors.ImageError, match="transparency"):
            decode_file(io.BytesIO(out.getvalue()), target, tiny.model(), depth=16)
        return
    decode_file(io.BytesIO(out.getvalue()), target, tiny.model(), depth=16)
    coarse = files.decode_bytes(out.getvalue(), tiny.model()).picture
    exact = files.decode_bytes(out.getvalue(), tiny.model(), depth=16).picture
    assert exact.pixels.dtype == np.uint16 and len(np.unique(exact.pixels)) > 300
    assert (abs(exact.pixels / 257 - coarse.pixels) <= 0.5).all()
    if suffix == "ppm":  # which has no EXIF
        exact = images.Picture(exact.pixels[::-1].swapaxes(0, 1), {})
        data = target.read_bytes()
        shape = exact.pixels.shape
        assert data.split(b"\n")[:3] == [b"P5" if grey else b"P6", b"%d %d" % (shape[1], shape[0]), b"65535"]
        assert (np.frombuffer(data[-2 * exact.pixels.size :], ">u2").reshape(shape) == exact.pixels).all()
        return
    back = images.open_picture(target, None)
    visible = alpha_of(back) > 0 if transparent else slice(None)
    assert (back.pixels[visible] == exact.pixels[visible]).all() and back.chunks["X"] == exact.chunks["X"]
    if transparent:
        assert (alpha_of(back) == alpha_of(exact)).all()
    Image.open(target).verify()


def test_sixteen_bits_where_there_are_eight(tmp_path):
    encode_file(Image.fromarray(PIXELS), out := io.BytesIO(), 6, tiny.model())
    for name in ("x.jpg", "x.tif", None):
        with pytest.raises(errors.ImageError, match="16 bits"):
            target = tmp_path / name if name else None
            decode_file(io.BytesIO(out.getvalue()), target, tiny.model(), depth=16)
    with pytest.raises(ValueError, match="depth"):
        decode_file(io.BytesIO(out.getvalue()), model=tiny.model(), depth=12)
    deep = images.Picture(GREY.astype(np.uint16) * 257)
    images.save_picture(deep, again := io.BytesIO(), "TIFF")
    assert (images.open_picture(again, None).pixels == deep.pixels).all()
    with pytest.raises(errors.ImageError, match="16-bit grey"):
        images.save_picture(deep, io.BytesIO(), "WEBP")


def test_suffixes_are_those_of_formats_that_are_read():
    Image.init()
    readable = {s for s, name in Image.registered_extensions().items() if name in (*images.READ_FORMATS, "MPO")}
    assert readable - {".pfm"} == IMAGE_SUFFIXES & readable  # .pfm: floats
    assert IMAGE_SUFFIXES - readable <= {".avif", ".avifs", ".jp2", ".qoi", ".webp"}  # a Pillow without these

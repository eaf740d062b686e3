"""Parts of pictures: the pixels of the whole picture's rectangle, from the codec up to the commands."""

import ctypes
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ccm_fast
import ccm_fast.interop.pillow
from ccm_fast import _backend, errors, files
from ccm_fast import _native as native
from ccm_fast.command.main import main
from ccm_fast.region import region_of, stored_region

WEIGHTS = tiny.GOLDEN / "tiny.safetensors"
OTHER_ISAS = [isa for isa in native.isa_list().split(",") if isa not in ("avx512amx", native.transform_isa())]


class Coded:
    """A file of the large model, and all of it by codecs of integers and of floats, at every size."""

    def __init__(self):
        self.codecs = [ccm_fast.Codec.load("ccm-small", precision=kind, threads=1) for kind in ("int16", "float32")]
        self.data = self.codecs[0].encode(tiny.photo(629, 703), 5, effort=1)
        self.wholes = [{n: c.decode(self.data, reduce=n, threads=1) for n in (1, 2, 4, 8)} for c in self.codecs]


@pytest.fixture(scope="module")
def coded():
    return Coded()


SHARES = st.tuples(*[st.floats(0, 1)] * 4)


def rectangle(shares, width, height):
    """(x, y, width, height) within a picture; shares of 0 and 1, which come often, are its edges and one pixel."""
    across, down, left, upper = shares
    w, h = 1 + round(across**3 * (width - 1)), 1 + round(down**3 * (height - 1))  # mostly small ones
    return round(left * (width - w)), round(upper * (height - h)), w, h


def part(picture, region):
    x, y, w, h = region
    return picture[y : y + h, x : x + w]


@given(SHARES, st.sampled_from([1, 2, 4, 8]), st.booleans())
@settings(max_examples=40)
def test_a_part_is_the_wholes(coded, shares, factor, floats):
    """The large model: Winograd's tiles, whose last bits depend on where they begin."""
    whole, codec = coded.wholes[floats][factor], coded.codecs[floats]
    region = rectangle(shares, *whole.shape[1::-1])
    assert np.array_equal(codec.decode(coded.data, region=region, reduce=factor, threads=1), part(whole, region))


SIDES = st.integers(1, 90)


@given(SIDES, SIDES, st.booleans(), SHARES, st.sampled_from([1, 2, 4, 8]), st.sampled_from([8, 16]))
@settings(max_examples=40)
def test_parts_of_any_picture(codec, width, height, grey, shares, factor, depth):
    """The tiny one: any size, grey too, 16 bits."""
    data = codec.encode(tiny.photo(height, width)[..., 0].copy() if grey else tiny.photo(height, width), 5, effort=1)
    options = {"depth": depth, "reduce": factor, "latents": False, "threads": 1}
    whole = files.decode_bytes(data, codec, **options).picture.pixels
    region = rectangle(shares, *whole.shape[1::-1])
    found = files.decode_bytes(data, codec, region=region, **options).picture.pixels
    assert found.dtype == whole.dtype and np.array_equal(found, part(whole, region))


CORNERS = """
import sys
from pathlib import Path
import numpy as np
import ccm_fast
data, codec = Path(sys.argv[1]).read_bytes(), ccm_fast.Codec.load("ccm-small", threads=2)
whole = codec.decode(data)
for x, y, w, h in ((0, 0, 30, 20), (300, 291, 20, 13), (40, 291, 1, 1)):
    assert np.array_equal(codec.decode(data, region=(x, y, w, h)), whole[y : y + h, x : x + w])
print(ccm_fast._native.transform_isa())
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", OTHER_ISAS)
def test_every_instruction_set(isa, tmp_path):
    """In a process that CCM_FAST_ISA limits."""
    file = tmp_path / "a.ccm"
    file.write_bytes(ccm_fast.Codec.load("ccm-small").encode(tiny.photo(304, 320), 5, effort=1))
    command = [sys.executable, "-c", CORNERS, file]
    done = subprocess.run(command, env={**os.environ, "CCM_FAST_ISA": isa}, capture_output=True, text=True)
    assert done.stdout.strip() == isa, done.stderr[-1000:]


@pytest.mark.slow
def test_parts_of_tiled_pictures(codec):
    """9 megapixels are computed in two tiles, whose seam a part may cross."""
    data = codec.encode(np.tile(tiny.photo(512, 512), (5, 7, 1)), 4, effort=1)
    whole = codec.decode(data)
    half = whole.shape[1] // 2
    for region in ((half - 30, 1200, 60, 33), (half - 1, 0, 2, 2560), (0, 0, *whole.shape[1::-1]), (3583, 2559, 1, 1)):
        assert np.array_equal(codec.decode(data, region=region), part(whole, region))
    small = codec.decode(data, reduce=4)
    region = half // 4 - 9, 100, 20, 30
    assert np.array_equal(codec.decode(data, region=region, reduce=4), part(small, region))


# ---------------------------------------------------------------------------------------------------------------------
# Wrong rectangles, damaged files


@pytest.fixture(scope="module")
def data(codec):
    return codec.encode(tiny.photo(50, 70), 5, effort=1)


OUTSIDE = [(0, 0, 71, 1), (0, 0, 1, 51), (70, 0, 1, 1), (0, 50, 1, 1), (-1, 0, 5, 5), (0, -1, 5, 5), (5, 5, 0, 5)]
OUTSIDE += [(5, 5, 5, -1), (1 << 62, 0, 1 << 62, 1), (1, 0, (1 << 63) - 1, 1)]


@pytest.mark.parametrize("region", OUTSIDE)
def test_rectangles_outside(codec, data, region):
    for call in (
        lambda: codec.decode(data, region=region),
        lambda: codec.decode(data, region=lambda width, height: region),
        lambda: files.decode_bytes(data, codec, region=region),
        lambda: ccm_fast.decode_arrays([data], region=region, model=codec),
        lambda: codec._native.decode([native.File(data, 0)], 1, regions=[region]),
        lambda: codec._native.decode_into([native.File(data, 0)], [np.empty((5, 5, 3), np.uint8)], 1, [region]),
    ):
        with pytest.raises(ValueError, match="does not lie within the picture of 70x50"):
            call()


def test_what_is_no_rectangle(codec, data):
    for wrong in ((1, 2, 3), (0, 0, 1.5, 2), "0,0,1,1", 7, (0, 0, None, 1), [[0, 0, 1, 1]]):
        with pytest.raises(TypeError, match="four whole numbers"):
            codec.decode(data, region=wrong)
    with pytest.raises(ValueError, match="for every file"):
        codec._native.decode([native.File(data, 0)] * 2, 1, regions=[(0, 0, 1, 1)])
    with pytest.raises(ValueError, match="uint8"):
        codec.decode_into([codec.open_file(data)], [np.empty((50, 70, 3), np.uint8)], regions=[(0, 0, 1, 1)])
    for model in (tiny.model(), "reference"):
        engine, model = ("reference", None) if model == "reference" else (None, model)
        with pytest.raises(ValueError, match=r"parts \(region\) are made by the engine 'cpu'"):
            files.decode_bytes(data, model, engine=engine, region=(0, 0, 1, 1))
        with pytest.raises(ValueError, match=r"\(region\) are decoded on the CPU"):
            ccm_fast.decode_batch([data], model=model, engine=engine, region=(0, 0, 1, 1))


def outcome(decode):
    """The type of the error that a call raises, or None."""
    try:
        decode()
    except errors.BitstreamError as error:
        return type(error)
    return None


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 7), st.booleans())
@settings(max_examples=60)
def test_damage_far_from_the_part_is_found(codec, data, share, bit, cut):
    """All streams are read, whatever is wanted of the picture: the errors are those of the whole."""
    at = int(share * len(data))
    damaged = data[:at] if cut else data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    want = outcome(lambda: codec.decode(damaged, threads=1))
    assert want is not None
    assert outcome(lambda: codec.decode(damaged, region=(0, 0, 1, 1), threads=1)) is want


class Options(ctypes.Structure):
    """ccm_options."""

    _fields_ = [("threads", ctypes.c_int32), ("float_transforms", ctypes.c_int32), ("isa", ctypes.c_char_p)]
    _fields_ += [(name, ctypes.c_int64) for name in ("max_pixels", "x", "y", "width", "height")]


def test_the_c_interface(codec, data):
    library = ctypes.CDLL(str(Path(_backend.__file__).parent / "libccm.so"))
    library.ccm_last_error.restype = ctypes.c_char_p
    model, options = ctypes.c_void_p(), Options()
    assert library.ccm_model_open(str(WEIGHTS).encode(), None, ctypes.byref(model)) == 0
    library.ccm_options_init(ctypes.byref(options))
    pixels = np.zeros((50, 70, 3), np.uint8)

    def decode(region, row_bytes):
        options.x, options.y, options.width, options.height = region
        address, size = pixels.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(len(data))
        given = model, data, size, 0, address, ctypes.c_size_t(row_bytes), ctypes.byref(options)
        return library.ccm_decode(*given)

    try:
        assert decode((0, 0, 0, 0), 210) == 0 and np.array_equal(pixels, codec.decode(data))
        pixels[:] = 7
        assert decode((60, 3, 10, 4), 210) == 0
        assert np.array_equal(pixels[:4, :10], codec.decode(data)[3:7, 60:])
        assert (pixels[4:] == 7).all() and (pixels[:4, 10:] == 7).all()
        for region in [*OUTSIDE[:-1], (3, 3, 0, 0)]:
            assert decode(region, 210) == 8, region  # CCM_ARGUMENT
            assert b"does not lie within the picture of 70x50" in library.ccm_last_error()
        assert decode((0, 0, 10, 1), 29) == 8 and b"row_bytes" in library.ccm_last_error()
    finally:
        library.ccm_model_close(model)


# ---------------------------------------------------------------------------------------------------------------------
# Files, commands, data sets, Pillow


@pytest.mark.parametrize("orientation", range(1, 9))
def test_stored_rectangles(orientation):
    planes = np.arange(5 * 7).reshape(5, 7)
    turned = ccm_fast.images.turned(planes, orientation)
    region = region_of((1, 2, 3, 2), *turned.shape[::-1])
    stored = part(planes, stored_region(region, orientation, 7, 5))
    assert np.array_equal(ccm_fast.images.turned(stored, orientation), part(turned, region))


@pytest.fixture
def phone(codec, tmp_path):
    """A turned picture with transparency."""
    path, picture = tmp_path / "phone.ccm", Image.fromarray(tiny.photo(50, 70))
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, "CCM", model=codec, effort=1, exif=exif)
    return path


def test_files(codec, phone):
    """Of a file, in stored pixels; alpha is cut, and EXIF stays."""
    whole = files.decode_file(phone, None, codec)
    found = files.decode_file(phone, None, codec, region=(10, 20, 30, 15))
    assert found.mode == "RGBA" and found.tobytes() == whole.crop((10, 20, 40, 35)).tobytes()
    assert found.getexif()[0x0112] == 6
    reduced = files.decode_file(phone, None, codec, reduce=2)
    found = files.decode_file(phone, None, codec, reduce=2, region=(5, 6, 7, 8))
    assert found.tobytes() == reduced.crop((5, 6, 12, 14)).tobytes()


@pytest.mark.parametrize("options", [[], ["--strip"]])
def test_the_command_counts_as_pictures_are_seen(codec, phone, tmp_path, options):
    out, whole = tmp_path / "part.png", tmp_path / "whole.png"
    command = ["decode", "--quiet", "-m", str(WEIGHTS), str(phone), *options]
    assert main([*command, "--crop", "20x30+5+40", str(out)]) == 0 and main([*command, str(whole)]) == 0
    with Image.open(out) as found, Image.open(whole) as picture:
        assert found.getexif().get(0x0112, 1) == (1 if options else 6)
        seen = [np.asarray(ccm_fast.images.turned(np.asarray(i), i.getexif().get(0x0112, 1))) for i in (found, picture)]
    assert np.array_equal(seen[0], seen[1][40:70, 5:25])


def test_the_commands_options(codec, phone, tmp_path, capsys):
    out = tmp_path / "out.png"
    command = ["decode", "--quiet", "-f", "-m", str(WEIGHTS), str(phone), str(out)]
    assert main([*command, "--crop", "20x30+5+40", "--thumbnail", "15"]) == 0
    with Image.open(out) as image:
        assert image.size == (10, 15)
    assert main([*command, "--crop", "20x30+31+40"]) == 1
    assert "20x30 pixels at (31, 40) does not lie within the picture of 50x70" in capsys.readouterr().err
    assert main([*command, "--crop", "2x3+1+4", "--latents", str(tmp_path / "y.npy")]) == 2
    for wrong in ("20,30,5,5", "20x30", "0x5+1+1", "20x30+-1+5", "x"):
        with pytest.raises(SystemExit, match="2"):
            main([*command, "--crop", wrong])
        assert "WIDTHxHEIGHT+X+Y" in capsys.readouterr().err


def test_data_sets(codec, phone, data):
    from ccm_fast.data import CcmDataset, CcmIterableDataset, decode_image

    sizes = []

    def lower_right(width, height):
        sizes.append((width, height))
        return width - 9, height - 8, 9, 8

    options = {"model": WEIGHTS, "orient": True}
    whole = CcmDataset(phone, **options)[0]["image"]
    for kind in (CcmDataset, CcmIterableDataset):
        (sample,) = kind(phone, region=lower_right, **options)
        assert sample["image"].equal(whole[:, -8:, -9:]) and sizes.pop() == (50, 70)
    assert np.array_equal(decode_image(data, region=(1, 2, 3, 4), model=codec), codec.decode(data)[2:6, 1:4])
    both = ccm_fast.decode_arrays([data, phone], region=lower_right, model=codec)
    assert both.shape == (2, 8, 9, 3) and np.array_equal(both[0], codec.decode(data)[-8:, -9:])
    assert ccm_fast.decode_batch([data], region=(1, 2, 3, 4), model=codec).shape == (1, 3, 4, 3)
    with pytest.raises(ValueError, match=r"picture 1 \(.*phone.ccm\): the region of 60x5"):
        ccm_fast.decode_arrays([data, phone], region=(0, 0, 60, 5), model=codec, orient=True)


def test_pillow(codec, phone, monkeypatch):
    """The first part is decoded alone, and only that."""
    opened = ccm_fast.interop.pillow.CcmImageFile
    monkeypatch.setattr(opened, "model", codec)
    asked = []
    decode = ccm_fast.Codec.decode_buffers
    monkeypatch.setattr(ccm_fast.Codec, "decode_buffers", lambda *given: asked.append(given[-1]) or decode(*given))
    whole = files.decode_file(phone, None, codec)
    asked.clear()
    with Image.open(phone) as image:
        for box in ((10, 20, 40, 35), (0.4, 0, 7.6, 3), (1, 2, 3, 4)):
            found = image.crop(box)
            assert found.tobytes() == whole.crop(box).tobytes() and found.getexif()[0x0112] == 6
        assert asked == [(10, 20, 30, 15), None] and found.info["quality"] == image.info["quality"]
        assert image.tobytes() == whole.tobytes()
    for box in ((-1, 0, 5, 5), (60, 0, 75, 5), None, (5, 5, 5, 9)):
        with Image.open(io.BytesIO(phone.read_bytes())) as image:
            assert image.crop(box).tobytes() == whole.crop(box).tobytes()
    with Image.open(phone) as image:
        image.draft(None, (30, 20))
        assert image.crop((1, 2, 9, 8)).tobytes() == image.copy().crop((1, 2, 9, 8)).tobytes()

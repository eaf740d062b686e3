"""decode_batch, decode_arrays and encode_batch."""

import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageOps

import ccm_fast
from ccm_fast import _backend, errors, files
from ccm_fast.images import Picture
from ccm_fast.stream.container import parse_container, write_container
from ccm_fast.stream.packet import parse_file

WEIGHTS = tiny.GOLDEN / "tiny.safetensors"
MODELS = [WEIGHTS, "module"]


@pytest.fixture(scope="module")
def codec():
    return ccm_fast.Codec.load(WEIGHTS)


def coded(codec, height=40, width=56, seed=0, grey=False, **chunks):
    pixels = tiny.photo(height, width, seed)
    return codec.encode(pixels[..., 0].copy() if grey else pixels, 4, effort=1, chunks=chunks)


def model_of(name):
    return tiny.model() if name == "module" else name


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes().removeprefix(b"Exif\0\0")


def damaged_within(data):
    """A file whose checksum is right and whose last stream is not."""
    packet = parse_file(parse_container(data).packet, 3)
    stream = bytes(255 - b for b in packet.streams[-1])
    return write_container(replace(packet, streams=(*packet.streams[:-1], stream)).to_file())


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("model", MODELS)
def test_one_size_is_one_tensor(codec, model, threads):
    data = [coded(codec, seed=k, grey=k == 2) for k in range(4)]
    batch = ccm_fast.decode_batch(data, model=model_of(model), threads=threads)
    assert batch.shape == (4, 3, 40, 56) and batch.dtype == torch.uint8
    for one, file in zip(batch, data, strict=True):
        pixels = codec.decode(file)
        want = np.stack([pixels] * 3, -1) if pixels.ndim == 2 else pixels
        assert np.array_equal(one.permute(1, 2, 0).numpy(), want)
    if model != "module":
        assert np.array_equal(ccm_fast.decode_arrays(data, model=model), batch.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("model", MODELS)
def test_several_sizes_are_a_list_in_order(codec, model, tmp_path):
    sizes = [(40, 56), (33, 17), (40, 56), (1, 1)]
    data = [coded(codec, *size, seed=k) for k, size in enumerate(sizes)]
    (tmp_path / "a.ccm").write_bytes(data[1])
    mixed = [data[0], tmp_path / "a.ccm", bytearray(data[2]), io.BytesIO(data[3])]
    found = ccm_fast.decode_batch(mixed, model=model_of(model))
    assert [tuple(f.shape[1:]) for f in found] == sizes
    for one, file in zip(found, data, strict=True):
        assert np.array_equal(one.permute(1, 2, 0).numpy(), codec.decode(file))
    assert ccm_fast.decode_batch([], model=model_of(model)) == []


@pytest.mark.parametrize("model", MODELS)
def test_damage_is_named_and_leaves_the_others_alone(codec, model, tmp_path):
    good = [coded(codec, seed=k) for k in range(3)]
    cut = tmp_path / "cut.ccm"
    cut.write_bytes(good[0][:-3])
    other = WEIGHTS.read_bytes()[:100]
    bad = {1: damaged_within(good[1]), 2: cut, 4: tmp_path / "none.ccm", 5: other}
    items = [bad.get(k, good[k % 3]) for k in range(7)]
    options = {"model": model_of(model)}
    want = ccm_fast.decode_batch([items[k] for k in (0, 3, 6)], **options)
    with pytest.warns(errors.PictureWarning) as notes:
        found = ccm_fast.decode_batch(items, errors="skip", **options)
    assert torch.equal(found, want)
    said = [str(note.message) for note in notes]
    assert [s.split(":")[0] for s in said] == ["left out"] * 4 and "picture 1: a stream of y is damaged" in said[0]
    assert f"picture 2 ({cut})" in said[1] and "none.ccm" in said[2] and "picture 5: not a .ccm file" in said[3]
    with pytest.warns(errors.PictureWarning):
        found = ccm_fast.decode_batch(items, errors="none", **options)
    assert [k for k, one in enumerate(found) if one is None] == [1, 2, 4, 5]
    assert all(torch.equal(found[k], one) for k, one in zip((0, 3, 6), want, strict=True))
    with pytest.raises(errors.DamagedError, match=r"^picture 1: a stream of y is damaged"):
        ccm_fast.decode_batch(items[:2], **options)
    with pytest.raises(errors.BitstreamError, match=r"^picture 1 \(.*cut.ccm\): "):
        ccm_fast.decode_batch([good[0], cut], **options)
    with pytest.raises(FileNotFoundError, match=r"none\.ccm"):
        ccm_fast.decode_batch([good[0], bad[4]], **options)
    with pytest.warns(errors.PictureWarning):
        assert ccm_fast.decode_batch([cut], errors="skip", **options) == []


@pytest.mark.parametrize("model", MODELS)
def test_orientation_on_request(codec, model):
    for number in range(1, 9):
        data = coded(codec, 20, 30, X=exif(number))
        image = files.to_pillow(files.decode_bytes(data, WEIGHTS).picture)
        upright = np.asarray(ImageOps.exif_transpose(image))
        options = {"model": model_of(model)}
        turned = ccm_fast.decode_batch([data], orient=True, **options)
        assert np.array_equal(turned[0].permute(1, 2, 0).numpy(), upright)
        assert ccm_fast.decode_batch([data], **options).shape == (1, 3, 20, 30)
    sides = ccm_fast.decode_batch([coded(codec, 20, 30, X=exif(6)), coded(codec, 30, 20)], orient=True, **options)
    assert sides.shape == (2, 3, 30, 20)


def test_dtypes(codec):
    data = [coded(codec)]
    whole = ccm_fast.decode_batch(data, model=codec)
    for dtype in (torch.float32, torch.float16):
        assert torch.equal(ccm_fast.decode_batch(data, dtype=dtype, model=codec), whole.to(dtype) / 255)
    with pytest.raises(TypeError, match="floating"):
        ccm_fast.decode_batch(data, dtype=torch.int32, model=codec)


def test_arguments(codec):
    data = coded(codec)
    for wrong in (data, "a.ccm", 3):
        with pytest.raises(TypeError, match="a sequence of files"):
            ccm_fast.decode_batch(wrong)
    with pytest.raises(ValueError, match="'raise', 'skip' or 'none'"):
        ccm_fast.decode_batch([data], errors="ignore")
    with pytest.raises(errors.WrongModelError, match=r"^picture 0: "):
        ccm_fast.decode_batch([data], model="ccm-small")
    with pytest.raises(errors.WrongModelError, match="does not ship"):
        ccm_fast.decode_batch([data])
    with pytest.raises(errors.LimitError):
        ccm_fast.decode_batch([data], model=codec, max_pixels=40 * 56 - 1)
    with pytest.raises(FileNotFoundError, match="no-such"):
        ccm_fast.decode_batch([data], model="no-such")
    with pytest.raises(ValueError, match="the model is on cpu"):
        ccm_fast.decode_batch([data], "meta", model=tiny.model())
    native = codec._native
    file = codec.open_file(data)
    for array in (np.empty((40, 56), np.uint8), np.empty((40, 56, 3)), np.empty((40, 112, 3), np.uint8)[:, ::2]):
        with pytest.raises(ValueError, match="arrays must be"):
            native.decode_into([file], [array], 1)
    with pytest.raises(ValueError, match="an array is needed"):
        native.decode_into([file], [], 1)


@pytest.mark.slow
def test_a_batch_of_the_emulated_engine(codec, emulated_ops, monkeypatch):
    """The engine "cuda": damage is found when all is queued, and the errors name their pictures."""
    # Streams of version 1, which that engine's tests have been made with.
    one, two = ((tiny.GOLDEN / f"{name}.ccm").read_bytes() for name in ("colour", "pixel"))
    want = ccm_fast.decode_batch([one, two], model=codec)
    native = _backend.load()

    class Operators:
        """The emulator's, and of the transforms' this machine's."""

        def __getattr__(self, name):
            return getattr(emulated_ops if hasattr(emulated_ops, name) else native.ops, name)

    monkeypatch.setattr(_backend, "load", lambda: SimpleNamespace(ops=Operators(), rans=native.rans))
    items = [one, damaged_within(one), two, one]
    with pytest.warns(errors.PictureWarning, match="picture 1: a stream of y"):
        found = ccm_fast.decode_batch(items, engine="cuda", model=tiny.model(), errors="none")
    assert found[1] is None
    for k, expected in ((0, want[0]), (2, want[1]), (3, want[0])):
        assert torch.equal(found[k], expected)


def test_encoding_side_by_side_gives_the_same_bytes(tmp_path):
    pictures = [tiny.photo(40, 56, k) for k in range(3)]
    Image.fromarray(pictures[2]).save(tmp_path / "a.png", exif=b"Exif\0\0" + exif(6))
    tensors = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    want = [files.encode_picture(Picture(p), 4, WEIGHTS, effort=1) for p in pictures]
    options = {"model": WEIGHTS, "effort": 1}
    for given in (pictures, tensors, list(tensors), [Image.fromarray(p) for p in pictures]):
        assert ccm_fast.encode_batch(given, threads=2, **options) == want
    (grey,) = ccm_fast.encode_batch(tensors[:1, :1], **options)
    assert grey == files.encode_picture(Picture(pictures[0][..., 0].copy()), 4, WEIGHTS, effort=1)
    files.encode_file(tmp_path / "a.png", tmp_path / "a.ccm", 7, WEIGHTS, effort=1)
    found = ccm_fast.encode_batch([pictures[0], tmp_path / "a.png"], [4, 7], **options)
    assert found == [want[0], (tmp_path / "a.ccm").read_bytes()]
    assert ccm_fast.encode_batch(pictures[:1], model=tiny.model(), effort=1) == want[:1]


def test_pictures_that_cannot_be_encoded(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    items = [tiny.photo(20, 20), tmp_path / "a.png", b"neither"]
    options = {"model": WEIGHTS, "effort": 1}
    with pytest.raises(errors.ImageError, match=r"^picture 1 \(.*a.png\): not an image"):
        ccm_fast.encode_batch(items, **options)
    with pytest.warns(errors.PictureWarning) as notes:
        found = ccm_fast.encode_batch(items, errors="none", **options)
    assert found[0] and found[1:] == [None, None] and len(notes) == 2
    with pytest.raises(TypeError, match=r"\[3, H, W\]"):
        ccm_fast.encode_batch([torch.zeros(4, 8, 8, dtype=torch.uint8)], **options)
    with pytest.raises(ValueError, match="2 qualities for 3 pictures"):
        ccm_fast.encode_batch(items, [4, 4], **options)

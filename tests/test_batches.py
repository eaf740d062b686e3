"""decode_batch, decode_arrays and encode_batch."""

import io
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from PIL import Image, ImageOps
from torch.utils._python_dispatch import TorchDispatchMode

import ccm_fast
from ccm_fast import _backend, batches, errors, files, tensor_batches
from ccm_fast.entropy import tensors
from ccm_fast.images import Picture
from ccm_fast.stream.container import parse_container, write_container
from ccm_fast.stream.packet import parse_file

WEIGHTS = tiny.GOLDEN / "tiny.safetensors"
MODELS = [WEIGHTS, "module"]


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
    return write_container(packet._replace(streams=(*packet.streams[:-1], stream)).to_file())


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
    with pytest.raises(ValueError, match="an array, and a region or None, is needed"):
        native.decode_into([file], [], 1)


class Waits(TorchDispatchMode):
    """Notes what would make the host wait for a GPU, or copy from it, were the tensors there and not on the CPU."""

    # Read a number, or find out how many there are.
    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "is_nonzero", "equal", "bincount")

    def __init__(self):
        super().__init__()
        self.seen = []
        self.patches = pytest.MonkeyPatch()

    def __enter__(self):
        for name in ("cpu", "item", "tolist", "numpy", "__array__", "__bool__", "__int__", "__float__"):
            self.patches.setattr(torch.Tensor, name, self._noted(name, getattr(torch.Tensor, name)))
        return super().__enter__()

    def __exit__(self, *why):
        self.patches.undo()
        return super().__exit__(*why)

    def _noted(self, name, call):
        def method(tensor, *arguments, **options):
            caller = sys._getframe(1)
            self.seen.append(f"{name} in {caller.f_code.co_filename}:{caller.f_lineno}")
            return call(tensor, *arguments, **options)

        return method

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in arguments[1]
        )
        if name in self.NAMES or masked:
            self.seen.append(name)
        return function(*arguments, **(options or {}))


def test_waits_are_noted():
    """The watch of the next test sees what it is for."""
    x = torch.arange(6.0)
    with Waits() as waits:
        x.add(1).mul_(2)
        assert waits.seen == []
        float(x[1]), x[x > 3], x.cpu(), x.numpy(), x.nonzero(), bool(x[0] == 0)
    names = {name.partition(" ")[0] for name in waits.seen}
    assert {"__float__", "index", "cpu", "numpy", "nonzero", "__bool__", "_local_scalar_dense"} <= names


def test_other_threads_run_while_pictures_are_decoded(codec):
    files = [coded(codec, 512, 768)] * 4
    ticks, over = [], threading.Event()

    def tick():
        while not over.wait(0.001):
            ticks.append(time.perf_counter())

    other = threading.Thread(target=tick)
    other.start()
    try:
        start = time.perf_counter()
        ccm_fast.decode_arrays(files, model=codec, threads=1)
        end = time.perf_counter()
    finally:
        over.set()
        other.join()
    fifth = (end - start) / 5
    assert any(start + fifth < at < end - fifth for at in ticks)


@pytest.mark.slow
def test_a_batch_of_the_emulated_engine(codec, emulated_ops, monkeypatch):
    """The engine "cuda": damage is found when all is queued, and the errors name their pictures."""
    # Streams of version 1, which that engine's tests have been made with.
    one, two = ((tiny.GOLDEN / f"{name}.ccm").read_bytes() for name in ("colour", "pixel"))
    filtered = (tiny.GOLDEN / "filter2.ccm").read_bytes()
    want = ccm_fast.decode_batch([one, two, filtered], model=codec)
    native = _backend.load()

    class Operators:
        """The emulator's, and of the transforms' this machine's."""

        def __getattr__(self, name):
            return getattr(emulated_ops if hasattr(emulated_ops, name) else native.ops, name)

    monkeypatch.setattr(_backend, "load", lambda: SimpleNamespace(ops=Operators(), rans=native.rans))
    items = [one, damaged_within(one), two, one, filtered]
    copies, upload = [], tensors.uploaded
    monkeypatch.setattr(tensors, "uploaded", lambda *arguments: copies.append(1) or upload(*arguments))
    queue = tensor_batches._queue

    def watched(*arguments):
        with Waits() as waits:
            queued = queue(*arguments)
        # Whether a CPU's fast copy of g_s is still right: inference() hands a GPU's modules back before it looks.
        seen = [name for name in waits.seen if "models/state.py:" not in name]
        assert not seen, "\n".join(seen)
        return queued

    monkeypatch.setattr(tensor_batches, "_queue", watched)
    with pytest.warns(errors.PictureWarning, match="picture 1: a stream of y"):
        found = ccm_fast.decode_batch(items, engine="cuda", model=tiny.model(), errors="none")
    assert len(copies) == 1  # of both sizes
    assert found[1] is None
    for k, expected in ((0, want[0]), (2, want[1]), (3, want[0])):
        assert torch.equal(found[k], expected)
    # The order of a filter's sums decides halves.
    assert (found[4].int() - want[2].int()).abs().max() <= 1 and (found[4] != want[2]).sum() <= 5


def test_what_is_uploaded_together_is_found_again():
    arrays = [np.arange(7, dtype=np.int64).reshape(7, 1), np.empty((0, 3), np.int64), np.array([1.5], np.float32)]
    arrays += [np.arange(300, dtype=np.uint8)[::3], np.arange(6, dtype=np.int16).reshape(2, 3).T]
    found = tensors.uploaded(arrays, torch.device("cpu"))
    assert all(np.array_equal(a, b.numpy()) and a.dtype == b.numpy().dtype for a, b in zip(arrays, found, strict=True))
    assert all(one.is_contiguous() and one.storage_offset() * one.element_size() % 256 == 0 for one in found)


def test_sizes_are_queued_beside_each_other(monkeypatch):
    """A side stream begins after what is queued on the caller's, which goes on after it."""
    said = []

    class Stream:
        def __init__(self, name):
            self.name = name

        def wait_stream(self, other):
            said.append(f"{self.name} waits for {other.name}")

    @contextmanager
    def within(stream):
        said.append(f"on {stream.name}")
        yield

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("main"))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(tensor_batches, "_stream", lambda device, k: Stream(f"side {k}"))
    for k in (0, 9):
        with tensor_batches._side_stream(torch.device("cuda"), k):
            said.append("work")
    each = ["side {0} waits for main", "on side {0}", "work", "main waits for side {0}"]
    assert said == [line.format(k) for k in (0, 1) for line in each]


def test_files_are_handed_to_the_codec_together(tmp_path, monkeypatch):
    """And as many at a time as fill the threads, whatever the batch's length."""
    pictures = [tiny.photo(20 + k, 30, k) for k in range(5)]
    for k in (1, 3):
        Image.fromarray(pictures[k]).save(tmp_path / f"{k}.png")
    items = [tmp_path / f"{k}.png" if k in (1, 3) else pictures[k] for k in range(5)]
    want = [files.encode_picture(Picture(p), 4 + k / 32, WEIGHTS, effort=1) for k, p in enumerate(pictures)]
    calls, encode_each = [], ccm_fast.Codec.encode_each

    def noted(codec, some, *arguments, **options):
        calls.append(len(some))
        return encode_each(codec, some, *arguments, **options)

    monkeypatch.setattr(ccm_fast.Codec, "encode_each", noted)
    options = {"quality": [4 + k / 32 for k in range(5)], "model": WEIGHTS, "effort": 1}
    assert ccm_fast.encode_batch(items, **options) == want and calls == [5]
    monkeypatch.setattr(batches, "_PIXELS_AT_ONCE", 2 * 20 * 30)
    assert ccm_fast.encode_batch(items, threads=2, **options) == want and calls == [5, 2, 2, 1]


def test_a_picture_that_the_codec_refuses_is_named(monkeypatch):
    encode_each = ccm_fast.Codec.encode_each

    def refusing(codec, some, *arguments, **options):
        found = encode_each(codec, some, *arguments, **options)
        return [errors.EncodeError("no") if one.shape[0] == 21 else data for one, data in zip(some, found, strict=True)]

    monkeypatch.setattr(ccm_fast.Codec, "encode_each", refusing)
    pictures, options = [tiny.photo(20 + k, 30, k) for k in range(3)], {"model": WEIGHTS, "effort": 1}
    with pytest.raises(errors.EncodeError, match=r"^picture 1: no$"):
        ccm_fast.encode_batch(pictures, **options)
    with pytest.warns(errors.PictureWarning, match="picture 1: no"):
        found = ccm_fast.encode_batch(pictures, errors="none", **options)
    assert found[0] and found[1] is None and found[2]
    with pytest.raises(ValueError, match="sides of a picture"):  # an argument's fault is no picture's
        ccm_fast.encode_batch([pictures[0], np.empty((0, 3, 3), np.uint8)], errors="skip", **options)


def test_the_codec_answers_for_each_picture(codec):
    pictures = [tiny.photo(20, 30), np.empty((0, 3, 3), np.uint8), tiny.photo(8, 9)]
    found = codec.encode_each(pictures, [4, 4, 7], [{}, {}, {"X": exif(6)}], effort=1)
    assert isinstance(found[1], ValueError)
    assert found[0] == codec.encode(pictures[0], 4, effort=1)
    assert found[2] == codec.encode(pictures[2], 7, effort=1, chunks={"X": exif(6)})
    with pytest.raises(ValueError, match="sides of a picture"):
        codec.encode(pictures, 4, effort=1)
    with pytest.raises(ValueError, match="a quality and chunks"):
        codec._native.encode(pictures, [96], 1, 0, 1, [[]])


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

"""Picture filters (FORMAT.md, section 8): what they do, by an implementation from the text; what damaged ones do."""

import numpy as np
import pytest
from tiny import GOLDEN, photo

from ccm_fast import Codec, DamagedError
from ccm_fast.stream.container import FILTER, parse_container, write_container

BOUNDS = (256, 362, 512, 724, 1024, 1448, 2048, 2896, 4096, 5793, 8192, 11585, 16384, 23170, 32768)
RINGS = ((0, 1), (1, 1), (0, 2), (2, 2), (0, 3))
OPPONENT = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])


@pytest.fixture(scope="module")
def codec():
    return Codec.load("ccm-small", threads=1)


@pytest.fixture(scope="module")
def picture():
    """Grain over a photograph: what a file loses is not the same everywhere, and a filter is worth its bytes."""
    return np.asarray(photo(256, 256, 5))


@pytest.fixture(scope="module")
def file(codec, picture):
    data = codec.encode(picture, quality=6)
    assert FILTER in parse_container(data).chunks
    return data


def without(file):
    container = parse_container(file)
    return write_container(container.packet, {k: v for k, v in container.chunks.items() if k != FILTER})


def with_filter(file, chunk):
    return write_container(parse_container(file).packet, {FILTER: chunk})


def bits_of(chunk):
    return [byte >> k & 1 for byte in chunk for k in range(8)]


def chunk_of(bits):
    bits = bits + [0] * (-len(bits) % 8)
    return bytes(sum(bit << k for k, bit in enumerate(bits[i : i + 8])) for i in range(0, len(bits), 8))


def parsed(chunk, colours):
    """Step, class of each bin and coefficients [class][a][b][t]."""
    bits = bits_of(chunk)
    at = 0

    def take(count):
        nonlocal at
        value = sum(bit << k for k, bit in enumerate(bits[at : at + count]))
        at += count
        return value

    step, splits, rice = take(3) + 5, [take(1) for _ in range(15)], take(3)
    kinds = np.cumsum([0, *splits])
    coefficients = []
    for _ in range((kinds[-1] + 1) * colours * colours * 6):
        u = 0
        while take(1):
            u += 1
        n = (u << rice) + take(rice)
        coefficients.append((n + 1) // 2 if n % 2 else -(n // 2))
    assert len(bits) - at < 8 and not any(bits[at:])
    return step, kinds, np.array(coefficients, float).reshape(-1, colours, colours, 6)


def written(step, splits, coefficients, rice=2):
    bits = [step - 5 >> k & 1 for k in range(3)] + list(splits) + [rice >> k & 1 for k in range(3)]
    for c in coefficients:
        n = 2 * c - 1 if c > 0 else -2 * c
        bits += [1] * (n >> rice) + [0] + [n >> k & 1 for k in range(rice)]
    return chunk_of(bits)


def filtered(pixels, chunk):
    """Levels in [0, 1], float64 [H, W, C], of pixels in [0, 1], by the text."""
    H, W, C = pixels.shape
    step, kinds, coefficients = parsed(chunk, C)
    p = np.round(pixels * 8160).astype(np.int64)
    around = np.pad(p, ((3, 3), (3, 3), (0, 0)), mode="edge")
    matrix = OPPONENT if C == 3 else np.ones((1, 1))

    def moved(i, j, of=around):
        top, left = (of.shape[0] - H) // 2 + i, (of.shape[1] - W) // 2 + j
        return of[top : top + H, left : left + W]

    taps = [(p - 4096) / 8]
    taps += [moved(i, j) + moved(-i, -j) + moved(j, -i) + moved(-j, i) - 4 * p for i, j in RINGS]
    light = around.sum(-1) if C == 3 else 3 * around[..., 0]
    d = np.zeros_like(light)
    d[1:-1, 1:-1] = abs(2 * light - np.roll(light, 1, 0) - np.roll(light, -1, 0))[1:-1, 1:-1]
    d[1:-1, 1:-1] += abs(2 * light - np.roll(light, 1, 1) - np.roll(light, -1, 1))[1:-1, 1:-1]
    activity = sum(moved(i, j, d) for i in (-1, 0, 1) for j in (-1, 0, 1))
    kind = kinds[sum((activity >= bound).astype(int) for bound in BOUNDS)]
    taps = np.stack(taps, -1)  # [H, W, colour, tap]
    opponent = np.einsum("bc,hwct->hwbt", matrix, taps)
    found = np.einsum("hwabt,hwbt->hwa", coefficients[kind] * 2.0**-step, opponent)
    return np.clip((p + np.einsum("ac,hwa->hwc", matrix, found)) / 8160, 0, 1)


def exact_pixels(codec, file, grey=False):
    """Pixels before they are filtered, in 1/65535."""
    import ccm_fast.files as files

    found = files.decode_bytes(without(file), codec, depth=16).picture.pixels / 65535
    return found[..., None] if grey else found


@pytest.mark.parametrize("grey", [False, True])
def test_filtered_pixels_are_those_of_the_text(codec, picture, grey):
    original = picture[..., 1].copy() if grey else picture
    data = codec.encode(original, quality=7)
    chunk = parse_container(data).chunks[FILTER]
    expected = filtered(exact_pixels(codec, data, grey), chunk)[..., 0 if grey else slice(None)]
    decoded = codec.decode(data)
    # 16-bit pixels do not tell the last 1/8 of a filter's units, which may also put a pixel into another class.
    assert (abs(decoded - expected * 255) > 0.6).mean() < 0.002
    assert (decoded != np.round(expected * 255)).mean() < 0.02


def test_the_golden_file(codec):
    """Three classes of coefficients that no encoder would send."""
    codec, data = Codec.load(GOLDEN / "tiny.safetensors", threads=1), (GOLDEN / "filter2.ccm").read_bytes()
    expected = filtered(exact_pixels(codec, data), parse_container(data).chunks[FILTER]) * 255
    assert (abs(codec.decode(data) - expected) > 0.6).mean() < 0.01
    assert abs(codec.decode(data).astype(int) - codec.decode(without(data))).max() > 2


def test_every_class_and_tap(codec, picture, file):
    """A filter of large coefficients of all kinds, which no encoder would send."""
    rng = np.random.default_rng(3)
    coefficients = rng.integers(-30, 31, 16 * 3 * 18)
    data = with_filter(file, written(8, [1] * 15, coefficients.tolist()))
    expected = filtered(exact_pixels(codec, file), parse_container(data).chunks[FILTER]) * 255
    off = abs(codec.decode(data) - expected)
    # Where 16-bit pixels put a pixel into another bin than the exact ones do, everything differs.
    assert (off > 1.5).mean() < 0.02


@pytest.mark.parametrize("quality", [2, 6])
def test_pictures_come_nearer(codec, picture, quality):
    data = codec.encode(picture, quality=quality)

    def error(file):
        return ((codec.decode(file).astype(float) - picture) ** 2).mean()

    assert FILTER in parse_container(data).chunks
    assert error(data) < error(without(data))


def test_latents_do_not_depend_on_it(codec, file):
    from ccm_fast.files import decode_bytes

    one, other = (decode_bytes(f, codec) for f in (file, without(file)))
    np.testing.assert_array_equal(one.latents, other.latents)
    assert (np.asarray(one.picture.pixels) != np.asarray(other.picture.pixels)).any()


def test_a_filter_of_another_file_is_dropped(codec, picture, file):
    from ccm_fast.files import encode_picture
    from ccm_fast.images import Picture

    chunks = parse_container(file).chunks
    for model, options in ((codec, {}), ("ccm-small", {"tune": "ms-ssim"})):
        again = encode_picture(Picture(picture, chunks), 3, model, effort=2, **options)
        assert parse_container(again).chunks.get(FILTER) != chunks[FILTER]


def test_effort_1_sends_none(codec, picture):
    assert FILTER not in parse_container(codec.encode(picture, quality=6, effort=1)).chunks


def test_models_for_the_eye_send_none(picture):
    import ccm_fast
    from ccm_fast.files import encode_picture
    from ccm_fast.images import Picture

    native = Codec.load("ccm-small-msssim").encode(picture, quality=6)
    by_torch = encode_picture(Picture(picture), 6, ccm_fast.load("ccm-small-msssim"), threads=1)
    tuned = encode_picture(Picture(picture), 6, "ccm-small", tune="ms-ssim", threads=1)
    assert not any(FILTER in parse_container(data).chunks for data in (native, by_torch, tuned))


def test_regions_and_threads(codec, file):
    whole = codec.decode(file)
    for x, y, w, h in ((0, 0, 1, 1), (17, 30, 64, 50), (200, 0, 56, 256), (255, 255, 1, 1), (3, 5, 9, 240)):
        np.testing.assert_array_equal(codec.decode(file, region=(x, y, w, h)), whole[y : y + h, x : x + w])
    many = Codec.load("ccm-small", threads=3)
    np.testing.assert_array_equal(many.decode(file, threads=3), whole)


def test_threads_encode_the_same(codec, picture):
    assert codec.encode(picture, quality=6, threads=3) == codec.encode(picture, quality=6, threads=1)


def test_reduced_pictures_and_previews_do_without(codec, file):
    np.testing.assert_array_equal(codec.decode(file, reduce=2), codec.decode(without(file), reduce=2))
    np.testing.assert_array_equal(codec.decode(file, groups=2), codec.decode(without(file), groups=2))


def test_damaged_filters(codec, file):
    chunk = parse_container(file).chunks[FILTER]
    for size in range(len(chunk)):
        with pytest.raises(DamagedError, match="filter"):
            codec.decode(with_filter(file, chunk[:size]))
    with pytest.raises(DamagedError, match="too many"):
        codec.decode(with_filter(file, chunk + b"\0"))
    with pytest.raises(DamagedError, match="out of range"):
        codec.decode(with_filter(file, b"\0\0\0" + b"\xff" * 400))
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(chunk)
        damaged[rng.integers(len(chunk))] ^= 1 << rng.integers(8)
        try:
            codec.decode(with_filter(file, bytes(damaged)))
        except DamagedError as error:
            assert "filter" in str(error)


def test_a_colour_filter_for_a_grey_picture(codec, picture, file):
    grey = codec.encode(picture[..., 0].copy(), quality=6)
    chunk = parse_container(file).chunks[FILTER]
    with pytest.raises(DamagedError, match="filter"):
        codec.decode(with_filter(grey, chunk))


def test_modules_of_torch(codec, picture, file):
    import ccm_fast
    from ccm_fast.files import decode_bytes, encode_picture
    from ccm_fast.images import Picture

    model = ccm_fast.load("ccm-small")
    again = encode_picture(Picture(picture), 6, model, threads=1)
    # Transforms of torch differ in their last bits where the native ones have other kernels.
    assert abs(len(again) - len(file)) <= 0.01 * len(file) and FILTER in parse_container(again).chunks
    pixels = codec.decode(file)
    decoded = decode_bytes(file, model)
    assert FILTER not in decoded.picture.chunks
    assert abs(decoded.picture.pixels.astype(int) - pixels).max() <= 2
    (batch,) = ccm_fast.decode_batch([file], model=model, device="cpu")
    assert abs(batch.permute(1, 2, 0).numpy().astype(int) - pixels).max() <= 2


@pytest.mark.slow
def test_a_file_of_several_tiles(codec):
    """A decoder's tiles end where a filter reads on."""
    from ccm_fast.files import decode_bytes

    wide = np.tile(np.asarray(photo(320, 320, 2)), (1, 90, 1))  # 9.2 megapixels: two tiles, which meet in the middle
    data = with_filter(codec.encode(wide, quality=3, effort=1), written(8, [0] * 15, [5, -9, 4, 2, 1, 3] * 9))
    whole = codec.decode(data)
    left = wide.shape[1] // 2 - 40
    part = codec.decode(data, region=(left, 0, 80, 320))
    np.testing.assert_array_equal(part, whole[:, left : left + 80])
    plain = decode_bytes(without(data), codec, depth=16, region=(left - 8, 0, 96, 320)).picture.pixels / 65535
    expected = filtered(plain, parse_container(data).chunks[FILTER])[:, 8:-8] * 255
    assert (abs(part - expected) > 0.6).mean() < 0.002

"""Bad bytes: every one of them ends in a typed error, fast; none in a crash, a hang or a wrong picture."""

import io
import time

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from ccm_fast import compress, decompress, errors, files
from ccm_fast.stream.container import parse_container, write_container
from ccm_fast.stream.crc32c import crc32c
from ccm_fast.stream.packet import lanes_of, may_taper, parse_file

SECONDS = 1.0  # of this thread's processor time: other processes do not count
FLIPS = 10_000


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module", params=[1, 2])
def data(model, request):
    """A file with everything in it: chunks, escapes, several lanes; about a kilobyte. Of either version."""
    image = Image.fromarray(tiny.photo(60, 90))
    image.putalpha(Image.linear_gradient("L").resize((90, 60)))
    image.info["icc_profile"] = b"some profile"
    out = io.BytesIO()
    files.encode_file(image, out, 6, model, lanes=2)
    if request.param == 2:
        return out.getvalue()
    decoded = files.decode_bytes(out.getvalue(), model)
    p, frozen = decoded.packet, model.frozen
    z_hat = frozen.decode_z([p.z_stream], *p.z_shape)
    (z,) = frozen.encode_z(z_hat, lanes=2)
    (y,) = frozen.encode_y(frozen.hyper(z_hat, *p.y_shape), torch.from_numpy(decoded.latents)[None], lanes=2)
    old = p._replace(streams=tuple(s.data for s in (z, *y)), version=1, tapers=())
    return write_container(old.to_file(), parse_container(out.getvalue()).chunks)


def decode(data, model, **options):
    """(kind, result): "error" and its class, or "image" and the decoded file. Anything else fails the test."""
    start = time.thread_time()
    try:
        kind, result = "image", files.decode_bytes(data, model, threads=1, **options)
        files.to_pillow(result.picture)
    except errors.BitstreamError as error:
        assert type(error) is not errors.BitstreamError and str(error)
        kind, result = "error", type(error)
    assert time.thread_time() - start < SECONDS
    return kind, result


def test_the_file_itself_is_good(data, model):
    assert decode(data, model)[0] == "image"


def test_every_truncation(data, model):
    for n in range(len(data)):
        assert decode(data[:n], model)[0] == "error"
    strings = compress(model, torch.rand(1, 3, 20, 30))["strings"]
    for which in (0, 1):
        for n in range(len(strings[which][0])):
            cut = [list(s) for s in strings]
            cut[which][0] = cut[which][0][:n]
            with pytest.raises(errors.BitstreamError):
                decompress(model, cut)


@pytest.mark.parametrize("native", [True, False])
def test_bytes_too_many(data, model, native):
    known = str(tiny.GOLDEN / "tiny.safetensors") if native else model
    body = (tiny.GOLDEN / "colour.ccm").read_bytes() if native else data
    for count in (1, 2):
        with pytest.raises(errors.DamagedError, match=r"a byte too many|the checksum does not match"):
            files.decode_bytes(body + bytes(count), known)


def test_random_bit_flips(data, model):
    rng = np.random.default_rng(1)
    seen = {}
    for _ in range(FLIPS):
        bad = np.frombuffer(data, np.uint8).copy()
        for _ in range(rng.integers(1, 9) if rng.random() < 0.5 else 1):
            bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        if bad.tobytes() == data:
            continue
        kind, result = decode(bad.tobytes(), model)
        assert kind == "error"
        seen[result] = seen.get(result, 0) + 1
    assert set(seen) >= {errors.DamagedError, errors.TruncatedError, errors.WrongModelError, errors.NotCcmError}


def test_random_files_and_tails(data, model):
    rng = np.random.default_rng(2)
    for _ in range(1000):
        assert decode(rng.bytes(rng.integers(300)), model)[0] == "error"
    for keep in rng.integers(4, len(data), 1000):
        assert decode(data[:keep] + rng.bytes(rng.integers(1, 300)), model)[0] == "error"
    for head in (b"CCM\x01", b"CCM\x81", b"CCM\x02", b"CCM\x82"):
        for _ in range(1000):
            assert decode(head + rng.bytes(rng.integers(300)), model)[0] == "error"


def least(lanes, version):
    """Bytes of the states of so many lanes, about."""
    return 5 * lanes if version == 1 else 4 * lanes + lanes // 8


def mutate(rng, packet):
    """A packet whose checksum is right and something else is not (or, by luck, is)."""
    streams, lanes = [bytearray(s) for s in packet.streams], list(packet.lanes)
    tapers = list(packet.tapers or (0,) * len(lanes))
    k = int(rng.integers(len(streams)))
    what = rng.integers(7 + (packet.version == 2))
    if what <= 2:
        for _ in range(1 << rng.integers(5)):
            streams[k][rng.integers(len(streams[k]))] ^= 1 << rng.integers(8)
    elif what == 3:  # a word less, or some more
        keep = len(streams[k]) - 2
        if keep >= least(lanes[k], packet.version) and rng.random() < 0.5:
            del streams[k][keep:]
        else:
            streams[k] += rng.bytes(2 * int(rng.integers(1, 9)))
    elif what == 4:  # other lanes over about the same bytes
        lanes[k] = int(rng.choice(lanes_of(packet.version)))
        size = max(len(streams[k]), least(lanes[k], packet.version))
        odd = (size - 5 * lanes[k]) % 2 if packet.version == 1 else 0
        streams[k] = streams[k].ljust(size + odd, b"\x01")
    elif what == 5:
        streams[k], streams[k - 1], lanes[k], lanes[k - 1] = streams[k - 1], streams[k], lanes[k - 1], lanes[k]
    elif what == 7:
        tapers[k] = int(rng.integers(16))
    else:
        size = {"width": int(rng.integers(1, 400)), "height": int(rng.integers(1, 400))}
        packet = packet._replace(**size, quality_code=int(rng.integers(225)), grey=bool(rng.integers(2)))
    tapers = [taper if i and may_taper(n) else 0 for i, (taper, n) in enumerate(zip(tapers, lanes, strict=True))]
    return packet._replace(lanes=tuple(lanes), streams=tuple(map(bytes, streams)), tapers=tuple(tapers))


@pytest.mark.slow
def test_damage_under_a_right_checksum(data, model):
    """Behind the checksum the coder itself has to notice: final states and word counts."""
    packet = parse_file(parse_container(data).packet, 3)
    rng = np.random.default_rng(3)
    seen = {}
    for k in range(4000):
        bad = mutate(rng, packet)
        kind, result = decode(write_container(bad.to_file()), model)
        if kind == "image":
            assert result.picture.size == (bad.height, bad.width)
            result = "image"
        elif k < 100:  # the oracle says the same
            assert decode(write_container(bad.to_file()), model, engine="reference") == (kind, result)
        seen[result] = seen.get(result, 0) + 1
    assert seen.pop("image", 0) < 1000  # other qualities and sizes of the same number of latents
    assert set(seen) == {errors.DamagedError, errors.TruncatedError}


def test_header_flips_under_a_right_checksum(data, model):
    packet = parse_file(parse_container(data).packet, 3)
    header, payload = packet.header(), b"".join(packet.streams)
    rng = np.random.default_rng(4)
    for _ in range(3000):
        bad = bytearray(header[:-4])
        for _ in range(rng.integers(1, 4)):
            bad[rng.integers(9, len(bad))] ^= 1 << rng.integers(8)
        crc = crc32c(payload, crc32c(bytes(bad)))
        kind, result = decode(write_container(bytes(bad) + crc.to_bytes(4, "little") + payload), model)
        assert kind == "error" or result.packet.y_shape == packet.y_shape


@pytest.mark.slow
def test_alpha_damage_under_a_right_checksum(data, model):
    container = parse_container(data)
    rng = np.random.default_rng(5)
    kinds = set()
    for k in range(1000):
        alpha = bytearray(container.chunks["A"])
        if k % 2:
            alpha[rng.integers(len(alpha))] ^= 1 << rng.integers(8)
        else:
            del alpha[rng.integers(len(alpha)) :]
        kind, result = decode(write_container(container.packet, {"A": bytes(alpha)}), model)
        assert kind == "image" or result is errors.DamagedError
        kinds.add(kind)
    assert "error" in kinds


def test_claims_of_enormous_images_end_fast(data, model):
    packet = parse_file(parse_container(data).packet, 3)
    for width, height in ((13_000, 13_000), (1 << 20, 170), (170, 1 << 20), (1 << 20, 1 << 20)):
        kind, _ = decode(write_container(packet._replace(width=width, height=height).to_file()), model)
        assert kind == "error"
    assert decode(data, model, max_pixels=60 * 90 - 1) == ("error", errors.LimitError)

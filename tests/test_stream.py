"""Varints, CRC-32C, packet headers and the container: the bytes of FORMAT.md section 6, without any model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccm_fast import errors
from ccm_fast.stream import container, limits, packet
from ccm_fast.stream.crc32c import crc32c, crc32c_python
from ccm_fast.stream.varint import MAX_VARINT, ByteReader, encode_varint

FINGERPRINT = bytes(range(8))


@given(st.integers(0, MAX_VARINT))
def test_varint_round_trip(value):
    data = encode_varint(value)
    reader = ByteReader(data + b"x")
    assert reader.varint("it") == value
    assert reader.position == len(data) <= 5


@pytest.mark.parametrize("bad", ["80", "ffff", "8000", "ff00", "808080808001", "ffffffffff"])
def test_varint_rejects(bad):
    with pytest.raises((errors.TruncatedError, errors.DamagedError)):
        ByteReader(bytes.fromhex(bad)).varint("it")


def test_varint_range():
    for value in (-1, MAX_VARINT + 1):
        with pytest.raises(ValueError):
            encode_varint(value)


@pytest.mark.parametrize(
    "data, crc",
    [
        # RFC 3720, appendix B.4
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_crc32c_known_values(data, crc):
    assert crc32c_python(data) == crc32c(data) == crc


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_crc32c_native_is_the_oracle_and_continues(a, b):
    assert crc32c(memoryview(b), crc32c(a)) == crc32c_python(b, crc32c_python(a)) == crc32c_python(a + b)


def make2(width=300, height=20, lanes=(1, 64, 2), sizes=(3, 0, 5), grey=False):
    streams = tuple(bytes([k + 1]) * n for k, n in enumerate(sizes))
    return packet.Packet(width, height, 96, FINGERPRINT, grey, lanes, streams, 2)


def make(width=40, height=20, lanes=(1, 2, 1), words=(3, 0, 5), grey=False, code=96):
    streams = tuple(bytes([k + 1]) * (5 * n + 2 * w) for k, (n, w) in enumerate(zip(lanes, words)))
    return packet.Packet(width, height, code, FINGERPRINT, grey, lanes, streams)


packets_of_2 = st.integers(1, 32).flatmap(
    lambda groups: st.builds(
        make2,
        width=st.integers(1, 1 << 13),
        height=st.integers(1, 1 << 13),
        lanes=st.tuples(*[st.sampled_from(packet.MOST_LANES)] * (groups + 1)),
        sizes=st.tuples(*[st.integers(0, 400)] * (groups + 1)),
        grey=st.booleans(),
    )
)
packets = st.integers(1, 32).flatmap(
    lambda groups: st.builds(
        make,
        width=st.integers(1, 1 << 13),
        height=st.integers(1, 1 << 13),
        lanes=st.tuples(*[st.sampled_from(packet.LANES)] * (groups + 1)),
        words=st.tuples(*[st.integers(0, 200)] * (groups + 1)),
        grey=st.booleans(),
        code=st.integers(0, 224),
    )
)


@given(packets | packets_of_2)
def test_packet_round_trip(p):
    data = p.to_file()
    for parsed in (
        packet.parse_file(data, p.groups),
        packet.parse_strings(*p.to_strings(), p.groups),
        packet.guess_groups(data),
    ):
        assert parsed == p and parsed.header() == p.header()
    single = set(p.lanes) == {1}
    assert packet.peek(data) == packet.Fixed(p.width, p.height, p.quality_code, FINGERPRINT, p.grey, single, p.version)


def test_header_bytes():
    """The layout of FORMAT.md, spelled out."""
    p = make(width=300, height=20, lanes=(1, 2, 32), words=(3, 0, 5), grey=True, code=224)
    body = bytes([1]) + FINGERPRINT + b"\xac\x02" + b"\x14" + bytes([224]) + (1 << 3 | 5 << 6).to_bytes(2, "little")
    body += b"\x03" + b"\x00"
    payload = b"".join(p.streams)
    assert p.header() == body + crc32c_python(body + payload).to_bytes(4, "little")
    assert p.quality == 8.0 and p.y_shape == (2, 19) and p.z_shape == (1, 5)


def test_header_bytes_of_version_2():
    p = make2()
    body = bytes([4]) + FINGERPRINT + b"\xac\x02" + b"\x14" + bytes([96]) + (6 << 3 | 1 << 6).to_bytes(2, "little")
    body += b"\x03" + b"\x00"
    assert p.header() == body + crc32c_python(body + b"".join(p.streams)).to_bytes(4, "little")
    assert p.y_streams[0] == packet.Stream(b"", 256 + 64)
    assert (p.y_streams[0].lanes, p.y_streams[0].version) == (64, 2)
    assert container.write_container(p.to_file())[:4] == b"CCM\x02"


def test_packets_and_files_are_of_one_version():
    for p, other in ((make(), b"CCM\x02"), (make2(), b"CCM\x01")):
        data = container.write_container(p.to_file())
        assert bytes(container.parse_container(data).packet) == p.to_file()
        with pytest.raises(errors.DamagedError, match="version"):
            container.parse_container(other + data[4:])
    with pytest.raises(ValueError, match="64 lanes"):
        make2(sizes=(5, 400, 20)).__class__(9, 9, 0, FINGERPRINT, False, (1, 64), (b"12345", bytes(400)), 1).header()


def test_a_photograph_costs_at_most_32_bytes_of_header():
    p = make(width=6000, height=4000, lanes=(8,) * 5, words=(20_000,) * 5)
    assert len(p.header()) <= 32


def test_every_truncation_is_an_error():
    for p in (make(), make2(lanes=(1, 1, 1)), make2()):
        check_truncations(p)


def check_truncations(p):
    data, (y, z) = p.to_file(), p.to_strings()
    for n in range(len(data)):
        with pytest.raises(errors.BitstreamError):
            packet.parse_file(data[:n], p.groups)
    for n in range(len(y)):
        with pytest.raises(errors.BitstreamError):
            packet.parse_strings(y[:n], z, p.groups)
    for n in range(len(z)):
        with pytest.raises(errors.TruncatedError):
            packet.parse_strings(y, z[:n], p.groups)
    with pytest.raises(errors.DamagedError):
        packet.parse_strings(y, z + b"\0\0", p.groups)
    for tail in (b"\0", b"\0\0"):
        with pytest.raises(errors.BitstreamError):
            packet.parse_file(data + tail, p.groups)


@pytest.mark.parametrize("p", [make(), make2()])
def test_every_bit_flip_is_an_error(p):
    data = p.to_file()
    for k in range(8 * len(data)):
        if 1 <= k // 8 < 9:
            continue  # the fingerprint: still covered by the checksum, see below
        bad = bytearray(data)
        bad[k // 8] ^= 1 << k % 8
        with pytest.raises(errors.BitstreamError):
            packet.parse_file(bad, p.groups)
    bad = bytearray(data)
    bad[4] ^= 1
    with pytest.raises(errors.DamagedError):
        packet.parse_file(bad, p.groups)
    assert packet.guess_groups(bad) is None


def recode(data, start, end, new):
    """Replace header bytes and put the right checksum in: reaches the checks behind it. Three lanes, no words."""
    body = data[:start] + new + data[end:-19]
    payload = data[-15:]
    return body + crc32c(payload, crc32c(body)).to_bytes(4, "little") + payload


def test_field_checks_hold_even_with_a_right_checksum():
    data = make(lanes=(1, 2), words=(0, 0)).to_file()
    #      flags | fingerprint 1..8 | width 9 | height 10 | code 11 | lanes 12 | words of z 13 | crc 14..17
    packet.parse_file(recode(data, 9, 10, b"\x09"), 1)
    cases = [
        (0, 1, b"\x08", errors.UnsupportedVersionError),
        (12, 13, b"\x00", errors.DamagedError),  # all lanes one: a flag says that
        (9, 10, b"\x00", errors.LimitError),
        (9, 10, encode_varint((1 << 20) + 1), errors.LimitError),
        (9, 11, encode_varint(1 << 20) * 2, errors.LimitError),
        (9, 10, b"\xa8\x00", errors.DamagedError),
        (11, 12, b"\xe1", errors.DamagedError),
        (12, 13, b"\x40", errors.DamagedError),
        (12, 13, b"\x06", errors.DamagedError),
        (13, 14, encode_varint(MAX_VARINT), errors.TruncatedError),
    ]
    for start, end, new, error in cases:
        with pytest.raises(error):
            packet.parse_file(recode(data, start, end, new), 1)


def test_lane_counts_of_one_are_left_out():
    one, two = make(lanes=(1, 1, 1), words=(0, 1, 2)), make(lanes=(1, 1, 2), words=(0, 1, 2))
    assert len(two.header()) - len(one.header()) == 2
    assert one.header()[0] == 2 and two.header()[0] == 0


def test_pixel_limit_is_adjustable():
    p = make(width=20_000, height=20_000)
    with pytest.raises(errors.LimitError):
        packet.parse_file(p.to_file(), p.groups)
    assert packet.parse_file(p.to_file(), p.groups, None) == p
    assert packet.parse_file(p.to_file(), p.groups, 400_000_000) == p
    assert limits.max_file_bytes(None) is None
    assert limits.max_file_bytes(1) > 64 << 20


def test_unwritable_headers():
    for bad in (
        dict(width=0),
        dict(height=(1 << 20) + 1),
        dict(code=225),
        dict(lanes=(1, 3, 1)),
        dict(lanes=(1,), words=(1,)),
    ):
        with pytest.raises(ValueError):
            make(**bad).header()


@given(st.dictionaries(st.sampled_from("IXAzQ\xff"), st.binary(max_size=300)), st.binary(max_size=50))
def test_container_round_trip(chunks, body):
    data = container.write_container(body, chunks)
    parsed = container.parse_container(data)
    assert parsed.chunks == chunks and bytes(parsed.packet) == body


def test_container_bytes():
    assert container.write_container(b"p") == b"CCM\x01p"
    chunk = b"I\x02ab"
    expected = b"CCM\x81" + chunk + crc32c_python(chunk).to_bytes(4, "little") + b"\0p"
    assert container.write_container(b"p", {"I": b"ab"}) == expected


def test_container_damage():
    good = container.write_container(b"", {"I": b"profile", "?": b"later releases may add this"})
    for n in range(len(good)):
        with pytest.raises(errors.TruncatedError):
            container.parse_container(good[:n])
    for k in range(8 * (len(good) - 1)):
        bad = bytearray(good)
        bad[k // 8] ^= 1 << k % 8
        if k == 8 * 3 + 7:  # "no chunks": what follows is then no packet
            assert len(container.parse_container(bad).packet) == len(good) - 4
            continue
        with pytest.raises(errors.BitstreamError):
            container.parse_container(bad)


@pytest.mark.parametrize(
    "data, error",
    [
        (b"\x89PNG\r\n\x1a\n", errors.NotCcmError),
        (b"CCX", errors.NotCcmError),
        (b"", errors.TruncatedError),
        (b"CC", errors.TruncatedError),
        (b"CCM", errors.TruncatedError),
        (b"CCM\x03", errors.UnsupportedVersionError),
        (b"CCM\x11", errors.UnsupportedVersionError),
        (b"CCM\x81I" + encode_varint((64 << 20) + 1), errors.LimitError),
        (b"CCM\x81I\xff\xff\xff\x01", errors.TruncatedError),
    ],
)
def test_container_heads(data, error):
    with pytest.raises(error):
        container.parse_container(data)


def test_container_refuses():
    chunk = b"I\x01a" + crc32c(b"I\x01a").to_bytes(4, "little")
    with pytest.raises(errors.DamagedError, match="two chunks"):
        container.parse_container(b"CCM\x81" + chunk + chunk + b"\0")
    with pytest.raises(ValueError, match="64 MiB"):
        container.write_container(b"", {"A": bytes((64 << 20) + 1)})
    for kind in ("", "\0", "AB"):
        with pytest.raises(ValueError):
            container.write_container(b"", {kind: b""})

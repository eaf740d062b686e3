"""The packet: header, z payload and y payload of one image (FORMAT.md, section 6).

In memory a packet is CompressAI's pair of strings (y string = header + y payload, z string = z payload); in a file the
three parts follow each other. Both share the header, whose CRC covers all three.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

from ..errors import DamagedError, LimitError, TruncatedError, UnsupportedVersionError
from .crc32c import crc32c
from .limits import MAX_GROUPS, MAX_PIXELS, MAX_SIDE, check_size
from .varint import ByteReader, encode_varint

__all__ = [
    "LANES",
    "MAX_QUALITY_CODE",
    "MOST_LANES",
    "VERSIONS",
    "Packet",
    "Stream",
    "groups_available",
    "guess_groups",
    "lanes_of",
    "parse_file",
    "parse_strings",
    "peek",
    "preview_bytes",
    "stream_code",
]

LANES = (1, 2, 4, 8, 16, 32)
MOST_LANES = (*LANES, 64, 128)  # in version 2
VERSIONS = (1, 2)
VERSION_2 = 256  # in a stream's code
_TAPER_SHIFT = 12  # of a taper, there
TAPERS = 16
MAX_QUALITY_CODE = 224
STATE_BYTES = 5  # one 40-bit state a lane opens each stream of version 1
WORD_BYTES = 2
DOWNSAMPLING = 16  # pixels a latent of y spans in each direction
HYPER_DOWNSAMPLING = 4  # latents of y that one of z spans
_GREY, _SINGLE, _VERSION_2, _TAPERED = 1, 2, 4, 8  # flags


class Stream(NamedTuple):
    """One rANS stream: z, or one group of y.

    Attributes:
        data: its bytes.
        code: the number of lanes, and :data:`VERSION_2` more in a stream of version 2; above that, its taper. So
            ``(data, lanes)`` is a stream of version 1.
    """

    data: bytes | memoryview
    code: int

    @classmethod
    def of(cls, data: bytes | memoryview, lanes: int, version: int, taper: int = 0) -> Stream:
        """A stream of so many lanes."""
        return cls(data, stream_code(lanes, version, taper))

    @property
    def lanes(self) -> int:
        """Its lanes."""
        return self.code % VERSION_2

    @property
    def version(self) -> int:
        """1 or 2."""
        return 1 + self.code // VERSION_2 % 2

    @property
    def taper(self) -> int:
        """By which its lanes retire towards the end (FORMAT.md, section 5); 0: not at all."""
        return self.code >> _TAPER_SHIFT


def lanes_of(version: int) -> tuple[int, ...]:
    """Numbers of lanes that streams of a version may have."""
    return MOST_LANES if version == 2 else LANES


def may_taper(lanes: int) -> bool:
    """Whether a stream of so many lanes may have a taper."""
    return 2 <= lanes <= LANES[-1]


def stream_code(lanes: int, version: int, taper: int = 0) -> int:
    """Lanes, version and taper in one number, as operators take them (kVersion2 in csrc/format/rans.h)."""
    return lanes + VERSION_2 * (version - 1) + (taper << _TAPER_SHIFT)


class Packet(NamedTuple):
    """One image's streams and all that its header says.

    Attributes:
        width, height: of the image, pixels.
        quality_code: quality = 1 + quality_code / 32; 0..224.
        fingerprint: 8 bytes, the start of the SHA-256 of the frozen entropy model.
        grey: the image has one channel.
        lanes: lane counts: z's, then each group's.
        streams: the streams in the same order, bytes or views.
        version: of the streams, 1 or 2.
        tapers: of the streams, z's, which is 0, first; () for none.
    """

    width: int
    height: int
    quality_code: int
    fingerprint: bytes
    grey: bool
    lanes: tuple[int, ...]
    streams: tuple[bytes | memoryview, ...]
    version: int = 1
    tapers: tuple[int, ...] = ()

    @property
    def quality(self) -> float:
        """1 to 8."""
        return 1 + self.quality_code / 32

    @property
    def groups(self) -> int:
        """Number of groups of y."""
        return len(self.lanes) - 1

    @property
    def y_shape(self) -> tuple[int, int]:
        """(h, w) of y."""
        return _ceil(self.height, DOWNSAMPLING), _ceil(self.width, DOWNSAMPLING)

    @property
    def z_shape(self) -> tuple[int, int]:
        """(hz, wz) of z."""
        h, w = self.y_shape
        return _ceil(h, HYPER_DOWNSAMPLING), _ceil(w, HYPER_DOWNSAMPLING)

    @property
    def z_stream(self) -> Stream:
        """The stream of z."""
        return Stream.of(self.streams[0], self.lanes[0], self.version)

    @property
    def y_streams(self) -> list[Stream]:
        """The streams of the groups of y."""
        tapers = self.tapers[1:] or (0,) * self.groups
        own = zip(self.streams[1:], self.lanes[1:], tapers, strict=True)
        return [Stream.of(data, lanes, self.version, taper) for data, lanes, taper in own]

    def header(self) -> bytes:
        """The header's bytes, CRC included. Raises ValueError if a field cannot be written."""
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(f"image sides must be 1 to {MAX_SIDE} pixels, not {self.width}x{self.height}")
        if not 0 <= self.quality_code <= MAX_QUALITY_CODE or len(self.fingerprint) != 8:
            raise ValueError("quality code or fingerprint out of range")
        if not 1 <= self.groups <= MAX_GROUPS or len(self.streams) != len(self.lanes):
            raise ValueError("there must be one stream for z and one for each of 1 to 32 groups")
        if self.version not in VERSIONS:
            raise ValueError(f"packets are of version 1 or 2, not {self.version}")
        bits = 0
        lengths = []
        for k, (lanes, stream) in enumerate(zip(self.lanes, self.streams, strict=True)):
            if lanes not in lanes_of(self.version):
                raise ValueError(f"stream {k} cannot have {lanes} lanes")
            bits |= (lanes.bit_length() - 1) << 3 * k
            lengths.append(_length(len(stream), lanes, self.version))
        single = set(self.lanes) == {1}
        flags = _GREY * self.grey + _SINGLE * single + _VERSION_2 * (self.version == 2)
        tapers = 0
        for k, (lanes, taper) in enumerate(zip(self.lanes, self.tapers, strict=bool(self.tapers))):
            if not 0 <= taper < TAPERS or (taper and (not may_taper(lanes) or k == 0 or self.version == 1)):
                raise ValueError(f"stream {k} cannot have the taper {taper}")
            tapers |= taper << 4 * (k - 1) if k else 0
        flags += _TAPERED * (tapers > 0)
        out = bytes([flags]) + bytes(self.fingerprint)
        out += encode_varint(self.width) + encode_varint(self.height) + bytes([self.quality_code])
        out += b"" if single else bits.to_bytes(_lane_bytes(self.groups), "little")
        out += tapers.to_bytes(_ceil(self.groups, 2), "little") if tapers else b""
        out += b"".join(encode_varint(n) for n in lengths[:-1])
        return out + _crc(out, self.streams).to_bytes(4, "little")

    def to_file(self) -> bytes:
        """Header, z payload and y payload in one piece."""
        return b"".join((self.header(), *self.streams))

    def to_strings(self) -> tuple[bytes, bytes]:
        """The y string and the z string."""
        return b"".join((self.header(), *self.streams[1:])), bytes(self.streams[0])


def _length(size: int, lanes: int, version: int) -> int:
    """What a header says of a stream of ``size`` bytes: in version 1 its words."""
    if version == 2:
        return size
    rest = size - STATE_BYTES * lanes
    if rest < 0 or rest % WORD_BYTES:
        raise ValueError(f"a stream of {size} bytes does not fit {lanes} lanes")
    return rest // WORD_BYTES


def _size(length: int, lanes: int, version: int) -> int:
    """The inverse of :func:`_length`."""
    return length if version == 2 else STATE_BYTES * lanes + WORD_BYTES * length


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _lane_bytes(groups: int) -> int:
    return _ceil(3 * (groups + 1), 8)


def _crc(header: bytes | memoryview, streams: tuple) -> int:
    crc = crc32c(header)
    for stream in streams:
        crc = crc32c(stream, crc)
    return crc


class Fixed(NamedTuple):
    """The part of a header that can be read without knowing the model: see the same fields of :class:`Packet`."""

    width: int
    height: int
    quality_code: int
    fingerprint: bytes
    grey: bool
    single: bool  # every stream has one lane
    version: int = 1
    tapered: bool = False  # some streams have tapers


def _fixed(reader: ByteReader, max_pixels: int | None) -> Fixed:
    flags = reader.byte("the packet header")
    if flags & ~(_GREY | _SINGLE | _VERSION_2 | _TAPERED) or flags & (_VERSION_2 | _TAPERED) == _TAPERED:
        raise UnsupportedVersionError(f"unknown packet flags {flags:#04x}")
    fingerprint = bytes(reader.take(8, "the packet header"))
    width, height = reader.varint("the image's width"), reader.varint("the image's height")
    check_size(width, height, max_pixels)
    code = reader.byte("the packet header")
    if code > MAX_QUALITY_CODE:
        raise DamagedError(f"quality code {code} is above {MAX_QUALITY_CODE}")
    if flags & _SINGLE and flags & _TAPERED:
        raise DamagedError("tapers of streams with one lane each")
    version = 2 if flags & _VERSION_2 else 1
    grey, single, tapered = (bool(flags & flag) for flag in (_GREY, _SINGLE, _TAPERED))
    return Fixed(width, height, code, fingerprint, grey, single, version, tapered)


def peek(data: bytes | memoryview, max_pixels: int | None = MAX_PIXELS) -> Fixed:
    """Size, quality, fingerprint and grey flag of a packet (or a y string); checks no more than these.

    Raises:
        TruncatedError, DamagedError, UnsupportedVersionError, LimitError: see :mod:`ccm_fast.errors`.
    """
    return _fixed(ByteReader(data), max_pixels)


def _tapers(reader: ByteReader, fixed: Fixed, lanes: tuple[int, ...]) -> tuple[int, ...]:
    """Of every stream."""
    if not fixed.tapered:
        return ()
    groups = len(lanes) - 1
    bits = int.from_bytes(reader.take(_ceil(groups, 2), "the tapers"), "little")
    tapers = (0, *(bits >> 4 * g & 15 for g in range(groups)))
    for taper, count in zip(tapers, lanes, strict=True):
        if taper and not may_taper(count):
            raise DamagedError(f"a taper of a stream with {count} lanes")
    if bits >> 4 * groups:
        raise DamagedError("the spare bits of the tapers are not zero")
    if not bits:
        raise DamagedError("tapers that should have been left out")
    return tapers


class _Head(NamedTuple):
    """A header up to its checksum; sizes: bytes of all streams but the last."""

    fixed: Fixed
    lanes: tuple[int, ...]
    tapers: tuple[int, ...]
    sizes: list[int]


def _sizes(reader: ByteReader, groups: int, max_pixels: int | None) -> _Head:
    if not 1 <= groups <= MAX_GROUPS:
        raise LimitError(f"{groups} groups: the format has 1 to {MAX_GROUPS}")
    fixed = _fixed(reader, max_pixels)
    bits = 0 if fixed.single else int.from_bytes(reader.take(_lane_bytes(groups), "the lane counts"), "little")
    logs = [bits >> 3 * k & 7 for k in range(groups + 1)]
    if bits >> 3 * (groups + 1):
        raise DamagedError("the spare bits of the lane counts are not zero")
    if max(logs) >= len(lanes_of(fixed.version)):
        raise DamagedError(f"a lane count of 2^{max(logs)} is above 32")
    if not fixed.single and not any(logs):
        raise DamagedError("lane counts that should have been left out")
    lanes = tuple(1 << log for log in logs)
    tapers = _tapers(reader, fixed, lanes)
    sizes = [_size(reader.varint("the lengths of the streams"), n, fixed.version) for n in lanes[:-1]]
    return _Head(fixed, lanes, tapers, sizes)


def _parse(data, groups: int, max_pixels: int | None, z: bytes | memoryview | None) -> Packet:
    reader = ByteReader(data)
    fixed, lanes, tapers, sizes = _sizes(reader, groups, max_pixels)
    end = reader.position
    stored = int.from_bytes(reader.take(4, "the checksum"), "little")

    if z is None:
        z = reader.take(sizes[0], "the stream of z")
    elif len(z) != sizes[0]:
        error = TruncatedError if len(z) < sizes[0] else DamagedError
        raise error(f"the z string has {len(z)} bytes, its header says {sizes[0]}")
    streams = [memoryview(z), *(reader.take(n, f"the stream of group {g}") for g, n in enumerate(sizes[1:]))]
    rest = len(reader.data) - reader.position
    cut_off = TruncatedError("the data ends inside the stream of the last group")
    if fixed.version == 1 and rest < STATE_BYTES * lanes[-1]:
        raise cut_off
    spare = (rest - STATE_BYTES * lanes[-1]) % WORD_BYTES if fixed.version == 1 else 0
    streams.append(reader.take(rest - spare, "the stream of the last group"))
    right = _crc(reader.data[:end], tuple(streams)) == stored
    if spare:
        raise DamagedError("a byte too many after the stream of the last group") if right else cut_off
    if not right:
        raise DamagedError("the checksum does not match: the data is damaged or cut off")
    known = (fixed.width, fixed.height, fixed.quality_code, fixed.fingerprint, fixed.grey)
    return Packet(*known, lanes, tuple(streams), fixed.version, tapers)


def parse_file(data: bytes | memoryview, groups: int, max_pixels: int | None = MAX_PIXELS) -> Packet:
    """Parse a packet as it lies in a file, of a model with ``groups`` groups; the streams are views into ``data``.

    Raises:
        TruncatedError, DamagedError, UnsupportedVersionError, LimitError: see :mod:`ccm_fast.errors`.
    """
    return _parse(data, groups, max_pixels, None)


def parse_strings(y: bytes, z: bytes, groups: int, max_pixels: int | None = MAX_PIXELS) -> Packet:
    """Parse a y string and its z string. Raises as :func:`parse_file`."""
    return _parse(y, groups, max_pixels, z)


def preview_bytes(data: bytes | memoryview, groups: int) -> list[int]:
    """Where in a packet of ``groups`` groups the streams of z and of all groups but the last end, in bytes.

    The data may end anywhere after the header. Raises as :func:`parse_file`.
    """
    reader = ByteReader(data)
    sizes = _sizes(reader, groups, None).sizes
    return list(accumulate(sizes, initial=reader.position + len(reader.take(4, "the checksum"))))[1:]


def groups_available(data: bytes | memoryview, groups: int) -> int:
    """How many groups of a packet can be decoded where it may be cut off: all of them if its checksum is right.

    Raises:
        TruncatedError: not even the stream of z is there.
        DamagedError, UnsupportedVersionError, LimitError: its header is damaged.
    """
    try:
        return parse_file(data, groups, None).groups
    except (TruncatedError, DamagedError):
        whole = sum(end <= len(data) for end in preview_bytes(data, groups))
    if not whole:
        raise TruncatedError("the data ends inside the stream of z")
    return whole - 1


def guess_groups(data: bytes | memoryview, max_pixels: int | None = MAX_PIXELS) -> Packet | None:
    """Parse a packet of an unknown model: the number of groups is the one with which the checksum is right.

    Returns None if none fits (the packet is damaged).
    """
    peek(data, max_pixels)
    for groups in range(1, MAX_GROUPS + 1):
        try:
            return parse_file(data, groups, max_pixels)
        except (TruncatedError, DamagedError):
            continue
    return None

"""The .ccm file: magic, version, optional chunks, then one packet (FORMAT.md, section 6)."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import DamagedError, LimitError, NotCcmError, TruncatedError, UnsupportedVersionError
from .crc32c import crc32c
from .limits import MAX_CHUNK_BYTES
from .varint import ByteReader, encode_varint

__all__ = ["ALPHA", "CHUNK_NAMES", "EXIF", "FILTER", "ICC", "IPTC", "MAGIC", "VERSIONS", "XMP", "Container"]
__all__ += ["parse_container", "write_container"]

MAGIC = b"CCM"
VERSIONS = (1, 2)
ICC, EXIF, ALPHA, XMP, IPTC, FILTER = "I", "X", "A", "M", "N", "F"
CHUNK_NAMES = {ALPHA: "alpha", EXIF: "exif", ICC: "icc", XMP: "xmp", IPTC: "iptc", FILTER: "filter"}
_CHUNKS_FOLLOW = 0x80
_PACKET_OF_2 = 4  # a packet's flag, see ccm_fast.stream.packet


class Container(NamedTuple):
    """A parsed file.

    Attributes:
        chunks: data of each chunk by its type, one character; types that are unknown here are kept too.
        packet: a view of the packet's bytes, see :mod:`ccm_fast.stream.packet`.
    """

    chunks: dict[str, bytes]
    packet: memoryview


def _version(packet: bytes | memoryview) -> int:
    return 2 if packet[:1] and packet[0] & _PACKET_OF_2 else 1


def write_container(packet: bytes, chunks: dict[str, bytes] | None = None) -> bytes:
    """The bytes of a file. Raises ValueError if the chunks are larger than 64 MiB together."""
    chunks = chunks or {}
    if sum(map(len, chunks.values())) > MAX_CHUNK_BYTES:
        raise ValueError(f"the chunks (alpha channel, metadata) have more than {MAX_CHUNK_BYTES >> 20} MiB together")
    out = [MAGIC, bytes([_version(packet) | (_CHUNKS_FOLLOW if chunks else 0)])]
    for kind, data in chunks.items():
        code = kind.encode("latin-1")
        if len(code) != 1 or code == b"\0":
            raise ValueError(f"a chunk type is one character other than NUL, not {kind!r}")
        head = code + encode_varint(len(data))
        out += [head, data, crc32c(data, crc32c(head)).to_bytes(4, "little")]
    if chunks:
        out.append(b"\0")
    return b"".join((*out, packet))


def parse_container(data: bytes | memoryview) -> Container:
    """Split a file into its chunks (checked) and its packet (not looked into).

    Raises:
        NotCcmError: the first bytes are not a .ccm file's.
        UnsupportedVersionError: another version, or unknown flags.
        TruncatedError, DamagedError: the chunks are cut off or fail their checksums; a packet of another version.
        LimitError: more than 64 MiB of chunks.
    """
    reader = ByteReader(data)
    start = bytes(reader.data[: len(MAGIC)])
    if start != MAGIC[: len(start)]:
        raise NotCcmError("not a .ccm file (it does not begin with CCM)")
    if len(reader.data) <= len(MAGIC):
        raise TruncatedError("the data ends before the version" if start else "the data is empty")
    reader.position = len(MAGIC)
    version = reader.byte("the version")
    if version & 0x0F not in VERSIONS or version & 0x70:
        raise UnsupportedVersionError(
            f"version {version & 0x0F} (byte {version:#04x}) of the format; this release reads versions 1 and 2"
        )
    chunks: dict[str, bytes] = {}
    total = 0
    while version & _CHUNKS_FOLLOW:
        start = reader.position
        code = reader.byte("a chunk")
        if not code:
            break
        kind = chr(code)
        length = reader.varint("a chunk's length")
        total += length
        if total > MAX_CHUNK_BYTES:
            raise LimitError(f"more than {MAX_CHUNK_BYTES >> 20} MiB of chunks")
        content = reader.take(length, f"chunk {kind!r}")
        crc = crc32c(reader.data[start : reader.position])
        if crc != int.from_bytes(reader.take(4, f"chunk {kind!r}"), "little"):
            raise DamagedError(f"the checksum of chunk {kind!r} does not match")
        if kind in chunks:
            raise DamagedError(f"two chunks of type {kind!r}")
        chunks[kind] = bytes(content)
    packet = reader.data[reader.position :]
    if packet and _version(packet) != version & 0x0F:
        raise DamagedError(f"a packet of version {_version(packet)} in a file of version {version & 0x0F}")
    return Container(chunks, packet)

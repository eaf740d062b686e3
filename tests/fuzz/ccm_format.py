"""The bytes of .ccm files as fields that need not make sense, after FORMAT.md, section 6. Nothing is checked here."""

from dataclasses import dataclass, field

from ccm_fast.rans import crc32c


def varint(value: int, spare: int = 0) -> bytes:
    """LEB128, with superfluous bytes at its end."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(spare):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


@dataclass
class Chunk:
    """A chunk; ``longer`` is by how much its length is wrong, ``broken`` whether its checksum is."""

    kind: int
    data: bytes
    longer: int = 0
    broken: bool = False


@dataclass
class Loose:
    """The fields of a file.

    Attributes:
        version: the byte behind the magic, without the bit that chunks follow.
        lanes: log2 of the lanes of each stream; written where flag bit 1 is not set.
        lane_bits: what stands beside them in their last byte.
        lengths: of all streams but the last, in bytes (version 2) or words (version 1); None: as they are.
        spare: superfluous bytes of the varints.
        checksum: exclusive or of the right checksum.
    """

    version: int
    chunks: list[Chunk]
    flags: int
    fingerprint: bytes
    width: int
    height: int
    quality: int
    lanes: list[int]
    streams: list[bytes]
    lane_bits: int = 0
    lengths: list[int] | None = None
    spare: int = 0
    checksum: int = 0
    with_end: bool = True
    tail: bytes = b""
    magic: bytes = field(default=b"CCM")

    def to_bytes(self) -> bytes:
        out = [self.magic, bytes([self.version & 0x7F | (0x80 if self.chunks else 0)])]
        for c in self.chunks:
            head = bytes([c.kind]) + varint(max(0, len(c.data) + c.longer))
            crc = crc32c(c.data, crc32c(head)) ^ c.broken
            out += [head, c.data, crc.to_bytes(4, "little")]
        if self.chunks and self.with_end:
            out.append(b"\0")
        header = bytes([self.flags]) + self.fingerprint + varint(self.width, self.spare) + varint(self.height)
        header += bytes([self.quality])
        if not self.flags & 2:
            bits = sum(log << 3 * k for k, log in enumerate(self.lanes)) | self.lane_bits << 3 * len(self.lanes)
            header += (bits & ((1 << 8 * self.lane_bytes) - 1)).to_bytes(self.lane_bytes, "little")
        header += b"".join(map(varint, self.lengths or self.true_lengths()))
        payload = b"".join(self.streams)
        crc = crc32c(payload, crc32c(header)) ^ self.checksum
        return b"".join((*out, header, crc.to_bytes(4, "little"), payload, self.tail))

    @property
    def lane_bytes(self) -> int:
        return -(-3 * len(self.lanes) // 8)

    def true_lengths(self) -> list[int]:
        pairs = zip(self.streams[:-1], self.lanes[:-1], strict=True)
        if self.flags & 4:
            return [len(s) for s, _ in pairs]
        return [max(0, len(s) - (5 << log)) // 2 for s, log in pairs]

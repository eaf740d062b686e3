"""Bounded reading of bytes, and LEB128 varints in their one allowed (shortest) spelling."""

from __future__ import annotations

from ..errors import DamagedError, TruncatedError

__all__ = ["MAX_VARINT", "ByteReader", "encode_varint"]

_MAX_BYTES = 5
MAX_VARINT = (1 << 7 * _MAX_BYTES) - 1


def encode_varint(value: int) -> bytes:
    """Unsigned LEB128 of 0 <= value < 2^35. Raises ValueError outside."""
    if not 0 <= value <= MAX_VARINT:
        raise ValueError(f"varints hold 0 to 2^35 - 1, not {value}")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class ByteReader:
    """Reads a buffer from front to back and never past its end.

    Attributes:
        data: the buffer, a memoryview of bytes; what :meth:`take` returns are views into it.
        position: the next byte to read.
    """

    def __init__(self, data: bytes | memoryview, position: int = 0):
        self.data = memoryview(data)
        self.position = position

    def take(self, count: int, what: str) -> memoryview:
        """The next ``count`` bytes; raises TruncatedError, naming ``what``, if there are fewer."""
        end = self.position + count
        if end > len(self.data):
            raise TruncatedError(f"the data ends inside {what}")
        part = self.data[self.position : end]
        self.position = end
        return part

    def byte(self, what: str) -> int:
        """The next byte; raises TruncatedError at the end."""
        return self.take(1, what)[0]

    def varint(self, what: str) -> int:
        """The next varint.

        Raises:
            TruncatedError: the data ends inside it.
            DamagedError: it has more than 5 bytes, or a superfluous last one.
        """
        value = 0
        for k in range(_MAX_BYTES):
            byte = self.byte(what)
            value |= (byte & 0x7F) << 7 * k
            if byte < 0x80:
                if byte == 0 and k:
                    break
                return value
        raise DamagedError(f"malformed varint in {what}")
